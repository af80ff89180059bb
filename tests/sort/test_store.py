"""The sorter's tables keep what was planned and placed, and the journal tells of runs that did something."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.index.chunk import pack
from tasks.index.completeness import FrameCount
from tasks.index.row import ROW_FIELDS, FileStamp, IndexRow
from tasks.sort.plan import plan_files, plan_series
from tasks.sort.store import Candidate, Member, Planned, SortStore
from tests.sort.library import Library
from tests.strategies import make_row


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SortStore]:
    with SortStore(tmp_path / "index.db") as opened:
        yield opened


def fill(store: SortStore, rows: Sequence[IndexRow]) -> list[int]:
    """Index made-up files; return their numbers, in the order of the rows."""
    stamps = [FileStamp(path=row.path, size=1, mtime_ns=1, device=1, inode=n) for n, row in enumerate(rows)]
    unread = set(store.take_scan(stamps))
    part = [(stamp, row) for stamp, row in zip(stamps, rows, strict=True) if stamp in unread]
    store.merge("0", pack([stamp for stamp, _ in part], [row for _, row in part]))
    store.finish_scan([], lambda *_: False)
    numbers = {file.stamp.path: file.file for file in store.instances()}
    return [numbers[row.path] for row in rows]


def rows_of(count: int) -> list[IndexRow]:
    return [make_row(b"%03d" % number, sop_instance_uid=f"2.25.{number}") for number in range(count)]


def plan_each(store: SortStore, files: Sequence[int], folder: str = "a") -> list[str]:
    """Plan each file a place of its own; return the places."""
    targets = [f"{folder}/{number:03d}.dcm" for number in range(len(files))]
    store.write_plan(Planned(file, target, None, "") for file, target in zip(files, targets, strict=True))
    return targets


def test_digests_and_placements_are_kept(tmp_path: Path) -> None:
    with SortStore(tmp_path / "index.db") as store:
        first, second = fill(store, rows_of(2))
        store.keep_digests([(first, "ab" * 32)])
        store.keep_placements(1, [("a/1.dcm", first, "hardlink"), ("a/2.dcm", second, "copy")])
        store.keep_placements(2, [("a/1.dcm", first, "copy")])
        store.lose_placements(["a/2.dcm"])
        store.keep_placements(2, [("a/2.dcm", second, "symlink")])
        assert [(one.target, one.way) for one in store.placed_by(1)] == [("a/1.dcm", "hardlink")], "as it was noted"
        store.forget_placements(2, ["a/1.dcm", "never/there.dcm"])
    with SortStore(tmp_path / "index.db") as store:
        assert next(store.instances()).digest == "ab" * 32
        assert store.placements() == {"a/2.dcm": second}
        assert [(one.target, one.file, one.way) for one in store.placed_by(2)] == [("a/2.dcm", second, "symlink")]
        assert [(one.target, one.file) for one in store.removed_by(2)] == [("a/1.dcm", first)]
        assert store.placed_by(1) == []
        assert stat.S_IMODE((tmp_path / "index.db").stat().st_mode) == 0o600


def members_of(store: SortStore) -> dict[int, list[Member]]:
    """Return the files of each series, as they are while a plan that says nothing yet is written."""
    found: dict[int, list[Member]] = {}

    def rest() -> Iterator[Planned]:
        found.update((series, list(members)) for series, members in store.members())
        yield from ()

    store.write_plan([], rest())
    return found


# --- what has to be digested

CONTENTS = st.lists(
    st.tuples(st.sampled_from(("", "2.25.1", "2.25.2", "2.25.3", "2.25.4")), st.sampled_from("xyz")), max_size=8
)


@settings(max_examples=25)
@given(CONTENTS)
def test_digests_asked_for_are_enough(
    tmp_path_factory: pytest.TempPathFactory, contents: list[tuple[str, str]]
) -> None:
    """The plan is the same as if everything had been digested; and a file that its header tells apart is not read."""

    def plan(store: SortStore, *, all_of_them: bool) -> list[Planned]:
        files = fill(store, [make_row(b"%03d" % n, sop_instance_uid=uid) for n, (uid, _) in enumerate(contents)])
        digests = {file: (uid + content).encode().hex() for file, (uid, content) in zip(files, contents, strict=True)}
        asked = set(files) if all_of_them else {source.file for source in store.undigested()}
        store.keep_digests((file, digests[file]) for file in asked)
        assert store.undigested() == []
        uids = [uid for uid, _ in contents]
        needed = {file for file, uid in zip(files, uids, strict=True) if not uid or uids.count(uid) > 1}
        assert all_of_them or asked == needed

        def name(file: Candidate, digest: str) -> str:
            return f"{file.sop_instance_uid}_{digest}"

        return list(plan_files(store.candidates(), name, lambda kept: ["reference"] * len(kept)))

    folder = tmp_path_factory.mktemp("index")
    with SortStore(folder / "few.db") as few, SortStore(folder / "all.db") as whole:
        assert plan(few, all_of_them=False) == plan(whole, all_of_them=True)


def test_candidates_come_by_uid_and_path_as_often_as_they_are_counted(store: SortStore) -> None:
    fill(
        store,
        [
            make_row(b"b", sop_instance_uid="2.25.1"),
            make_row(b"a", sop_instance_uid="2.25.1"),
            make_row(b"c", sop_instance_uid=""),
        ],
    )
    assert [file.path for file in store.candidates()] == [b"c", b"a", b"b"]
    assert store.count_candidates() == 3


def test_what_left_the_dump_is_a_candidate_as_long_as_it_is_placed(store: SortStore) -> None:
    placed, _ = fill(store, rows_of(2))
    store.keep_placements(1, [("a/0.dcm", placed, "copy")])
    fill(store, [])
    (left,) = store.candidates()
    assert (left.file, left.present) == (placed, False)
    assert store.count_candidates() == 1
    assert store.source(placed).placed_at == "a/0.dcm"
    store.lose_placements(["a/0.dcm"])
    assert list(store.candidates()) == []


@settings(max_examples=40)
@given(CONTENTS, st.sets(st.integers(0, 7)), st.sets(st.integers(0, 7)))
def test_the_two_passes_over_the_files_plan_what_one_would(
    tmp_path_factory: pytest.TempPathFactory, contents: list[tuple[str, str]], gone: set[int], placed: set[int]
) -> None:
    """Files that share a UID first, then the others by series; also when some left the dump, placed before or not."""
    folder = tmp_path_factory.mktemp("index")
    with SortStore(folder / "index.db") as store:
        rows = [
            make_row(b"%03d" % n, sop_instance_uid=uid, series_instance_uid=f"2.{n % 3}")
            for n, (uid, _) in enumerate(contents)
        ]
        files = fill(store, rows)
        store.keep_placements(1, [(f"{n}", file, "copy") for n, file in enumerate(files) if n in placed])
        stamps = [FileStamp(path=row.path, size=1, mtime_ns=1, device=1, inode=n) for n, row in enumerate(rows)]
        assert list(store.take_scan([stamp for n, stamp in enumerate(stamps) if n not in gone])) == []
        store.finish_scan([], lambda *_: False)
        digest_of = {file: uid + content for file, (uid, content) in zip(files, contents, strict=True)}
        store.keep_digests((one.file, digest_of[one.file].encode().hex()) for one in store.undigested())

        def name(file: Candidate, digest: str) -> str:
            return f"{file.sop_instance_uid}_{digest}"

        def differs(kept: Sequence[Candidate]) -> list[str]:
            return ["reference"] + ["header"] * (len(kept) - 1)

        def place(_: int, values: Sequence[str]) -> str:
            return f"{values[ROW_FIELDS.index('sop_instance_uid')]}_"

        expected = list(plan_files(store.candidates(), name, differs))
        grouped = list(plan_files(store.candidates(grouped=True), name, differs))
        found: list[Planned] = []
        members: dict[int, list[Member]] = {}

        def rest() -> Iterator[Planned]:
            kept = ((series, members.setdefault(series, list(some))) for series, some in store.members())
            for planned in plan_series(kept, place, {}):
                found.append(planned)
                yield planned

        store.write_plan(grouped, rest())
        assert sorted(grouped + found, key=str) == sorted(expected, key=str)
        told = {
            member.file: (member.planned, member.kept, member.differs) for some in members.values() for member in some
        }
        assert told == {one.file: (one.file, one.kept, one.differs) for one in grouped} | {
            one.file: (None, None, None) for one in found
        }
        of_series = {file: f"2.{n % 3}" for n, file in enumerate(files)}
        assert all(len({of_series[member.file] for member in some}) == 1 for some in members.values())
        assert len(members) == len({of_series[file] for file in told})


# --- plan and tree


def test_a_plan_takes_the_place_of_the_one_before(store: SortStore) -> None:
    files = fill(store, rows_of(3))
    plan_each(store, files, "a")
    targets = plan_each(store, files[:2], "b")
    assert list(store.plan_rows()) == list(zip(targets, files, strict=False))
    assert store.count_unplanned() == 1


def test_a_plan_that_breaks_off_leaves_the_one_before(store: SortStore) -> None:
    files = fill(store, rows_of(3))
    before = plan_each(store, files, "a")

    def broken() -> Iterator[Planned]:
        yield Planned(files[0], "b/0.dcm", None, "")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.write_plan(broken())
    assert [target for target, _ in store.plan_rows()] == before
    plan_each(store, files, "c")


def test_places_that_two_files_would_have_are_told_and_can_be_changed(store: SortStore) -> None:
    """Together with those of their duplicates."""
    files = fill(store, rows_of(4))
    store.write_plan(
        [
            Planned(files[0], "same", None, ""),
            Planned(files[1], "same", None, ""),
            Planned(files[2], "same", files[1], ""),
            Planned(files[3], "own", None, ""),
        ]
    )
    assert store.contested_targets() == [("same", files[:2])]
    store.replan({files[1]: "other"})
    assert store.contested_targets() == []
    assert list(store.plan_rows()) == [("other", files[1]), ("own", files[3]), ("same", files[0])]
    assert list(store.duplicates()) == [(b"002", b"001")]


WAYS = st.lists(st.sampled_from(("hardlink", "hardlink", "hardlink", "copy", "stood", "")), max_size=12)


@settings(max_examples=40)
@given(st.lists(WAYS, min_size=1, max_size=3), st.integers(1, 12))
def test_what_was_placed_is_noted(
    tmp_path_factory: pytest.TempPathFactory, nights: list[list[str]], batch: int
) -> None:
    """And what stood stays as it was noted."""
    folder = tmp_path_factory.mktemp("index")
    with SortStore(folder / "index.db") as store:
        expected: dict[str, tuple[int, str, int]] = {}
        for run, ways in enumerate(nights, 1):
            # As other files each night, so that places get another file; some of them are skipped as not placed.
            rows = [make_row(b"%d-%03d" % (run, n), sop_instance_uid=f"2.25.{run}.{n}") for n in range(len(ways))]
            files = fill(store, rows)
            targets = plan_each(store, files)
            assert [(one.target, one.file) for one in store.to_place()] == list(zip(targets, files, strict=True))
            assert store.count_to_place() == len(files)
            stood = {target for target, way in zip(targets, ways, strict=True) if way == "stood"}
            # A place of which the index knew nothing is noted with the way that shows.
            done = [
                (t, f, "copy" if t in stood else way) for t, f, way in zip(targets, files, ways, strict=True) if way
            ]
            for begin in range(0, len(done), batch):
                part = done[begin : begin + batch]
                store.keep_placements(run, part, stood=stood & {target for target, _, _ in part})
            for target, file, way in done:
                _, old_way, old_run = expected.get(target, (0, way, run))
                expected[target] = (file, old_way, old_run) if target in stood else (file, way, run)
            assert store.count_to_place() == len(files) - len(done)
        assert store.placements() == {target: file for target, (file, _, _) in expected.items()}
        for run in range(1, len(nights) + 1):
            found = {one.target: (one.file, one.way) for one in store.placed_by(run)}
            assert found == {target: (file, way) for target, (file, way, by) in expected.items() if by == run}


def test_what_the_plan_does_not_want_is_obsolete(store: SortStore) -> None:
    files = fill(store, rows_of(3))
    targets = plan_each(store, files, "a")
    store.keep_placements(1, [(target, file, "copy") for target, file in zip(targets, files, strict=True)])
    assert store.obsolete() == []
    store.write_plan([Planned(files[0], targets[0], None, ""), Planned(files[1], targets[0], files[0], "")])
    assert store.obsolete() == [(targets[1], files[1]), (targets[2], files[2])]


def test_a_file_that_could_not_be_placed_is_a_reject_and_planned_no_more(store: SortStore) -> None:
    files = fill(store, rows_of(2))
    plan_each(store, files)
    store.refuse_planned([(files[0], "still-arriving")])
    assert [(reject.path, reject.reason) for reject in store.rejects()] == [(b"000", "still-arriving")]
    assert [file for _, file in store.plan_rows()] == files[1:]
    assert store.count_unplanned() == 0
    assert fill(store, rows_of(2))[1] == files[1], "and it is read again the next time"
    assert list(store.rejects()) == []


def test_what_was_compared_is_not_compared_again(store: SortStore) -> None:
    assert store.comparison("a", "b") == ""
    store.note_comparisons([("a", "b", "header"), ("a", "c", "pixel-data")])
    store.note_comparisons([("a", "c", "transfer-syntax")])
    assert [store.comparison("a", other) for other in "bc"] == ["header", "transfer-syntax"]
    assert store.comparison("b", "a") == ""


# --- what is missing


def test_what_is_missing_is_told_by_series_and_by_place(store: SortStore) -> None:
    rows = [
        make_row(b"%d" % number, sop_instance_uid=f"2.25.{number}", series_instance_uid=f"1.{number // 2}")
        for number in range(6)
    ]
    files = fill(store, rows)
    targets = [f"s{number // 2}/{number}.dcm" for number in range(6)]
    store.write_plan(Planned(file, target, None, "") for file, target in zip(files, targets, strict=True))
    series = sorted({series for series, _ in store.headers().values()})
    assert len(series) == 3
    store.keep_gaps([(series[0], "instance-gap"), (series[2], "instance-gap truncated")])
    assert list(store.gaps()) == [("s0/0.dcm", 2, "instance-gap"), ("s2/4.dcm", 2, "instance-gap truncated")]
    assert store.incomplete_targets() == [
        ("s0/0.dcm", "instance-gap"),
        ("s0/1.dcm", "instance-gap"),
        ("s2/4.dcm", "instance-gap truncated"),
        ("s2/5.dcm", "instance-gap truncated"),
    ]
    assert store.gap_counts() == {"instance-gap": 1, "instance-gap truncated": 1}
    store.keep_gaps([])
    assert store.gap_counts() == {}


def test_frames_are_counted_once(store: SortStore) -> None:
    rows = [make_row(b"a", sop_instance_uid="1", number_of_frames="3"), make_row(b"b", sop_instance_uid="2")]
    files = fill(store, rows)
    plan_each(store, files)
    assert [source.file for source in store.uncounted()] == files[:1]
    store.keep_frames([(files[0], FrameCount(3, 2, True))])
    assert store.uncounted() == []
    (members,) = members_of(store).values()
    assert [(one.file, one.declared, one.held, one.truncated) for one in members] == [
        (files[0], 3, 2, True),
        (files[1], None, None, None),
    ]
    store.keep_frames([(files[0], None)])
    assert store.uncounted() == [], "what cannot be counted is not tried every night"
    (members,) = members_of(store).values()
    assert {one.declared for one in members} == {None}


# --- the journal


def test_a_run_that_was_cut_off_is_gone_on_with(store: SortStore) -> None:
    (file,) = fill(store, rows_of(1))
    run = store.begin_run("2001-01-01T00:00:00+00:00", "1")
    assert store.cut_off_run() == run
    assert store.begin_run("2001-01-02T00:00:00+00:00", "2") == run
    store.keep_placements(run, [("a", file, "copy")])
    store.finish_run(run, "2001-01-02T00:00:01+00:00")
    assert store.cut_off_run() is None
    (line,) = store.runs()
    assert (line.started, line.finished, line.software) == (
        "2001-01-01T00:00:00+00:00",
        "2001-01-02T00:00:01+00:00",
        "1",
    )
    assert (line.placed, line.removed, line.undone) == (1, 0, "")
    assert store.begin_run("2001-01-03T00:00:00+00:00", "2") > run


def test_a_run_that_changed_nothing_leaves_no_line(store: SortStore) -> None:
    store.finish_run(store.begin_run("2001-01-01T00:00:00+00:00", "1"), "2001-01-01T00:00:01+00:00")
    assert store.runs() == []
    assert store.cut_off_run() is None


# --- where bytes can be had


def test_where_bytes_can_be_had(tmp_path: Path) -> None:
    """In the dump; and when it is gone from there, where it was placed."""
    with (library := Library(tmp_path)).store as store:
        path = library.write("file", "2.25.1", "x")
        library.night()
        (file,) = store.placements().values()
        assert library.sources.path_of(store.source(file)) == os.fsencode(path)
        path.unlink()
        library.index()
        assert library.sources.path_of(store.source(file)) == os.fsencode(library.tree / "a" / "2.25.1.dcm")

"""Every file handed in is placed or a duplicate of one that is, each content once, whatever the order."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.index.row import ROW_FIELDS
from tasks.sort.plan import plan_files
from tasks.sort.store import Candidate, Planned
from tests import strategies

DIFFERENT = "pixel-data"


def candidate(number: int, uid: str = "", content: str = "", *, path: str = "", present: bool = True) -> Candidate:
    """Make up a file; without `content` it was not digested."""
    values = tuple(uid if name == "sop_instance_uid" else "" for name in ROW_FIELDS)
    digest = digest_of(content) if content else ""
    return Candidate(number, (path or f"{number:03d}").encode(), present, digest, 1, uid, values)


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def name(file: Candidate, digest: str) -> str:
    """Name a place as a layout does, by the header and by the digest if it is needed to tell contents apart."""
    return f"series {file.header}/{file.sop_instance_uid or 'none'}{digest and '_' + digest}.dcm"


def compare(kept: Sequence[Candidate]) -> list[str]:
    assert len(kept) > 1, "only where there is something to compare"
    assert len({file.digest for file in kept}) == len(kept)
    assert len({file.sop_instance_uid for file in kept}) == 1
    return ["reference"] + [DIFFERENT] * (len(kept) - 1)


def plan_of(files: Iterable[Candidate]) -> list[Planned]:
    """Plan files in the order in which the index hands them out."""
    return list(plan_files(sorted(files, key=lambda file: (file.sop_instance_uid, file.path)), name, compare))


def simplified(files: Iterable[Candidate], plan: Iterable[Planned]) -> dict[bytes, tuple[str, bytes | None, str]]:
    """Leave out the numbers that tell in which order files arrived."""
    paths: dict[int | None, bytes | None] = {file.file: file.path for file in files}
    return {paths[one.file]: (one.target, paths.get(one.kept), one.differs) for one in plan}


@given(strategies.candidates())
def test_plan_is_a_bijection_on_distinct_contents(files: list[Candidate]) -> None:
    plan = plan_of(files)
    by_number = {file.file: file for file in files}
    assert len({one.file for one in plan}) == len(plan), "a file has one fate"
    placed = {one.file: one for one in plan if one.kept is None}

    # Each content is placed exactly once, at a place of its own ...
    contents = {file.digest for file in files}
    assert Counter(by_number[number].digest for number in placed) == Counter(contents)
    assert len({one.target for one in placed.values()}) == len(placed)
    # ... and each duplicate's bytes are those of the file it names.
    for one in plan:
        if one.kept is not None:
            assert by_number[one.file].digest == by_number[one.kept].digest
            assert one.target == placed[one.kept].target
    # Of what the dump holds everything is told; of what left it only what is placed nowhere else.
    left_out = [file for file in files if file.file not in {one.file for one in plan}]
    assert not any(file.present for file in left_out)
    kept = {by_number[number].digest: by_number[number] for number in placed}
    assert all(kept[file.digest].file != file.file for file in left_out)

    by_uid: dict[str, set[str]] = {}
    for file in files:
        by_uid.setdefault(file.sop_instance_uid, set()).add(file.digest)
    contested = {one.file for one in placed.values() if len(by_uid[by_number[one.file].sop_instance_uid]) > 1}
    contested = {number for number in contested if by_number[number].sop_instance_uid}
    assert {one.file for one in plan if one.differs} == contested


@given(strategies.candidates(), st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_show(files: list[Candidate], chance: random.Random) -> None:
    """Which shows in the numbers that the index gave out, and in nothing else."""
    numbers = [file.file for file in files]
    chance.shuffle(numbers)
    renumbered = [file._replace(file=number) for file, number in zip(files, numbers, strict=True)]
    chance.shuffle(renumbered)
    assert simplified(renumbered, plan_of(renumbered)) == simplified(files, plan_of(files))


@given(strategies.candidates(), st.data())
def test_more_files_move_only_what_they_contest(files: list[Candidate], data: st.DataObject) -> None:
    """A place changes when a second content claims its UID, and in no other case."""
    some = files[: data.draw(st.integers(0, len(files)))]
    digests = {file.file: file.digest for file in files}
    before = {digests[one.file]: one.target for one in plan_of(some) if one.kept is None}
    plan = [one for one in plan_of(files) if one.kept is None]
    after = {digests[one.file]: one.target for one in plan}
    contested = {digests[one.file] for one in plan if one.differs}
    for digest, target in before.items():
        assert after[digest] == target or digest in contested


def test_unique_uids_need_no_digest() -> None:
    files = [candidate(number, f"2.25.{number}") for number in range(1, 5)]
    assert plan_of(files) == [Planned(file.file, name(file, ""), None, "") for file in files]


def test_duplicates_are_kept_once_by_the_first_name_still_there() -> None:
    files = [
        candidate(1, "2.25.1", "same", path="a", present=False),
        candidate(2, "2.25.1", "same", path="c"),
        candidate(3, "2.25.1", "same", path="b"),
        candidate(4, "2.25.1", "same", path="d", present=False),
    ]
    # As if it had been alone: a duplicate does not change the name. And what left the dump is not missed.
    target = name(files[2], "")
    assert plan_of(files) == [Planned(3, target, None, ""), Planned(2, target, 3, "")]


def test_what_left_the_dump_altogether_stays() -> None:
    files = [candidate(number, "2.25.1", "same", present=False) for number in (1, 2)]
    assert plan_of(files) == [Planned(1, name(files[0], ""), None, "")]
    assert plan_of(files[1:]) == [Planned(2, name(files[1], ""), None, "")], "alone it needs no digest"


def test_one_uid_with_two_contents_keeps_both() -> None:
    files = [candidate(number, "2.25.1", content) for number, content in enumerate(("one", "other", "one", "third"), 1)]
    assert plan_of(files) == [
        Planned(1, name(files[0], files[0].digest), None, "reference"),
        Planned(3, name(files[0], files[0].digest), 1, ""),
        Planned(2, name(files[1], files[1].digest), None, DIFFERENT),
        Planned(4, name(files[3], files[3].digest), None, DIFFERENT),
    ]


def test_content_that_left_the_dump_is_still_told_apart() -> None:
    """It stands in the sorted tree, and nobody can say which of the two was meant."""
    files = [candidate(1, "2.25.1", "one", present=False), candidate(2, "2.25.1", "other")]
    assert [(one.file, one.differs) for one in plan_of(files)] == [(1, "reference"), (2, DIFFERENT)]


def test_files_without_a_uid_are_told_apart_by_content() -> None:
    files = [candidate(number, "", content) for number, content in enumerate(("one", "other", "one"), 1)]
    assert plan_of(files) == [
        Planned(1, name(files[0], files[0].digest), None, ""),
        Planned(3, name(files[0], files[0].digest), 1, ""),
        Planned(2, name(files[1], files[1].digest), None, ""),
    ]


@pytest.mark.parametrize("uid", ["", "2.25.1"])
@pytest.mark.parametrize("count", [0, 1])
def test_nearly_nothing(count: int, uid: str) -> None:
    files = [candidate(1, uid, "one")][:count]
    digest = "" if uid else digest_of("one")
    assert plan_of(files) == [Planned(1, name(file, digest), None, "") for file in files]


def test_a_plan_is_made_as_its_files_come() -> None:
    """Of a million files none has to be kept until the last was seen."""
    drawn = 0

    def files() -> Iterable[Candidate]:
        nonlocal drawn
        for number in range(1, 1000):
            drawn += 1
            yield candidate(number, f"2.25.{number:04d}")

    plan = iter(plan_files(files(), name, compare))
    for number in range(1, 11):
        assert next(plan).file == number
        assert drawn <= number + 1

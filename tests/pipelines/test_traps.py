"""One run over every trap that a dump is known to hold: nothing is lost, nothing aborts, each file has its fate."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import stat
import tarfile
import unicodedata
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest

from tasks.index.row import REJECT_REASONS
from tasks.lists import show_path, write_list
from tests.builders.traps import (
    CHARACTER_SETS,
    LONGEST_PATH,
    SETTINGS,
    TRAPS,
    Conflict,
    Duplicate,
    Fate,
    Opened,
    Placed,
    Rejected,
    TrapFolder,
    release_traps,
    set_traps,
)
from tests.pipelines.command import (
    Ended,
    counts_of,
    digests,
    faults_of,
    luigi_words,
    of_anybody,
    rows_of,
    run,
    times,
    unfinished,
    write_study,
)

LARGEST_DIGESTED = 1 << 27
"""Bytes up to which the test digests a file of the dump; the sparse ones beyond are known by their size and blocks."""

Snapshot = dict[bytes, tuple[object, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrapDump:
    """The dump of all traps, as it was before the first run."""

    folder: Path
    traps: dict[str, TrapFolder]
    before: Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted:
    """What a run made of the traps.

    Attributes
    ----------
    tree
        Digests of the sorted tree.
    """

    workspace: Path
    study: Path
    ended: Ended
    tree: dict[str, str]


def luigi_of_anybody(*words: object, cwd: Path) -> Ended:
    """Run `luigi --module pipelines WORDS` as somebody for whom modes count, which they do not for root."""
    return run(of_anybody(luigi_words(*words)), cwd=cwd)


@pytest.fixture(scope="module")
def dump(scanner_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrapDump]:
    """Set all traps."""
    folder = tmp_path_factory.mktemp("traps") / "dump"
    traps = set_traps(folder, scanner_data)
    try:
        yield TrapDump(folder=folder, traps=traps, before=snapshot(folder))
    finally:
        release_traps(traps.values())


@pytest.fixture(scope="module")
def outcome(dump: TrapDump) -> Sorted:
    """Sort all traps in one run."""
    base = dump.folder.parent
    workspace = base / "w"
    study = write_study(base / "study.toml", dump=dump.folder, workspace=workspace, files=100, more=SETTINGS)
    ended = luigi_of_anybody("SortStudy", "--study", study, "--workers", 2, cwd=base)
    tree = workspace / "identified" / "sorted"
    return Sorted(workspace=workspace, study=study, ended=ended, tree=digests(tree))


def snapshot(dump: Path) -> Snapshot:
    """Note everything of a dump that a run must leave alone: kinds, modes, owners, sizes, times and contents."""
    found: Snapshot = {}
    root = os.fsencode(dump)
    for folder, folders, names, descriptor in os.fwalk(root):
        for name in [*folders, *names]:
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            path = folder[len(root) + 1 :] + b"/" + name
            kind: object = status.st_blocks
            if stat.S_ISLNK(status.st_mode):
                kind = os.readlink(name, dir_fd=descriptor)
            elif stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST_DIGESTED:
                with contextlib.suppress(PermissionError):
                    kind = digest_in(name, descriptor)
            found[path] = (status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns, kind)
    return found


def digest_in(name: bytes, folder: int) -> str:
    """Digest an ordinary file of an open folder."""
    with open(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def in_dump(trap: str, path: bytes) -> bytes:
    """Name a file of a trap as the index does."""
    return trap.encode() + b"/" + path


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """What the lists say: a file as the lists spell it, and what stands beside it.

    Attributes
    ----------
    cells
        How the lists spell a path.
    """

    plan: dict[str, list[str]]
    rejects: dict[str, list[str]]
    duplicates: dict[str, list[str]]
    conflicts: dict[str, list[str]]
    cells: dict[bytes, str]

    def cell(self, trap: str, path: bytes) -> str:
        """Return how the lists spell a file of a trap."""
        return self.cells[in_dump(trap, path)]

    def folder(self, trap: str, path: bytes) -> str:
        """Return the folder that a file is placed in; empty if it is not placed."""
        return self.plan.get(self.cell(trap, path), [""])[0].rpartition("/")[0]


@pytest.fixture(scope="module")
def lists(dump: TrapDump, outcome: Sorted, tmp_path_factory: pytest.TempPathFactory) -> Lists:
    """Read the lists of the run."""
    columns = {"plan": "target", "rejects": "reason", "duplicates": "same_as", "conflicts": "differs"}
    read_lists: dict[str, dict[str, list[str]]] = {}
    for name, column in columns.items():
        read_lists[name] = {}
        for row in rows_of(outcome.workspace, name):
            read_lists[name].setdefault(row["file"], []).append(row[column])
    paths = [in_dump(name, path) for name, place in dump.traps.items() for path in place.fates]
    spelled = tmp_path_factory.mktemp("cells") / "cells.tsv"
    write_list(spelled, ["file"], [[show_path(path)] for path in paths])
    cells = spelled.read_text("utf-8").split("\n")[1:-1]
    return Lists(**read_lists, cells=dict(zip(paths, cells, strict=True)))


# The run as a whole.


def test_there_are_traps_enough() -> None:
    assert len(TRAPS) >= 100


def test_the_run_ends_well(outcome: Sorted) -> None:
    assert outcome.ended.code == 0, outcome.ended.said[-3000:] + faults_of(outcome.workspace)
    assert "Traceback" not in outcome.ended.said
    assert faults_of(outcome.workspace) == ""
    assert unfinished(outcome.workspace) == []


def test_every_content_is_accounted_for(dump: TrapDump, outcome: Sorted) -> None:
    """The tree holds each content that belongs there once, and nothing else."""
    expected = {
        fate.digest
        for place in dump.traps.values()
        for fate in place.fates.values()
        if isinstance(fate, (Placed, Conflict))
    }
    expected |= {digest for place in dump.traps.values() for digest in place.nameless}
    twice = [target for target, digest in outcome.tree.items() if Counter(outcome.tree.values())[digest] > 1]
    lost = {
        (name, path)
        for name, place in dump.traps.items()
        for path, fate in place.fates.items()
        if isinstance(fate, (Placed, Conflict, Duplicate)) and fate.digest not in outcome.tree.values()
    }
    assert lost == set()
    assert twice == []
    assert set(outcome.tree.values()) == expected


def test_the_lists_hold_what_they_must_and_no_more(dump: TrapDump, outcome: Sorted, lists: Lists) -> None:
    expected: dict[type[Fate], Counter[str]] = {Rejected: Counter(), Duplicate: Counter(), Conflict: Counter()}
    for name, place in dump.traps.items():
        for path, fate in place.fates.items():
            if type(fate) in expected:
                expected[type(fate)][lists.cell(name, path)] += 1
    for kind, rows in ((Rejected, lists.rejects), (Duplicate, lists.duplicates), (Conflict, lists.conflicts)):
        listed = Counter({cell: len(values) for cell, values in rows.items()})
        assert listed - expected[kind] == Counter(), f"{kind.__name__}: listed and should not be"
        assert expected[kind] - listed == Counter(), f"{kind.__name__}: should be listed and is not"


def test_the_sums_close(outcome: Sorted, lists: Lists) -> None:
    counts = counts_of(outcome.workspace, "sort")
    listed = {name: sum(map(len, getattr(lists, name).values())) for name in ("rejects", "duplicates", "conflicts")}
    assert counts["placed"] == len(outcome.tree)
    assert counts["rejected"] == listed["rejects"]
    assert counts["duplicates"] == listed["duplicates"]
    assert counts["conflicts"] == listed["conflicts"]
    for row in rows_of(outcome.workspace, "rejects"):
        assert row["meaning"] == REJECT_REASONS[row["reason"]]


def test_nothing_in_the_dump_has_changed(dump: TrapDump, outcome: Sorted) -> None:
    after = snapshot(dump.folder)
    changed = {path for path in dump.before.keys() | after.keys() if dump.before.get(path) != after.get(path)}
    assert changed == set()


def test_nothing_is_written_outside_the_workspace(dump: TrapDump, outcome: Sorted) -> None:
    beside = {path.name for path in dump.folder.parent.iterdir()}
    assert beside == {"dump", "w", "study.toml", "outside the dump"}
    assert {path.name for path in (dump.folder.parent / "outside the dump").iterdir()} == {"x.dcm"}
    assert not Path("/tmp/scanward-escape.dcm").exists()


RESERVED = re.compile(r"(?i)^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?$")
FORBIDDEN = frozenset('<>:"/\\|?*')


def test_every_name_is_one_on_every_file_system(outcome: Sorted) -> None:
    """Whatever the headers say: no name is too long, reserved, invisible, or the same as its neighbour when folded."""
    tree = outcome.workspace / "identified" / "sorted"
    for folder, folders, names in os.walk(tree):
        folded = Counter(unicodedata.normalize("NFKC", name).casefold() for name in [*folders, *names])
        assert max(folded.values(), default=1) == 1, folder
        for name in [*folders, *names]:
            assert len(os.fsencode(name)) <= 255, name
            assert name.isprintable(), name
            assert not FORBIDDEN & set(name), name
            assert not RESERVED.match(name), name
            assert name == unicodedata.normalize("NFC", name), name
            assert name[0] not in "-. ~", name
            assert name[-1] not in ". ", name
        for name in names:
            assert stat.S_ISREG(os.lstat(os.path.join(folder, name)).st_mode), name


def test_a_second_run_changes_nothing(dump: TrapDump, outcome: Sorted) -> None:
    tree = outcome.workspace / "identified" / "sorted"
    before = times(tree)
    ended = luigi_of_anybody("SortStudy", "--study", outcome.study, cwd=dump.folder.parent)
    assert ended.code == 0, ended.said[-3000:]
    assert times(tree) == before
    assert digests(tree) == outcome.tree


@pytest.mark.long
def test_other_workers_and_chunks_make_the_same_tree_and_lists(dump: TrapDump, outcome: Sorted, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    study = write_study(tmp_path / "study.toml", dump=dump.folder, workspace=workspace, files=7, more=SETTINGS)
    ended = luigi_of_anybody("SortStudy", "--study", study, cwd=tmp_path)
    assert ended.code == 0, ended.said[-3000:]
    assert digests(workspace / "identified" / "sorted") == outcome.tree
    for name in ("plan", "rejects", "duplicates", "conflicts"):
        assert rows_of(workspace, name) == rows_of(outcome.workspace, name), name


# Each trap.


@pytest.mark.parametrize("name", TRAPS)
def test_trap(name: str, dump: TrapDump, outcome: Sorted, lists: Lists) -> None:
    place = dump.traps[name]
    told = {path: fault_of(path, fate, place, outcome, lists) for path, fate in place.fates.items()}
    faults = [f"{path!r}: {fault}" for path, fault in told.items() if fault]
    faults += [f"not placed: {digest}" for digest in place.nameless if digest not in outcome.tree.values()]
    for group in place.together:
        if len({lists.folder(name, path) for path in group}) != 1:
            faults.append(f"not in one folder: {group}")
    for group in place.apart:
        if len({lists.folder(name, path) for path in group}) != len(group):
            faults.append(f"not in folders of their own: {group}")
    faults += faults_of_conflicts(place, lists)
    assert faults == []


def fault_of(path: bytes, fate: Fate, place: TrapFolder, outcome: Sorted, lists: Lists) -> str:
    """Say in what the run did not do with a file what had to be done; empty if it did."""
    cell = lists.cell(place.folder.name, path)
    reasons, same_as = lists.rejects.get(cell, []), lists.duplicates.get(cell, [])
    if isinstance(fate, Rejected):
        if fate.reason not in reasons:
            return f"must be rejected as {fate.reason}, is {reasons or 'not rejected'}"
        return "was placed all the same" if fate.digest in outcome.tree.values() else ""
    if reasons:
        return f"must not be rejected, is as {reasons}"
    if isinstance(fate, Opened):
        return "an archive was placed itself" if cell in lists.plan else ""
    if isinstance(fate, Duplicate):
        wanted = lists.cell(place.folder.name, fate.of)
        return "" if same_as == [wanted] else f"must be a duplicate of {fate.of!r}, is of {same_as}"
    if same_as:
        return f"must be placed, is a duplicate of {same_as}"
    targets = lists.plan.get(cell, [])
    if not targets:
        return "is not in the plan"
    if fate.digest not in {outcome.tree.get(target) for target in targets}:
        return "does not stand unchanged where the plan says"
    below = fate.below if isinstance(fate, Placed) else ()
    missing = [text for text in below if text not in targets[0]]
    return f"is placed at {targets[0]}, without {missing}" if missing else ""


def faults_of_conflicts(place: TrapFolder, lists: Lists) -> list[str]:
    """Say what the list of conflicts has wrong on one trap."""
    told = {
        path: lists.conflicts.get(lists.cell(place.folder.name, path), [])
        for path, fate in place.fates.items()
        if isinstance(fate, Conflict)
    }
    wanted = {fate.differs for fate in place.fates.values() if isinstance(fate, Conflict)}
    kinds = sorted(kind for values in told.values() for kind in values)
    expected = sorted(["reference", *wanted, *[*wanted] * (len(told) - 2)]) if told else []
    return [] if kinds == expected else [f"conflicts must be told as {expected}, are as {kinds}: {told}"]


# The traps are what they say.


def all_placed(dump: TrapDump, name: str) -> dict[str, Path]:
    place = dump.traps[name]
    return {
        os.fsdecode(path): place.folder / os.fsdecode(path)
        for path, fate in place.fates.items()
        if isinstance(fate, (Placed, Conflict)) and b"!/" not in path
    }


def read(path: Path) -> pydicom.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, force=True)


def test_the_traps_share_no_content(dump: TrapDump) -> None:
    owners: dict[str, set[str]] = {}
    for name, place in dump.traps.items():
        for fate in place.fates.values():
            if isinstance(fate, (Placed, Conflict)):
                owners.setdefault(fate.digest, set()).add(name)
    assert [names for names in owners.values() if len(names) > 1] == []


def test_every_file_of_a_trap_has_a_fate(dump: TrapDump) -> None:
    unseen = [b"a_path_longer_than_paths_can_be/", b"a_folder_that_may_not_be_opened/"]
    known = {in_dump(name, path) for name, place in dump.traps.items() for path in place.fates}
    files = {path.lstrip(b"/") for path, (mode, *_) in dump.before.items() if not stat.S_ISDIR(mode)}
    without = {path for path in files - known if not path.startswith(tuple(unseen))}
    assert without == set()


def test_the_long_paths_are_long(dump: TrapDump) -> None:
    (longest,) = dump.traps["a_path_as_long_as_paths_can_be"].fates
    assert len(os.fsencode(dump.folder)) + 1 + len(in_dump("a_path_as_long_as_paths_can_be", longest)) == LONGEST_PATH
    assert dump.traps["a_path_as_long_as_paths_can_be"].path(longest).count(b"/") < 60
    too_long = dump.traps["a_path_longer_than_paths_can_be"]
    with pytest.raises(OSError, match="name too long"):
        os.listdir(too_long.path(next(iter(too_long.fates))))
    assert max(path.count(b"/") for path in dump.traps["folders_60_deep"].fates) == 60


def test_the_syntaxes_are_what_they_are_called(dump: TrapDump) -> None:
    for name, path in all_placed(dump, "the_four_plain_syntaxes").items():
        assert f"{read(path).file_meta.TransferSyntaxUID.keyword}.dcm" == name
    for name, path in all_placed(dump, "compressed_pixels").items():
        dataset = read(path)
        assert dataset.file_meta.TransferSyntaxUID.keyword == name
        assert dataset.pixel_array.shape == (64, 64)
    encodings = {"explicit": (False, True), "implicit.dcm": (True, True), "big": (False, False)}
    for name, path in all_placed(dump, "neither_preamble_nor_meta_header").items():
        assert read(path).original_encoding == encodings[name]
        assert path.read_bytes()[128:132] != b"DICM"


def test_the_copies_show_what_they_are_copies_of(dump: TrapDump) -> None:
    names = [name for name in TRAPS if name.startswith(("recompressed_as", "transferred_"))]
    assert len(names) == 6
    for name in [*names, "one_real_image_in_every_syntax"]:
        first, *others = all_placed(dump, name).values()
        for other in others:
            assert read(first).SOPInstanceUID == read(other).SOPInstanceUID
            assert read(first).file_meta.TransferSyntaxUID != read(other).file_meta.TransferSyntaxUID
            assert (read(first).pixel_array == read(other).pixel_array).all()
    lossy = [read(path).pixel_array.astype(int) for path in all_placed(dump, "recompressed_with_loss").values()]
    assert 0 < abs(lossy[0] - lossy[1]).max() <= 3


def test_the_patients_are_called_what_they_are_called(dump: TrapDump) -> None:
    paths = all_placed(dump, "character_sets")
    for name, (_, patient, raw) in CHARACTER_SETS.items():
        assert raw in paths[f"{name}.dcm"].read_bytes()
        if name != "chinese":  # pydicom leaves the escape sequence of ISO 2022 IR 58 in the text
            assert read(paths[f"{name}.dcm"]).PatientID == patient, name


def test_the_archives_are_what_they_say(dump: TrapDump) -> None:
    encrypted = dump.traps["encrypted_zip"].folder / "x.zip"
    with zipfile.ZipFile(encrypted) as archive, pytest.raises(RuntimeError, match="encrypted"):
        archive.read("1.dcm")
    damaged = dump.traps["damaged_archives"].folder
    with zipfile.ZipFile(damaged / "checksum.zip") as archive:
        assert archive.testzip() == "2.dcm"
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(damaged / "no directory.zip")
    with tarfile.open(damaged / "cut.tar") as archive, pytest.raises(tarfile.ReadError):
        archive.getmembers()
    deep = (dump.traps["archives_too_deep"].folder / "a.zip").read_bytes()
    for name in ("b.zip", "c.zip"):
        deep = zipfile.ZipFile(io.BytesIO(deep)).read(name)
    assert zipfile.ZipFile(io.BytesIO(deep)).namelist() == ["1.dcm"]
    with tarfile.open(dump.traps["one_name_twice_in_an_archive"].folder / "x.tar") as archive:
        assert archive.getnames() == ["x.dcm", "x.dcm"]


def test_the_prefixes_and_orders_are_what_they_say(dump: TrapDump) -> None:
    for path in all_placed(dump, "preambles_that_look_like_something_else").values():
        head = path.read_bytes()[:132]
        assert any(head[:4])
        assert head[128:] == b"DICM"
    first = (dump.traps["elements_out_of_order"].folder / "series number first").read_bytes()
    assert first.index(b"\x20\0\x11\0IS") < first.index(b"\x08\0\x05\0CS")
    last = (dump.traps["elements_out_of_order"].folder / "SOP Instance UID last").read_bytes()
    assert last.index(b"\xe0\x7f\x10\0OW") < last.index(b"\x08\0\x18\0UI")
    for path in all_placed(dump, "elements_before_the_numbers").values():
        dataset = read(path)
        assert (dataset.SeriesNumber, dataset.PatientID[:8]) == (1, "SYNWORLD")
    behind = (dump.traps["elements_before_the_numbers"].folder / "private group").read_bytes()
    assert behind.index(b"\x20\0\x13\0IS") > 300_000

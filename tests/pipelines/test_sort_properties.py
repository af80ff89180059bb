"""For any headers whatsoever: each content is placed once, at a place of its own in the tree, whatever the order."""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tasks.index.chunk import pack
from tasks.index.row import FileStamp, IndexRow
from tasks.sort.layout import PRESETS, parse_layout
from tasks.sort.store import SortStore
from tasks.sort.tree import TreeNames, plan_tree
from tests import strategies
from tests.builders.world import make_instance, write_instance
from tests.pipelines.command import digests, luigi, rows_of, write_study

FEW = settings(max_examples=20, suppress_health_check=[HealthCheck.data_too_large])
"""Each example makes an index or two; headers have forty fields, so many files are much data."""

LAYOUTS = (
    *sorted(PRESETS),
    "{patient_name}/{series_description}",
    "{protocol}_{image_type}/{visit_date}",
    "{patient_id}",
)
"""The presets, and templates that say less than what tells folders apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorting:
    """What a plan says, told without the numbers that show in which order files arrived."""

    places: dict[str, str]
    """Target to digest."""

    duplicates: frozenset[tuple[bytes, bytes]]
    """Paths of what is not placed, and of what is in its stead."""

    conflicts: frozenset[str]


def digest_of(content: int) -> str:
    return hashlib.sha256(b"%d" % content).hexdigest()


def plan_of(
    rows: Sequence[IndexRow], files: Sequence[tuple[bytes, int]], *, layout: str = "", chunk: int = 1000
) -> Sorting:
    """Index files in the order given, a chunk at a time, and plan them as `PlanSort` does.

    Parameters
    ----------
    rows
        The headers of the contents.
    files
        Path and content (a number of `rows`) of each file.
    """
    contents = dict(files)
    with tempfile.TemporaryDirectory() as folder, SortStore(Path(folder) / "index.db") as store:
        stamps = [FileStamp(path=path, size=1, mtime_ns=1, device=1, inode=n) for n, path in enumerate(contents)]
        store.take_scan(stamps)
        for begin in range(0, len(stamps), chunk):
            part = stamps[begin : begin + chunk]
            store.merge(str(begin), pack(part, (replace(rows[contents[one.path]], path=one.path) for one in part)))
        store.finish_scan([], lambda *_: False)
        store.keep_digests([(one.file, digest_of(contents[one.path])) for one in store.undigested()])
        names = TreeNames(store, parse_layout(layout or LAYOUTS[0]), 4, {})
        compare = lambda kept: ["reference"] + ["header"] * (len(kept) - 1)  # noqa: E731
        plan_tree(store, names, compare, watched=iter)
        assert store.count_unplanned() == 0
        planned = list(store.planned())
        places = {target: digest_of(contents[path]) for path, target, _ in planned}
        assert len(places) == len(planned)
        return Sorting(
            places=places,
            duplicates=frozenset(store.duplicates()),
            conflicts=frozenset(target for _, target, _ in store.conflicts()),
        )


ALIKE = ("Doe", "DOE", "Zo\u00eb", "Zoe\u0308", "stra\u00dfe", "STRASSE", "a/b", "a:b", "", "..")
"""Texts of which some file system, or a name made of them, takes some for the same."""


@st.composite
def dumps(draw: st.DrawFn) -> tuple[list[IndexRow], list[tuple[bytes, int]]]:
    """Make headers and files that have them: few patients, studies and series, of which some have names that are alike.

    Some contents lie in several files, and some SOP Instance UIDs in several contents.
    """
    rows = []
    for row in draw(st.lists(strategies.index_rows().map(strategies.decodable), min_size=1, max_size=6)):
        alike = {name: draw(st.sampled_from(ALIKE)) for name in ("patient_id", "patient_name", "series_description")}
        uids = {name: f"2.25.{draw(st.integers(0, 1))}" for name in ("study_instance_uid", "series_instance_uid")}
        kept = draw(st.sets(st.sampled_from([*alike, *uids])))
        few = {name: value for name, value in (alike | uids).items() if name not in kept}
        rows.append(replace(row, shared=replace(row.shared, **few)))
        if draw(st.booleans()):
            # Another image, whose header says one thing otherwise.
            field = draw(st.sampled_from(("series_description", "patient_id", "patient_name")))
            other = replace(rows[-1].shared, **{field: draw(st.sampled_from(ALIKE))})
            rows.append(replace(rows[-1], shared=other, sop_instance_uid=f"2.25.9{len(rows)}"))
    chosen = draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=12))
    return rows, [(b"%03d" % number, content) for number, content in enumerate(chosen)]


@FEW
@given(dumps(), st.sampled_from(LAYOUTS))
def test_the_plan_is_a_bijection_on_distinct_contents(
    dump: tuple[list[IndexRow], list[tuple[bytes, int]]], layout: str
) -> None:
    rows, files = dump
    plan = plan_of(rows, files, layout=layout)
    contents = {path: digest_of(content) for path, content in files}
    assert Counter(plan.places.values()) == Counter(set(contents.values()))
    assert len(plan.places) + len(plan.duplicates) == len(files)
    assert all(contents[path] == contents[kept] for path, kept in plan.duplicates)
    by_uid: dict[str, set[str]] = {}
    for path, content in files:
        by_uid.setdefault(rows[content].sop_instance_uid, set()).add(contents[path])
    contested = {one for uid, found in by_uid.items() if uid and len(found) > 1 for one in found}
    assert {plan.places[target] for target in plan.conflicts} == contested


@FEW
@given(dumps(), st.sampled_from(LAYOUTS), st.randoms(use_true_random=False), st.integers(1, 5))
def test_the_order_of_arrival_does_not_show(
    dump: tuple[list[IndexRow], list[tuple[bytes, int]]], layout: str, chance: random.Random, chunk: int
) -> None:
    """Neither in which order files were read, nor in which chunks."""
    rows, files = dump
    shuffled = list(files)
    chance.shuffle(shuffled)
    assert plan_of(rows, shuffled, layout=layout, chunk=chunk) == plan_of(rows, files, layout=layout)


@FEW
@given(dumps(), st.sampled_from(LAYOUTS), st.randoms(use_true_random=False))
def test_what_files_are_called_in_the_dump_does_not_show(
    dump: tuple[list[IndexRow], list[tuple[bytes, int]]], layout: str, chance: random.Random
) -> None:
    rows, files = dump
    names = [path for path, _ in files]
    chance.shuffle(names)
    renamed = [(name, content) for name, (_, content) in zip(names, files, strict=True)]
    assert plan_of(rows, renamed, layout=layout).places == plan_of(rows, files, layout=layout).places


ALL_ALIKE = [
    strategies.make_row(patient_id=text, patient_name=text, series_description=text, sop_instance_uid=f"2.25.{number}")
    for number, text in enumerate(ALIKE)
]


@FEW
@given(dumps(), st.sampled_from(LAYOUTS))
@example((ALL_ALIKE, [(b"%d" % number, number) for number in range(len(ALL_ALIKE))]), "{patient_id}")
@example((ALL_ALIKE, [(b"%d" % number, number) for number in range(len(ALL_ALIKE))]), "{patient_name}/{visit_date}")
def test_no_name_leaves_the_tree_and_no_two_fold_together(
    dump: tuple[list[IndexRow], list[tuple[bytes, int]]], layout: str
) -> None:
    rows, files = dump
    places = plan_of(rows, files, layout=layout).places
    root = "/tree/of/the/study"
    neighbours: dict[str, set[str]] = {}
    for target in places:
        assert os.path.normpath(os.path.join(root, target)) == f"{root}/{target}"
        assert target.isprintable()
        assert len(os.fsencode(target)) <= 1000
        *folders, name = target.split("/")
        assert name.endswith(".dcm")
        for depth, part in enumerate([*folders, name]):
            assert 0 < len(os.fsencode(part)) <= 255
            assert part[0] not in "-.~ "
            assert part[-1] not in ". "
            assert not set('<>:"\\|?*') & set(part)
            neighbours.setdefault("/".join(folders[:depth]), set()).add(part)
    for names in neighbours.values():
        assert len({folded(name) for name in names}) == len(names)


def folded(name: str) -> str:
    """Fold a name as the widest of the file systems does: without case, composition and compatible forms."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def test_the_search_for_folded_names_finds_them() -> None:
    """The alarm rings: names that a file system takes for one are told."""
    pairs = [
        ("Zo\u00eb", "Zoe\u0308"),
        ("a", "A"),
        ("stra\u00dfe", "STRASSE"),
        ("\ufb01x", "fix"),
        ("\u212b", "\u00e5"),
    ]
    assert all(folded(one) == folded(other) for one, other in pairs)


# The same with real files and the real command.


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomDump:
    """A dump of odd headers, and the digests of what it holds."""

    folder: Path
    contents: list[str]


def make_random_dump(folder: Path, seed: int, *, order: int) -> RandomDump:
    """Write a dump whose contents depend on `seed` alone; `order` decides where they lie and what they are called."""
    chance = random.Random(seed)
    texts = [text for text in strategies.NASTY_TEXTS if text.isprintable() and len(text) < 60]
    contents = []
    for _ in range(60):
        numbers = (1, chance.randint(1, 3), chance.randint(1, 3), chance.randint(1, 12))
        overrides = {
            keyword: chance.choice(texts).replace("\\", "|")
            for keyword in ("PatientID", "PatientName", "SeriesDescription", "ProtocolName")
        }
        missing = [None, *["SOPInstanceUID", "SeriesInstanceUID", "StudyDate", "InstanceNumber"]]
        overrides |= dict.fromkeys(filter(None, [chance.choice(missing)]), "")
        contents.append(make_instance(*numbers, **overrides))
    contents += [chance.choice(contents) for _ in range(15)]
    places = random.Random(order)
    places.shuffle(contents)
    found = []
    for number, dataset in enumerate(contents):
        path = folder / str(places.randrange(4)) / f"{places.randrange(1 << 40):x} {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of what stands in the headers
            write_instance(path, dataset)
        found.append(hashlib.sha256(path.read_bytes()).hexdigest())
    return RandomDump(folder=folder, contents=found)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)])
def test_neither_order_nor_workers_nor_chunks_show_in_the_tree(seed: int, tmp_path: Path) -> None:
    trees = []
    for order, workers, chunk in ((1, 1, 2000), (2, 3, 10)):
        base = tmp_path / str(order)
        dump = make_random_dump(base / "dump", seed, order=order)
        study = write_study(base / "study.toml", dump=dump.folder, workspace=base / "w", files=chunk)
        ended = luigi("SortStudy", "--study", study, "--workers", workers, cwd=base)
        assert ended.code == 0, ended.said[-2000:]
        tree = digests(base / "w" / "identified" / "sorted")
        assert Counter(tree.values()) == Counter(set(dump.contents))
        assert len(rows_of(base / "w", "duplicates")) == len(dump.contents) - len(tree)
        trees.append(tree)
    assert trees[0] == trees[1]

"""Every file handed in is placed or a duplicate of one that is, each content once, whatever the order."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.index.row import FileStamp, IndexRow
from tasks.index.store import IndexedFile
from tasks.sort.layout import fold, place_of, short_hash
from tasks.sort.plan import SortPlan, files_to_digest, plan_sort
from tests import strategies

EMPTY = IndexRow(path=b"", **{field.name: "" for field in fields(IndexRow) if field.name != "path"})


def _file(number: int, *, path: str = "", present: bool = True, **values: str) -> IndexedFile:
    name = (path or f"{number:03d}").encode()
    stamp = FileStamp(path=name, size=1, mtime_ns=1, device=1, inode=number)
    return IndexedFile(file=number, stamp=stamp, present=present, digest="", row=replace(EMPTY, path=name, **values))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _simplified(plan: SortPlan) -> tuple[object, ...]:
    """Leave out the numbers that tell in which order files arrived."""
    placements = [(placement.target, placement.file.stamp.path) for placement in plan.placements]
    return placements, plan.duplicates, plan.conflicts


@strategies.FEWER
@given(strategies.indexed_files())
def test_plan_is_a_bijection_on_distinct_contents(drawn: tuple[list[IndexedFile], dict[int, str]]) -> None:
    files, digests = drawn
    plan = plan_sort(files, digests)

    placed = [placement.file.stamp.path for placement in plan.placements]
    doubled = [duplicate.path for duplicate in plan.duplicates]
    assert sorted(placed + doubled) == sorted(file.stamp.path for file in files)

    by_path = {file.stamp.path: digests[file.file] for file in files}
    # Each content is placed exactly once, and each duplicate's bytes are those of the file it names.
    assert Counter(by_path[path] for path in placed) == Counter(set(by_path.values()))
    assert all(by_path[duplicate.path] == by_path[duplicate.kept] for duplicate in plan.duplicates)
    assert {duplicate.kept for duplicate in plan.duplicates} <= set(placed)

    targets = [placement.target for placement in plan.placements]
    assert targets == sorted(targets)
    assert len({fold(target) for target in targets}) == len(targets)

    contents = {}
    for file in files:
        contents.setdefault(file.row.sop_instance_uid, set()).add(digests[file.file])
    contested = {uid for uid, found in contents.items() if uid and len(found) > 1}
    expected = {p.target for p in plan.placements if p.file.row.sop_instance_uid in contested}
    assert {conflict.target for conflict in plan.conflicts} == expected
    assert len(plan.conflicts) == len(expected)


@strategies.FEWER
@given(strategies.indexed_files(), st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_show(drawn: tuple[list[IndexedFile], dict[int, str]], chance: random.Random) -> None:
    """Neither the order of the list nor the numbers the index gave out."""
    files, digests = drawn
    numbers = [file.file for file in files]
    chance.shuffle(numbers)
    renumbered = [replace(file, file=number) for file, number in zip(files, numbers, strict=True)]
    other = {new: digests[file.file] for file, new in zip(files, numbers, strict=True)}
    chance.shuffle(renumbered)
    assert _simplified(plan_sort(renumbered, other)) == _simplified(plan_sort(files, digests))


@strategies.FEWER
@given(strategies.indexed_files())
def test_digests_asked_for_are_enough(drawn: tuple[list[IndexedFile], dict[int, str]]) -> None:
    files, digests = drawn
    asked = {file.file for file in files_to_digest(files)}
    few = {number: digest for number, digest in digests.items() if number in asked}
    assert _simplified(plan_sort(files, few)) == _simplified(plan_sort(files, digests))
    known = [replace(file, digest=digests[file.file]) for file in files]
    assert files_to_digest(known) == []


@strategies.FEWER
@given(strategies.indexed_files(), st.data())
def test_more_files_move_only_what_they_contest(
    drawn: tuple[list[IndexedFile], dict[int, str]], data: st.DataObject
) -> None:
    """A place changes when a second content claims its UID, and in no other case."""
    files, digests = drawn
    some = files[: data.draw(st.integers(0, len(files)))]
    before = {digests[p.file.file]: p.target for p in plan_sort(some, digests).placements}
    plan = plan_sort(files, digests)
    after = {digests[p.file.file]: p.target for p in plan.placements}
    contested = {digests[p.file.file] for p in plan.placements if p.target in {c.target for c in plan.conflicts}}
    for digest, target in before.items():
        assert after[digest] == target or digest in contested


def test_unique_uids_need_no_digest() -> None:
    files = [_file(number, sop_instance_uid=f"2.25.{number}") for number in range(1, 5)]
    assert files_to_digest(files) == []
    plan = plan_sort(files, {})
    assert len(plan.placements) == 4
    assert plan.duplicates == plan.conflicts == ()


def test_duplicates_are_kept_once_by_the_first_name_still_there() -> None:
    files = [
        _file(1, path="a", present=False, sop_instance_uid="2.25.1"),
        _file(2, path="c", sop_instance_uid="2.25.1"),
        _file(3, path="b", sop_instance_uid="2.25.1"),
    ]
    plan = plan_sort(files, dict.fromkeys((1, 2, 3), _digest("same")))
    assert [placement.file.stamp.path for placement in plan.placements] == [b"b"]
    assert [(duplicate.path, duplicate.kept) for duplicate in plan.duplicates] == [(b"a", b"b"), (b"c", b"b")]
    assert plan.conflicts == ()
    # As if it had been alone: a duplicate does not change the name.
    assert plan.placements[0].target == place_of(files[2].row)


def test_one_uid_with_two_contents_keeps_both() -> None:
    files = [_file(number, sop_instance_uid="2.25.1") for number in (1, 2, 3)]
    digests = {1: _digest("one"), 2: _digest("other"), 3: _digest("one")}
    plan = plan_sort(files, digests)
    assert len(plan.placements) == len(plan.conflicts) == 2
    assert [duplicate.path for duplicate in plan.duplicates] == [b"003"]
    assert all(digests[p.file.file][:8] in p.target for p in plan.placements)


def test_files_without_a_uid_are_told_apart_by_content() -> None:
    files = [_file(number) for number in (1, 2, 3)]
    digests = {1: _digest("one"), 2: _digest("other"), 3: _digest("one")}
    plan = plan_sort(files, digests)
    assert len(plan.placements) == 2
    assert len(plan.duplicates) == 1
    assert plan.conflicts == ()


def _first_pair_of_equal_hashes(texts: Iterable[str]) -> tuple[str, str]:
    seen: dict[str, str] = {}
    for text in texts:
        other = seen.setdefault(short_hash(text), text)
        if other != text:
            return other, text
    raise AssertionError("no two short hashes are equal")


def test_short_hashes_that_meet_by_chance_become_long() -> None:
    """Among some hundred thousand instances two hashes of 32 bits do meet."""
    one, other = _first_pair_of_equal_hashes(f"2.25.{number}" for number in range(500_000))
    files = [_file(1, sop_instance_uid=one), _file(2, sop_instance_uid=other), _file(3, sop_instance_uid="2.26.1")]
    assert place_of(files[0].row) == place_of(files[1].row)
    for order in (files, files[::-1]):
        plan = plan_sort(order, {})
        targets = {placement.file.file: placement.target for placement in plan.placements}
        assert len(set(targets.values())) == 3
        assert targets[3] == place_of(files[2].row)
        assert targets[1] == place_of(files[0].row, digits=32)


def test_digests_that_begin_alike_become_long() -> None:
    digests = {1: "ab" * 32, 2: "ab" * 4 + "cd" * 28}
    plan = plan_sort([_file(number) for number in (1, 2)], digests)
    assert len({placement.target for placement in plan.placements}) == 2


@pytest.mark.parametrize("count", [0, 1])
def test_nearly_nothing(count: int) -> None:
    plan = plan_sort([_file(1, sop_instance_uid="2.25.1")][:count], {})
    assert len(plan.placements) == count

"""Damaged files are walked or refused: nothing else is raised, nothing hangs, nothing is read outside the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dicom.elements import Element, WalkError, pick, walk
from tasks.dicom.syntax import SyntaxRefusalError, needs_more, read_start
from tasks.index.header import LAST_TAG, WANTED, read_header
from tasks.index.row import REJECT_REASONS, Container, IndexRow, Reject
from tests import strategies  # noqa: F401 - sets hypothesis up
from tests.dicom import mutator
from tests.dicom.oracle import spans

FEW = 1_000
MANY = 10_000

WALK_REASONS = {
    "truncated",
    "length-past-end",
    "unknown-vr",
    "item-expected",
    "stray-delimiter",
    "undefined-length",
    "trailing-bytes",
    "too-deep",
    "out-of-order",
}
SYNTAX_REASONS = {"not-dicom", "no-preamble", "big-endian", "deflated", "private-syntax", "meta-damaged"}


def _check_walk(data: bytes, start: int, *, explicit: bool) -> str:
    """Walk and pick one stream; return how that ended."""
    seen: list[Element] = []
    ended, offset = "whole", 0
    with mutator.step_budget(len(data)):
        try:
            for element in walk(data, start, explicit=explicit):
                seen.append(element)  # noqa: PERF402 - a comprehension would lose what came before the fault
        except WalkError as fault:
            ended, offset = fault.reason, fault.offset
    assert ended in WALK_REASONS | {"whole"}
    assert 0 <= offset <= len(data)
    assert len(seen) <= len(data) // 8
    assert spans(seen, len(data)) == ""

    def fetch(offset: int, amount: int) -> bytes:
        assert offset >= 0
        assert amount >= 0
        return data[offset : offset + amount]

    found: dict[int, bytes] = {}
    refused = ""
    with mutator.step_budget(3 * len(data)):
        try:
            found = pick(fetch, len(data), start, explicit=explicit, wanted=WANTED, last=LAST_TAG, head=data[:512])
        except WalkError as fault:
            refused = fault.reason
    assert refused in WALK_REASONS | {""}
    assert WANTED.issuperset(found)
    assert sum(map(len, found.values())) <= len(data)
    return ended


def _check_file(data: bytes, folder: Path) -> tuple[str, str]:
    """Check everything that reads a head of a file; return how the walk and the index ended."""
    needs_more(data)
    try:
        start = read_start(data)
    except SyntaxRefusalError as refusal:
        walked = refusal.reason
        offset = 132
        explicit = False
    else:
        walked = _check_walk(data, start.offset, explicit=start.explicit)
        offset = start.offset
        explicit = start.explicit
    assert walked in SYNTAX_REASONS | WALK_REASONS | {"whole"}
    # What the meta information says may be damaged as well: the other syntax is as likely a stream.
    _check_walk(data, min(offset, len(data)), explicit=not explicit)

    (folder / "damaged").write_bytes(data)
    outcome = read_header(os.fsencode(folder), b"damaged")
    if isinstance(outcome, Reject):
        assert outcome.reason in REJECT_REASONS
        return walked, outcome.reason
    if isinstance(outcome, Container):
        return walked, outcome.kind
    assert isinstance(outcome, IndexRow)
    assert outcome.shared.slow_path == "" or outcome.shared.slow_path in WALK_REASONS | SYNTAX_REASONS | {"uid-missing"}
    return walked, f"row {outcome.shared.slow_path}"


def _check_mutations(numbers: range, folder: Path) -> None:
    files = mutator.seeds()
    walks: set[str] = set()
    rows: set[str] = set()
    damaged = 0
    for number in numbers:
        done, data = mutator.mutate(files, number)
        damaged += data not in files.values()
        try:
            walked, row = _check_file(data, folder)
        except Exception as fault:
            raise AssertionError(f"mutation {number} ({done}): {fault!r}") from fault
        walks.add(walked)
        rows.add(row)
    # The damage is real, and of every kind: else the mutator went blunt.
    assert damaged > 0.95 * len(numbers)
    assert walks >= {"whole", "truncated", "length-past-end", "unknown-vr", "item-expected", "stray-delimiter"}
    assert walks >= {"undefined-length", "trailing-bytes", "big-endian", "deflated", "no-preamble", "meta-damaged"}
    assert rows >= {
        "row ",
        "row unknown-vr",
        "row truncated",
        "row big-endian",
        "row deflated",
        "header-damaged",
        "not-dicom",
    }


def test_a_thousand_damaged_files(tmp_path: Path) -> None:
    _check_mutations(range(FEW), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("begin", range(FEW, MANY, 3000))
def test_ten_thousand_damaged_files(tmp_path: Path, begin: int) -> None:
    """With the thousand above."""
    _check_mutations(range(begin, begin + 3000), tmp_path)


@given(st.binary(max_size=600))
def test_random_bytes_behind_a_good_beginning(data: bytes) -> None:
    for seed in _BEGINNINGS:
        start = read_start(seed)
        _check_walk(seed + data, start.offset, explicit=start.explicit)


@given(data=st.binary(max_size=300))
def test_random_bytes_as_a_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    _check_file(data, folder)
    _check_file(b"\0" * 128 + b"DICM" + data, folder)


def test_the_budget_stops_a_hang() -> None:
    """The guard of this module works: a stream far longer than was said exceeds the budget."""
    with pytest.raises(mutator.OverBudgetError), mutator.step_budget(8):
        list(walk(b"\0" * 400_000, explicit=False))


_OWN = mutator.seeds()
_BEGINNINGS = [_OWN["explicit"][:420], _OWN["implicit"][:420]]

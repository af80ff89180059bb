"""Many cursors that walk together find in each data set what `pick` finds in it alone, or leave it to `pick`."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dicom import lockstep
from tasks.dicom.elements import Fetch, WalkError, pick
from tasks.dicom.lockstep import Picks, gather_values, pick_many
from tasks.dicom.syntax import SyntaxRefusalError, read_start
from tasks.index.header import LAST_TAG, WANTED
from tests import strategies
from tests.dicom import mutator
from tests.dicom.encoder import NO_LENGTH, SEQUENCE_END_BYTES, Leaf, Nested, Node, encode, head
from tests.dicom.oracle import PYDICOM_FILES, data_files, sampled

TAGS = tuple(sorted(WANTED))
PUBLIC = tuple(sorted(tag for tag in strategies.PUBLIC if tag <= LAST_TAG))
WINDOW = 8192
MUTATIONS = 600

Stream = tuple[bytes, int, bool]
"""A file, where its data set begins, and whether that is explicit."""


@pytest.fixture(autouse=True, scope="module")
def _single_cursors_walk() -> Iterator[None]:
    """Let also a few data sets be walked together, which by itself is not worth it."""
    kept = lockstep.FEWEST
    lockstep.FEWEST = 1
    yield
    lockstep.FEWEST = kept


def _together(streams: Sequence[Stream], wanted: tuple[int, ...], last: int, window: int) -> tuple[bytearray, Picks]:
    buffer = bytearray()
    starts, ends = [], []
    for data, start, _ in streams:
        starts.append(len(buffer) + start)
        buffer += data[:window]
        ends.append(len(buffer))
    buffer += b"\xff" * 16
    explicit = np.array([how for _, _, how in streams], dtype=bool)
    places = np.array(starts, dtype=np.int64), np.array(ends, dtype=np.int64)
    return buffer, pick_many(buffer, *places, explicit, wanted=wanted, last=last)


def _check(
    streams: Sequence[Stream], *, wanted: tuple[int, ...] = TAGS, last: int = LAST_TAG, window: int = WINDOW
) -> list[bool]:
    """Compare every data set that is done with `pick`; return which are done."""
    buffer, found = _together(streams, wanted, last, window)
    for number in np.flatnonzero(found.done):
        data, start, explicit = streams[number]
        fetch: Fetch = lambda offset, amount, data=data: data[offset : offset + amount]  # type: ignore[misc]  # noqa: E731
        spans = zip(wanted, found.begin[:, number].tolist(), found.end[:, number].tolist(), strict=True)
        values = {tag: bytes(buffer[begin:end]) for tag, begin, end in spans if begin}
        assert values == pick(fetch, len(data), start, explicit=explicit, wanted=wanted, last=last)
    done: list[bool] = found.done.tolist()
    return done


def _stream(nodes: Sequence[Node], *, explicit: bool = True) -> Stream:
    return encode(nodes, explicit=explicit)[0], 0, explicit


def _open(paths: Sequence[Path]) -> list[Stream]:
    streams = []
    for path in paths:
        data = path.read_bytes()
        try:
            start = read_start(data)
        except SyntaxRefusalError:
            continue
        streams.append((data, start.offset, start.explicit))
    return streams


# --- what has to be done together


def test_pydicoms_own_files() -> None:
    done = _check(_open(data_files(PYDICOM_FILES)))
    assert sum(done) > 0.6 * len(done)


def test_scanner_files_are_done_together(scanner_data: Path) -> None:
    """Else the index would be as slow as before."""
    files = [path for path in sampled(data_files(scanner_data)) if "dcm_qa" in str(path)]
    done = _check(_open(files))
    assert len(done) > 300
    assert sum(done) > 0.98 * len(done)


@strategies.FEWER
@given(st.lists(st.tuples(strategies.data_sets(), st.booleans()), min_size=1, max_size=6), st.integers(20, 400))
def test_any_data_sets(sets: list[tuple[list[Node], bool]], window: int) -> None:
    """However the data sets are mixed, and wherever their windows end."""
    streams = [_stream(nodes, explicit=explicit) for nodes, explicit in sets]
    _check(streams, wanted=PUBLIC, last=LAST_TAG, window=window)


@strategies.FEWER
@given(strategies.data_sets(), st.booleans())
def test_well_formed_head_is_done(nodes: list[Node], explicit: bool) -> None:
    """If an element above the last tag and a few bytes follow, nothing is left to `pick`, sequences included."""
    nodes = [node for node in nodes if node.tag <= LAST_TAG]
    stream = _stream([*nodes, Leaf(tag=0x00280030, vr="DS", value=b"1.0 ")], explicit=explicit)
    assert _check([stream, stream], wanted=PUBLIC) == [True, True]


def test_order_and_company_do_not_matter() -> None:
    streams = _open(data_files(PYDICOM_FILES / "test_files"))
    done = dict(zip(streams, _check(streams), strict=True))
    chance = random.Random(1)
    for _ in range(3):
        mixed = chance.sample(streams, len(streams) // 2)
        assert _check(mixed) == [done[stream] for stream in mixed]


# --- what must not be done wrongly


def test_damaged_files() -> None:
    files = mutator.seeds()
    streams: list[Stream] = []
    for number in range(MUTATIONS):
        _, data = mutator.mutate(files, number)
        try:
            start = read_start(data)
        except SyntaxRefusalError:
            continue
        streams += [(data, start.offset, start.explicit), (data, start.offset, not start.explicit)]
    done = _check(streams)
    refused = 0
    for data, start, explicit in streams:
        try:
            pick(
                lambda at, size, data=data: data[at : at + size],
                len(data),
                start,
                explicit=explicit,
                wanted=WANTED,
                last=LAST_TAG,
            )  # type: ignore[misc]
        except WalkError:
            refused += 1
    assert sum(done) > 100
    assert refused > 100


def test_every_cut() -> None:
    """A file that ends anywhere, and a window that ends anywhere."""
    data = (PYDICOM_FILES / "test_files" / "MR_small.dcm").read_bytes()
    start = read_start(data)
    borders = range(start.offset, 2000)
    assert any(_check([(data[:size], start.offset, True) for size in borders]))
    for window in borders[::7]:
        _check([(data, start.offset, True)], window=window)


UI = Leaf(tag=0x00080018, vr="UI", value=b"1.2\0")
PN = Leaf(tag=0x00100010, vr="PN", value=b"A^B ")
END = Leaf(tag=0x00280030, vr="DS", value=b"1.0 ")
IN_ITEM = (Leaf(tag=0x00080018, vr="UI", value=b"9.9\0"),)


def _raw(*parts: bytes) -> bytes:
    return encode([UI], explicit=True)[0] + b"".join(parts) + encode([PN, END], explicit=True)[0]


PLAIN = {
    "a tag met twice keeps its last value": encode([UI, Leaf(tag=UI.tag, vr="UI", value=b""), PN, END], explicit=True)[
        0
    ],
    "an element above every tag ends the walk": _raw()[:-12] + head(0xFFFFFFFF, "UT", 0, explicit=True),
    "a value that is not asked for and is empty": _raw(head(0x00081030, "LO", 0, explicit=True)),
    "a sequence of undefined length": encode(
        [UI, Nested(tag=0x00081140, items=(IN_ITEM, ()), undefined=True), PN, END], explicit=True
    )[0],
    "a sequence as UN": encode(
        [UI, Nested(tag=0x00081140, items=(IN_ITEM,), undefined=True, unknown=True), PN, END], explicit=True
    )[0],
    "a sequence in a sequence": encode(
        [
            UI,
            Nested(
                tag=0x00081140, items=((Nested(tag=0x00081199, items=(IN_ITEM,), undefined=True),),), undefined=True
            ),
            PN,
            END,
        ],
        explicit=True,
    )[0],
}

DOUBTFUL = {
    "tags out of order": encode([PN, UI, END], explicit=True)[0],
    "letters that are no VR": _raw(b"\x08\0\x30\x10ZZ\0\0"),
    "a text of undefined length": _raw(head(0x00081190, "UR", NO_LENGTH, explicit=True)),
    "a wanted sequence of undefined length": _raw(
        head(0x00081030, "SQ", NO_LENGTH, explicit=True) + SEQUENCE_END_BYTES
    ),
    "a sequence without its end": _raw(head(0x00081140, "SQ", NO_LENGTH, explicit=True)),
    "a value that reaches past the end": _raw(head(0x00081030, "LO", 0xFFFF, explicit=True)),
    "a long value that reaches past the end": _raw(head(0x00081199, "UT", 0xFFFFFFFE, explicit=True)),
    "an end without an element above the last tag": encode([UI, PN], explicit=True)[0],
    "nothing": b"",
    "less than a head": b"\x08\0\x18\0UI\0\0\0\0\0",
}


@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN)
def test_plain(data: bytes) -> None:
    whole = _raw()
    assert _check([(whole, 0, True), (data, 0, True), (whole, 0, True)]) == [True, True, True]


@pytest.mark.parametrize("data", DOUBTFUL.values(), ids=DOUBTFUL)
def test_doubtful_is_left_to_pick(data: bytes) -> None:
    whole = _raw()
    assert _check([(whole, 0, True), (data, 0, True), (whole, 0, True)]) == [True, False, True]


def test_sequences_of_one_size_are_told_apart() -> None:
    """A sequence met before is stepped over by its bytes, not by its size."""
    good = encode([Nested(tag=0x00081140, items=(IN_ITEM,), undefined=True)], explicit=True)[0]
    bad = good.replace(b"UI", b"ZZ")
    assert len(bad) == len(good)
    assert _check([(_raw(good), 0, True), (_raw(bad), 0, True), (_raw(good), 0, True)]) == [True, False, True]


def test_few_cursors_are_left_to_pick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockstep, "FEWEST", 3)
    assert _check([(_raw(), 0, True)] * 2) == [False, False]
    assert _check([(_raw(), 0, True)] * 3) == [True, True, True]


def test_no_file_at_all() -> None:
    assert _check([]) == []


@given(st.lists(st.lists(st.binary(max_size=30), min_size=2, max_size=2), max_size=5))
def test_values_are_gathered_whole(files: list[list[bytes]]) -> None:
    buffer = bytearray(b"\x55" * 3)
    bounds = []
    for values in files:
        for value in values:
            bounds.append((len(buffer), len(buffer) + len(value)))
            buffer += value + b"\xaa"
    buffer += b"\xff" * 16
    begin, end = (np.array([bound[i] for bound in bounds], dtype=np.int64).reshape(-1, 2).T for i in (0, 1))
    for row, column in enumerate(gather_values(buffer, begin, end)):
        assert [cell.tobytes().rstrip(b"\0") for cell in column] == [values[row].rstrip(b"\0") for values in files]
        assert column.shape[1] < 8 + max((len(values[row]) for values in files), default=0)

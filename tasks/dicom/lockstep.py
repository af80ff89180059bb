"""`pick` for many files at once: all cursors take each step together, so that a step costs one array operation.

A walk in which each file goes its own way costs Python half a microsecond an element; here it costs a few nanoseconds.
The rules are those of `tasks.dicom.elements.pick`. What is not plain (a value past the window, a VR that does not
exist, tags out of order, an end of the data) is not judged here: the file is left to `pick`.

Source: PS3.5 section 7.1 (data elements).
"""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.dicom.elements import LONG_LENGTH_VRS, SEQUENCE_END, SHORT_LENGTH_VRS, WalkError, walk

Positions = NDArray[np.int64]
"""Offsets in bytes from the beginning of the buffer in which all windows lie, one a file."""

Buffer = bytes | bytearray | memoryview

_NO_LENGTH = 0xFFFFFFFF
_FAR = 1 << 40
"""Further than any window reaches; still far from what 64 bits hold."""

_LONGEST_HEAD = 12
_PIECE = np.dtype("V16")
"""Sixteen bytes from anywhere: a head and the long length behind it."""

_HALF = np.uint32(16)
"""Bits of a group number, which stands in front of the element number and so has to be turned about it."""

_PLACE_BITS = 12
"""A table of so many bits stays in the processor's nearest cache."""

_SHIFT = np.uint32(32 - _PLACE_BITS)

_MOST_SIZES = 8
"""Of how many sizes sequences are remembered: each costs a look."""

FEWEST = 24
"""With fewer cursors than this a step costs more than the same elements one by one."""


def _head_sizes() -> NDArray[np.int64]:
    """Tabulate how long the head of an explicit element is, by the two bytes of its VR read as one number."""
    table = np.full(1 << 16, _FAR, dtype=np.int64)
    for size, vrs in ((8, SHORT_LENGTH_VRS), (_LONGEST_HEAD, LONG_LENGTH_VRS)):
        table[[int.from_bytes(vr, "little") for vr in vrs]] = size
    return table


_HEAD_SIZES = _head_sizes()
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], dtype=np.uint64)
"""What keeps the first bytes of a word of eight: how many to mask."""


class _Places:
    """A table in which each wanted tag has a place of its own, found for all cursors at once.

    Attributes
    ----------
    factor
        A tag times this, of which the upper bits count, is its place.
    tags
        Place to the wanted tag that has it; elsewhere a tag whose place is another one.
    rows
        Place to the position of its tag among those that are wanted.
    """

    def __init__(self, wanted: tuple[int, ...]) -> None:
        factor, places = _spread(wanted)
        self.factor = np.uint32(factor)
        self.tags = np.full(1 << _PLACE_BITS, wanted[0], dtype=np.uint32)
        self.tags[places] = wanted
        self.rows = np.zeros(1 << _PLACE_BITS, dtype=np.int64)
        self.rows[places] = np.arange(len(wanted))


_places_of = functools.cache(_Places)


def _spread(wanted: tuple[int, ...]) -> tuple[int, list[int]]:
    """Find a factor that gives each tag a place of its own."""
    # Numbers near the golden section of 2^32 spread neighbours widely, so the first ones tried will do.
    for factor in range(0x9E3779B1, 1 << 32, 2):
        places = [(tag * factor & 0xFFFFFFFF) >> 32 - _PLACE_BITS for tag in wanted]
        if len(set(places)) == len(wanted):
            return factor, places
    raise ValueError("these tags are too many")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picks:
    """What was found of each file.

    Attributes
    ----------
    done
        Whether the walk reached a tag above the last one; of a file that is not done nothing below counts.
    begin, end
        First byte of each value, and first byte after it: one row a wanted tag, one column a file, in offsets of the
        buffer. Both are 0 where the file has no such element. A tag met twice keeps its last value.
    stop
        Where the first element above the last tag stands.
    """

    done: NDArray[np.bool_]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    stop: Positions


def pick_many(
    buffer: Buffer,
    starts: Positions,
    ends: Positions,
    explicit: NDArray[np.bool_],
    *,
    wanted: tuple[int, ...],
    last: int,
) -> Picks:
    """Find some top-level elements of many data sets that lie in one buffer, each as `pick` finds them.

    Parameters
    ----------
    buffer
        What was read of many files, one after the other.
    starts, ends
        Where each data set begins, and where what was read of its file ends.
    explicit
        Which data sets are in explicit VR little endian; the others are in implicit VR little endian.
    wanted
        The tags to collect; the position in this tuple is the row in which `Picks` gives it.
    last
        The highest tag of interest.
    """
    files = len(starts)
    places = _places_of(wanted)
    first_of_row = places.rows * files
    begin = np.zeros(len(wanted) * files, dtype=np.int64)
    end = np.zeros(len(wanted) * files, dtype=np.int64)
    stop = np.zeros(files, dtype=np.int64)
    done = np.zeros(files, dtype=np.bool_)
    # Heads begin at any byte: this array gives 16 bytes from wherever it is asked to.
    reach = max(0, len(buffer) - _PIECE.itemsize + 1)
    pieces = np.ndarray(reach, dtype=_PIECE, buffer=buffer, strides=(1,))
    sequences = _Sequences(buffer)
    highest = np.uint32(last)

    # The state of the cursors that still walk. `left` is how far the tag before lies below the last one: a tag above
    # the last makes this number grow, since it has no sign, and so does a tag below its predecessor.
    edges = np.minimum(ends - _LONGEST_HEAD, reach - 1)
    file = np.flatnonzero(starts <= edges)
    at = starts[file]
    edge = edges[file]
    left = np.full(len(file), highest)
    without_vr = ~explicit[file]
    mixed = bool(np.count_nonzero(without_vr))
    while len(file) >= FEWEST:
        heads = pieces[at]
        words = heads.view("<u4").reshape(-1, 4)
        halves = heads.view("<u2").reshape(-1, 8)
        tag = words[:, 0].copy()
        tag = tag << _HALF | tag >> _HALF
        left_now = highest - tag

        size = _HEAD_SIZES.take(halves[:, 2])
        length = halves[:, 3].astype(np.int64)
        (long,) = (size == _LONGEST_HEAD).nonzero()
        if len(long):
            length[long] = words[long, 2]
        if mixed:
            size[without_vr] = 8
            length[without_vr] = words[without_vr, 1]
        value = at + size
        finish = value + length

        place = tag * places.factor >> _SHIFT
        (hits,) = (places.tags.take(place) == tag).nonzero()
        if len(hits):
            cell = first_of_row.take(place.take(hits)) + file.take(hits)
            begin[cell] = value.take(hits)
            end[cell] = finish.take(hits)

        # Undefined length, and a VR that does not exist, reach past the edge as well.
        leaves = (left_now > left) | (finish > edge)
        if np.count_nonzero(leaves):
            stopped = tag > highest
            done[file[stopped]] = True
            stop[file[stopped]] = at[stopped]
            endless = leaves & (left_now <= left) & (length == _NO_LENGTH)
            # What is wanted and has no length has just been noted with a wrong end.
            endless &= places.tags.take(place) != tag
            (over,) = endless.nonzero()
            if len(over):
                finish[over] = sequences.step_over(tag[over], at[over], ends[file[over]], explicit[file[over]])
                leaves[over] = finish[over] > edge[over]
            (stay,) = (~leaves).nonzero()
            file, edge, without_vr = file[stay], edge[stay], without_vr[stay]
            finish, left_now = finish[stay], left_now[stay]
        at = finish
        left = left_now
    return Picks(done=done, begin=begin.reshape(len(wanted), files), end=end.reshape(len(wanted), files), stop=stop)


class _Sequences:
    """Where sequences of undefined length end; most repeat byte for byte from file to file, and are walked once."""

    def __init__(self, buffer: Buffer) -> None:
        self._view = memoryview(buffer)
        self._known: dict[int, dict[int, set[bytes]]] = defaultdict(dict)

    def step_over(
        self, tags: NDArray[np.uint32], starts: Positions, ends: Positions, explicit: NDArray[np.bool_]
    ) -> list[int]:
        """Return where the sequences that begin at `starts` end, or far off where that cannot be told before `ends`."""
        wheres = zip(tags.tolist(), starts.tolist(), ends.tolist(), explicit.tolist(), strict=True)
        return [self._end(tag, start, end, explicit=how) for tag, start, end, how in wheres]

    def _end(self, tag: int, start: int, end: int, *, explicit: bool) -> int:
        # The sizes met under one tag are few. A head without VR is no head with one, so both syntaxes share the table.
        known = self._known[tag]
        for size, sequences in known.items():
            if start + size <= end and self._view[start : start + size].tobytes() in sequences:
                return start + size
        piece = bytes(self._view[start:end])
        try:
            for element in walk(piece, explicit=explicit):
                if element.depth == 0 and element.tag == SEQUENCE_END:
                    break
            else:
                return _FAR
        except WalkError:
            return _FAR
        if len(known) == _MOST_SIZES:
            del known[next(iter(known))]
        known.setdefault(element.end, set()).add(piece[: element.end])
        return start + element.end


def gather_values(buffer: Buffer, begin: Positions, end: Positions) -> list[NDArray[np.uint8]]:
    """Copy values into tables, one a tag, filled up with zero bytes to the length of the longest.

    Parameters
    ----------
    buffer
        As for `pick_many`.
    begin, end
        Rows of `Picks.begin` and `Picks.end`, of files that are done; one row a tag, one column a file.

    Returns
    -------
    list of arrays
        One a tag: one row a file, one column a byte; the width is a multiple of 8, or 0 if all values are empty.
    """
    eights = np.ndarray(len(buffer) - 7, dtype="<u8", buffer=buffer, strides=(1,))
    lengths = end - begin
    widths = (lengths.max(axis=1, initial=0) + 7) // 8
    # One column a word of eight bytes: which tag it belongs to, and how far inside the value it begins.
    tag = np.repeat(np.arange(len(begin)), widths)
    borders = np.cumsum(widths)
    inside = 8 * (np.arange(len(tag)) - np.repeat(borders - widths, widths))
    at = begin.T.take(tag, axis=1) + inside
    left = np.clip(lengths.T.take(tag, axis=1) - inside, 0, 8)
    table = (eights[np.minimum(at, len(eights) - 1)] & _MASKS[left]).view(np.uint8)
    return np.split(table, 8 * borders[:-1], axis=1)

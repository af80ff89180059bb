"""The one walker over a DICOM byte stream, for the two little-endian syntaxes.

It says where each element stands and builds no value, so that a reader can pick a dozen attributes from the head of a
file and a rewriter can copy everything it does not change. Whatever it cannot follow it refuses with a reason, and the
caller goes to pydicom.

Source: PS3.5 sections 6.2 (value representations), 7.1 (data elements), 7.5 (sequences), A.4 (encapsulated pixel data).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

ITEM = 0xFFFEE000
"""(FFFE,E000), which begins each item of a sequence and each fragment of encapsulated pixel data."""

ITEM_END = 0xFFFEE00D
"""(FFFE,E00D), which ends an item of undefined length."""

SEQUENCE_END = 0xFFFEE0DD
"""(FFFE,E0DD), which ends a sequence, or encapsulated pixel data, of undefined length."""

UNDEFINED = -1
"""The `end` of a sequence or an item whose length field reads FFFFFFFF."""

MAXIMUM_DEPTH = 64
"""Sequences nested deeper than this are refused; real objects stay below ten."""

LONG_LENGTH_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""VRs whose explicit form has two reserved bytes and a length of four bytes (PS3.5 table 7.1-1)."""

SHORT_LENGTH_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)
"""VRs whose explicit form has a length of two bytes (PS3.5 table 7.1-2)."""

_VR_TEXT = {vr: vr.decode("ascii") for vr in LONG_LENGTH_VRS | SHORT_LENGTH_VRS}
_NO_LENGTH = 0xFFFFFFFF

_explicit_head = struct.Struct("<HH2sH").unpack_from
_implicit_head = struct.Struct("<HHL").unpack_from
_long_length = struct.Struct("<L").unpack_from


class WalkError(Exception):
    """The stream cannot be followed any further.

    Attributes
    ----------
    reason
        One of "truncated", "length-past-end", "unknown-vr", "item-expected", "stray-delimiter", "undefined-length",
        "trailing-bytes", "too-deep", "out-of-order".
    offset
        Where in the stream, in bytes from its beginning.
    """

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(f"{reason} at byte {offset}")
        self.reason = reason
        self.offset = offset


class Element(NamedTuple):
    """Where one element stands; offsets count bytes from the beginning of the stream.

    Attributes
    ----------
    tag
        Group in the upper 16 bits, element in the lower.
    vr
        The value representation: as written, or looked up for implicit streams and for UN (see `walk`). Empty for
        items and delimiters.
    start, value, end
        First byte of the tag, first byte of the value, first byte after the value. `end` is `UNDEFINED` for sequences
        and items of undefined length: their delimiter follows as an element of its own. Encapsulated pixel data is one
        element whose value is all its fragments, followed by its delimiter.
    depth
        0 for the data set itself, one more inside each item. Items and delimiters carry the depth of their sequence.
    explicit
        Whether this element's head carries its VR.
    """

    tag: int
    vr: str
    start: int
    value: int
    end: int
    depth: int
    explicit: bool


class _Level:
    """One open container: a data set (or item), or a sequence."""

    __slots__ = ("creators", "depth", "end", "explicit", "is_sequence")

    def __init__(self, *, is_sequence: bool, end: int, depth: int, explicit: bool) -> None:
        self.is_sequence = is_sequence
        self.end = end
        self.depth = depth
        self.explicit = explicit
        self.creators: dict[int, bytes] | None = None


def walk(data: bytes, start: int = 0, end: int | None = None, *, explicit: bool) -> Iterator[Element]:
    """Yield every element between `start` and `end`, sequences and their items included, in the order of the bytes.

    A sequence is yielded first, then each of its items (tag `ITEM`) followed by the item's elements. An element of VR
    UN or of an implicit stream gets its VR from the standard's dictionary, a private one from pydicom's dictionary by
    its creator; what is in neither stays UN, except that undefined length means a sequence (PS3.5 section 6.2.2).
    An item's own encoding is taken from its first element, because implicit items do stand in explicit streams.

    Parameters
    ----------
    data
        The stream; anything that supports the buffer protocol and slicing to bytes.
    start, end
        Where the data set begins and ends; `end` defaults to the length of `data`.
    explicit
        Whether the data set is in explicit VR little endian, else in implicit VR little endian.

    Raises
    ------
    WalkError
        When the stream cannot be followed; everything yielded before stands.
    """
    stop = len(data) if end is None else end
    if stop > len(data):
        raise WalkError("truncated", len(data))
    stack = [_Level(is_sequence=False, end=stop, depth=0, explicit=explicit)]
    level = stack[0]
    position = start
    # The class's own call makes a tuple of its arguments first, which costs a fifth of the walk.
    new = tuple.__new__
    while True:
        while position == level.end:
            stack.pop()
            if not stack:
                return
            level = stack[-1]
        # The nearest defined end of any container around: nothing may reach past it.
        limit = level.end if level.end != UNDEFINED else _enclosing_end(stack)
        if position + 8 > limit:
            if limit != stop:
                raise WalkError("length-past-end", position)
            raise WalkError("truncated" if len(stack) > 1 else "trailing-bytes", position)

        if level.is_sequence:
            group, number, length = _implicit_head(data, position)
            tag = group << 16 | number
            value = position + 8
            if tag == ITEM:
                item_end = UNDEFINED if length == _NO_LENGTH else value + length
                if item_end > limit:
                    raise WalkError("length-past-end" if limit != stop else "truncated", position)
                yield new(Element, (ITEM, "", position, value, item_end, level.depth, level.explicit))
                item_explicit = level.explicit and (item_end == value or _looks_explicit(data, value, limit))
                level = _Level(is_sequence=False, end=item_end, depth=level.depth + 1, explicit=item_explicit)
                stack.append(level)
                position = value
                continue
            if tag == SEQUENCE_END and level.end == UNDEFINED:
                yield new(Element, (SEQUENCE_END, "", position, value, value, level.depth, level.explicit))
                stack.pop()
                level = stack[-1]
                position = value
                continue
            raise WalkError("item-expected", position)

        is_explicit = level.explicit
        if is_explicit:
            group, number, code, length = _explicit_head(data, position)
            tag = group << 16 | number
            value = position + 8
            if code in LONG_LENGTH_VRS:
                if position + 12 > limit:
                    raise WalkError("truncated" if limit == stop else "length-past-end", position)
                (length,) = _long_length(data, value)
                value += 4
                vr = _VR_TEXT[code]
                if vr == "UN":
                    # UN of undefined length is a sequence whatever its tag (PS3.5 section 6.2.2).
                    vr = "SQ" if length == _NO_LENGTH else _find_vr(tag, level, length)
            elif code in SHORT_LENGTH_VRS:
                vr = _VR_TEXT[code]
            elif group == 0xFFFE:
                vr = ""
            else:
                raise WalkError("unknown-vr", position)
        else:
            group, number, length = _implicit_head(data, position)
            tag = group << 16 | number
            value = position + 8
            vr = "" if group == 0xFFFE else _find_vr(tag, level, length)

        if group == 0xFFFE:
            if tag == ITEM_END and level.end == UNDEFINED:
                value = position + 8
                yield new(Element, (ITEM_END, "", position, value, value, level.depth - 1, is_explicit))
                stack.pop()
                level = stack[-1]
                position = value
                continue
            raise WalkError("stray-delimiter", position)

        if length == _NO_LENGTH:
            if vr == "UN":
                if value + 4 > limit:
                    raise WalkError("truncated" if limit == stop else "length-past-end", position)
                if data[value : value + 4] != b"\xfe\xff\x00\xe0":
                    raise WalkError("undefined-length", position)
                vr = "SQ"
            if vr != "SQ":
                if vr not in ("OB", "OW"):
                    raise WalkError("undefined-length", position)
                finish = _fragments_end(data, value, limit)
                yield new(Element, (tag, vr, position, value, finish, level.depth, is_explicit))
                yield new(Element, (SEQUENCE_END, "", finish, finish + 8, finish + 8, level.depth, is_explicit))
                position = finish + 8
                continue
            finish = UNDEFINED
        else:
            finish = value + length
            if finish > limit:
                raise WalkError("truncated" if limit == stop else "length-past-end", position)

        yield new(Element, (tag, vr, position, value, finish, level.depth, is_explicit))
        if vr == "SQ":
            if len(stack) >= 2 * MAXIMUM_DEPTH:
                raise WalkError("too-deep", position)
            level = _Level(is_sequence=True, end=finish, depth=level.depth, explicit=is_explicit)
            stack.append(level)
            position = value
            continue
        if group & 1 and 0x10 <= number <= 0xFF and length <= 64:
            if level.creators is None:
                level.creators = {}
            level.creators[group << 16 | number << 8] = bytes(data[value:finish])
        position = finish


Fetch = Callable[[int, int], bytes]
"""Read `size` bytes of a file from `offset`; fewer at its end."""

_WINDOW = 8192


def pick(
    fetch: Fetch, size: int, start: int, *, explicit: bool, wanted: Container[int], last: int, head: bytes = b""
) -> dict[int, bytes]:
    """Collect the raw values of some top-level elements from the head of a data set, reading as little as possible.

    The same walk as `walk`, cut down to what an index needs: it stays on the top level, steps over values it does not
    want without reading them, and stops at the first tag above `last`.

    Parameters
    ----------
    fetch
        Reads a piece of the file.
    size
        The file's length in bytes.
    start
        Where the data set begins.
    explicit
        Whether the data set is in explicit VR little endian, else in implicit VR little endian.
    wanted
        The tags to collect.
    last
        The highest tag of interest.
    head
        The first bytes of the file, if they are at hand already.

    Returns
    -------
    dict
        Tag to value as it stands in the file, padding included. A tag met twice keeps its last value.

    Raises
    ------
    WalkError
        As `walk`, and with "out-of-order" when a tag is lower than the one before: then nothing says that the head
        holds everything of interest.
    """
    return pick_and_stop(fetch, size, start, explicit=explicit, wanted=wanted, last=last, head=head)[0]


def pick_and_stop(
    fetch: Fetch, size: int, start: int, *, explicit: bool, wanted: Container[int], last: int, head: bytes = b""
) -> tuple[dict[int, bytes], int]:
    """Do what `pick` does, and return also the offset of the first element that was not looked at."""
    found: dict[int, bytes] = {}
    window, base = (head, 0) if start < len(head) else (fetch(start, _WINDOW), start)
    # Inside the loop offsets count from the window's beginning: it runs a hundred times a file, a hundred thousand
    # files a dump, so each line in it is worth seconds.
    at = start - base
    edge = len(window) - 12
    before = -1
    explicit_head, implicit_head, short, long = _explicit_head, _implicit_head, SHORT_LENGTH_VRS, LONG_LENGTH_VRS
    while True:
        if at > edge:
            position = base + at
            if position + 8 > size:
                if position == size:
                    break
                raise WalkError("truncated" if position > size else "trailing-bytes", min(position, size))
            window, base, at = fetch(position, _WINDOW), position, 0
            edge = len(window) - 12
            if len(window) < 8:
                raise WalkError("truncated", position)
        if explicit:
            group, number, code, length = explicit_head(window, at)
            tag = group << 16 | number
            if tag > last:
                break
            if code in short:
                value = at + 8
            elif code in long:
                if at + 12 > len(window):
                    raise WalkError("truncated", base + at)
                (length,) = _long_length(window, at + 8)
                value = at + 12
            else:
                raise WalkError("unknown-vr", base + at)
        else:
            group, number, length = implicit_head(window, at)
            tag = group << 16 | number
            if tag > last:
                break
            value = at + 8
        if tag < before:
            raise WalkError("out-of-order", base + at)
        before = tag
        if length == _NO_LENGTH:
            at = _step_over(fetch, size, base + at, explicit=explicit) - base
            continue
        finish = value + length
        if tag in wanted:
            if finish > edge + 12:
                if base + finish > size:
                    raise WalkError("truncated", base + at)
                found[tag] = fetch(base + value, length)
            else:
                found[tag] = window[value:finish]
        at = finish
    return found, base + at


def _step_over(fetch: Fetch, size: int, position: int, *, explicit: bool) -> int:
    """Return where a top-level element of undefined length ends, reading growing pieces until its delimiter is met."""
    amount = 4 * _WINDOW
    while True:
        piece = fetch(position, amount)
        try:
            return position + _first_delimiter(piece, explicit=explicit)
        except WalkError as fault:
            # What looks wrong at the edge of a piece may only be cut: look again with more before believing it.
            cut = fault.reason in ("truncated", "trailing-bytes", "length-past-end")
            if not cut or position + len(piece) >= size:
                raise WalkError(fault.reason, position + fault.offset) from fault
        amount *= 8


def _first_delimiter(piece: bytes, *, explicit: bool) -> int:
    for element in walk(piece, explicit=explicit):
        if element.depth == 0 and element.tag == SEQUENCE_END:
            return element.end
    raise WalkError("truncated", len(piece))


def _enclosing_end(stack: list[_Level]) -> int:
    for level in reversed(stack):
        if level.end != UNDEFINED:
            return level.end
    raise AssertionError("the outermost data set always has an end")


def _looks_explicit(data: bytes, item: int, limit: int) -> bool:
    if item + 6 > limit:
        return True
    one, other = data[item + 4], data[item + 5]
    return 0x41 <= one <= 0x5A and 0x41 <= other <= 0x5A


def _fragments_end(data: bytes, value: int, limit: int) -> int:
    """Return where the delimiter of encapsulated pixel data stands, going from fragment to fragment by length."""
    position = value
    while position + 8 <= limit:
        group, number, length = _implicit_head(data, position)
        tag = group << 16 | number
        if tag == SEQUENCE_END:
            return position
        if tag != ITEM or length == _NO_LENGTH:
            raise WalkError("item-expected", position)
        position += 8 + length
    raise WalkError("truncated", min(position, limit))


_DECIDED_VR = {"US or SS": "US", "OB or OW": "OW", "US or OW": "OW", "US or SS or OW": "OW"}
"""Where the standard leaves a choice of VR that depends on other attributes: the one whose bytes read the same."""

_known_vr: dict[int, str] = {}


def _find_vr(tag: int, level: _Level, length: int) -> str:
    """Look up the VR that an implicit stream leaves out, or that UN hides."""
    group = tag >> 16
    number = tag & 0xFFFF
    if group & 1:
        if length == _NO_LENGTH:
            # Only its items tell what it is; private dictionaries have it wrong now and then.
            return "UN"
        return _private_vr(tag, level) if level.creators or number <= 0xFF else "UN"
    if level.explicit and length >= 0xFFFF:
        # A value too long for the two-byte length its VR would need is UN on purpose (PS3.5 section 6.2.2, note 2).
        return "UN"
    vr = _known_vr.get(tag)
    if vr is None:
        # Imported here because the dictionary takes a fifth of a second, and explicit streams never need it.
        from pydicom.datadict import dictionary_VR  # noqa: PLC0415

        try:
            vr = str(dictionary_VR(tag))
        except KeyError:
            vr = "UL" if number == 0 else "UN"
        vr = _known_vr[tag] = _DECIDED_VR.get(vr, vr)
    return vr


def _private_vr(tag: int, level: _Level) -> str:
    number = tag & 0xFFFF
    if 0x10 <= number <= 0xFF:
        return "LO"
    creator = (level.creators or {}).get(tag & 0xFFFFFF00)
    if creator is None:
        return "UN"
    from pydicom.datadict import private_dictionary_VR  # noqa: PLC0415

    try:
        return str(private_dictionary_VR(tag, creator.decode("latin-1").strip(" \0")))
    except KeyError:
        return "UN"

"""Tell whether a private element of an export is its source's, as it was or with parts of its inside left out."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache

import numpy as np

PRIVATE_IDENTIFYING = frozenset(
    {
        ("SIEMENS CSA HEADER", 0x0029, 0x09),  # header version: the date of acquisition
        ("SIEMENS CSA HEADER", 0x0029, 0x19),
        ("SIEMENS MR SDI 02", 0x0021, 0x60),  # frame date and time
        ("SIEMENS MR SDS 01", 0x0021, 0x01),  # a protocol report
        ("GEMS_IDEN_01", 0x0009, 0x30),  # station
        ("GEMS_IDEN_01", 0x0009, 0xE3),  # equipment UID
        ("GEMS_SERS_01", 0x0025, 0x1A),  # station
        ("GEMS_PARM_01", 0x0043, 0x28),  # study ID
        ("GEMS_PARM_01", 0x0043, 0x61),  # UIDs
        ("GEMS_PARM_01", 0x0043, 0x62),
        ("GEMS_PARM_01", 0x0043, 0x88),
        ("GEMS_PARM_01", 0x0043, 0x98),
    }
)
"""Private elements in which scanners were seen to repeat dates, stations, IDs and UIDs: none may stand as it was."""

_LISTED = re.compile(rb'(?P<key>[^" ]+) "(?P<entries>[^"]*)"')
_GZIP = b"\x1f\x8b\x08"
_LARGEST_BLOCK = 1 << 24

_IS_SILENT = np.zeros(256, bool)
_IS_SILENT[np.frombuffer(b"\0 0X", np.uint8)] = True


@lru_cache(maxsize=64)
def is_clean_copy(was: bytes, now: bytes) -> bool:
    """Tell whether a value is another one, in which some bytes were blanked or a block has fewer lines."""
    return now == was or _is_blanked(was, now) or _is_shortened_block(was, now)


def _is_blanked(was: bytes, now: bytes) -> bool:
    """Tell whether every byte is what it was, or says nothing: nothing at all, zero, or the mark of a masked word."""
    if len(was) != len(now):
        return False
    old, new = np.frombuffer(was, np.uint8), np.frombuffer(now, np.uint8)
    return bool(_IS_SILENT[new[old != new]].all())


def _is_shortened_block(was: bytes, now: bytes) -> bool:
    """Tell whether a compressed block holds nothing but lines of the one before, and a head that tells nothing.

    Of a line with a list, such as `IOPT "EPI, FAST"`, entries may be missing.
    """
    if now[4:7] != _GZIP or any(now[7:12]) or int.from_bytes(now[:4], "little") > len(now) - 4:
        return False
    before, after = unpacked(was), unpacked(now)
    if not before or not after:
        return False
    lines = set(before.splitlines())
    others = [line for line in after.splitlines() if line.strip(b" \0") and line not in lines]
    return all(any(_is_shortened_list(line, other) for line in lines) for other in others)


def _is_shortened_list(was: bytes, now: bytes) -> bool:
    """Tell whether a line is another one, of whose list entries are missing."""
    old, new = _LISTED.fullmatch(was), _LISTED.fullmatch(now)
    if old is None or new is None or old["key"] != new["key"]:
        return False
    rest = iter(old["entries"].split(b","))
    return all(entry in rest for entry in new["entries"].split(b","))


def unpacked(value: bytes) -> bytes:
    """Return the content of a compressed block, wherever in a value it begins; nothing where there is none."""
    begin = value.find(_GZIP, 0, 64)
    if begin < 0:
        return b""
    try:
        return zlib.decompressobj(31).decompress(value[begin:], _LARGEST_BLOCK)
    except zlib.error:
        return b""

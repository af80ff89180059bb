"""The audit takes a protocol block for a cleaned copy only if its lines, or entries of them, were there before."""

from __future__ import annotations

import gzip
import struct
import zlib

import pytest

from tasks.deidentify.audit.private import is_clean_copy
from tasks.deidentify.ge import clean_protocol_block

LINES = ('SEDESC "t1 Quorvane"', 'IOPT "EPI, FAST, Quorvane"', 'NOSLC "15"', 'VIEWORDER "1"')


def block(*lines: str) -> bytes:
    """Pack lines as a scanner does."""
    packed = gzip.compress("\n".join(lines).encode("ascii"), mtime=0)
    return struct.pack("<L", len(packed)) + packed + bytes(len(packed) & 1)


def cleaned(*lines: str) -> bytes:
    """Pack lines with a head that tells nothing."""
    packer = zlib.compressobj(0, zlib.DEFLATED, 31)
    packed = bytearray(packer.compress("\n".join(lines).encode("ascii")) + packer.flush())
    packed[9] = 0xFF
    return struct.pack("<L", len(packed)) + packed + bytes(len(packed) & 1)


def test_what_the_cleaner_makes_is_a_clean_copy() -> None:
    made = clean_protocol_block(block(*LINES))
    assert made is not None
    assert b"Quorvane" not in made
    assert is_clean_copy(block(*LINES), made)


@pytest.mark.parametrize(
    ("lines", "is_clean"),
    [
        (('IOPT "EPI, FAST"', 'NOSLC "15"'), True),
        (('IOPT " FAST"', 'NOSLC "15"'), True),
        (("", 'NOSLC "15"'), True),
        (('IOPT "EPI, FAST, SAT"',), False),
        (('IOPT " FAST,EPI"',), False),
        (('NOSLC "16"',), False),
        (('VIEWORDER "15"',), False),
        (('COIL "EPI"',), False),
        (('IOPT "EPI" Quorvane',), False),
        (("EPI, FAST",), False),
    ],
)
def test_each_line_has_to_have_been_there(lines: tuple[str, ...], is_clean: bool) -> None:
    assert is_clean_copy(block(*LINES), cleaned(*lines)) is is_clean

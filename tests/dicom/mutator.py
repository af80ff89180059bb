"""Damage a file as disks, networks and careless programs do: the same number always does the same damage."""

from __future__ import annotations

import contextlib
import functools
import random
import struct
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from tasks.dicom import elements
from tasks.dicom.elements import WalkError, walk
from tasks.dicom.syntax import EXPLICIT_LITTLE, IMPLICIT_LITTLE, SyntaxRefusalError, read_start
from tests.dicom.encoder import ITEM_END_BYTES, SEQUENCE_END_BYTES, Encapsulated, Leaf, Nested, Node, encode, write_meta
from tests.dicom.oracle import PYDICOM_FILES

_FILES = (
    "test_files/UN_sequence.dcm",
    "test_files/nested_priv_SQ.dcm",
    "test_files/rtplan.dcm",
    "test_files/reportsi.dcm",
    "test_files/JPEGLSNearLossless_08.dcm",
    "test_files/SC_rgb_small_odd_jpeg.dcm",
    "test_files/ExplVR_LitEndNoMeta.dcm",
    "test_files/rtdose_expb_1frame.dcm",
    "test_files/image_dfl.dcm",
    "charset_files/chrJapMulti.dcm",
    "charset_files/chrSQEncoding.dcm",
)
"""Small files of pydicom's package, each of another kind; the last but three go the slow path."""

_LENGTHS = (0, 1, 2, 3, 7, 0x7FFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
_STEPS_AN_ELEMENT = 500
"""Lines of the walker an element of eight bytes may cost: some forty, and a look at each of 128 open containers."""

_VRS = (b"OB", b"SQ", b"UN", b"UT", b"LO", b"PN", b"US", b"ZZ", b"\0\0", b"sq")
_STRAY = (ITEM_END_BYTES, SEQUENCE_END_BYTES, b"\xfe\xff\0\xe0\0\0\0\0", b"\xfe\xff\0\xe0\xff\xff\xff\xff")


def _own_seeds() -> Iterator[tuple[str, bytes]]:
    inner: tuple[Node, ...] = (
        Leaf(tag=0x00081150, vr="UI", value=b"1.2.3\0"),
        Leaf(tag=0x00090010, vr="LO", value=b"GEMS_PARM_01"),
        Leaf(tag=0x00091001, vr="UN", value=b"\1\2\3\4"),
    )
    nested = Nested(tag=0x0040A730, items=(inner, ()), undefined=True, items_undefined=True)
    nodes: list[Node] = [
        Leaf(tag=0x00080005, vr="CS", value=b"ISO_IR 192"),
        Leaf(tag=0x00080016, vr="UI", value=b"1.2.840.10008.5.1.4.1.1.4\0"),
        Leaf(tag=0x00080018, vr="UI", value=b"1.2.3.4\0"),
        Nested(tag=0x00081140, items=((*inner, nested), inner), undefined=True),
        Nested(tag=0x00081199, items=(inner,), undefined=True, unknown=True),
        Leaf(tag=0x00100010, vr="PN", value="Prüfung^Ä".encode()),
        Leaf(tag=0x0020000D, vr="UI", value=b"1.2.3\0"),
        Leaf(tag=0x0020000E, vr="UI", value=b"1.2.3.5\0"),
        Leaf(tag=0x00200013, vr="IS", value=b"7 "),
        Leaf(tag=0x00290010, vr="LO", value=b"SIEMENS CSA HEADER"),
        Leaf(tag=0x00291010, vr="OB", value=b"\xfe\xff\xdd\xe0" * 9),
        Nested(tag=0x00291020, items=((nested,),), undefined=True, items_undefined=True),
        Encapsulated(fragments=(b"", b"\xff\xd8" + b"\1" * 40, b"\2" * 8)),
    ]
    yield "explicit", write_meta(EXPLICIT_LITTLE) + encode(nodes, explicit=True)[0]
    yield "implicit", write_meta(IMPLICIT_LITTLE) + encode(nodes, explicit=False)[0]


def seeds() -> dict[str, bytes]:
    """Give the small whole files that are damaged, by name."""
    found = {name: (PYDICOM_FILES / name).read_bytes() for name in _FILES}
    return found | dict(_own_seeds())


def mutate(files: dict[str, bytes], number: int) -> tuple[str, bytes]:
    """Return the damaged file of this number, and the name of what was done to which seed."""
    chance = random.Random(number)
    names = sorted(files)
    name = names[number % len(names)]
    data = bytearray(files[name])
    done = [name]
    heads = _heads(files[name])
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        kind = chance.choice(("flip", "run", "length", "length", "cut", "splice", "vr", "delimiter", "repeat"))
        done.append(kind)
        # Most damage at random would hit pixels; where an element begins it hurts.
        place = chance.choice(heads) if heads and chance.random() < 0.85 else chance.randrange(max(1, len(data)))
        if not data:
            break
        if kind == "flip":
            for _ in range(chance.choice((1, 1, 8))):
                spot = min(len(data) - 1, place + chance.randrange(12))
                data[spot] ^= 1 << chance.randrange(8)
        elif kind == "run":
            length = chance.choice((1, 4, 16, 64))
            data[place : place + length] = bytes([chance.choice((0, 0xFF, 0x41, 0x20))]) * length
        elif kind == "length":
            value = chance.choice(_LENGTHS)
            offset = place + chance.choice((4, 6, 8))
            form = struct.pack("<L", value) if chance.random() < 0.6 else struct.pack("<H", value & 0xFFFF)
            data[offset : offset + len(form)] = form
        elif kind == "cut":
            del data[place:]
        elif kind == "splice":
            other = files[chance.choice(names)]
            start = chance.randrange(len(other))
            data[place : place + chance.choice((0, 0, 8, 64))] = other[start : start + chance.choice((1, 8, 100, 400))]
        elif kind == "vr":
            data[place + 4 : place + 6] = chance.choice(_VRS)
        elif kind == "delimiter":
            data[place:place] = chance.choice(_STRAY) * chance.choice((1, 1, 3))
        else:
            data[place:place] = data[place : place + chance.choice((8, 40, 200))] * chance.choice((1, 2, 30))
    return " ".join(done), bytes(data)


@functools.cache
def _heads(data: bytes) -> list[int]:
    """List where elements begin, as far as the walker can tell; few of them in the file meta information."""
    try:
        start = read_start(data)
    except SyntaxRefusalError:
        return list(_starts(data, 132 if data[128:132] == b"DICM" else 0, explicit=True))
    return [*_starts(data, start.offset, explicit=start.explicit), 132, start.offset - 8]


def _starts(data: bytes, start: int, *, explicit: bool) -> Iterator[int]:
    with contextlib.suppress(WalkError):
        for element in walk(data, start, explicit=explicit):
            yield element.start


class OverBudgetError(Exception):
    """The walker did more steps than its input can ask for."""


@contextlib.contextmanager
def step_budget(size: int) -> Iterator[None]:
    """Stop the walker when it does more steps than a stream of so many bytes allows: a hang is seen without a clock."""
    left = _STEPS_AN_ELEMENT * (size // 8 + 16)

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        left -= event == "line"
        if left < 0:
            raise OverBudgetError
        return count

    def choose(frame: FrameType, event: str, argument: Any) -> Any:
        return count if frame.f_code.co_filename == elements.__file__ else None

    before = sys.gettrace()
    sys.settrace(choose)
    try:
        yield
    finally:
        sys.settrace(before)

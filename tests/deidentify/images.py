"""Write small MR images byte by byte, in whatever form a test asks for."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.dicom.syntax import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from tests.dicom.encoder import Encapsulated, Leaf, Nested, Node, encode, head, write_meta

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
STUDY_UID = "1.2.826.0.1.3680043.8.498.77.1"
SERIES_UID = "1.2.826.0.1.3680043.8.498.77.2"
INSTANCE_UID = "1.2.826.0.1.3680043.8.498.77.3"

PIXELS = b"".join((value * 16 + value).to_bytes(2, "little") for value in range(256 - 16)) + bytes(32)
"""16 x 16 pixels of 12 bits in words of 16."""


def text(tag: int, vr: str, value: str | bytes) -> Leaf:
    """Make an element, its value padded to even length."""
    raw = value if isinstance(value, bytes) else value.encode("latin-1")
    filler = b"\0" if vr in ("UI", "OB", "UN") else b" "
    return Leaf(tag=tag, vr=vr, value=raw + filler * (len(raw) % 2))


def number(tag: int, vr: str, value: int) -> Leaf:
    """Make an element of VR US or UL."""
    return Leaf(tag=tag, vr=vr, value=value.to_bytes(2 if vr == "US" else 4, "little"))


def base() -> list[Node]:
    """List what every MR image has."""
    return [
        text(0x00080005, "CS", "ISO_IR 100"),
        text(0x00080008, "CS", "ORIGINAL\\PRIMARY\\M"),
        text(0x00080016, "UI", MR_IMAGE),
        text(0x00080018, "UI", INSTANCE_UID),
        text(0x00080020, "DA", "20200229"),
        text(0x00080030, "TM", "101112.5"),
        text(0x00080060, "CS", "MR"),
        text(0x00080070, "LO", "WORLD MAKER"),
        text(0x00100010, "PN", "Synthetic^Person"),
        text(0x00100020, "LO", "SYN0001"),
        text(0x00180050, "DS", "1.5"),
        text(0x0020000D, "UI", STUDY_UID),
        text(0x0020000E, "UI", SERIES_UID),
        text(0x00200011, "IS", "3"),
        text(0x00200013, "IS", "7"),
        number(0x00280002, "US", 1),
        text(0x00280004, "CS", "MONOCHROME2"),
        number(0x00280010, "US", 16),
        number(0x00280011, "US", 16),
        number(0x00280100, "US", 16),
        number(0x00280101, "US", 12),
        number(0x00280102, "US", 11),
        number(0x00280103, "US", 0),
        Leaf(tag=0x7FE00010, vr="OW", value=PIXELS),
    ]


def image(*more: Node, without: Sequence[int] = (), explicit: bool = True, syntax: str = "") -> bytes:
    """Write a whole file: the base, with elements added or put in the place of the base's own, and some left out."""
    nodes = {node.tag: node for node in base()}
    nodes.update((node.tag, node) for node in more)
    for tag in without:
        del nodes[tag]
    meta = write_meta(syntax or (EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE))
    return meta + encode([nodes[tag] for tag in sorted(nodes)], explicit=explicit)[0]


def sequence_of_implicit_items(tag: int, *items: Sequence[Node]) -> Leaf:
    """Make a sequence that states its VR, and whose items do not: some scanners write them so."""
    body = b""
    for item in items:
        content, _ = encode(item, explicit=False)
        body += head(0xFFFEE000, "", len(content), explicit=False) + content
    return Leaf(tag=tag, vr="SQ", value=body)


def nested(tag: int, *items: Sequence[Node], **form: bool) -> Nested:
    """Make a sequence."""
    return Nested(tag=tag, items=tuple(tuple(item) for item in items), **form)


def jpeg(scan: bytes = bytes(30)) -> bytes:
    """Make the smallest codestream that follows its format (ITU-T T.81 annex B): 16 x 16 pixels of 8 bits."""
    frame = b"\xff\xc0" + (11).to_bytes(2, "big") + b"\x08\0\x10\0\x10\x01\x01\x11\0"
    head = b"\xff\xda" + (8).to_bytes(2, "big") + b"\x01\x01\0\0\x3f\0"
    stream = b"\xff\xd8" + frame + head + scan + b"\xff\xd9"
    return stream + b"\0" * (len(stream) % 2)


def encapsulated(*fragments: bytes) -> Encapsulated:
    """Make pixel data in fragments."""
    return Encapsulated(fragments=fragments)

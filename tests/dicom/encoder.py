"""Write data sets byte by byte, well-formed or not, and say what stands in them, without pydicom's help.

Source: PS3.5 sections 7.1 (data elements) and 7.5 (sequences), A.4 (encapsulated pixel data).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tests.dicom.oracle import Flat, Row

LONG_VRS = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
SHORT_VRS = ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM")
SHORT_VRS += ("UI", "UL", "US")

ITEM_TAG = 0xFFFEE000
NO_LENGTH = 0xFFFFFFFF
ITEM_END_BYTES = b"\xfe\xff\x0d\xe0\0\0\0\0"
SEQUENCE_END_BYTES = b"\xfe\xff\xdd\xe0\0\0\0\0"


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """An element without inner structure; `written` is the VR in an explicit stream, if it is another."""

    tag: int
    vr: str
    value: bytes
    written: str = ""


@dataclass(frozen=True, kw_only=True)
class Nested:
    """A sequence; `unknown` writes it as UN in an explicit stream, which makes its items implicit (PS3.5 6.2.2)."""

    tag: int
    items: tuple[tuple[Node, ...], ...]
    undefined: bool = False
    items_undefined: bool = False
    unknown: bool = False


@dataclass(frozen=True, kw_only=True)
class Encapsulated:
    """Pixel data in fragments, of undefined length."""

    fragments: tuple[bytes, ...]
    tag: int = 0x7FE00010


Node = Leaf | Nested | Encapsulated


def head(tag: int, vr: str, length: int, *, explicit: bool) -> bytes:
    """Write an element's head; an empty VR makes an item or delimiter."""
    place = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if not explicit or not vr:
        return place + struct.pack("<L", length)
    if vr in LONG_VRS:
        return place + vr.encode("ascii") + b"\0\0" + struct.pack("<L", length)
    return place + vr.encode("ascii") + struct.pack("<H", length)


def encode(nodes: Sequence[Node], *, explicit: bool, depth: int = 0, at: int = 0) -> tuple[bytes, Flat]:
    """Write a data set that begins at byte `at`; also return its rows as `oracle.flatten_with_walker` gives them."""
    stream = b""
    rows: Flat = []
    for node in nodes:
        here = at + len(stream)
        if isinstance(node, Leaf):
            begin = head(node.tag, node.written or node.vr, len(node.value), explicit=explicit)
            place = here + len(begin) if depth == 0 and node.value else -1
            rows.append(Row(depth, node.tag, node.vr, node.value, place))
            stream += begin + node.value
        elif isinstance(node, Encapsulated):
            begin = head(node.tag, "OB", NO_LENGTH, explicit=explicit)
            value = b"".join(head(ITEM_TAG, "", len(part), explicit=False) + part for part in node.fragments)
            rows.append(
                Row(
                    depth,
                    node.tag,
                    "OB" if explicit else "OW",
                    value,
                    here + len(begin) if depth == 0 and value else -1,
                )
            )
            stream += begin + value + SEQUENCE_END_BYTES
        else:
            rows.append(Row(depth, node.tag, "SQ", b""))
            inner = explicit and not node.unknown
            body = b""
            for item in node.items:
                rows.append(Row(depth, ITEM_TAG, "", b""))
                content, more = encode(item, explicit=inner, depth=depth + 1)
                rows += more
                length = NO_LENGTH if node.items_undefined else len(content)
                body += head(ITEM_TAG, "", length, explicit=False) + content
                if node.items_undefined:
                    body += ITEM_END_BYTES
            vr = "UN" if node.unknown else "SQ"
            stream += head(node.tag, vr, NO_LENGTH if node.undefined else len(body), explicit=explicit) + body
            if node.undefined:
                stream += SEQUENCE_END_BYTES
    return stream, rows


def write_meta(transfer_syntax: str, *, group_length: bool = True, more: Sequence[Leaf] = ()) -> bytes:
    """Write preamble, "DICM" and file meta information (PS3.10 section 7.1)."""
    uid = transfer_syntax.encode("ascii")
    uid += b"\0" * (len(uid) % 2)
    nodes = sorted([Leaf(tag=0x00020010, vr="UI", value=uid), *more], key=lambda node: node.tag)
    body, _ = encode(nodes, explicit=True)
    first = head(0x00020000, "UL", 4, explicit=True) + struct.pack("<L", len(body)) if group_length else b""
    return b"\0" * 128 + b"DICM" + first + body

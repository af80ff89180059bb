"""Every hypothesis strategy of the tests: DICOM streams, header texts, file names, rows of the index."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace

from hypothesis import settings
from hypothesis import strategies as st

from tasks.index.row import FileStamp, IndexRow, Reject
from tasks.index.store import IndexedFile
from tests.dicom.encoder import Encapsulated, Leaf, Nested, Node

# A deadline would make a test fail because the machine is busy.
settings.register_profile("scanward", settings(), deadline=None)
settings.load_profile("scanward")

PUBLIC = {
    0x00080008: "CS",
    0x00080018: "UI",
    0x00080020: "DA",
    0x00080030: "TM",
    0x00080050: "SH",
    0x00081030: "LO",
    0x00100010: "PN",
    0x00101010: "AS",
    0x00104000: "LT",
    0x00180050: "DS",
    0x0018106C: "US",
    0x00186020: "SL",
    0x00189089: "FD",
    0x0020000D: "UI",
    0x00200013: "IS",
    0x0040A160: "UT",
    0x00720FF0: "UN",  # in no dictionary
    0x50000000: "UL",
}
"""Public tags, each with the VR of the standard's dictionary; none where it leaves a choice."""

SEQUENCES = (0x00081140, 0x00081199, 0x00120064, 0x00400275, 0x0040A730, 0x52009229, 0x52009230)
CREATORS = (b"SIEMENS CSA HEADER", b"GEMS_PARM_01", b"ACME UNHEARD OF 1")
PRIVATE_GROUPS = (0x0009, 0x0029, 0x0043, 0x7FE1)


def _even(value: bytes) -> bytes:
    return value + b"\0" * (len(value) % 2)


def values(largest: int = 24) -> st.SearchStrategy[bytes]:
    """Raw values of even length."""
    return st.binary(max_size=largest).map(_even)


@st.composite
def private_blocks(draw: st.DrawFn) -> list[Node]:
    """One private group: up to two creators and elements in their blocks, or in a block that nobody claims."""
    group = draw(st.sampled_from(PRIVATE_GROUPS)) << 16
    blocks = draw(st.lists(st.sampled_from(CREATORS), max_size=2))
    leaves: dict[int, Node] = {}
    for number, creator in enumerate(blocks, 0x10):
        leaves[group | number] = Leaf(tag=group | number, vr="LO", value=_even(creator))
    for _ in range(draw(st.integers(0, 3))):
        tag = group | draw(st.integers(0x10, 0x11)) << 8 | draw(st.integers(0, 0x2F))
        vr = draw(st.sampled_from(("LO", "OB", "UN", "DS", "SQ")))
        if vr == "SQ":
            leaves[tag] = draw(nested(tag, st.lists(public_leaves(), max_size=2, unique_by=lambda leaf: leaf.tag)))
        else:
            leaves[tag] = Leaf(tag=tag, vr=vr, value=draw(values()))
    return [leaves[tag] for tag in sorted(leaves)]


@st.composite
def public_leaves(draw: st.DrawFn) -> Leaf:
    """A public element without inner structure, its VR now and then hidden as UN."""
    tag = draw(st.sampled_from(sorted(PUBLIC)))
    # pydicom takes a group length that is written as UN for unknown; nobody writes one.
    written = draw(st.sampled_from(("", "", "", "UN"))) if tag & 0xFFFF else ""
    return Leaf(tag=tag, vr=PUBLIC[tag], value=draw(values()), written=written)


@st.composite
def nested(draw: st.DrawFn, tag: int, elements: st.SearchStrategy[list[Node]]) -> Nested:
    """A sequence in any of its written forms."""
    private = bool(tag >> 16 & 1)
    ordered = elements.map(lambda item: tuple(sorted(item, key=lambda node: node.tag)))
    return Nested(
        tag=tag,
        # In an implicit stream nothing but undefined length and an item tell that a private element is a sequence.
        items=tuple(draw(st.lists(ordered, min_size=int(private), max_size=3))),
        undefined=private or draw(st.booleans()),
        items_undefined=draw(st.booleans()),
        unknown=draw(st.booleans()),
    )


@st.composite
def data_sets(draw: st.DrawFn, *, depth: int = 2) -> list[Node]:
    """A well-formed data set: elements in order, each tag once, sequences nested up to `depth`."""
    nodes: dict[int, Node] = {leaf.tag: leaf for leaf in draw(st.lists(public_leaves(), max_size=5))}
    if depth:
        for tag in draw(st.lists(st.sampled_from(SEQUENCES), max_size=2, unique=True)):
            nodes[tag] = draw(nested(tag, data_sets(depth=depth - 1)))
    for node in draw(private_blocks()):
        nodes[node.tag] = node
    if draw(st.booleans()):
        fragments = draw(st.lists(values(), max_size=3))
        nodes[0x7FE00010] = Encapsulated(fragments=tuple(fragments))
    return [nodes[tag] for tag in sorted(nodes)]


NASTY_TEXTS = (
    "",
    ".",
    "..",
    "../../etc/passwd",
    "..\\..\\windows",
    "-rf",
    "--help",
    "con",
    "CON.txt",
    "lpt1.a.b",
    "com¹.x",
    "nul.",
    "aux ",
    " lead",
    "trail. ",
    "a/b",
    "a\\b",
    "a\tb\nc",
    "a\0b",
    "\x1b[31mred",
    "\u202egnp.exe",
    "\u2066\u2067",
    "a\u200bb",
    "a\u2028b\u2029c",
    "\ufeffbom",
    "~user",
    "$HOME",
    "`id`",
    "=1+1",
    "Müller",
    "Mu\u0308ller",
    "MÜLLER",
    "STRASSE",
    "straße",
    "ﬁne",
    "İstanbul",
    "山田^太郎",
    "ﾔﾏﾀﾞ",
    "김희중",
    "دانيال",
    "שרון",
    "हिन्दी",
    "\u0301combining first",
    "=\u0338",
    "\ud800",
    "\udcff",
    "\U000e0001",
    "x" * 300,
    "山" * 300,
    "." * 90,
    "con." + "x" * 90,
    "a" * 79 + "é",
)
"""Texts that have harmed other programs when they became file names."""


def header_texts() -> st.SearchStrategy[str]:
    """What may stand in a header value, or has harmed somebody there."""
    return st.one_of(
        st.sampled_from(NASTY_TEXTS),
        st.text(max_size=40),
        st.text(alphabet=st.sampled_from("aA./\\-_ ~:*?\"<>|\u0301ß\u202e\u0338="), max_size=40),
        st.text(min_size=60, max_size=200),
    )


def file_names() -> st.SearchStrategy[bytes]:
    """Names a Linux file system takes: any bytes but NUL and slash, up to 255 of them."""
    plain = st.binary(min_size=1, max_size=255).map(lambda name: name.replace(b"\0", b"0").replace(b"/", b"|"))
    texts = header_texts().map(lambda text: text.replace("/", "|").replace("\0", "0").encode("utf-8", "surrogatepass"))
    return st.one_of(plain, texts.map(lambda name: name[:255])).filter(lambda name: name not in (b"", b".", b".."))


def index_rows() -> st.SearchStrategy[IndexRow]:
    """Rows of the index; any text in any field, few different identities."""
    few = st.integers(0, 4)
    given: dict[str, st.SearchStrategy[object]] = {
        field.name: header_texts() for field in fields(IndexRow) if field.name != "path"
    }
    given |= {
        "path": file_names(),
        "sop_instance_uid": st.one_of(st.just(""), few.map(lambda number: f"2.25.1{number}")),
        "study_instance_uid": few.map(lambda number: f"2.25.2{number}"),
        "series_instance_uid": few.map(lambda number: f"2.25.3{number}"),
        "study_date": st.one_of(st.sampled_from(("20240229", "20230229", "2024.02.29", "", "nonsense")), header_texts()),
        "series_number": st.one_of(few.map(str), header_texts()),
        "instance_number": st.one_of(few.map(str), header_texts()),
    }
    return st.builds(IndexRow, **given)


def rejects() -> st.SearchStrategy[Reject]:
    """Files that are not taken."""
    return st.builds(Reject, path=file_names(), reason=st.sampled_from(("not-dicom", "empty", "header-damaged")))


def stamps() -> st.SearchStrategy[FileStamp]:
    """What a file system may say of a file."""
    number = st.integers(0, 2**63 - 1)
    return st.builds(FileStamp, path=file_names(), size=number, mtime_ns=number, device=number, inode=number)


@st.composite
def indexed_files(draw: st.DrawFn, *, most: int = 8) -> tuple[list[IndexedFile], dict[int, str]]:
    """Files of an index with their content's digests: some without a SOP Instance UID, some sharing one, some equal.

    Equal content has an equal header, as it must.
    """
    contents = draw(st.lists(index_rows(), min_size=1, max_size=most))
    chosen = draw(st.lists(st.integers(0, len(contents) - 1), max_size=2 * most))
    files = []
    digests = {}
    for number, content in enumerate(chosen, 1):
        path = f"{number:03d}".encode("ascii")
        stamp = FileStamp(path=path, size=1, mtime_ns=1, device=1, inode=number)
        row = replace(contents[content], path=path)
        digests[number] = hashlib.sha256(str(content).encode("ascii")).hexdigest()
        files.append(IndexedFile(file=number, stamp=stamp, present=draw(st.booleans()), digest="", row=row))
    return files, digests

"""Every hypothesis strategy of the tests: DICOM streams, header texts, file names, rows of the index."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary
from pydicom.uid import UID_dictionary

from tasks.index.row import ROW_FIELDS, SHARED_FIELDS, FileStamp, IndexRow, Reject, SharedHeader
from tasks.sort.store import Candidate
from tests.dicom.encoder import Encapsulated, Leaf, Nested, Node

settings.register_profile(
    "scanward",
    # A deadline, and a limit on how long examples take to make, would make a test fail because the machine is busy.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # In CI the same examples every time: a search for new ones is for those who can act on what it finds.
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("scanward")

FEWER = settings(max_examples=40)
"""For properties whose examples take long to make."""

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
    """Make a public element without inner structure, its VR now and then hidden as UN."""
    tag = draw(st.sampled_from(sorted(PUBLIC)))
    # pydicom takes a group length that is written as UN for unknown; nobody writes one.
    written = draw(st.sampled_from(("", "", "", "UN"))) if tag & 0xFFFF else ""
    return Leaf(tag=tag, vr=PUBLIC[tag], value=draw(values()), written=written)


@st.composite
def nested(draw: st.DrawFn, tag: int, elements: st.SearchStrategy[list[Node]]) -> Nested:
    """Make a sequence in any of its written forms."""
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
    """Make a well-formed data set: elements in order, each tag once, sequences nested up to `depth`."""
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
    """Make what may stand in a header value, or has harmed somebody there."""
    return st.one_of(
        st.sampled_from(NASTY_TEXTS),
        st.text(max_size=40),
        st.text(alphabet=st.sampled_from('aA./\\-_ ~:*?"<>|\u0301ß\u202e\u0338='), max_size=40),
        st.text(min_size=60, max_size=200),
    )


def file_names() -> st.SearchStrategy[bytes]:
    """Names a Linux file system takes: any bytes but NUL and slash, up to 255 of them."""
    plain = st.binary(min_size=1, max_size=255).map(lambda name: name.replace(b"\0", b"0").replace(b"/", b"|"))
    texts = header_texts().map(lambda text: text.replace("/", "|").replace("\0", "0").encode("utf-8", "surrogatepass"))
    return st.one_of(plain, texts.map(lambda name: name[:255])).filter(lambda name: name not in (b"", b".", b".."))


def make_row(path: bytes = b"p", **values: str) -> IndexRow:
    """Make a row of which only the given fields say anything; fields of the shared header as well."""
    shared = SharedHeader(**{name: values.pop(name, "") for name in SHARED_FIELDS})
    return IndexRow(path=path, shared=shared, **{**dict.fromkeys(ROW_FIELDS, ""), **values})


def index_rows() -> st.SearchStrategy[IndexRow]:
    """Rows of the index; any text in any field, few different identities."""
    few = st.integers(0, 4)
    given: dict[str, st.SearchStrategy[object]] = {name: header_texts() for name in (*SHARED_FIELDS, *ROW_FIELDS)}
    given |= {
        "path": file_names(),
        "sop_instance_uid": st.one_of(st.just(""), few.map(lambda number: f"2.25.1{number}")),
        "study_instance_uid": few.map(lambda number: f"2.25.2{number}"),
        "series_instance_uid": few.map(lambda number: f"2.25.3{number}"),
        "study_date": st.one_of(
            st.sampled_from(("20240229", "20230229", "2024.02.29", "", "nonsense")), header_texts()
        ),
        "series_number": st.one_of(few.map(str), header_texts()),
        "instance_number": st.one_of(few.map(str), header_texts()),
    }
    return st.builds(make_row, **given)


def decodable(outcome: Any) -> Any:
    """Leave out what no header decodes to, and SQLite does not take: half of a surrogate pair."""
    if not isinstance(outcome, IndexRow):
        return outcome

    def clean(record: object) -> dict[str, object]:
        texts = {name: getattr(record, name) for name in record.__slots__}
        return {name: text.encode("utf-8", "replace").decode() for name, text in texts.items() if isinstance(text, str)}

    return replace(outcome, shared=replace(outcome.shared, **clean(outcome.shared)), **clean(outcome))


def rejects() -> st.SearchStrategy[Reject]:
    """Files that are not taken."""
    return st.builds(Reject, path=file_names(), reason=st.sampled_from(("not-dicom", "empty", "header-damaged")))


def stamps() -> st.SearchStrategy[FileStamp]:
    """Make what a file system may say of a file."""
    number = st.integers(0, 2**63 - 1)
    return st.builds(FileStamp, path=file_names(), size=number, mtime_ns=number, device=number, inode=number)


@st.composite
def candidates(draw: st.DrawFn, *, most: int = 8) -> list[Candidate]:
    """Files to be planned, in the order the index gives them: some without a UID, some sharing one, some equal.

    Equal content has an equal header, as it must.
    """
    uids = draw(st.lists(st.sampled_from(("", "2.25.1", "2.25.2", "2.25.3")), min_size=1, max_size=most))
    chosen = draw(st.lists(st.tuples(st.integers(0, len(uids) - 1), st.booleans()), max_size=2 * most))
    files = [
        Candidate(
            file=number,
            path=f"{number:03d}".encode("ascii"),
            present=present,
            digest=hashlib.sha256(b"%d" % content).hexdigest(),
            header=content,
            sop_instance_uid=uids[content],
            values=tuple(uids[content] if name == "sop_instance_uid" else "" for name in ROW_FIELDS),
        )
        for number, (content, present) in enumerate(chosen, 1)
    ]
    return sorted(files, key=lambda file: (file.sop_instance_uid, file.path))


UIDS = ("1.2.3.4.5", "1.3.12.2.1107.5.2.32.35135.2020022910111212345", "2.25.7", "1.2.840.113619.2.1", "not a uid")
"""Few, so that the same one stands at several places."""

_STANDARD_UIDS = sorted(UID_dictionary)[:40:8]

_DECIDES = {0x00080005, 0x00080008, 0x00080016, 0x00080018, 0x00080060, 0x00080064}
_DECIDES |= {0x0020000D, 0x0020000E, 0x00280301, 0x7FE00010}
_DECIDES |= {0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011}
_DECIDES |= {0x00280100, 0x00280101, 0x00280102, 0x00280103}
"""Attributes by which a file is refused or read; `image_elements` leaves them to the image around it."""


def _tags_by_vr() -> dict[str, list[int]]:
    tags: dict[str, list[int]] = defaultdict(list)
    for tag, entry in sorted(DicomDictionary.items()):
        vr = entry[0].split(" or ")[0]
        if 0x0008 <= tag >> 16 < 0x7FE0 and tag & 0xFFFF and tag not in _DECIDES and vr != "OB":
            tags[vr].append(tag)
    # What is in no dictionary of single tags: overlays, curves, and a group that does not exist.
    return tags | {"OB": [0x00282000, 0x00420011, 0x60003000, 0x50003000], "UN": [0x00720FF0, 0x00880FFE]}


TAGS_BY_VR = _tags_by_vr()
"""The tags of the standard's dictionary by their VR, where it leaves no choice or the first is meant."""


def _texts_of(vr: str) -> st.SearchStrategy[bytes]:
    """Values of one VR as they are, as scanners write them, and as they must not be."""
    words = st.sampled_from(
        (b"", b" ", b"DOE^JANE", b"Doe 20200229", b"NONE", b"a\\b", b"\xc4rzte", b"x" * 65, b"1.2.3.4.5")
    )
    day = st.sampled_from((b"20200229", b"20200301", b"2020.02.29", b"00010101", b"99991231", b"20190229", b"2020"))
    clock = st.sampled_from((b"", b"10", b"101112", b"101112.123456", b"10:11:12"))
    zone = st.sampled_from((b"", b"+0800", b"-0330"))
    numbers = st.sampled_from((b"1", b"-2.5e+00", b" 7 ", b"0", b"+3"))
    own: dict[str, st.SearchStrategy[bytes]] = {
        "AS": st.sampled_from((b"045Y", b"089Y", b"090Y", b"093Y", b"018M", b"1200M")),
        "CS": st.sampled_from((b"ORIGINAL", b"M", b"none", b"EP\\SE")),
        "DA": day,
        "DS": numbers,
        "DT": st.builds(lambda *parts: b"".join(parts), day, clock, zone),
        "IS": numbers,
        "TM": clock,
        "UI": st.sampled_from((*UIDS, *_STANDARD_UIDS)).map(str.encode),
    }
    if vr not in own:
        return words
    several = st.lists(own[vr], min_size=1, max_size=3).map(b"\\".join)
    return st.one_of(several, several, words)


_SIZES = {"AT": 4, "FD": 8, "FL": 4, "SL": 4, "SS": 2, "SV": 8, "UL": 4, "US": 2, "UV": 8}


def _values_of(vr: str) -> st.SearchStrategy[bytes]:
    if vr in _SIZES:
        size = _SIZES[vr]
        return st.binary(max_size=3 * size).map(lambda raw: raw[: len(raw) // size * size])
    if vr in ("OB", "OD", "OF", "OL", "OV", "OW", "UN"):
        return st.binary(max_size=32).map(lambda raw: raw[: len(raw) // 8 * 8])
    return st.builds(lambda raw, filler: raw + filler * (len(raw) % 2), _texts_of(vr), st.sampled_from((b" ", b"\0")))


@st.composite
def attributes(draw: st.DrawFn, *, posing: bool) -> Leaf:
    """Any attribute of the standard, or of none, that has a value; `posing` lets it state another VR now and then."""
    vr = draw(st.sampled_from(sorted(TAGS_BY_VR.keys() - {"SQ"})))
    tag = draw(st.sampled_from(TAGS_BY_VR[vr]))
    stated = (
        draw(st.sampled_from(("LO", "UT", "DS", "US", "DA", "UI"))) if posing and draw(st.integers(0, 9)) == 0 else vr
    )
    written = draw(st.sampled_from(("", "", "", "UN")))
    return Leaf(tag=tag, vr=stated, value=draw(_values_of(stated)), written=written)


@st.composite
def image_elements(draw: st.DrawFn, *, depth: int = 4, posing: bool = True, most: int = 6) -> list[Node]:
    """Elements that may stand in an image: all VRs, private blocks, sequences nested up to `depth` in every form."""
    nodes: dict[int, Node] = {leaf.tag: leaf for leaf in draw(st.lists(attributes(posing=posing), max_size=most))}
    # One branch reaches down; were there two on each level, examples would be large and few.
    for _ in range(draw(st.integers(0, 1)) if depth else 0):
        tag = draw(st.sampled_from((*TAGS_BY_VR["SQ"], *SEQUENCES)))
        inside = image_elements(depth=draw(st.integers(0, depth - 1)), posing=posing, most=3)
        nodes[tag] = draw(nested(tag, inside))
    if draw(st.booleans()):
        nodes.update((node.tag, node) for node in draw(private_blocks()))
    return [nodes[tag] for tag in sorted(nodes)]

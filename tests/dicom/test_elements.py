"""The walker says of every file what pydicom says, or refuses it with a reason; `pick` says what the walker says."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from pathlib import Path

import pydicom
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.dicom import elements
from tasks.dicom.elements import ITEM, ITEM_END, MAXIMUM_DEPTH, SEQUENCE_END, UNDEFINED, Fetch, WalkError, pick, walk
from tasks.dicom.syntax import EXPLICIT_LITTLE, IMPLICIT_LITTLE, SyntaxRefusalError, read_start
from tests import strategies
from tests.dicom.encoder import (
    ITEM_END_BYTES,
    NO_LENGTH,
    SEQUENCE_END_BYTES,
    Encapsulated,
    Leaf,
    Nested,
    Node,
    encode,
    head,
    write_meta,
)
from tests.dicom.oracle import (
    PYDICOM_FILES,
    Flat,
    compare,
    data_files,
    difference,
    flatten_with_pydicom,
    flatten_with_walker,
    sampled,
    spans,
)

REFUSED_OF_PYDICOM = {
    "test_files/ExplVR_BigEnd.dcm": "big-endian",
    "test_files/ExplVR_BigEndNoMeta.dcm": "no-preamble",
    "test_files/ExplVR_LitEndNoMeta.dcm": "no-preamble",
    "test_files/MR_small_bigendian.dcm": "big-endian",
    "test_files/MR_small_expb.dcm": "big-endian",
    "test_files/MR_truncated.dcm": "truncated",
    "test_files/SC_rgb_jpeg.dcm": "unknown-vr",
    "test_files/SC_rgb_small_odd_big_endian.dcm": "big-endian",
    "test_files/crayons.icc": "not-dicom",
    "test_files/dicomdirtests/DICOMDIR-bigEnd": "big-endian",
    "test_files/dicomdirtests/DICOMDIR-nooffset": "truncated",
    "test_files/dicomdirtests/TINY_ALPHA/README": "not-dicom",
    "test_files/image_dfl.dcm": "deflated",
    "test_files/liver_expb_1frame.dcm": "big-endian",
    "test_files/meta_missing_tsyntax.dcm": "meta-damaged",
    "test_files/nested_priv_SQ.dcm": "meta-damaged",  # its data set begins in group 1, before group 2
    "test_files/no_meta.dcm": "not-dicom",
    "test_files/rtdose_expb.dcm": "big-endian",
    "test_files/rtdose_expb_1frame.dcm": "big-endian",
    "test_files/rtplan.dump": "not-dicom",
    "test_files/rtplan_truncated.dcm": "truncated",
    "test_files/rtstruct.dcm": "no-preamble",
    "test_files/rtstruct.dump": "not-dicom",
    "test_files/zipMR.gz": "not-dicom",
}
"""Files of pydicom's package that the walker does not read, and why."""

REFUSED_OF_ARCHIVES = {
    "deid-data/LICENSE": "not-dicom",
    "deid-data/deid_data/data/ultrasounds/GREYSCALE_CINE.zip": "not-dicom",
    "pydicom-data/LICENSE": "not-dicom",
    "pydicom-data/data_store/data/JLSL_RGB_ILV0.dcm": "no-preamble",
    "pydicom-data/data_store/data/JLSL_RGB_ILV1.dcm": "no-preamble",
    "pydicom-data/data_store/data/JLSL_RGB_ILV2.dcm": "no-preamble",
    "pydicom-data/data_store/data/JLSN_RGB_ILV0.dcm": "no-preamble",
    "pydicom-data/data_store/data/OBXXXX1A_expb.dcm": "big-endian",
    "pydicom-data/data_store/data/OBXXXX1A_expb_2frame.dcm": "big-endian",
    "pydicom-data/data_store/data/OT-PAL-8-face.dcm": "no-preamble",
    "pydicom-data/data_store/data/SC_rgb_expb.dcm": "big-endian",
    "pydicom-data/data_store/data/SC_rgb_expb_16bit.dcm": "big-endian",
    "pydicom-data/data_store/data/SC_rgb_expb_16bit_2frame.dcm": "big-endian",
    "pydicom-data/data_store/data/SC_rgb_expb_2frame.dcm": "big-endian",
    "pydicom-data/data_store/data/SC_rgb_expb_32bit.dcm": "big-endian",
    "pydicom-data/data_store/data/SC_rgb_expb_32bit_2frame.dcm": "big-endian",
    "pydicom-data/data_store/data/emri_small_big_endian.dcm": "big-endian",
    "pydicom-data/data_store/data/emri_small_jpeg_2k_lossless_too_short.dcm": "truncated",
    "pydicom-data/data_store/data/gdcm-US-ALOKA-16_big.dcm": "big-endian",
    "pydicom-data/data_store/data/liver_expb.dcm": "big-endian",
}
"""Files of the two collections of odd files that the walker does not read, and why; see also NOT_OF_A_SCANNER."""

NOT_OF_A_SCANNER = {
    "dcm_qa_nih/LICENSE": "not-dicom",
    "dcm_qa_uih/In/DTI_132225/GradTable_DTI_132225.xlsx": "not-dicom",
    "dcm_qa_uih/In/DTI_132225/Grad_AP.csv": "not-dicom",
    "dcm_qa_uih/In/DTI_132225/Grad_PA.csv": "not-dicom",
    "dcm_qa_uih/In/DTI_132225/Grad_PA_rot.csv": "not-dicom",
}
"""What lies between the scanners' files and is none."""

MOST_REFUSED = 0.02
"""The share of real scanner files that may need the slow path."""

LAST = 0x00200013
WANTED = frozenset(strategies.PUBLIC)


def _compare_all(root: Path, files: Iterable[Path]) -> tuple[dict[str, str], dict[str, str]]:
    """Return what was refused, name to reason, and what reads differently."""
    refused: dict[str, str] = {}
    different: dict[str, str] = {}
    for path in files:
        name = path.relative_to(root).as_posix()
        outcome = compare(path.read_bytes())
        if outcome.startswith("refused: "):
            refused[name] = outcome.removeprefix("refused: ")
        elif outcome:
            different[name] = outcome
    return refused, different


def test_pydicoms_own_files_agree_or_are_refused() -> None:
    files = data_files(PYDICOM_FILES)
    assert len(files) > 190
    refused, different = _compare_all(PYDICOM_FILES, files)
    assert different == {}
    assert refused == REFUSED_OF_PYDICOM


def _compare_archives(root: Path, files: list[Path]) -> None:
    refused, different = _compare_all(root, files)
    assert different == {}
    scanners = [path for path in files if path.relative_to(root).parts[0].startswith("dcm_qa")]
    names = {path.relative_to(root).as_posix() for path in files}
    expected = {name: why for name, why in (REFUSED_OF_ARCHIVES | NOT_OF_A_SCANNER).items() if name in names}
    of_scanners = {name for name in refused if name.startswith("dcm_qa")} - set(NOT_OF_A_SCANNER)
    assert len(of_scanners) <= MOST_REFUSED * len(scanners)
    assert refused == expected


def test_scanner_files_agree_or_are_refused(scanner_data: Path) -> None:
    files = sampled(data_files(scanner_data))
    assert len(files) > 350
    _compare_archives(scanner_data, files)


@pytest.mark.long
def test_every_scanner_file_agrees_or_is_refused(scanner_data: Path) -> None:
    files = data_files(scanner_data)
    assert len(files) > 2000
    _compare_archives(scanner_data, files)


def _read_with_pydicom(data: bytes) -> Flat:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return flatten_with_pydicom(pydicom.dcmread(io.BytesIO(data)))


@strategies.FEWER
@given(strategies.data_sets(), st.booleans())
@example(
    [Nested(tag=0x00420011, items=((Leaf(tag=0x00100010, vr="PN", value=b"A^B "),),), undefined=True, unknown=True)],
    True,
)
@example(
    [Leaf(tag=0x00290010, vr="LO", value=b"SIEMENS CSA HEADER"), Nested(tag=0x00291008, items=((),), undefined=True)],
    False,
)
def test_what_was_written_is_read(nodes: list[Node], explicit: bool) -> None:
    """Any nesting of defined and undefined lengths, private blocks, UN in the place of SQ, fragments."""
    meta = write_meta(EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE)
    stream, written = encode(nodes, explicit=explicit, at=len(meta))
    data = meta + stream
    start = read_start(data)
    assert (start.offset, start.explicit) == (len(meta), explicit)

    read = flatten_with_walker(data, start.offset, explicit=explicit)
    assert [(row.depth, row.tag, row.value, row.place) for row in read] == [
        (row.depth, row.tag, row.value, row.place) for row in written
    ]
    assert difference(read, _read_with_pydicom(data)) == ""
    assert spans(list(walk(data, start.offset, explicit=explicit)), len(data)) == ""


@strategies.FEWER
@given(strategies.data_sets(), st.booleans(), st.integers(12, 40), st.integers(0, 64))
def test_pick_says_what_the_walker_says(nodes: list[Node], explicit: bool, window: int, head_size: int) -> None:
    """However small the pieces in which it reads, and wherever they are cut."""
    data, _ = encode(nodes, explicit=explicit)
    top = {
        element.tag: data[element.value : element.end]
        for element in walk(data, explicit=explicit)
        if element.depth == 0 and element.tag <= LAST and element.tag in WANTED
    }
    kept = elements._WINDOW
    elements._WINDOW = window
    try:
        fetch: Fetch = lambda offset, amount: data[offset : offset + amount]  # noqa: E731
        found = pick(fetch, len(data), 0, explicit=explicit, wanted=WANTED, last=LAST, head=data[:head_size])
    finally:
        elements._WINDOW = kept
    assert found == top


def test_pick_reads_no_more_than_the_head() -> None:
    big = Leaf(tag=0x00091001, vr="OB", value=b"\1" * 3_000_000)
    nodes = [
        Leaf(tag=0x00080018, vr="UI", value=b"1.2\0"),
        big,
        Leaf(tag=0x00100010, vr="PN", value=b"A^B "),
        Leaf(tag=0x7FE00010, vr="OW", value=b"\0" * 3_000_000),
    ]
    data, _ = encode(nodes, explicit=True)
    fetched: list[int] = []

    def fetch(offset: int, amount: int) -> bytes:
        fetched.append(amount)
        return data[offset : offset + amount]

    found = pick(fetch, len(data), 0, explicit=True, wanted=WANTED, last=LAST, head=data[:8192])
    assert found == {0x00080018: b"1.2\0", 0x00100010: b"A^B "}
    assert sum(fetched) < 20_000


def test_walk_reads_any_buffer() -> None:
    nodes = [
        Leaf(tag=0x00090010, vr="LO", value=b"ACME"),
        Nested(tag=0x00081140, items=((Leaf(tag=0x00081150, vr="UI", value=b"1\0"),),), undefined=True),
        Encapsulated(fragments=(b"", b"\1\2")),
    ]
    data, _ = encode(sorted(nodes, key=lambda node: node.tag), explicit=False)
    assert list(walk(memoryview(data), explicit=False)) == list(walk(data, explicit=False))


def test_delimiters_stand_where_they_are_written() -> None:
    """The rewriter copies them by their place."""
    inner = Leaf(tag=0x00081150, vr="UI", value=b"1\0")
    data, _ = encode(
        [
            Nested(tag=0x00081140, items=((inner,), ()), undefined=True, items_undefined=True),
            Encapsulated(fragments=(b"ab",)),
        ],
        explicit=True,
    )
    found = [
        (element.tag, element.depth, element.start, element.value, element.end) for element in walk(data, explicit=True)
    ]
    assert found == [
        (0x00081140, 0, 0, 12, UNDEFINED),
        (ITEM, 0, 12, 20, UNDEFINED),
        (0x00081150, 1, 20, 28, 30),
        (ITEM_END, 0, 30, 38, 38),
        (ITEM, 0, 38, 46, UNDEFINED),
        (ITEM_END, 0, 46, 54, 54),
        (SEQUENCE_END, 0, 54, 62, 62),
        (0x7FE00010, 0, 62, 74, 84),
        (SEQUENCE_END, 0, 84, 92, 92),
    ]
    assert len(data) == 92


def test_private_sequence_of_defined_length_stays_closed_in_implicit_streams() -> None:
    node = Nested(tag=0x00091001, items=((Leaf(tag=0x00100010, vr="PN", value=b"A^B "),),))
    implicit, _ = encode([node], explicit=False)
    assert [(element.tag, element.vr) for element in walk(implicit, explicit=False)] == [(0x00091001, "UN")]
    explicit, _ = encode([node], explicit=True)
    assert [element.vr for element in walk(explicit, explicit=True)] == ["SQ", "", "PN"]


@pytest.mark.parametrize("length", [0xFFFE, 0x10000])
def test_long_unknown_value_is_unknown_on_purpose(length: int) -> None:
    """PS3.5 section 6.2.2, note 2: what fits no two-byte length is written as UN."""
    data, _ = encode([Leaf(tag=0x00081030, vr="LO", written="UN", value=b"a" * length)], explicit=True)
    (element,) = walk(data, explicit=True)
    assert element.vr == ("LO" if length < 0xFFFF else "UN")
    assert compare(write_meta(EXPLICIT_LITTLE) + data) == ""


UI = Leaf(tag=0x00080018, vr="UI", value=b"1.2\0")
PN = Leaf(tag=0x00100010, vr="PN", value=b"A^B ")


def _sequence(length: int, content: bytes = b"") -> bytes:
    return head(0x00081140, "SQ", length, explicit=True) + content


def _item(length: int, content: bytes = b"") -> bytes:
    return head(ITEM, "", length, explicit=True) + content


def _deep(levels: int) -> bytes:
    return (_sequence(NO_LENGTH) + _item(NO_LENGTH)) * levels


FAULTS: dict[str, tuple[str, bytes, int]] = {
    "a value longer than the file": ("truncated", encode([UI], explicit=True)[0][:-2], 0),
    "a head cut after its VR": ("trailing-bytes", b"\x08\0\x18\0UI", 0),
    "a long head cut before its length": ("truncated", head(0x00081199, "SQ", 0, explicit=True)[:10], 0),
    "a sequence without its end": ("truncated", _sequence(NO_LENGTH), 12),
    "a sequence that is longer than the file": ("truncated", _sequence(100), 0),
    "an item that is longer than the file": ("truncated", _sequence(NO_LENGTH, _item(100)), 12),
    "an item that is longer than its sequence": ("length-past-end", _sequence(8, _item(8, b"\0" * 8)), 12),
    "a value longer than its item": (
        "length-past-end",
        _sequence(NO_LENGTH, _item(12, head(0x00100010, "PN", 20, explicit=True) + b"a" * 20) + SEQUENCE_END_BYTES),
        20,
    ),
    "a sequence whose length cuts a head": ("length-past-end", _sequence(4, b"\xfe\xff\0\xe0\0\0\0\0"), 12),
    "an item whose length cuts a long head": (
        "length-past-end",
        _sequence(18, _item(10, head(0x00081199, "OB", 0, explicit=True)[:10])) + b"\0" * 8,
        20,
    ),
    "letters that are no VR": ("unknown-vr", b"\x08\0\x18\0ZZ\0\0", 0),
    "an implicit head in an explicit stream": ("unknown-vr", encode([UI], explicit=False)[0], 0),
    "an element in the place of an item": ("item-expected", _sequence(NO_LENGTH, encode([UI], explicit=True)[0]), 12),
    "an item's end in the place of an item": ("item-expected", _sequence(NO_LENGTH, ITEM_END_BYTES), 12),
    "a sequence's end in a sequence of defined length": ("item-expected", _sequence(8, SEQUENCE_END_BYTES), 12),
    "a fragment of undefined length": (
        "item-expected",
        head(0x7FE00010, "OB", NO_LENGTH, explicit=True) + _item(NO_LENGTH),
        12,
    ),
    "fragments without their end": (
        "truncated",
        head(0x7FE00010, "OB", NO_LENGTH, explicit=True) + _item(2, b"ab"),
        22,
    ),
    "a fragment that is longer than the file": (
        "truncated",
        head(0x7FE00010, "OB", NO_LENGTH, explicit=True) + _item(200, b"ab"),
        22,
    ),
    "an item outside a sequence": ("stray-delimiter", _item(0), 0),
    "an item's end in an item of defined length": ("stray-delimiter", _sequence(16, _item(8, ITEM_END_BYTES)), 20),
    "a text of undefined length": ("undefined-length", head(0x00081190, "UR", NO_LENGTH, explicit=True) + b"\0" * 8, 0),
    "too many sequences in one another": ("too-deep", _deep(MAXIMUM_DEPTH + 1), 20 * MAXIMUM_DEPTH),
}
"""What can be wrong with an explicit stream: its reason, the bytes, and where the fault lies."""


@pytest.mark.parametrize(("reason", "stream", "offset"), FAULTS.values(), ids=FAULTS)
def test_each_fault_has_its_reason_and_place(reason: str, stream: bytes, offset: int) -> None:
    with pytest.raises(WalkError) as caught:
        list(walk(stream, explicit=True))
    assert (caught.value.reason, caught.value.offset) == (reason, offset)
    assert spans(_walk_while_it_goes(stream), len(stream)) == ""


def _walk_while_it_goes(stream: bytes) -> list[elements.Element]:
    seen = []
    try:
        for element in walk(stream, explicit=True):
            seen.append(element)  # noqa: PERF402 - a comprehension would lose what came before the fault
    except WalkError:
        pass
    return seen


def test_deepest_nesting_allowed_is_walked() -> None:
    stream = _deep(MAXIMUM_DEPTH) + (ITEM_END_BYTES + SEQUENCE_END_BYTES) * MAXIMUM_DEPTH
    assert max(element.depth for element in walk(stream, explicit=True)) == MAXIMUM_DEPTH - 1


def test_end_behind_the_stream_is_refused() -> None:
    with pytest.raises(WalkError, match="truncated"):
        list(walk(b"\0" * 8, 0, 9, explicit=True))


def test_undefined_length_without_an_item_is_refused_in_implicit_streams() -> None:
    stream = head(0x00091001, "", NO_LENGTH, explicit=False) + SEQUENCE_END_BYTES
    with pytest.raises(WalkError, match="undefined-length"):
        list(walk(stream, explicit=False))


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([PN, UI], "out-of-order"),
        ([UI, Leaf(tag=0x00090001, vr="ZZ", value=b"ab")], "unknown-vr"),
    ],
)
def test_pick_refuses_what_it_cannot_trust(nodes: list[Node], reason: str) -> None:
    data, _ = encode(nodes, explicit=True)
    with pytest.raises(WalkError) as caught:
        pick(lambda at, size: data[at : at + size], len(data), 0, explicit=True, wanted=WANTED, last=LAST)
    assert caught.value.reason == reason


def test_pick_keeps_the_last_of_a_repeated_tag() -> None:
    """As pydicom does, whose winter.dcm repeats (0008,0018)."""
    data, _ = encode([UI, Leaf(tag=UI.tag, vr="UI", value=b"1.3\0")], explicit=True)
    found = pick(lambda at, size: data[at : at + size], len(data), 0, explicit=True, wanted=WANTED, last=LAST)
    assert found == {UI.tag: b"1.3\0"}


@strategies.FEWER
@given(strategies.data_sets(), st.booleans(), st.data())
def test_any_cut_is_noticed_or_falls_between_elements(nodes: list[Node], explicit: bool, data: st.DataObject) -> None:
    stream, _ = encode(nodes, explicit=explicit)
    cut = data.draw(st.integers(0, len(stream)))
    whole = list(walk(stream, explicit=explicit))
    borders = {0, len(stream)} | {element.start for element in whole if element.depth == 0 and element.tag < ITEM}
    try:
        seen = list(walk(stream[:cut], explicit=explicit))
    except WalkError:
        assert cut not in borders
    else:
        assert cut in borders
        assert seen == whole[: len(seen)]


@given(st.binary(max_size=400), st.booleans())
def test_random_bytes_are_walked_or_refused(data: bytes, explicit: bool) -> None:
    seen = []
    try:
        for element in walk(data, explicit=explicit):
            seen.append(element)  # noqa: PERF402 - a comprehension would lose what came before the fault
    except WalkError:
        pass
    assert len(seen) <= len(data) // 8
    assert spans(seen, len(data)) == ""


def test_a_file_that_is_none_is_told() -> None:
    with pytest.raises(SyntaxRefusalError, match="not-dicom"):
        read_start(b"%PDF-1.7" + b"\0" * 200)

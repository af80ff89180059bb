"""The index says of every file what pydicom says, however the file is written, and gives a reason where it cannot."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import subprocess
import sys
import tarfile
import tracemalloc
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    UID_dictionary,
)

from tasks.dicom import lockstep, normalise
from tasks.index import header
from tasks.index.header import (
    ASCII_ATTRIBUTES,
    MULTI_FRAME_CLASSES,
    NUMBER_OF_FRAMES,
    TEXT_ATTRIBUTES,
    read_header,
    read_headers,
)
from tasks.index.row import REJECT_REASONS, ROW_FIELDS, SHARED_FIELDS, Container, IndexRow, Reject
from tests import strategies
from tests.builders.disks import make_socket, unprivileged
from tests.builders.world import make_instance, world_uid, write_instance
from tests.conftest import REPOSITORY
from tests.dicom import mutator
from tests.dicom.encoder import Leaf, Nested, Node, encode, write_meta
from tests.dicom.oracle import PYDICOM_FILES, data_files, sampled

ATTRIBUTES = ASCII_ATTRIBUTES | TEXT_ATTRIBUTES

SLOW_OF_PYDICOM = {
    "charset_files/chrSQEncoding.dcm": "uid-missing",
    "charset_files/chrSQEncoding1.dcm": "uid-missing",
    "palettes/fall.dcm": "uid-missing",
    "palettes/hotiron.dcm": "uid-missing",
    "palettes/hotmetalblue.dcm": "uid-missing",
    "palettes/pet.dcm": "uid-missing",
    "palettes/pet20step.dcm": "uid-missing",
    "palettes/spring.dcm": "uid-missing",
    "palettes/summer.dcm": "uid-missing",
    "palettes/winter.dcm": "uid-missing",
    "test_files/ExplVR_BigEnd.dcm": "big-endian",
    "test_files/ExplVR_BigEndNoMeta.dcm": "no-preamble",
    "test_files/ExplVR_LitEndNoMeta.dcm": "no-preamble",
    "test_files/JPEGLSNearLossless_08.dcm": "uid-missing",
    "test_files/JPEGLSNearLossless_16.dcm": "uid-missing",
    "test_files/MR_small_bigendian.dcm": "big-endian",
    "test_files/MR_small_expb.dcm": "big-endian",
    "test_files/SC_rgb_jls_lossy_line.dcm": "uid-missing",
    "test_files/SC_rgb_jls_lossy_sample.dcm": "uid-missing",
    "test_files/SC_rgb_jpeg.dcm": "unknown-vr",
    "test_files/SC_rgb_small_odd_big_endian.dcm": "big-endian",
    "test_files/UN_sequence.dcm": "uid-missing",
    "test_files/empty_charset_LEI.dcm": "uid-missing",
    "test_files/image_dfl.dcm": "deflated",
    "test_files/liver_expb_1frame.dcm": "big-endian",
    "test_files/no_meta_group_length.dcm": "uid-missing",
    "test_files/priv_SQ.dcm": "uid-missing",
    "test_files/rtdose_expb.dcm": "big-endian",
    "test_files/rtdose_expb_1frame.dcm": "big-endian",
    "test_files/rtstruct.dcm": "no-preamble",
}
"""Files of pydicom's package whose header the fast reader leaves to the slow one, and why."""

REJECTED_OF_PYDICOM = {
    "test_files/crayons.icc": "not-dicom",
    "test_files/dicomdirtests/DICOMDIR": "dicomdir",
    "test_files/dicomdirtests/DICOMDIR-bigEnd": "dicomdir",
    "test_files/dicomdirtests/DICOMDIR-empty.dcm": "dicomdir",
    "test_files/dicomdirtests/DICOMDIR-implicit": "dicomdir",
    "test_files/dicomdirtests/DICOMDIR-nooffset": "dicomdir",
    "test_files/dicomdirtests/DICOMDIR-nopatient": "dicomdir",
    "test_files/dicomdirtests/DICOMDIR-reordered": "dicomdir",
    "test_files/dicomdirtests/TINY_ALPHA/DICOMDIR": "dicomdir",
    "test_files/dicomdirtests/TINY_ALPHA/README": "not-dicom",
    "test_files/meta_missing_tsyntax.dcm": "header-damaged",
    "test_files/nested_priv_SQ.dcm": "header-damaged",
    "test_files/no_meta.dcm": "not-dicom",
    "test_files/rtplan.dump": "not-dicom",
    "test_files/rtstruct.dump": "not-dicom",
    "test_files/zipMR.gz": "gzip",
}
"""Files of pydicom's package that are not taken: those with a damaged header have none of the five UIDs and codes, and
what is compressed is opened elsewhere."""

REJECTED_OF_ARCHIVES = {
    "dcm_qa_nih/LICENSE": "not-dicom",
    "dcm_qa_uih/In/DTI_132225/GradTable_DTI_132225.xlsx": "not-dicom",
    "dcm_qa_uih/In/DTI_132225/Grad_AP.csv": "not-dicom",
    "dcm_qa_uih/In/DTI_132225/Grad_PA.csv": "not-dicom",
    "dcm_qa_uih/In/DTI_132225/Grad_PA_rot.csv": "not-dicom",
    "deid-data/LICENSE": "not-dicom",
    "deid-data/deid_data/data/ultrasounds/GREYSCALE_CINE.zip": "zip",
    "pydicom-data/LICENSE": "not-dicom",
    "pydicom-data/data_store/data/JLSL_RGB_ILV0.dcm": "not-dicom",
    "pydicom-data/data_store/data/JLSL_RGB_ILV1.dcm": "not-dicom",
    "pydicom-data/data_store/data/JLSL_RGB_ILV2.dcm": "not-dicom",
    "pydicom-data/data_store/data/JLSN_RGB_ILV0.dcm": "not-dicom",
}
"""Files of the archives that are not taken; the last four have neither preamble nor a UID of their own."""

MOST_SLOW = 0.02


def _read(path: Path) -> IndexRow | Reject | Container:
    return read_header(os.fsencode(path.parent), os.fsencode(path.name))


def _row(path: Path) -> IndexRow:
    row = _read(path)
    assert isinstance(row, IndexRow), row
    return row


def _said_by_pydicom(dataset: Dataset, tag: int) -> str:
    element = dataset.get(tag)
    if element is None:
        return ""
    parts = element.value if element.VM > 1 else [element.value]
    text = "\\".join("" if part is None else str(part) for part in parts)
    return unicodedata.normalize("NFC", text).strip(" \0")


def _field(row: IndexRow, name: str) -> str:
    value = getattr(row.shared if name in SHARED_FIELDS else row, name)
    assert isinstance(value, str)
    return value


def _frames_by_pydicom(dataset: Dataset) -> str:
    sop_class = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    return _said_by_pydicom(dataset, NUMBER_OF_FRAMES) if sop_class in MULTI_FRAME_CLASSES else ""


def _check_values(root: Path, files: list[Path]) -> tuple[dict[str, str], dict[str, str]]:
    """Compare every indexed attribute of every file; return what went the slow path, and what was rejected."""
    slow: dict[str, str] = {}
    rejected: dict[str, str] = {}
    names = [path.relative_to(root).as_posix() for path in files]
    folder, paths = os.fsencode(root), [os.fsencode(name) for name in names]
    outcomes = read_headers(folder, paths)
    assert outcomes == [read_header(folder, path) for path in paths]
    for path, name, row in zip(files, names, outcomes, strict=True):
        if not isinstance(row, IndexRow):
            rejected[name] = row.reason if isinstance(row, Reject) else row.kind
            continue
        if row.shared.slow_path:
            slow[name] = row.shared.slow_path
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            said = {field: _said_by_pydicom(dataset, tag) for tag, field in ATTRIBUTES.items()}
            for field, keyword in (("sop_class_uid", "SOPClassUID"), ("sop_instance_uid", "SOPInstanceUID")):
                # What the data set leaves out stands in the file meta information.
                said[field] = said[field] or str(dataset.file_meta.get(f"MediaStorage{keyword}", ""))
            assert row.number_of_frames == _frames_by_pydicom(dataset), name
        read = {field: _field(row, field) for field in ATTRIBUTES.values()}
        # Delimiters of empty groups at a name's end say nothing (PS3.5 section 6.2.1.2); pydicom leaves them out.
        read["patient_name"] = read["patient_name"].rstrip("=")
        assert read == said, name
        assert row.shared.transfer_syntax_uid == str(dataset.file_meta.get("TransferSyntaxUID", "")), name
    return slow, rejected


def test_every_field_of_the_index_has_its_attribute() -> None:
    assert {*ATTRIBUTES.values(), "transfer_syntax_uid", "slow_path", "number_of_frames"} == {
        *SHARED_FIELDS,
        *ROW_FIELDS,
    }


def test_values_of_pydicoms_own_files() -> None:
    slow, rejected = _check_values(PYDICOM_FILES, data_files(PYDICOM_FILES))
    assert slow == SLOW_OF_PYDICOM
    assert rejected == REJECTED_OF_PYDICOM


def _check_archives(root: Path, files: list[Path]) -> None:
    slow, rejected = _check_values(root, files)
    names = {path.relative_to(root).as_posix() for path in files}
    assert rejected == {name: why for name, why in REJECTED_OF_ARCHIVES.items() if name in names}
    of_scanners = [name for name in names if name.startswith("dcm_qa")]
    assert sum(name.startswith("dcm_qa") for name in slow) <= MOST_SLOW * len(of_scanners)


def test_values_of_scanner_files(scanner_data: Path) -> None:
    files = sampled(data_files(scanner_data))
    assert len(files) > 350
    _check_archives(scanner_data, files)


@pytest.mark.long
def test_values_of_every_scanner_file(scanner_data: Path) -> None:
    files = data_files(scanner_data)
    assert len(files) > 2000
    _check_archives(scanner_data, files)


def _plain_row(row: IndexRow) -> IndexRow:
    return replace(row, path=b"", shared=replace(row.shared, transfer_syntax_uid="", slow_path=""))


NAMED = make_instance(PatientName="Müller^Jürgen=山田^太郎", InstitutionName="Żółw", SeriesDescription="naïve – ½")


@pytest.mark.parametrize(
    ("form", "slow_path"),
    [
        ({"transfer_syntax": ImplicitVRLittleEndian}, ""),
        ({"transfer_syntax": ExplicitVRBigEndian}, "big-endian"),
        ({"transfer_syntax": DeflatedExplicitVRLittleEndian}, "deflated"),
        ({"preamble": False}, "no-preamble"),
        ({"preamble": False, "meta": False}, "no-preamble"),
        ({"preamble": False, "meta": False, "transfer_syntax": ImplicitVRLittleEndian}, "no-preamble"),
        ({"preamble": False, "meta": False, "transfer_syntax": ExplicitVRBigEndian}, "no-preamble"),
        ({"meta": False}, "meta-damaged"),
    ],
)
def test_every_written_form_says_the_same(form: dict[str, object], slow_path: str, tmp_path: Path) -> None:
    plain = _row(write_instance(tmp_path / "plain", NAMED))
    other = _row(write_instance(tmp_path / "other", NAMED, **form))
    assert (plain.shared.slow_path, other.shared.slow_path) == ("", slow_path)
    assert _plain_row(other) == _plain_row(plain)
    assert plain.shared.patient_name == "Müller^Jürgen=山田^太郎"


def _write(
    path: Path,
    nodes: list[Node],
    *,
    declared: str = "1.2.840.10008.1.2.1",
    explicit: bool = True,
    more: Sequence[Leaf] = (),
) -> Path:
    path.write_bytes(write_meta(declared, more=more) + encode(nodes, explicit=explicit)[0])
    return path


ID = Leaf(tag=0x00100020, vr="LO", value=b"SYN1")
UIDS = [
    Leaf(tag=0x00080016, vr="UI", value=b"1.2.840.10008.5.1.4.1.1.4\0"),
    Leaf(tag=0x00080018, vr="UI", value=b"2.25.1"),
    Leaf(tag=0x0020000D, vr="UI", value=b"2.25.2"),
    Leaf(tag=0x0020000E, vr="UI", value=b"2.25.3"),
]
NUMBER = Leaf(tag=0x00200013, vr="IS", value=b"12")


@pytest.mark.parametrize(
    ("nodes", "slow_path"),
    [
        ([UIDS[1], UIDS[0], ID, *UIDS[2:], NUMBER], "out-of-order"),
        ([*UIDS[:2], ID, NUMBER, Leaf(tag=0x00280010, vr="US", value=b"\1\0"), *UIDS[2:]], "uid-missing"),
        ([*UIDS[:2], ID, Leaf(tag=0x00100021, vr="ZZ", value=b"ab"), *UIDS[2:], NUMBER], "unknown-vr"),
    ],
)
def test_disorder_is_left_to_the_slow_path(nodes: list[Node], slow_path: str, tmp_path: Path) -> None:
    row = _row(_write(tmp_path / "file", nodes))
    assert row.shared.slow_path == slow_path
    assert (row.sop_instance_uid, row.shared.study_instance_uid, row.shared.series_instance_uid) == (
        "2.25.1",
        "2.25.2",
        "2.25.3",
    )
    assert (row.shared.patient_id, row.instance_number) == ("SYN1", "12")


@pytest.mark.parametrize("explicit", [True, False])
def test_wrongly_declared_syntax_is_seen_through(explicit: bool, tmp_path: Path) -> None:
    declared = "1.2.840.10008.1.2" if explicit else "1.2.840.10008.1.2.1"
    nodes = sorted([ID, *UIDS, NUMBER], key=lambda node: node.tag)
    row = _row(_write(tmp_path / "file", nodes, declared=declared, explicit=explicit))
    assert row.shared.slow_path
    assert (row.shared.patient_id, row.sop_instance_uid, row.instance_number) == ("SYN1", "2.25.1", "12")


def test_long_sequences_before_the_last_tag_are_stepped_over(tmp_path: Path) -> None:
    item = (Leaf(tag=0x00081150, vr="UI", value=b"2.25.77\0"), Leaf(tag=0x00081155, vr="UI", value=b"2.25.78\0"))
    for undefined in (True, False):
        nodes = sorted(
            [ID, *UIDS, NUMBER, Nested(tag=0x00081140, items=(item,) * 9000, undefined=undefined)],
            key=lambda node: node.tag,
        )
        path = _write(tmp_path / "file", nodes)
        assert path.stat().st_size > 300_000
        row = _row(path)
        assert (row.shared.slow_path, row.shared.patient_id, row.instance_number) == ("", "SYN1", "12")


def test_long_meta_information_is_read_whole(tmp_path: Path) -> None:
    more = [Leaf(tag=0x00020102, vr="OB", value=b"\1" * 100_000)]
    nodes = sorted([ID, *UIDS, NUMBER], key=lambda node: node.tag)
    path = tmp_path / "file"
    path.write_bytes(write_meta("1.2.840.10008.1.2.1", more=more) + encode(nodes, explicit=True)[0])
    row = _row(path)
    assert (row.shared.slow_path, row.instance_number) == ("", "12")


def test_absent_sop_uid_comes_from_the_meta_information(tmp_path: Path) -> None:
    dataset = make_instance(SOPInstanceUID=None)
    path = write_instance(tmp_path / "file", dataset)
    row = _row(path)
    assert (row.shared.slow_path, row.sop_instance_uid) == ("uid-missing", world_uid(0))


# --- every reason why a file is not taken, from a real situation


def _make_bomb(path: Path, size: int) -> Path:
    """Write a deflated file whose data set is `size` zeros long."""
    machine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = machine.compress(b"\0" * size) + machine.flush()
    path.write_bytes(write_meta("1.2.840.10008.1.2.1.99") + packed)
    return path


def test_file_that_inflates_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalise, "LARGEST_INFLATED", 1 << 20)
    assert _read(_make_bomb(tmp_path / "bomb", 1 << 24)) == Reject(path=b"bomb", reason="header-damaged")


def test_cut_deflated_file_is_refused(tmp_path: Path) -> None:
    path = write_instance(tmp_path / "file", make_instance(), transfer_syntax=DeflatedExplicitVRLittleEndian)
    path.write_bytes(path.read_bytes()[:-20])
    assert _read(path) == Reject(path=b"file", reason="header-damaged")


REJECTED = {
    "empty": b"",
    "not-dicom": b"%PDF-1.4\n" + b"x" * 5000,
    "header-damaged": b"\0" * 128 + b"DICM" + b"\xff" * 4000,
    "dicomdir": (PYDICOM_FILES / "test_files" / "dicomdirtests" / "DICOMDIR").read_bytes(),
}


@pytest.mark.parametrize("reason", REJECTED)
def test_reject_by_content(reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(REJECTED[reason])
    assert _read(tmp_path / "file") == Reject(path=b"file", reason=reason)
    assert reason in REJECT_REASONS


def test_short_files_are_rejected(tmp_path: Path) -> None:
    whole = write_instance(tmp_path / "whole", make_instance()).read_bytes()
    for size in (1, 2, 127, 128, 131, 132, 140, 144, 200, 330):
        (tmp_path / "cut").write_bytes(whole[:size])
        outcome = _read(tmp_path / "cut")
        assert isinstance(outcome, Reject), size
        assert outcome.reason == ("not-dicom" if size < 132 else "header-damaged")


def test_file_cut_in_its_header_is_taken_if_what_it_is_filed_under_is_whole(tmp_path: Path) -> None:
    """What is left of a patient ID or a UID may be somebody else's; what comes later may be missing."""
    path = write_instance(tmp_path / "whole", make_instance(SeriesNumber="1234567"))
    content, whole = path.read_bytes(), _row(path)
    series_uid = content.index(b"\x20\0\x0e\0UI") + 8
    behind = series_uid + len(whole.shared.series_instance_uid) + len(whole.shared.series_instance_uid) % 2
    taken = 0
    for size in range(content.index(b"SYNWORLD"), content.index(b"1234567") + 5):
        (tmp_path / "cut").write_bytes(content[:size])
        outcome = _read(tmp_path / "cut")
        if size < behind:
            # Cut between two elements it is a file without UIDs like any other.
            between = isinstance(outcome, IndexRow) and outcome.shared.slow_path == "uid-missing"
            assert between or outcome == Reject(path=b"cut", reason="header-damaged"), size
            continue
        assert isinstance(outcome, IndexRow), size
        taken += 1
        assert outcome.sop_instance_uid == whole.sop_instance_uid
        assert outcome.shared.patient_id == whole.shared.patient_id
        assert outcome.shared.series_instance_uid == whole.shared.series_instance_uid
        assert outcome.shared.series_number == "", "a number that was cut is another number"
    assert taken > 10


def test_vanished(tmp_path: Path) -> None:
    assert _read(tmp_path / "gone") == Reject(path=b"gone", reason="vanished")


def test_unreadable_by_its_mode() -> None:
    with unprivileged() as folder:
        path = write_instance(folder / "locked", make_instance())
        path.chmod(0)
        assert _read(path) == Reject(path=b"locked", reason="unreadable")
        path.chmod(0o400)
        assert isinstance(_read(path), IndexRow)


def test_unreadable_because_it_became_something_else(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(write_instance(tmp_path / "file", make_instance()))
    (tmp_path / "loop").symlink_to("loop")
    make_socket(tmp_path / "socket")
    for name in ("folder", "link", "loop", "socket"):
        assert _read(tmp_path / name) == Reject(path=name.encode(), reason="unreadable")


def test_pipe_does_not_keep_the_reader_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert _read(tmp_path / "pipe") == Reject(path=b"pipe", reason="special-file")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    write_instance(tmp_path / "file", make_instance())
    write_instance(tmp_path / "big", make_instance(), transfer_syntax=ExplicitVRBigEndian)
    write_instance(tmp_path / "deflated", make_instance(), transfer_syntax=DeflatedExplicitVRLittleEndian)
    (tmp_path / "junk").write_bytes(b"junk" * 100)
    before = os.listdir("/proc/self/fd")
    for name in ("file", "big", "deflated", "junk", "gone"):
        _read(tmp_path / name)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    "name", [b"\xff\xfe\n\t", b"x" * 255, "Müller".encode("latin-1"), b"-rf", b" ", "山.dcm".encode()]
)
def test_any_name_is_read(name: bytes, tmp_path: Path) -> None:
    plain = write_instance(tmp_path / "plain", make_instance())
    plain.rename(tmp_path / os.fsdecode(name))
    row = read_header(os.fsencode(tmp_path), name)
    assert isinstance(row, IndexRow)
    assert (row.path, row.shared.patient_id) == (name, "SYNWORLD0001")


# --- files that hold others


def _tar(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("IM0001")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _zip(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return out.getvalue()


INSIDE = (PYDICOM_FILES / "test_files" / "MR_small.dcm").read_bytes()
CONTAINERS = {
    "gzip": ("gzip", gzip.compress(INSIDE)),
    "bzip2": ("bzip2", bz2.compress(INSIDE)),
    "empty bzip2": ("bzip2", bz2.compress(b"")),
    "xz": ("xz", lzma.compress(INSIDE)),
    "tar": ("tar", _tar(INSIDE)),
    "zip": ("zip", _zip("IM0001", "[Content_Types].xml")),
    "empty zip": ("zip", _zip()),
}
STRANGERS = {
    "spreadsheet": ("not-dicom", _zip("[Content_Types].xml", "xl/workbook.xml")),
    "package that begins with its relations": ("not-dicom", _zip("_rels/.rels", "[Content_Types].xml")),
    "open document": ("not-dicom", _zip("mimetype", "content.xml")),
    "Java archive": ("not-dicom", _zip("META-INF/MANIFEST.MF", "Main.class")),
    "text that begins like bzip2": ("not-dicom", b"BZhao's notes on the scanner, page one of many\n" * 9),
    "AppleDouble": ("apple-double", b"\0\5\x16\7\0\2\0\0Mac OS X        " + b"\0" * 4000),
    "AppleSingle": ("apple-double", b"\0\5\x16\0\0\2\0\0" + b"\0" * 200),
}


@pytest.mark.parametrize(("kind", "content"), CONTAINERS.values(), ids=CONTAINERS)
def test_container_is_told_by_its_first_bytes(kind: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert _read(tmp_path / "file") == Container(path=b"file", kind=kind)


@pytest.mark.parametrize(("reason", "content"), STRANGERS.values(), ids=STRANGERS)
def test_stranger_is_no_container(reason: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert _read(tmp_path / "file") == Reject(path=b"file", reason=reason)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_image_that_begins_like_a_container_is_an_image(kind: str, tmp_path: Path) -> None:
    """The preamble is the application's own (PS3.10 section 7.1): a file may be two things at once."""
    (tmp_path / "file").write_bytes(CONTAINERS[kind][1][:128].ljust(128, b"\0") + INSIDE[128:])
    assert _row(tmp_path / "file").shared.slow_path == ""


# --- frames


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("between", [0, 40_000])
def test_frames_are_counted_in_multi_frame_classes_only(between: int, explicit: bool, tmp_path: Path) -> None:
    item = (Leaf(tag=0x00209164, vr="UI", value=b"2.25.9"),)
    more = [
        Nested(tag=0x00209222, items=(item,) * 3, undefined=True),
        Leaf(tag=0x00211201, vr="UN", value=b"\1" * between),
        Leaf(tag=NUMBER_OF_FRAMES, vr="IS", value=b"120 "),
        Leaf(tag=0x00280010, vr="US", value=b"\1\0"),
    ]
    for sop_class, frames in ((b"1.2.840.10008.5.1.4.1.1.4.1\0", "120"), (b"1.2.840.10008.5.1.4.1.1.4\0", "")):
        nodes = [replace(UIDS[0], value=sop_class), UIDS[1], ID, *UIDS[2:], NUMBER, *more]
        declared = "1.2.840.10008.1.2.1" if explicit else "1.2.840.10008.1.2"
        row = _row(_write(tmp_path / "file", nodes, declared=declared, explicit=explicit))
        assert (row.shared.slow_path, row.instance_number, row.number_of_frames) == ("", "12", frames)


def test_multi_frame_classes_are_storage_classes() -> None:
    """As far as pydicom's table of UIDs goes; label maps and height maps are newer."""
    newer = {f"1.2.840.10008.5.1.4.1.1.66.{number}" for number in (7, 8)}
    names = {uid: UID_dictionary[uid][0] for uid in MULTI_FRAME_CLASSES - newer}
    assert all("Storage" in name for name in names.values())
    said = {uid for uid, entry in UID_dictionary.items() if "Multi-frame" in entry[0] or "Enhanced" in entry[0]}
    images = {uid for uid in said if UID_dictionary[uid][0].endswith("Image Storage")}
    assert len(images) > 10
    assert images <= MULTI_FRAME_CLASSES


# --- many at once


def _read_both_ways(folder: Path, *, batch: int = 2048) -> list[IndexRow | Reject | Container]:
    """Read a folder's files together and one by one; return what both say."""
    paths = sorted(os.listdir(os.fsencode(folder)))
    kept = header._BATCH
    header._BATCH = batch
    try:
        together = read_headers(os.fsencode(folder), paths)
    finally:
        header._BATCH = kept
    assert together == [read_header(os.fsencode(folder), path) for path in paths]
    return together


@pytest.fixture
def single_cursors_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let also few files be read together."""
    monkeypatch.setattr(lockstep, "FEWEST", 1)


def _fill_with_everything(folder: Path) -> None:
    """Write a file of each kind that this module knows, many plain ones among them."""
    for number in range(30):
        dataset = make_instance(InstanceNumber=number, SOPInstanceUID=world_uid(number), PatientID=f"SYN{number % 3}")
        write_instance(folder / f"plain{number}", dataset)
    contents = {name: content for name, (_, content) in (CONTAINERS | STRANGERS).items()}
    for name, content in (contents | REJECTED).items():
        (folder / name).write_bytes(content)
    write_instance(folder / "big-endian", NAMED, transfer_syntax=ExplicitVRBigEndian)
    write_instance(folder / "deflated", NAMED, transfer_syntax=DeflatedExplicitVRLittleEndian)
    write_instance(folder / "implicit", NAMED, transfer_syntax=ImplicitVRLittleEndian)
    write_instance(folder / "no-preamble", NAMED, preamble=False)
    _write(folder / "disorder", [UIDS[1], UIDS[0], ID, *UIDS[2:], NUMBER])
    _fill_with_frames(folder)
    directory = Leaf(tag=0x00020002, vr="UI", value=b"1.2.840.10008.1.3.10")
    _write(folder / "directory", [*UIDS, NUMBER, TRAILER], more=[directory])
    instance = Leaf(tag=0x00020003, vr="UI", value=b"2.25.8")
    _write(folder / "uid-empty", [UIDS[0], replace(UIDS[1], value=b""), *UIDS[2:], NUMBER, TRAILER], more=[instance])
    _write(folder / "long", [*UIDS[:2], replace(ID, value=b"7" * 300), *UIDS[2:], NUMBER, TRAILER])
    _write(folder / "bytes", [*UIDS[:2], replace(ID, value=b"\xff\0 \xfe"), *UIDS[2:], NUMBER, TRAILER])
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("plain0")
    (folder / "dangling").symlink_to("nothing")
    make_socket(folder / "socket")
    os.mkfifo(folder / "pipe")


TRAILER = Leaf(tag=0x00280030, vr="DS", value=b"1.0 ")
FRAMES = Leaf(tag=NUMBER_OF_FRAMES, vr="IS", value=b"120 ")


def _fill_with_frames(folder: Path) -> None:
    """Write multi-frame files: in both syntaxes, without the number, and with the first read ending just before it."""
    nodes: list[Node] = [replace(UIDS[0], value=b"1.2.840.10008.5.1.4.1.1.4.1\0"), *UIDS[1:], NUMBER]
    _write(folder / "frames", [*nodes, FRAMES, TRAILER])
    _write(folder / "frames-implicit", [*nodes, FRAMES, TRAILER], declared="1.2.840.10008.1.2", explicit=False)
    _write(folder / "frames-absent", nodes)
    filler = Leaf(tag=0x00211201, vr="UN", value=b"")
    size = _write(folder / "frames-on-border", [*nodes, filler]).stat().st_size
    filler = replace(filler, value=b"\1" * (header._FIRST_READ - size))
    _write(folder / "frames-on-border", [*nodes, filler, FRAMES, TRAILER])


@pytest.mark.parametrize("batch", [1, 2, 7, 2048])
@pytest.mark.usefixtures("single_cursors_walk")
def test_read_together_or_alone_is_the_same(batch: int, tmp_path: Path) -> None:
    _fill_with_everything(tmp_path)
    outcomes = _read_both_ways(tmp_path, batch=batch)
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, Reject)} >= {
        *("not-dicom", "apple-double", "empty", "special-file", "unreadable", "dicomdir", "header-damaged"),
    }
    assert {outcome.kind for outcome in outcomes if isinstance(outcome, Container)} == {
        kind for kind, _ in CONTAINERS.values()
    }
    rows = {outcome.path: outcome for outcome in outcomes if isinstance(outcome, IndexRow)}
    assert len(rows) == 42
    assert rows[b"uid-empty"].sop_instance_uid == "2.25.8"
    frames = {path: row.number_of_frames for path, row in rows.items() if path.startswith(b"frames")}
    assert frames == {b"frames": "120", b"frames-absent": "", b"frames-implicit": "120", b"frames-on-border": "120"}


@pytest.mark.usefixtures("single_cursors_walk")
def test_order_does_not_matter(tmp_path: Path) -> None:
    _fill_with_everything(tmp_path)
    folder, paths = os.fsencode(tmp_path), [*os.listdir(os.fsencode(tmp_path)), b"gone"]
    said = dict(zip(paths, read_headers(folder, paths), strict=True))
    assert said[b"gone"] == Reject(path=b"gone", reason="vanished")
    for seed in range(3):
        mixed = random.Random(seed).choices(paths, k=len(paths))
        assert read_headers(folder, mixed) == [said[path] for path in mixed]
    assert read_headers(folder, []) == []


@pytest.mark.parametrize("batch", [7, 2048])
@pytest.mark.usefixtures("single_cursors_walk")
def test_one_header_serves_the_files_that_share_it(batch: int, tmp_path: Path) -> None:
    _fill_with_everything(tmp_path)
    rows = [row for row in _read_both_ways(tmp_path, batch=batch) if row.path.startswith(b"plain")]
    assert len({row.shared for row in rows if isinstance(row, IndexRow)}) == 3
    assert len({id(row.shared) for row in rows if isinstance(row, IndexRow)}) == 3


@pytest.mark.usefixtures("single_cursors_walk")
def test_plain_files_never_need_the_single_reader(tmp_path: Path) -> None:
    """Else the index would be as slow as before; files that are read alone have headers of their own."""
    for number in range(9):
        syntax = ImplicitVRLittleEndian if number % 2 else ExplicitVRLittleEndian
        write_instance(tmp_path / str(number), make_instance(InstanceNumber=number), transfer_syntax=syntax)
    rows = [row for row in _read_both_ways(tmp_path) if isinstance(row, IndexRow)]
    assert [row.instance_number for row in rows] == [str(number) for number in range(9)]
    assert len({id(row.shared) for row in rows}) == 2


@pytest.mark.usefixtures("single_cursors_walk")
def test_long_values_take_no_room_for_all_files(tmp_path: Path) -> None:
    """A value takes the room of the longest of its tag for each file: one crafted file must not fill the memory."""
    for number, tag in enumerate(sorted(TEXT_ATTRIBUTES)):
        nodes = sorted([*UIDS, NUMBER, Leaf(tag=tag, vr="LO", value=b"7" * 7000), TRAILER], key=lambda node: node.tag)
        for copy in range(4):
            _write(tmp_path / f"{number}-{copy}", nodes)
    paths = os.listdir(os.fsencode(tmp_path))
    read_headers(os.fsencode(tmp_path), paths)
    tracemalloc.start()
    try:
        read_headers(os.fsencode(tmp_path), paths)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(paths) == 60
    assert peak < 5_000_000


@strategies.FEWER
@given(st.lists(st.integers(0, 20_000), min_size=30, max_size=60))
def test_damaged_files_together(tmp_path_factory: pytest.TempPathFactory, numbers: list[int]) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    files = mutator.seeds()
    for place, number in enumerate(numbers):
        (folder / str(place)).write_bytes(mutator.mutate(files, number)[1])
    _read_both_ways(folder)


def test_pydicom_is_not_loaded_for_plain_files(tmp_path: Path) -> None:
    """Neither pydicom, which takes a fifth of a second, nor numpy before there is a header to read."""
    for number in range(40):
        write_instance(tmp_path / str(number), make_instance(InstanceNumber=number))
    code = f"""
import os, sys
from tasks.index.header import read_headers
assert not {{"numpy", "pydicom"}} & set(sys.modules)
rows = read_headers({os.fsencode(tmp_path)!r}, os.listdir({os.fsencode(tmp_path)!r}))
assert len({{row.instance_number for row in rows}}) == 40
assert "numpy" in sys.modules and "pydicom" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr

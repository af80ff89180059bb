"""The index says of every file what pydicom says, however the file is written, and gives a reason where it cannot."""

from __future__ import annotations

import os
import unicodedata
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from tasks.dicom import normalise
from tasks.index.header import ASCII_ATTRIBUTES, LAST_TAG, TEXT_ATTRIBUTES, read_header
from tasks.index.row import REJECT_REASONS, IndexRow, Reject
from tests.builders.disks import make_socket, unprivileged
from tests.builders.world import make_instance, world_uid, write_instance
from tests.dicom.encoder import Leaf, Nested, Node, encode, write_meta
from tests.dicom.oracle import PYDICOM_FILES, data_files, sampled

ATTRIBUTES = ASCII_ATTRIBUTES | TEXT_ATTRIBUTES

SLOW_OF_PYDICOM = {
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
    "test_files/image_dfl.dcm": "deflated",
    "test_files/liver_expb_1frame.dcm": "big-endian",
    "test_files/rtdose_expb.dcm": "big-endian",
    "test_files/rtdose_expb_1frame.dcm": "big-endian",
    "test_files/rtstruct.dcm": "no-preamble",
}
"""Files of pydicom's package whose header the fast reader leaves to the slow one, and why."""

REJECTED_OF_PYDICOM = {
    "charset_files/chrSQEncoding.dcm": "header-damaged",
    "charset_files/chrSQEncoding1.dcm": "header-damaged",
    "test_files/UN_sequence.dcm": "header-damaged",
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
    "test_files/empty_charset_LEI.dcm": "header-damaged",
    "test_files/meta_missing_tsyntax.dcm": "header-damaged",
    "test_files/nested_priv_SQ.dcm": "header-damaged",
    "test_files/no_meta.dcm": "not-dicom",
    "test_files/no_meta_group_length.dcm": "header-damaged",
    "test_files/priv_SQ.dcm": "header-damaged",
    "test_files/rtplan.dump": "not-dicom",
    "test_files/rtstruct.dump": "not-dicom",
    "test_files/zipMR.gz": "not-dicom",
}
"""Files of pydicom's package that are not taken: those with a damaged header have none of the five UIDs and codes."""

REJECTED_OF_ARCHIVES = {
    "dcm_qa_nih/LICENSE": "not-dicom",
    "dcm_qa_uih/In/DTI_132225/GradTable_DTI_132225.xlsx": "not-dicom",
    "dcm_qa_uih/In/DTI_132225/Grad_AP.csv": "not-dicom",
    "dcm_qa_uih/In/DTI_132225/Grad_PA.csv": "not-dicom",
    "dcm_qa_uih/In/DTI_132225/Grad_PA_rot.csv": "not-dicom",
    "deid-data/LICENSE": "not-dicom",
    "deid-data/deid_data/data/ultrasounds/GREYSCALE_CINE.zip": "not-dicom",
    "pydicom-data/LICENSE": "not-dicom",
    "pydicom-data/data_store/data/JLSL_RGB_ILV0.dcm": "not-dicom",
    "pydicom-data/data_store/data/JLSL_RGB_ILV1.dcm": "not-dicom",
    "pydicom-data/data_store/data/JLSL_RGB_ILV2.dcm": "not-dicom",
    "pydicom-data/data_store/data/JLSN_RGB_ILV0.dcm": "not-dicom",
}
"""Files of the archives that are not taken; the last four have neither preamble nor a UID of their own."""

MOST_SLOW = 0.02


def _read(path: Path) -> IndexRow | Reject:
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


def _check_values(root: Path, files: list[Path]) -> tuple[dict[str, str], dict[str, str]]:
    """Compare every indexed attribute of every file; return what went the slow path, and what was rejected."""
    slow: dict[str, str] = {}
    rejected: dict[str, str] = {}
    for path in files:
        name = path.relative_to(root).as_posix()
        row = read_header(os.fsencode(root), os.fsencode(name))
        if isinstance(row, Reject):
            rejected[name] = row.reason
            continue
        if row.slow_path:
            slow[name] = row.slow_path
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            said = {field: _said_by_pydicom(dataset, tag) for tag, field in ATTRIBUTES.items()}
        read = {field: getattr(row, field) for field in ATTRIBUTES.values()}
        # Delimiters of empty groups at a name's end say nothing (PS3.5 section 6.2.1.2); pydicom leaves them out.
        read["patient_name"] = read["patient_name"].rstrip("=")
        assert read == said, name
        assert row.transfer_syntax_uid == str(dataset.file_meta.get("TransferSyntaxUID", "")), name
    return slow, rejected


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
    return replace(row, path=b"", transfer_syntax_uid="", slow_path="")


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
    assert (plain.slow_path, other.slow_path) == ("", slow_path)
    assert _plain_row(other) == _plain_row(plain)
    assert plain.patient_name == "Müller^Jürgen=山田^太郎"


def _write(path: Path, nodes: list[Node], *, declared: str = "1.2.840.10008.1.2.1", explicit: bool = True) -> Path:
    path.write_bytes(write_meta(declared) + encode(nodes, explicit=explicit)[0])
    return path


ID = Leaf(tag=0x00100020, vr="LO", value=b"SYN1")
UIDS = [
    Leaf(tag=0x00080016, vr="UI", value=b"1.2.840.10008.5.1.4.1.1.4\0"),
    Leaf(tag=0x00080018, vr="UI", value=b"2.25.1"),
    Leaf(tag=0x0020000D, vr="UI", value=b"2.25.2"),
    Leaf(tag=0x0020000E, vr="UI", value=b"2.25.3"),
]
NUMBER = Leaf(tag=LAST_TAG, vr="IS", value=b"12")


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
    assert row.slow_path == slow_path
    assert (row.sop_instance_uid, row.study_instance_uid, row.series_instance_uid) == ("2.25.1", "2.25.2", "2.25.3")
    assert (row.patient_id, row.instance_number) == ("SYN1", "12")


@pytest.mark.parametrize("explicit", [True, False])
def test_wrongly_declared_syntax_is_seen_through(explicit: bool, tmp_path: Path) -> None:
    declared = "1.2.840.10008.1.2" if explicit else "1.2.840.10008.1.2.1"
    nodes = sorted([ID, *UIDS, NUMBER], key=lambda node: node.tag)
    row = _row(_write(tmp_path / "file", nodes, declared=declared, explicit=explicit))
    assert row.slow_path
    assert (row.patient_id, row.sop_instance_uid, row.instance_number) == ("SYN1", "2.25.1", "12")


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
        assert (row.slow_path, row.patient_id, row.instance_number) == ("", "SYN1", "12")


def test_long_meta_information_is_read_whole(tmp_path: Path) -> None:
    more = [Leaf(tag=0x00020102, vr="OB", value=b"\1" * 100_000)]
    nodes = sorted([ID, *UIDS, NUMBER], key=lambda node: node.tag)
    path = tmp_path / "file"
    path.write_bytes(write_meta("1.2.840.10008.1.2.1", more=more) + encode(nodes, explicit=True)[0])
    row = _row(path)
    assert (row.slow_path, row.instance_number) == ("", "12")


def test_absent_sop_uid_comes_from_the_meta_information(tmp_path: Path) -> None:
    dataset = make_instance(SOPInstanceUID=None)
    path = write_instance(tmp_path / "file", dataset)
    row = _row(path)
    assert (row.slow_path, row.sop_instance_uid) == ("uid-missing", world_uid(0))


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


def test_file_cut_behind_its_uids_keeps_what_it_says(tmp_path: Path) -> None:
    whole = write_instance(tmp_path / "whole", make_instance())
    size = whole.read_bytes().index(b"SYNWORLD")
    (tmp_path / "cut").write_bytes(whole.read_bytes()[:size])
    row = _row(tmp_path / "cut")
    assert (row.slow_path, row.sop_instance_uid) == ("truncated", _row(whole).sop_instance_uid)
    assert row.patient_id == ""


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
    assert (row.path, row.patient_id) == (name, "SYNWORLD0001")

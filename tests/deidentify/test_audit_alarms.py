"""The audit is known to ring: each way in which a rewriter could fail is done on purpose, and named.

A real export is opened with pydicom, one thing in it is made wrong, and it is written back.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import FileDataset

from tasks.deidentify import export as exporting
from tasks.deidentify.audit.compare import FINDINGS, Expectation, audit_file
from tasks.deidentify.identity import Identity, Subject
from tasks.deidentify.plan import ExportOrder, Person
from tasks.deidentify.profile import DEFAULT_PROFILE
from tasks.deidentify.rewrite import Rewritten, rewrite
from tests.builders.world import make_instance, world_uid, write_instance

SUBJECT = Subject(pseudonym="SUB-0007", shift_days=-1234)
IDENTITY = Identity(bytes(range(32)))
CODES = tuple(code for code, _ in DEFAULT_PROFILE.codes())
OTHER_STUDY_UID = "1.2.826.0.1.3680043.8.498.4711"


def expectation(**more: frozenset[str]) -> Expectation:
    known = {"identifiers": frozenset({"LONGKNOWN77"}), "uids": frozenset({OTHER_STUDY_UID})} | more
    return Expectation(pseudonym=SUBJECT.pseudonym, shift_days=SUBJECT.shift_days, codes=CODES, **known)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> bytes:
    dataset = make_instance(PatientAge="093Y", AcquisitionDateTime="20010402081001.5")
    return write_instance(tmp_path_factory.mktemp("source") / "image", dataset).read_bytes()


@pytest.fixture(scope="module")
def export(source) -> bytes:
    return rewrite(source, profile=DEFAULT_PROFILE, identity=IDENTITY, subject=SUBJECT).content


def spoil(export: bytes, act: Callable[[FileDataset], None]) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(export))
    act(dataset)
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=False)
    return out.getvalue()


def test_a_faithful_export_passes(source, export):
    assert audit_file(source, export, expectation()) == []
    assert audit_file(source, spoil(export, lambda dataset: None), expectation()) == []


def set_value(keyword: str, value: object) -> Callable[[FileDataset], None]:
    return lambda dataset: setattr(dataset, keyword, value)


def flip_pixel(dataset: FileDataset) -> None:
    pixels = bytearray(dataset.PixelData)
    pixels[17] ^= 1
    dataset.PixelData = bytes(pixels)


def add_private(dataset: FileDataset) -> None:
    dataset.private_block(0x0019, "SOME MAKER", create=True).add_new(0x01, "LO", "harmless")


def lose_slice_thickness(dataset: FileDataset) -> None:
    del dataset.SliceThickness


def add_overlay(dataset: FileDataset) -> None:
    dataset.add_new(0x60003000, "OW", bytes(8))


def name_in_method_code(dataset: FileDataset) -> None:
    dataset.DeidentificationMethodCodeSequence[0].CodeMeaning = "Synthetic Person1"


def set_meta(keyword: str, value: str) -> Callable[[FileDataset], None]:
    return lambda dataset: setattr(dataset.file_meta, keyword, value)


ALARMS = [
    ("the ID under another attribute", set_value("SoftwareVersions", "SYNWORLD0001"), "identifier"),
    ("a part of the name inside a kept text", set_value("SoftwareVersions", "for Person1 only"), "identifier"),
    ("something known from the patient's other files", set_value("SoftwareVersions", "x LONGKNOWN77"), "identifier"),
    ("the institution", set_value("Manufacturer", "Synthetic Institution 1"), "identifier"),
    ("the serial number", set_value("SoftwareVersions", "70001"), "identifier"),
    ("the name as a defined term", set_value("BodyPartExamined", "PERSON1"), "identifier"),
    ("a date that was not moved", set_value("StudyDate", "20010414"), "date"),
    ("a date moved by another number of days", set_value("SeriesDate", "19990101"), "date"),
    ("a time of day that was lost", set_value("AcquisitionDateTime", "19971115000000"), "date"),
    ("the date inside a text", set_value("SoftwareVersions", "built 2001-04-14"), "date"),
    ("a UID that was kept", set_value("FrameOfReferenceUID", world_uid(1, 1, 0)), "uid"),
    ("a UID of another file of the patient", set_value("FrameOfReferenceUID", OTHER_STUDY_UID), "uid"),
    ("an age above 89", set_value("PatientAge", "093Y"), "age"),
    ("a private element", add_private, "private"),
    ("an overlay", add_overlay, "overlay"),
    ("an element that the source has not", set_value("ImageComments", "hello"), "extra-element"),
    ("a kept number that changed", set_value("RepetitionTime", "2301"), "value"),
    ("a kept size that changed", set_value("HighBit", 10), "value"),
    ("a kept text that changed", set_value("Manufacturer", "ANOTHER MAKER"), "value"),
    ("a number that was lost", lose_slice_thickness, "lost"),
    ("one bit of the pixels", flip_pixel, "pixel-data"),
    ("another pseudonym", set_value("PatientID", "SUB-0008"), "pseudonym"),
    ("the name kept", set_value("PatientName", "Synthetic^Person1"), "pseudonym"),
    ("the stamp missing", set_value("PatientIdentityRemoved", "NO"), "stamps"),
    ("a name as the method", set_value("DeidentificationMethod", "Person1"), "stamps"),
    ("dates said to be the real ones", set_value("LongitudinalTemporalInformationModified", "UNMODIFIED"), "stamps"),
    ("a name as the meaning of a code", name_in_method_code, "codes"),
    ("another instance in the file meta information", set_meta("MediaStorageSOPInstanceUID", "2.25.1"), "file-meta"),
    ("who sent it", set_meta("SourceApplicationEntityTitle", "WARD7"), "file-meta"),
]


@pytest.mark.parametrize(("what", "act", "code"), ALARMS, ids=[what for what, _, _ in ALARMS])
def test_the_alarm_rings_for(what, act, code, source, export):
    assert code in audit_file(source, spoil(export, act), expectation())


def test_the_alarm_rings_for_a_preamble(source, export):
    assert "preamble" in audit_file(source, b"MZ" + export[2:], expectation())


def test_the_alarm_rings_for_what_stands_behind_the_last_element(source, export):
    padding = b"\xfc\xff\xfc\xffOB\0\0" + (20).to_bytes(4, "little") + b"Synthetic^Person1   "
    assert "identifier" in audit_file(source, export + padding, expectation())


def test_the_alarm_rings_for_two_uids_that_became_one(tmp_path, source, export):
    same = pydicom.dcmread(io.BytesIO(export)).SOPInstanceUID
    assert "uid" in audit_file(source, spoil(export, set_value("FrameOfReferenceUID", same)), expectation())


@pytest.mark.parametrize("left", [0, 100, 140, 600])
def test_a_cut_export_is_not_let_through(left, source, export):
    assert audit_file(source, export[:left], expectation()) != []


def test_any_single_flipped_bit_of_the_pixels_or_the_numbers_is_noticed(source, export):
    begin = export.index(b"\x28\x00\x10\x00US")
    for position in range(begin, len(export), 7):
        spoiled = bytearray(export)
        spoiled[position] ^= 4
        assert audit_file(source, bytes(spoiled), expectation()) != [], position


def test_every_name_of_a_finding_that_is_given_is_explained():
    assert {code for _, _, code in ALARMS} <= set(FINDINGS)


def test_what_the_audit_refuses_is_kept_in_quarantine_and_never_reaches_the_export(tmp_path, source, monkeypatch):
    """The rewriter is made to leave the accession number in; the file must stay inside `identified/`."""

    def leaky(content: bytes, **how: object) -> Rewritten:
        result = rewrite(content, **how)
        spoiled = spoil(result.content, set_value("SoftwareVersions", "ACC001001"))
        return replace(result, content=spoiled)

    monkeypatch.setattr(exporting, "rewrite", leaky)
    tree = tmp_path / "sorted"
    tree.mkdir()
    (tree / "image.dcm").write_bytes(source)
    order = ExportOrder(source="image.dcm", target="SUB-0007/ses-1/1/1.dcm", identity="1", pseudonym="SUB-0007")
    rows = exporting.export_files(
        [order],
        {"SUB-0007": Person(shift_days=SUBJECT.shift_days, identifiers=(), dates=(), uids=())},
        sorted_tree=tree,
        export=tmp_path / "export",
        quarantine=tmp_path / "quarantine",
        profile=DEFAULT_PROFILE,
        identity=IDENTITY,
        advance=lambda units: None,
    )
    assert [row.reason for row in rows] == ["audit-identifier+value"]
    assert [path for path in Path(tmp_path / "export").rglob("*") if path.is_file()] == []
    assert (tmp_path / "quarantine" / order.target).exists()

"""Everything that points at a patient is collected from every file, and found again wherever it stands."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tasks.deidentify.findings import Findings, Gathered, gather, read_gathered, write_gathered
from tasks.deidentify.harvest import Harvest, harvest, identifying_tags, name_parts, whole
from tasks.deidentify.identity import Identity, Subject
from tasks.deidentify.profile import DEFAULT_PROFILE, Profile
from tasks.deidentify.rewrite import rewrite
from tasks.errors import DamagedRecordError

IDENTITY = Identity(bytes(range(32)))
SUBJECT = Subject(pseudonym="SUB-0001", shift_days=-777)


def image(syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """Make a small image whose patient is nobody yet."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.1", "1.2.3.2", "1.2.3.3"
    dataset.Modality = "MR"
    dataset.Manufacturer = "SIEMENS"
    return dataset


def written(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_names_numbers_places_and_days_are_collected_wherever_they_stand(syntax: str) -> None:
    dataset = image(syntax)
    dataset.PatientName = "Canary^Tweety^^Dr"
    dataset.PatientID = "ID4711"
    dataset.PatientBirthDate = "19580229"
    dataset.AccessionNumber = "ACC99"
    dataset.InstitutionName = "St Elsewhere"
    dataset.PatientAddress = "1 Cage Lane"
    dataset.AcquisitionDateTime = "20240301101112.5+1000"
    inner = Dataset()
    inner.PatientID = "OLD12"
    inner.ReferringPhysicianName = "House^G"
    dataset.ReferencedPatientSequence = [inner]
    block = dataset.private_block(0x0029, "A SCANNER", create=True)
    block.add_new(0x01, "PN", "Owner^Of^It")
    block.add_new(0x02, "DA", "20240302")
    found = harvest(written(dataset))
    names = {"Canary Tweety Dr", "Canary", "Tweety", "Dr", "House G", "House", "Owner Of It", "Owner", "Of", "It"}
    assert found.identifiers >= names - (
        {"Owner Of It", "Owner", "Of", "It"} if syntax == ImplicitVRLittleEndian else set()
    )
    assert found.identifiers >= {"ID4711", "ACC99", "St Elsewhere", "1 Cage Lane", "OLD12"}
    assert found.dates >= {"19580229", "20240301"}


def test_each_script_of_a_name_is_taken_apart() -> None:
    dataset = image()
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    dataset.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    inner = Dataset()
    inner.SpecificCharacterSet = "ISO_IR 192"
    inner.OperatorsName = "Müller^Zoë"
    other = Dataset()
    other.ReferringPhysicianName = "佐藤"
    dataset.ReferencedPatientSequence = [inner, other]
    found = harvest(written(dataset)).identifiers
    assert found >= {"Yamada", "Tarou", "山田", "太郎", "やまだ", "たろう", "山田 太郎", "Müller", "Zoë", "佐藤"}


def test_what_points_at_nobody_is_not_looked_for() -> None:
    dataset = image()
    dataset.PatientName = "Phantom^Siemens"
    dataset.PatientID = "7"
    dataset.StationName = "PRISMA"
    dataset.InstitutionName = "MRI"
    dataset.StudyID = "1"
    dataset.SeriesDescription = "Canary T1"
    assert harvest(written(dataset)).identifiers == {"Phantom Siemens"}
    assert name_parts("A^B") == {"A B"}
    assert whole("12") == set()
    assert whole("Li") == {"Li"}


def test_the_tags_are_those_of_identity_and_none_of_prose() -> None:
    tags = identifying_tags()
    assert {0x00100020, 0x00080050, 0x00080080, 0x00081010, 0x00181000, 0x00100010, 0x00101040} <= tags
    assert not {0x0008103E, 0x00181030, 0x00104000, 0x00102160} & tags


@pytest.mark.parametrize("length", [0, 100, 132, 140, 400])
def test_of_a_cut_file_what_stands_before_the_cut_is_collected(length: int) -> None:
    dataset = image()
    dataset.PatientName = "Canary^Tweety"
    content = written(dataset)
    found = harvest(content[:length] if length < 400 else content[:-2])
    assert found.identifiers == (set() if length < 400 else {"Canary Tweety", "Canary", "Tweety"})


def test_what_one_file_holds_is_masked_in_the_texts_that_another_keeps() -> None:
    first, second = image(), image()
    first.PatientName = "Prismatic^Canary"
    first.PatientID = "ID4711"
    second.PatientName = "P"
    second.ManufacturerModelName = "Scanner of PRISMATIC"
    second.SoftwareVersions = ["syngo", "ID4711"]
    second.SeriesDescription = "T1 canary ID-4711"
    known = harvest(written(first)).identifiers
    for profile, model in ((DEFAULT_PROFILE, "X"), (Profile.of(()), "")):
        result = rewrite(written(second), profile=profile, identity=IDENTITY, subject=SUBJECT, known=known)
        export: FileDataset = pydicom.dcmread(io.BytesIO(result.content))
        for word in (b"PRISMATIC", b"4711", b"canary"):
            assert word not in result.content
            assert word in written(second)
        assert export.Manufacturer == "SIEMENS"
        assert str(export.get("ManufacturerModelName", "")).endswith(model)


# ---- the store


def test_what_was_collected_comes_back_and_equal_harvests_are_kept_once(tmp_path: Path) -> None:
    one = Harvest(identifiers=frozenset({"Canary", "山田"}), dates=frozenset({"20240101"}))
    gathered = Gathered(harvests=(one, Harvest()), files=(("a", "1", 0), ("b", "2", 0), ("c", "3", 1)))
    write_gathered(tmp_path / "chunk", gathered)
    assert read_gathered(tmp_path / "chunk") == gathered
    with Findings(tmp_path / "findings.db") as findings:
        assert findings.known() == {}
        findings.keep([gathered, gathered], [])
        assert findings.known() == {"a": "1", "b": "2", "c": "3"}
        assert findings.by_source() == {"a": one, "b": one, "c": Harvest()}
        before = findings.digest()
        findings.keep([Gathered(harvests=(Harvest(),), files=(("a", "9", 0),))], ["b"])
        assert findings.known() == {"a": "9", "c": "3"}
        assert findings.digest() != before
        findings.keep([gathered], [])
        assert findings.digest() == before
    assert (tmp_path / "findings.db").stat().st_mode & 0o777 == 0o600


def test_files_are_gathered_in_any_number_and_a_vanished_one_holds_nothing(tmp_path: Path) -> None:
    dataset = image()
    dataset.PatientID = "ID4711"
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / name).write_bytes(written(dataset))
    seen: list[int] = []
    gathered = gather([("a.dcm", "1"), ("b.dcm", "2"), ("gone.dcm", "3")], tmp_path, seen.append)
    assert sum(seen) == 3
    assert [gathered.harvests[index].identifiers for *_, index in gathered.files] == [{"ID4711"}, {"ID4711"}, set()]
    assert len(gathered.harvests) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"harvests": [[]], "files": []}', b"null"])
def test_a_chunk_that_was_cut_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "chunk"
    with pytest.raises(DamagedRecordError):
        read_gathered(path)
    path.write_bytes(content)
    with pytest.raises(DamagedRecordError):
        read_gathered(path)


def test_what_was_collected_another_way_is_collected_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Findings(tmp_path / "findings.db") as findings:
        findings.keep([Gathered(harvests=(Harvest(),), files=(("a", "1", 0),))], [])
        assert findings.known() == {"a": "1"}
        monkeypatch.setattr("tasks.deidentify.findings.HARVEST_VERSION", "harvest of tomorrow")
        assert findings.known() == {}


def test_harvests_join() -> None:
    one = Harvest(identifiers=frozenset({"a"}), dates=frozenset({"1"}))
    assert one | Harvest() == one
    assert dataclasses.replace(one, identifiers=frozenset({"b"})) | one == Harvest(
        identifiers=frozenset({"a", "b"}), dates=frozenset({"1"})
    )

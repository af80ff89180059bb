"""A manifest says what is there; the check finds whatever is no longer so."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLosslessSV1

from tasks.errors import ManifestError
from tasks.files import file_digest
from tasks.review.check import CheckReport, check_manifest
from tasks.review.finding import CODES, Finding
from tasks.review.geometry import VERDICTS, Geometry
from tasks.review.manifest import (
    SCHEMA,
    Entry,
    ImageRecord,
    InstanceRecord,
    Manifest,
    merge_entries,
    read_manifest,
    write_manifest,
)
from tasks.review.prepare import prepare_series, series_folders
from tasks.workspace import EXPORT_PAPERS
from tests.review import phantom

T1 = "SUB-0001/ses-20040119/003_1a2b3c4d"
EPI = "SUB-0001/ses-20040119/004_0badcafe"
LOCALIZER = "SUB-0002/ses-20050228/001_00ff00ff"

CANARY = "Canary^Coalmine"


def _t1() -> list[Dataset]:
    made = phantom.instances(phantom.SAGITTAL)
    for dataset in made:
        dataset.ScanningSequence, dataset.MRAcquisitionType = ["GR", "IR"], "3D"
        dataset.RepetitionTime, dataset.EchoTime, dataset.InversionTime = 2300, 2.98, 900
        dataset.PatientName = dataset.SeriesDescription = dataset.ProtocolName = dataset.SequenceName = CANARY
        dataset.ImageComments = CANARY
    return made


def _epi() -> list[Dataset]:
    made = []
    for volume in range(3):
        for dataset in phantom.instances(phantom.AXIAL, seed=volume):
            dataset.SOPInstanceUID = phantom.uid("epi", volume, dataset.InstanceNumber)
            dataset.AcquisitionDate, dataset.AcquisitionTime = "20040119", f"1200{volume:02d}.5"
            dataset.ScanningSequence, dataset.EchoTime = "EP", 30
            made.append(dataset)
    return made


def _localizer() -> list[Dataset]:
    return [phantom.instances(one)[2] for one in (phantom.SAGITTAL, phantom.AXIAL, phantom.CORONAL)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a released folder with three series, their pictures and their manifest; only to be copied."""
    released = tmp_path_factory.mktemp("prepared") / "released"
    folders = phantom.release(released, {T1: _t1(), EPI: _epi(), LOCALIZER: _localizer()})
    entries = [prepare_series(released, folder, released / "review") for folder in folders]
    write_manifest(released / "review" / "manifest.json", merge_entries(entries))
    return released


@pytest.fixture
def released(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "released"))


def _manifest(released: Path) -> Path:
    return released / "review" / "manifest.json"


def _entry(released: Path, name: str) -> Entry:
    return next(one for one in read_manifest(_manifest(released)).entries if one.entry_id == name.replace("/", "_"))


# -- what an entry says ------------------------------------------------------------------------------------------------


def test_an_entry_says_what_the_series_is(released: Path) -> None:
    entry = _entry(released, T1)
    assert entry.entry_id == "SUB-0001_ses-20040119_003_1a2b3c4d"
    assert (entry.subject, entry.visit, entry.series) == ("SUB-0001", "ses-20040119", "003_1a2b3c4d")
    assert entry.modality == "MR"
    assert entry.description == "MR 3D GR\\IR TR 2300 TE 2.98 TI 900, 9 slices"
    assert entry.sop_class == "1.2.840.10008.5.1.4.1.1.4"
    assert entry.transfer_syntax == "1.2.840.10008.1.2.1"
    assert entry.montage == "montage/SUB-0001_ses-20040119_003_1a2b3c4d.png"
    assert (released / "review" / entry.montage).read_bytes().startswith(b"\x89PNG")
    assert entry.geometry.verdict == "volume"
    assert not entry.faults
    assert _entry(released, EPI).description == "MR EP TE 30, 5 slices x 3 volumes"
    assert _entry(released, LOCALIZER).description == "MR, 3 pictures"


def test_instances_stand_in_slice_order_with_their_digests(released: Path) -> None:
    entry = _entry(released, EPI)
    places = []
    for record in entry.instances:
        path = released / "review" / record.path
        assert record.path.startswith(f"../export/{EPI}/")
        assert (record.sha256, record.size) == (file_digest(path), path.stat().st_size)
        dataset = pydicom.dcmread(path)
        places.append((dataset.AcquisitionTime, float(dataset.ImagePositionPatient[2])))
    assert len(places) == 15
    assert places == sorted(places)


def test_no_text_of_a_header_is_in_the_manifest_or_the_picture(released: Path) -> None:
    series = released / "export" / T1
    assert CANARY.encode() in next(series.iterdir()).read_bytes()
    for path in [_manifest(released), *(released / "review" / "montage").iterdir()]:
        for part in CANARY.split("^"):
            assert part.encode() not in path.read_bytes()


def test_coded_values_that_the_standard_does_not_know_are_not_repeated(tmp_path: Path) -> None:
    made = phantom.instances()
    for dataset in made:
        dataset.Modality = dataset.ScanningSequence = dataset.MRAcquisitionType = "COALMINE"
    (folder,) = phantom.release(tmp_path, {T1: made})
    for path in folder.iterdir():
        content = path.read_bytes()
        assert content.count(b"1.2.840.10008.5.1.4.1.1.4\0") == 2
        path.write_bytes(content.replace(b"1.2.840.10008.5.1.4.1.1.4\0", b"coalmine".ljust(26, b"\0")))
    assert "coalmine" not in json.dumps(prepare_series(tmp_path, folder, tmp_path / "review").to_json()).lower()


def test_a_series_that_cannot_be_shown_says_why(tmp_path: Path) -> None:
    made = phantom.instances()
    for dataset in made:
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
        dataset["PixelData"].VR = "OB"
    (folder,) = phantom.release(tmp_path, {T1: made})
    picture = tmp_path / "review" / "montage" / f"{T1.replace('/', '_')}.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"of an earlier run")
    entry = prepare_series(tmp_path, folder, tmp_path / "review")
    assert entry.montage is None
    assert entry.no_montage == "nothing could be decoded: codec-missing"
    assert [one.code for one in entry.problems] == ["codec-missing"] * 5
    assert entry.geometry.verdict == "volume"
    assert not picture.exists()


def test_a_folder_without_a_picture_is_an_entry_too(tmp_path: Path) -> None:
    folder = tmp_path / "export" / T1
    folder.mkdir(parents=True)
    assert [one.code for one in prepare_series(tmp_path, folder, tmp_path / "review").problems] == ["series-empty"]
    (folder / "junk.dcm").write_bytes(b"junk")
    entry = prepare_series(tmp_path, folder, tmp_path / "review")
    assert [one.code for one in entry.problems] == ["not-dicom"]
    assert len(entry.instances) == 1


def test_a_cut_off_instance_is_a_problem_of_its_entry(released: Path) -> None:
    path = min((released / "export" / T1).iterdir())
    path.write_bytes(path.read_bytes()[:-10])
    entry = prepare_series(released, released / "export" / T1, released / "review")
    assert [(one.code, one.files) for one in entry.problems] == [("truncated-pixels", (path.name,))]
    assert entry.montage is not None


def _text(dataset: Dataset) -> None:
    dataset.SeriesDescription = "another text"


def _pixel(dataset: Dataset) -> None:
    dataset.PixelData = bytes([dataset.PixelData[0] ^ 1]) + dataset.PixelData[1:]


def _spacing(dataset: Dataset) -> None:
    dataset.PixelSpacing = [dataset.PixelSpacing[0] * 1.01, dataset.PixelSpacing[1]]


def _slope(dataset: Dataset) -> None:
    dataset.RescaleSlope, dataset.RescaleIntercept = 2, 0


@pytest.mark.parametrize(
    ("change", "first_only", "is_another"),
    [(_text, False, False), (_pixel, True, True), (_spacing, False, True), (_slope, True, True)],
)
def test_the_digest_is_of_what_is_seen(
    change: Callable[[Dataset], None], first_only: bool, is_another: bool, tmp_path: Path
) -> None:
    made = phantom.instances()
    (folder,) = phantom.release(tmp_path / "before", {T1: made})
    before = prepare_series(tmp_path / "before", folder, tmp_path / "before" / "review").digest
    for dataset in made[:1] if first_only else made:
        change(dataset)
    (folder,) = phantom.release(tmp_path / "after", {T1: made})
    after = prepare_series(tmp_path / "after", folder, tmp_path / "after" / "review").digest
    assert (before != after) is is_another


def test_two_slices_that_changed_places_are_another_picture(tmp_path: Path) -> None:
    made = phantom.instances()
    (folder,) = phantom.release(tmp_path / "before", {T1: made})
    before = prepare_series(tmp_path / "before", folder, tmp_path / "before" / "review").digest
    made[0].PixelData, made[1].PixelData = made[1].PixelData, made[0].PixelData
    (folder,) = phantom.release(tmp_path / "after", {T1: made})
    assert prepare_series(tmp_path / "after", folder, tmp_path / "after" / "review").digest != before


# -- writing, merging, reading -----------------------------------------------------------------------------------------


def test_series_prepared_apart_make_the_same_bytes(released: Path, prepared: Path) -> None:
    review = released / "review"
    shutil.rmtree(review)
    folders = series_folders(released / "export")
    assert [folder.relative_to(released / "export").as_posix() for folder in folders] == sorted([T1, EPI, LOCALIZER])
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        entries = list(pool.map(prepare_series, [released] * 3, folders[::-1], [review] * 3))
    stored = [json.loads(json.dumps(entry.to_json())) for entry in entries]
    random.Random(1).shuffle(stored)
    write_manifest(_manifest(released), merge_entries(Entry.from_json(one) for one in stored))
    for path in sorted((prepared / "review").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (review / path.relative_to(prepared / "review")).read_bytes()


_words = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0"), min_size=1, max_size=12).filter(
    lambda one: one not in (".", "..")
)
_numbers = st.floats(-1e6, 1e6).map(lambda one: round(one, 6))
_findings = st.builds(Finding, code=st.sampled_from(sorted(CODES)), text=_words, files=st.tuples(_words))
_geometries = st.builds(
    Geometry,
    verdict=st.sampled_from(sorted(VERDICTS)),
    shape=st.none() | st.tuples(*[st.integers(1, 999)] * 4),
    spacing=st.tuples(*[st.none() | _numbers] * 3),
    affine=st.none() | st.tuples(*[st.tuples(*[_numbers] * 4)] * 4),
    volumes_by=st.lists(_words, max_size=2).map(tuple),
    findings=st.lists(_findings, max_size=2).map(tuple),
)
_digests = st.text("0123456789abcdef", min_size=64, max_size=64)
# What another program, or a later version, wrote beside our fields.
_unknown = st.dictionaries(_words.map(lambda one: f"x-{one}"), st.none() | _numbers | st.lists(_words), max_size=2)
_instances = st.builds(
    InstanceRecord,
    path=_words.map(lambda one: f"../export/{one}"),
    sha256=_digests,
    size=st.integers(0, 1 << 40),
    extra=_unknown,
)
_paths = st.none() | _words.map(lambda one: f"../nifti/sub-1/{one}")
_images = st.builds(
    ImageRecord,
    path=_words.map(lambda one: f"../nifti/sub-1/{one}"),
    sha256=_digests,
    size=st.integers(0, 1 << 40),
    shape=st.lists(st.integers(0, 999), max_size=4).map(tuple),
    **dict.fromkeys(("sidecar", "bval", "bvec"), _paths),
    **dict.fromkeys(("kind", "named_by"), _words),
    extra=_unknown,
)
_pictures = st.none() | _words.map(lambda one: f"montage/{one}.png")
_entries = st.builds(
    Entry,
    **dict.fromkeys(("subject", "visit", "series", "modality", "description", "no_montage"), _words),
    **dict.fromkeys(("no_images", "group"), _words),
    entry_id=_words,
    sop_class=_words,
    transfer_syntax=_words,
    instances=st.lists(_instances, max_size=3).map(tuple),
    geometry=_geometries,
    **dict.fromkeys(("montage", "thumbnail", "course"), _pictures),
    images=st.lists(_images, max_size=2).map(tuple),
    digest=_digests,
    problems=st.lists(_findings, max_size=2).map(tuple),
    extra=_unknown,
)


@given(st.lists(_entries, max_size=4, unique_by=lambda entry: entry.entry_id), _unknown)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Entry], unknown: dict[str, object]
) -> None:
    path = tmp_path_factory.mktemp("round") / "manifest.json"
    manifest = replace(merge_entries(entries), extra=unknown)
    write_manifest(path, manifest)
    assert read_manifest(path) == manifest, "fields that this version does not know included"
    assert not list(JUDGE.iter_errors(json.loads(path.read_bytes())))
    again = merge_entries(entries[::-1])
    assert again == merge_entries(entries)


JUDGE = Draft202012Validator(json.loads(SCHEMA.read_bytes()))


def test_the_schema_describes_every_field_and_refuses_what_is_none(released: Path) -> None:
    Draft202012Validator.check_schema(JUDGE.schema)
    content = json.loads(_manifest(released).read_bytes())
    assert not list(JUDGE.iter_errors(content))
    entry = content["entries"][0]
    for part, told in (
        (JUDGE.schema, content),
        (JUDGE.schema["$defs"]["entry"], entry),
        (JUDGE.schema["$defs"]["geometry"], entry["geometry"]),
        (JUDGE.schema["$defs"]["instance"], entry["instances"][0]),
        (JUDGE.schema["$defs"]["image"], ImageRecord(path="../nifti/a", sha256="0" * 64, size=0, shape=()).to_json()),
    ):
        assert part["properties"].keys() == told.keys() == set(part["required"])
    for spoilt in (
        {**content, "version": 2},
        {**content, "export": "/etc"},
        {**content, "nifti": "../../nifti"},
        {**content, "entries": [{**entry, "montage": 7}]},
        {**content, "entries": [{**entry, "entry_id": "a/b"}]},
        {**content, "entries": [{name: one for name, one in entry.items() if name != "group"}]},
    ):
        assert list(JUDGE.iter_errors(spoilt))


def test_the_same_acquisition_at_several_visits_stands_together(released: Path) -> None:
    entry = _entry(released, T1)

    def at(visit: str, group: str, subject: str = "SUB-0001") -> Entry:
        return replace(entry, entry_id=f"{subject}_{visit}_{group}", subject=subject, visit=visit, group=group)

    entries = [at("ses-2", "T1w"), at("ses-1", "T1w"), at("ses-1", "bold"), at("ses-1", ""), at("ses-2", "")]
    entries += [at("ses-1", "T1w", "SUB-0002")]
    together = [{"subject": "SUB-0001", "group": "T1w", "entries": ["SUB-0001_ses-1_T1w", "SUB-0001_ses-2_T1w"]}]
    assert merge_entries(entries).time_points() == together


def test_one_id_for_two_series_is_refused(released: Path) -> None:
    one, other = _entry(released, T1), _entry(released, EPI)
    clash = Entry.from_json({**other.to_json(), "entry_id": one.entry_id})
    assert merge_entries([one, one]).entries == (one,)
    with pytest.raises(ManifestError, match="different series"):
        merge_entries([one, clash])


def _written(content: object) -> bytes:
    return json.dumps(content).encode()


FORM: dict[str, object] = {
    "format": "scanward-review-manifest",
    "version": 1,
    "software": "0",
    "export": "../export",
    "nifti": "../nifti",
    "quality": None,
    "waiting": [],
    "entries": [],
}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"", "not JSON"),
        (b'{"format": "scanward-review-man', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no review manifest"),
        (b"{}", "no review manifest"),
        (_written({**FORM, "version": 2}), "version is not 1"),
        (_written({**FORM, "version": None}), "version is not 1"),
        (_written({key: FORM[key] for key in FORM if key != "entries"}), "field entries is missing"),
        (_written({**FORM, "entries": {}}), "not what it must be"),
        (_written({**FORM, "entries": [{}]}), "entry 1 lacks the field"),
        (_written({**FORM, "entries": [7]}), "entry 1 is not what it must be"),
        (_written({**FORM, "export": "/etc"}), "must be relative"),
        (_written({**FORM, "export": "../../export"}), "must be relative"),
    ],
)
def test_an_unusable_manifest_is_refused_with_a_sentence(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ManifestError, match=sentence) as fault:
        read_manifest(tmp_path / "manifest.json")
    assert fault.value.exit_code == 6


def test_a_manifest_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not there"):
        read_manifest(tmp_path / "manifest.json")
    with pytest.raises(ManifestError, match="folder"):
        read_manifest(tmp_path)


def _break(content: object, luck: random.Random) -> None:
    """Take one thing away from a JSON tree, or put another type in its place."""
    while isinstance(content, dict | list) and content:
        key = luck.choice(list(content) if isinstance(content, dict) else range(len(content)))
        inner = content[key]
        if not isinstance(inner, dict | list) or not inner or luck.random() < 0.2:
            if isinstance(content, dict) and luck.random() < 0.5:
                del content[key]
            else:
                content[key] = luck.choice([None, 7, "x", [], {}, -1.5, True])
            return
        content = inner


def test_a_broken_manifest_is_refused_or_read_but_never_crashes(released: Path) -> None:
    luck = random.Random(5)
    whole = _manifest(released).read_text("utf-8")
    refused = 0
    for _ in range(300):
        content = json.loads(whole)
        _break(content, luck)
        _manifest(released).write_text(json.dumps(content), "utf-8")
        try:
            read_manifest(_manifest(released))
        except ManifestError:
            refused += 1
    assert refused > 150


def test_an_entry_cannot_lead_outside(released: Path) -> None:
    content = json.loads(_manifest(released).read_text("utf-8"))
    for change in (
        {"entry_id": "../../etc"},
        {"montage": "/etc/passwd"},
        {"montage": "../../up.png"},
        {"instances": [{**content["entries"][0]["instances"][0], "path": "../export/../../up"}]},
    ):
        with pytest.raises(ValueError, match="must be"):
            Entry.from_json({**content["entries"][0], **change})


# -- the check ---------------------------------------------------------------------------------------------------------


def _check(released: Path) -> CheckReport:
    return check_manifest(_manifest(released))


def test_what_was_just_written_is_sound(released: Path) -> None:
    report = _check(released)
    assert report.is_sound
    assert (report.entries, report.instances, report.pictures) == (3, 27, 6), "a montage and a thumbnail each"
    assert report.counts() == {}
    assert report.manifest_sha256 == file_digest(_manifest(released))


def test_a_moved_release_is_as_sound(released: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "given away"
    moved.parent.mkdir()
    released.rename(moved)
    assert _check(moved).is_sound


def _instance(released: Path) -> Path:
    return sorted((released / "export" / T1).iterdir())[4]


def _flip_a_bit(released: Path) -> None:
    path = _instance(released)
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10
    path.write_bytes(content)


def _cut(released: Path) -> None:
    path = _instance(released)
    path.write_bytes(path.read_bytes()[:-2])


def _remove(released: Path) -> None:
    _instance(released).unlink()


def _link_in_a_circle(released: Path) -> None:
    path = _instance(released)
    path.unlink()
    path.symlink_to(path)


def _move_in_space(released: Path) -> None:
    """Change the position and let the manifest's digests agree, so that only the geometry can tell."""
    entry = _entry(released, T1)
    changed = []
    for record in entry.instances:
        path = released / "review" / record.path
        dataset = pydicom.dcmread(path)
        dataset.ImagePositionPatient[1] += 5
        phantom.save(dataset, path)
        changed.append(InstanceRecord(path=record.path, sha256=file_digest(path), size=path.stat().st_size))
    _rewrite(released, {T1: {"instances": [one.to_json() for one in changed]}})


def _swap_two(released: Path) -> None:
    instances = [one.to_json() for one in _entry(released, T1).instances]
    instances[2], instances[5] = instances[5], instances[2]
    _rewrite(released, {T1: {"instances": instances}})


def _rewrite(released: Path, changes: dict[str, dict[str, object]]) -> None:
    content = json.loads(_manifest(released).read_text("utf-8"))
    for entry in content["entries"]:
        for name, change in changes.items():
            if entry["entry_id"] == name.replace("/", "_"):
                entry.update(change)
    _manifest(released).write_text(json.dumps(content), "utf-8")


def _montage(released: Path) -> Path:
    return released / "review" / "montage" / f"{T1.replace('/', '_')}.png"


def _lose_a_montage(released: Path) -> None:
    _montage(released).unlink()


def _cut_a_montage(released: Path) -> None:
    _montage(released).write_bytes(_montage(released).read_bytes()[:-40])


def _add_a_file(released: Path) -> None:
    (released / "export" / T1 / "stranger.dcm").write_bytes(b"x")


def _add_a_folder(released: Path) -> None:
    shutil.copytree(released / "export" / EPI, released / "export" / "SUB-0009" / "ses-x" / "001_y")


def _lose_the_export(released: Path) -> None:
    shutil.rmtree(released / "export")


@pytest.mark.parametrize(
    ("sabotage", "found"),
    [
        (_flip_a_bit, {"digest-differs": 1}),
        (_cut, {"size-differs": 1, "geometry-differs": 0}),
        (_remove, {"instance-missing": 1, "geometry-differs": 1}),
        (_link_in_a_circle, {"unreadable": 1, "geometry-differs": 1}),
        (_move_in_space, {"geometry-differs": 1}),
        (_swap_two, {"geometry-differs": 1}),
        (_lose_a_montage, {"picture-missing": 1}),
        (_cut_a_montage, {"picture-damaged": 1}),
        (_add_a_file, {"not-listed": 1}),
        (_add_a_folder, {"not-listed": 15}),
        (_lose_the_export, {"instance-missing": 27, "geometry-differs": 3, "export-missing": 1}),
    ],
)
def test_every_sabotage_is_found(sabotage: Callable[[Path], None], found: dict[str, int], released: Path) -> None:
    sabotage(released)
    report = _check(released)
    assert not report.is_sound
    assert report.counts() == {code: count for code, count in found.items() if count}


@pytest.mark.parametrize("name", sorted(EXPORT_PAPERS))
def test_the_report_beside_the_subjects_is_no_image_that_is_missing_in_the_list(name: str, released: Path) -> None:
    (released / "export" / name).write_bytes(b"{}")
    assert _check(released).is_sound
    subject = next(path for path in (released / "export").iterdir() if path.is_dir())
    (subject / name).write_bytes(b"{}")
    assert _check(released).counts() == {"not-listed": 1}, "only there"


def test_all_faults_are_found_at_once(released: Path) -> None:
    for sabotage in (_flip_a_bit, _lose_a_montage, _add_a_file):
        sabotage(released)
    assert report_codes(_check(released)) == {"digest-differs", "picture-missing", "not-listed"}


def report_codes(report: CheckReport) -> set[str]:
    return set(report.counts())


def test_a_fault_that_the_manifest_records_is_reported_again(tmp_path: Path) -> None:
    made = phantom.instances()
    del made[2]
    (folder,) = phantom.release(tmp_path, {T1: made})
    entry = prepare_series(tmp_path, folder, tmp_path / "review")
    write_manifest(_manifest(tmp_path), merge_entries([entry]))
    report = check_manifest(_manifest(tmp_path))
    assert report.counts() == {"gap": 1}
    assert [one.entry_id for one in report.reports] == [entry.entry_id]


def test_an_empty_manifest_is_sound(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "review").mkdir()
    write_manifest(_manifest(tmp_path), Manifest(entries=()))
    assert check_manifest(_manifest(tmp_path)).is_sound


def test_each_number_of_the_geometry_is_compared(released: Path) -> None:
    geometry = _entry(released, T1).geometry.to_json()
    changes: list[dict[str, object]] = [
        {"affine": (np.array(geometry["affine"]) + 0.001).tolist()},
        {"spacing": [*geometry["spacing"][:2], geometry["spacing"][2] + 0.001]},
        {"shape": [2, *geometry["shape"][1:]]},
        {"verdict": "stack"},
        {"volumes_by": ["echo time"]},
        {"findings": [{"code": "tilted", "text": "x", "files": []}]},
    ]
    original = _manifest(released).read_bytes()
    for change in changes:
        _manifest(released).write_bytes(original)
        _rewrite(released, {T1: {"geometry": {**geometry, **change}}})
        assert report_codes(_check(released)) == {"geometry-differs"}, change
    _manifest(released).write_bytes(original)
    _rewrite(released, {T1: {"geometry": {**geometry, "affine": (np.array(geometry["affine"]) + 1e-9).tolist()}}})
    assert _check(released).is_sound

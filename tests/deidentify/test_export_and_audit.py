"""Nothing that was planted comes out, and what a faulty rewriter lets through stays in quarantine."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from tasks.deidentify import export as exporting
from tasks.deidentify.audit.compare import FINDINGS, Expectation, audit_file
from tasks.deidentify.export import AUDIT_PREFIX, VANISHED, export_files
from tasks.deidentify.harvest import harvest
from tasks.deidentify.ledger import ExportRow
from tasks.deidentify.plan import ExportOrder, Person, SortedFile, patients_of, plan_export, write_orders
from tasks.deidentify.profile import (
    DEFAULT_PROFILE,
    REFUSAL_REASONS,
    Action,
    Option,
    Profile,
    Rules,
)
from tasks.deidentify.reasons import QUARANTINE_REASONS, explain
from tasks.deidentify.rewrite import REFUSALS, Rewritten, rewrite
from tasks.errors import DiskFullError
from tasks.files import sweep_temporaries
from tasks.index.header import read_header
from tasks.index.row import IndexRow
from tests import strategies
from tests.builders.demo_dump import FileKind, write_demo_dump
from tests.builders.world import make_instance, write_instance
from tests.deidentify.canary_score import sightings
from tests.deidentify.canary_set import LEVELS, plant_file
from tests.deidentify.images import image, nested, text
from tests.deidentify.oracle import IDENTITY, SUBJECT, read, values
from tests.dicom.encoder import Leaf, Node
from tests.dicom.mutator import mutate
from tests.dicom.oracle import PYDICOM_FILES

CODES = tuple(code for code, _ in DEFAULT_PROFILE.codes())
EXPECTED = Expectation(
    pseudonym=SUBJECT.pseudonym,
    shift_days=SUBJECT.shift_days,
    identifiers=frozenset(),
    uids=frozenset(),
    codes=CODES,
)


@dataclasses.dataclass
class Place:
    """A workspace with a sorted tree of the given files, named by number."""

    root: Path

    @property
    def export(self) -> Path:
        return self.root / "export"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    def put(self, contents: Iterable[bytes]) -> tuple[list[ExportOrder], dict[str, Person]]:
        """Place the files, read their heads as the index does, and plan their export."""
        tree = self.root / "sorted"
        tree.mkdir(parents=True, exist_ok=True)
        files = []
        harvests = {}
        for number, content in enumerate(contents):
            name = f"{number:05d}.dcm"
            harvests[name] = harvest(content)
            (tree / name).write_bytes(content)
            row = read_header(os.fsencode(tree), name.encode())
            assert isinstance(row, IndexRow), row
            files.append(SortedFile(source=name, identity=str(number), row=row, owner=row.shared))
        patients = patients_of(files)
        subjects = {
            patient: dataclasses.replace(SUBJECT, pseudonym=f"SUB-{number:04d}")
            for number, patient in enumerate(sorted(patients), 1)
        }
        return plan_export(patients, subjects, IDENTITY, harvests, dates=DEFAULT_PROFILE.temporal_information())

    def run(
        self, orders: list[ExportOrder], people: dict[str, Person], profile: object = DEFAULT_PROFILE
    ) -> list[ExportRow]:
        return export_files(
            orders,
            people,
            sorted_tree=self.root / "sorted",
            export=self.export,
            quarantine=self.quarantine,
            profile=profile,  # type: ignore[arg-type]
            identity=IDENTITY,
            advance=lambda count: None,
        )

    def exported(self) -> dict[str, str]:
        """Return the digest of every file in the export, by name."""
        return {
            path.relative_to(self.export).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.export.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(root=tmp_path / "workspace")


# ---- canaries


def check_canaries(place: Place, sources: Iterable[bytes]) -> list[ExportRow]:
    """Plant in each source, export all, and find nothing; everything that was planted stood in the source."""
    planted = []
    birds = {}
    for source in sources:
        content, aviary = plant_file(source)
        planted.append(content)
        birds |= aviary.planted
    orders, people = place.put(planted)
    assert len(birds) > 200
    for content in planted:
        # The same canaries stand in every file.
        single = place.root / "single"
        single.mkdir(exist_ok=True)
        (single / "file").write_bytes(content)
        seen = {sighting.rpartition(", ")[0] for sighting in sightings(single, birds)}
        assert birds.keys() - seen == set()
    rows = place.run(orders, people)
    assert Counter(row.reason for row in rows) == {"": len(planted)}
    assert len(place.exported()) == len(planted)
    assert sightings(place.export, birds) == []
    return rows


def test_no_canary_leaves_with_files_of_pydicom(place: Place) -> None:
    """Classic MR and CT, in implicit and explicit VR, in both byte orders, and compressed in three ways."""
    names = ("MR_small", "MR_small_implicit", "MR_small_bigendian", "MR_small_RLE", "MR_small_jp2klossless", "693_J2KI")
    rows = check_canaries(place, [(PYDICOM_FILES / "test_files" / f"{name}.dcm").read_bytes() for name in names])
    assert [row.by_pydicom for row in rows].count("big-endian") == 1


def test_no_canary_leaves_with_images_of_any_syntax(place: Place) -> None:
    folder = place.root / "made"
    folder.mkdir(parents=True)
    syntaxes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
    sources = [
        write_instance(folder / str(number), make_instance(instance=number), transfer_syntax=syntax).read_bytes()
        for number, syntax in enumerate(syntaxes, 1)
    ]
    # A deflated file is searched for what it holds when it is inflated, so it goes its own way.
    check_canaries(place, sources[:3])
    content, birds = plant_file(sources[3])
    deflated = Place(root=place.root / "deflated")
    orders, people = deflated.put([content])
    (row,) = deflated.run(orders, people)
    assert (row.reason, row.by_pydicom) == ("", "deflated")
    assert sightings(deflated.export, birds.planted) == []


REAL_FILES = (
    "dcm_qa_nih/In/20180918GE/mr_0004/*-00036.dcm",
    "dcm_qa_stc/In/GE/RTIAold/15_Zugfahrt/0054.dcm",
    "dcm_qa_stc/In/Siemens/B17/6_ax_asc_35sl/*",
    "dcm_qa_enh/In/Siemens/XA10/6_2.dcm",
    "dcm_qa_philips/In/Magdeburg_2014/fmri/*",
    "dcm_qa_stc/In/UIH/R002/12_dti_tra_dir16_PA_rot/0001.dcm",
    "pydicom-data/data_store/data/MR2_J2KI.dcm",
    "pydicom-data/data_store/data/emri_small_RLE.dcm",
    "pydicom-data/data_store/data/emri_small_jpeg_ls_lossless.dcm",
)
"""GE, Siemens (mosaic, enhanced), Philips, UIH; compressed ones; the first match of each is taken."""

MORE_REAL_FILES = (
    "dcm_qa_enh/In/Philips/*.dcm",
    "dcm_qa_philips/In/Vanderbilt_2018/*/*",
    "dcm_qa_nih/In/20180918Si/*/*",
    "dcm_qa_stc/In/GE/*/*/*",
    "dcm_qa_stc/In/Siemens/*/*/*",
    "dcm_qa_uih/In/DTI_132225/*/*.dcm",
)


def first_matches(root: Path, patterns: Iterable[str], *, each: int) -> list[bytes]:
    found = []
    for pattern in patterns:
        matches = sorted(path for path in root.glob(pattern) if path.is_file() and path.suffix in ("", ".dcm", ".IMA"))
        assert matches, pattern
        found += [
            path.read_bytes() for path in matches[: each * max(1, len(matches) // each) : max(1, len(matches) // each)]
        ]
    return found


def test_no_canary_leaves_with_real_files(place: Place, scanner_data: Path) -> None:
    sources = first_matches(scanner_data, REAL_FILES, each=1)
    assert len(sources) == len(REAL_FILES)
    check_canaries(place, sources)


@pytest.mark.long
def test_no_canary_leaves_with_more_real_files(place: Place, scanner_data: Path) -> None:
    check_canaries(place, first_matches(scanner_data, (*REAL_FILES, *MORE_REAL_FILES), each=5))


def test_what_describes_the_acquisition_leaves(place: Place) -> None:
    """The search must not be clean because nothing came out: four levels down the numbers still stand."""
    content, _ = plant_file(image())
    (order,), people = place.put([content])
    place.run([order], people)
    found = values(read((place.export / order.target).read_bytes()))
    level: tuple[int, ...] = ()
    for depth, tag in enumerate(LEVELS, 1):
        level = (*level, tag, 1)
        assert found[*level, 0x00180050].raw.strip() == str(depth).encode()


def test_nothing_that_identifies_anybody_leaves_with_the_demo_dump(place: Place, tmp_path: Path) -> None:
    """Names in several scripts, one patient under two IDs, a name in a description, classic and enhanced images."""
    contents = write_demo_dump(tmp_path / "dump", small=True)
    files = [file for file in contents.files if file.kind in (FileKind.PATIENT_IMAGE, FileKind.CONFLICT)]
    chosen = [file for number, file in enumerate(files) if number % 4 == 0 or file.enhanced]
    orders, people = place.put([(tmp_path / "dump" / file.name).read_bytes() for file in chosen])
    rows = place.run(orders, people)
    assert Counter(row.reason for row in rows) == {"": len(chosen)}
    planted = {
        f"{patient.number}: {value}": value for patient in contents.patients for value in patient.identifying_values()
    }
    assert len(planted) > 60
    assert sightings(place.export, planted) == []
    raw = {form for patient in contents.patients for those in patient.identifying_bytes().values() for form in those}
    for path in place.export.rglob("*.dcm"):
        content = path.read_bytes()
        assert [form for form in raw if form in content] == []


def test_the_audit_refuses_what_no_rule_can_know(place: Place) -> None:
    """A name in an attribute that is kept, a date in a software's version, an ID as a coil's name, in any writing."""
    base = make_instance(PatientName="Canaryfamily^Jane=山田金糸雀^太郎", PatientID="SYN-4711")
    stowaways = {
        "Manufacturer": "for Canaryfamily",
        "ManufacturerModelName": "CANARYFAMILY",
        "ReceiveCoilName": "syn-4711",
        "SoftwareVersions": "山田金糸雀 1.0",
        "ConvolutionKernel": f"of {base.StudyDate}",
        "TransmitCoilName": "CANARYFAMILY",
    }
    sources = []
    for number, (keyword, value) in enumerate(stowaways.items(), 1):
        dataset = copy.deepcopy(base)
        dataset.InstanceNumber = str(number)
        setattr(dataset, keyword, value)
        path = place.root / f"made{number}"
        path.parent.mkdir(exist_ok=True)
        sources.append(write_instance(path, dataset).read_bytes())
    for source in sources:
        # The rewriter is not told of the patient's names, which it would mask.
        export = rewrite(source, profile=DEFAULT_PROFILE, identity=IDENTITY, subject=SUBJECT).content
        found = audit_file(source, export, EXPECTED)
        assert found
        assert set(found) <= {"identifier", "date"}


# ---- damage


def test_a_damaged_file_that_passes_the_audit_holds_nothing_of_the_patient(place: Place) -> None:
    """Bits flipped, lengths changed, pieces repeated: what the index knows of the patient never leaves."""
    known = {"CANARYFAMILY", "CANARYGIVEN", "CANARYID1", "CANARYACC", "CANARYPLACE", "1.2.840.99999.77.1"}
    nodes: list[Node] = [
        text(0x00080050, "SH", "CANARYACC"),
        text(0x00080080, "LO", "CANARYPLACE"),
        text(0x00081030, "LO", "of CANARYFAMILY"),
        text(0x00090010, "LO", "CANARYID1"),
        text(0x00091010, "LO", "CANARYFAMILY"),
        text(0x00100010, "PN", "CANARYFAMILY^CANARYGIVEN"),
        text(0x00100020, "LO", "CANARYID1"),
        nested(0x00189112, (text(0x00080080, "LO", "CANARYPLACE"), text(0x00081155, "UI", "1.2.840.99999.77.1"))),
        nested(0x00189114, (text(0x00100010, "PN", "CANARYFAMILY"),), (), undefined=True, items_undefined=True),
    ]
    seeds = {f"explicit {explicit}": image(*nodes, explicit=explicit) for explicit in (True, False)}
    identifiers = frozenset(value for value in known if not value.startswith("1.2"))
    expected = dataclasses.replace(EXPECTED, identifiers=identifiers, uids=frozenset({"1.2.840.99999.77.1"}))
    passed = Counter[bool]()
    for number in range(3000):
        what, source = mutate(seeds, number)
        try:
            export = rewrite(source, profile=DEFAULT_PROFILE, identity=IDENTITY, subject=SUBJECT).content
        except exporting.RefusalError:
            continue
        findings = audit_file(source, export, expected)
        passed[not findings] += 1
        if not findings:
            lowered = export.lower()
            assert [value for value in known if value.lower().encode() in lowered] == [], what
    assert passed[True] > 300
    assert passed[False] > 5


@given(strategies.image_elements(posing=False), st.booleans())
def test_the_audit_has_nothing_to_say_of_a_right_export(nodes: list[Node], explicit: bool) -> None:
    """But of names and dates in texts that are kept, which no rule can know."""
    source = image(*nodes, explicit=explicit)
    export = rewrite(source, profile=DEFAULT_PROFILE, identity=IDENTITY, subject=SUBJECT).content
    assert set(audit_file(source, export, EXPECTED)) <= {"date", "identifier"}


@pytest.mark.parametrize("explicit", [True, False])
def test_a_number_of_the_wrong_length_does_not_hold_its_file_back(place: Place, explicit: bool) -> None:
    """Such are written by old scanners, in private elements above all; nobody has to read the number."""
    damaged = Leaf(tag=0x00720082, vr="SV", value=b"1 ")
    private = (text(0x00090010, "LO", "GEMS_IDEN_01"), nested(0x00091001, (damaged,), undefined=True))
    (row,) = place.run(*place.put([image(damaged, *private, explicit=explicit)]))
    assert row.reason == ""


# ---- options


DATES = (None, Option.RETAIN_LONGITUDINAL_FULL_DATES, Option.RETAIN_LONGITUDINAL_MODIFIED_DATES)
OTHER_OPTIONS = sorted(set(Option) - set(DATES), key=lambda option: option.column)
CHOICES = [frozenset(filter(None, (dates, *more))) for dates in DATES for more in ((), OTHER_OPTIONS)]
CHOICES += [frozenset({option}) for option in OTHER_OPTIONS]


@pytest.mark.parametrize("options", CHOICES, ids=lambda chosen: "+".join(sorted(one.code for one in chosen)) or "none")
def test_every_option_that_is_offered_passes_the_audit(options: frozenset[Option], scanner_data: Path) -> None:
    """Real files of each maker: what an option leaves is no finding, and what it does not leave is not there."""
    profile = Profile(options=options)
    codes = tuple(code for code, _ in profile.codes())
    seen = 0
    for source in one_file_of_each_series(scanner_data):
        content = source.read_bytes()
        result = rewrite(content, profile=profile, identity=IDENTITY, subject=SUBJECT)
        expected = dataclasses.replace(EXPECTED, identifiers=frozenset(), uids=frozenset(), codes=codes)
        assert audit_file(content, result.content, expected) == [], source.parent.name
        before, after = (pydicom.dcmread(io.BytesIO(one)) for one in (content, result.content))
        kept_uids = Option.RETAIN_UIDS in options
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            assert (after[name].value == before[name].value) == kept_uids
        assert ("StationName" in after) <= (Option.RETAIN_DEVICE_IDENTITY in options)
        assert (after.get("InstitutionName", "") == before.get("InstitutionName", "?")) <= (
            Option.RETAIN_INSTITUTION_IDENTITY in options
        )
        if str(before.get("StudyDate", "")).isdigit():
            full = Option.RETAIN_LONGITUDINAL_FULL_DATES in options
            assert (after.get("StudyDate", "") == before.StudyDate) == full
        assert any(element.tag.is_private for element in after) <= (Option.RETAIN_SAFE_PRIVATE in options)
        seen += 1
    assert seen >= 8


def one_file_of_each_series(scanner_data: Path) -> Iterator[Path]:
    """Yield a file of some series of each maker."""
    for series in (
        *("dcm_qa_enh/In/Philips", "dcm_qa_enh/In/Siemens/XA10", "dcm_qa_nih/In/20180918Si/mr_0003"),
        *("dcm_qa_nih/In/20180918GE/mr_0004", "dcm_qa_stc/In/GE/TriggerTime/4_epi_ascending"),
        *("dcm_qa_stc/In/Siemens/B15/2_ep2d_DTI_20_dir_AP", "dcm_qa_stc/In/UIH/R002/12_dti_tra_dir16_PA_rot"),
        *("dcm_qa_philips/In/Magdeburg_2014/fmri", "dcm_qa_stc/In/Siemens/E11/7_Rest_fMRI_AP"),
    ):
        yield next(path for path in sorted((scanner_data / series).iterdir()) if path.read_bytes()[128:132] == b"DICM")


# ---- sabotage of the rules


class WrongProfile:
    """The default profile, with some attributes of the top level decided otherwise."""

    options = DEFAULT_PROFILE.options
    keeps_uids = DEFAULT_PROFILE.keeps_uids
    regions = ()
    vocabulary = DEFAULT_PROFILE.vocabulary
    temporal_information = staticmethod(DEFAULT_PROFILE.temporal_information)

    def __init__(self, decided: dict[int, Action]) -> None:
        self._decided = decided

    def actions(self, sop_class_uid: str) -> Rules:
        rules = copy.copy(DEFAULT_PROFILE.actions(sop_class_uid))
        rules.by_tag = rules.by_tag | self._decided
        return rules

    def codes(self) -> list[tuple[str, str]]:
        return DEFAULT_PROFILE.codes()


WRONG_DECISIONS = [
    ({0x00101000: Action.KEEP}, "identifier"),  # Patient ID among Other Patient IDs
    ({0x00100010: Action.KEEP}, "pseudonym"),
    ({0x00100020: Action.KEEP}, "pseudonym"),
    ({0x00100010: Action.EMPTY}, "pseudonym"),
    ({0x00100020: Action.REMOVE}, "pseudonym"),
    ({0x00080050: Action.KEEP}, "identifier"),
    ({0x00080080: Action.KEEP}, "identifier"),
    ({0x00080090: Action.KEEP}, "identifier"),
    ({0x00081030: Action.KEEP}, "identifier"),  # a name in a description
    ({0x00104000: Action.KEEP}, "date"),  # a date in a comment
    ({0x00181000: Action.KEEP}, "identifier"),
    ({0x00080020: Action.KEEP}, "date"),
    ({0x00100030: Action.KEEP}, "date"),
    ({0x0008002A: Action.KEEP}, "date"),
    ({0x00080018: Action.KEEP}, "uid"),
    ({0x0020000D: Action.KEEP}, "uid"),
    ({0x00200052: Action.KEEP}, "uid"),
    ({0x00101010: Action.KEEP}, "age"),
    ({0x60003000: Action.KEEP}, "overlay"),
    ({0x50003000: Action.KEEP}, "overlay"),
    ({0x00880200: Action.CLEAN_SEQUENCE}, "overlay"),
    ({0x7FE00010: Action.DUMMY}, "pixel-data"),
    ({0x7FE00010: Action.REMOVE}, "pixel-data"),
    ({0x00180050: Action.REMOVE}, "lost"),
    ({0x00280010: Action.DATE}, "pixel-excess"),
    ({0x00080070: Action.PSEUDONYM}, "value"),
    ({0x00400275: Action.CLEAN_SEQUENCE, 0x00104000: Action.KEEP}, "identifier"),
]


def full_image() -> bytes:
    name = "Canaryfamily^Jane"
    return image(
        text(0x0008002A, "DT", "20200229101112.5"),
        text(0x00080050, "SH", "CANARYACC"),
        text(0x00080080, "LO", "Canary Hospital"),
        text(0x00080090, "PN", "Canaryreferrer"),
        text(0x00081030, "LO", "brain of Canaryfamily"),
        text(0x00100010, "PN", name),
        text(0x00100020, "LO", "CANARY-4711"),
        text(0x00100030, "DA", "19310215"),
        text(0x00101000, "LO", "CANARY-4711\\OTHER-12"),
        text(0x00101010, "AS", "093Y"),
        text(0x00104000, "LT", "Canaryfamily, born 1931-02-15"),
        text(0x00181000, "LO", "SERIAL7777"),
        text(0x00200052, "UI", "1.2.840.99999.5"),
        text(0x50003000, "OW", b"curve"),
        text(0x60003000, "OW", b"overlay "),
        nested(0x00400275, (text(0x00400007, "LO", name),)),
        nested(0x00880200, (text(0x00280010, "US", b"\1\0"),)),
    )


def test_the_right_rules_pass(place: Place) -> None:
    (row,) = place.run(*place.put([full_image()]))
    assert row.reason == ""
    assert list(place.exported().values()) == [row.digest]


@pytest.mark.parametrize(("decided", "code"), WRONG_DECISIONS, ids=str)
def test_a_wrong_rule_is_noticed_and_nothing_leaves(place: Place, decided: dict[int, Action], code: str) -> None:
    (order,), people = place.put([full_image()])
    (row,) = place.run([order], people, WrongProfile(decided))
    assert row.reason.startswith(AUDIT_PREFIX)
    assert code in row.reason.removeprefix(AUDIT_PREFIX).split("+")
    assert row.digest == ""
    assert place.exported() == {}
    assert (place.quarantine / order.target).is_file()
    assert (place.quarantine / order.target).parent.stat().st_mode & 0o077 == 0


def test_codes_of_another_profile_are_noticed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rewriter follows the plain profile and says so, where the default one was asked for."""

    def plain(source: bytes, **how: object) -> Rewritten:
        return rewrite(source, **{**how, "profile": Profile(options=frozenset())})  # type: ignore[arg-type]

    monkeypatch.setattr(exporting, "rewrite", plain)
    (row,) = place.run(*place.put([full_image()]))
    assert "codes" in row.reason.removeprefix(AUDIT_PREFIX).split("+")
    assert place.exported() == {}


# ---- sabotage of the bytes


def _cut(content: bytes) -> bytes:
    return content[:-100]


def _empty(content: bytes) -> bytes:
    return b""


def _other(content: bytes) -> bytes:
    return b"no DICOM at all" * 100


def _keep_preamble(content: bytes) -> bytes:
    return b"Canaryfamily".ljust(128) + content[128:]


def _add_private(content: bytes) -> bytes:
    end = content.index(b"\x10\0\x10\0PN")
    return content[:end] + b"\x09\0\x10\0LO\x04\0ACME\x09\0\x01\x10LO\x04\0kept" + content[end:]


def _lose_stamps(content: bytes) -> bytes:
    begin, end = content.index(b"\x12\0\x62\0CS"), content.index(b"\x18\0\x50\0DS")
    return content[:begin] + content[end:]


def _name_another_instance(content: bytes) -> bytes:
    at = content.index(b"2.25.") + 8
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def _flip_a_pixel(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 0x40]) + content[-8:]


def _change_a_number(content: bytes) -> bytes:
    return content.replace(b"\x18\0\x50\0DS\x04\0001.5 ", b"\x18\0\x50\0DS\x04\0002.5 ")


def _move_a_date(content: bytes) -> bytes:
    return content.replace(b"DA\x08\x0020170604", b"DA\x08\x0020170605")


def _add_the_true_date(content: bytes) -> bytes:
    return content.replace(b"DA\x08\x0020170604", b"DA\x12\x0020170604\\20200229 ")


def _add_another_uid(content: bytes) -> bytes:
    at = content.index(b"\x20\0\x0e\0UI")
    length = int.from_bytes(content[at + 6 : at + 8], "little")
    more = b"\\1.2.34567"
    end = at + 8 + length
    value = content[at + 8 : end].rstrip(b"\0") + more
    value += b"\0" * (len(value) % 2)
    return content[: at + 6] + len(value).to_bytes(2, "little") + value + content[end:]


def _say_the_name_twice(content: bytes) -> bytes:
    at = content.index(b"\x18\0\x50\0DS")
    return content[:at] + b"\x10\0\x20\0LO\x0c\0CANARY-4711 " + content[at:]


SABOTAGE = [
    (_cut, "structure"),
    (_empty, "unreadable"),
    (_other, "unreadable"),
    (_keep_preamble, "preamble"),
    (_add_private, "private"),
    (_lose_stamps, "stamps"),
    (_name_another_instance, "file-meta"),
    (_flip_a_pixel, "pixel-data"),
    (_change_a_number, "value"),
    (_move_a_date, "date"),
    (_add_the_true_date, "date"),
    (_add_another_uid, "uid"),
    (_say_the_name_twice, "identifier"),
]


@pytest.mark.parametrize(("damage", "code"), SABOTAGE, ids=lambda one: getattr(one, "__name__", one))
def test_a_faulty_rewriter_is_noticed_and_nothing_leaves(
    place: Place, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes], code: str
) -> None:
    """One of three files is written wrong; the others are none the worse for it."""
    sources = [image(text(0x00100020, "LO", "CANARY-4711"), text(0x00200013, "IS", str(number))) for number in range(3)]

    def faulty(source: bytes, **how: object) -> Rewritten:
        result = rewrite(source, **how)  # type: ignore[arg-type]
        if source != sources[1]:
            return result
        spoiled = damage(result.content)
        assert spoiled != result.content
        return dataclasses.replace(result, content=spoiled)

    monkeypatch.setattr(exporting, "rewrite", faulty)
    orders, people = place.put(sources)
    rows = {row.source: row for row in place.run(orders, people)}
    wrong = rows.pop("00001.dcm")
    assert code in wrong.reason.removeprefix(AUDIT_PREFIX).split("+")
    assert place.exported() == {row.target: row.digest for row in rows.values()}
    assert len(rows) == 2


# ---- the act itself


def test_the_same_orders_give_the_same_tree_again(place: Place) -> None:
    orders, people = place.put([image(text(0x00200013, "IS", str(number))) for number in range(5)])
    first = place.run(orders, people)
    tree = place.exported()
    assert tree == {row.target: row.digest for row in first}
    assert place.run(orders, people) == first
    assert place.run(list(reversed(orders)), people) == list(reversed(first))
    assert place.exported() == tree
    assert not place.quarantine.exists()


def test_progress_is_told_file_by_file(place: Place) -> None:
    orders, people = place.put([image(), image()[:500]])
    told: list[int] = []
    rows = export_files(
        orders,
        people,
        sorted_tree=place.root / "sorted",
        export=place.export,
        quarantine=place.quarantine,
        profile=DEFAULT_PROFILE,
        identity=IDENTITY,
        advance=told.append,
    )
    assert told == [1, 1]
    assert [row.source for row in rows] == [order.source for order in orders]


def test_what_is_refused_later_is_taken_out_of_the_export_and_what_passes_later_out_of_quarantine(place: Place) -> None:
    (order,), people = place.put([full_image()])
    place.run([order], people)
    assert list(place.exported()) == [order.target]
    place.run([order], people, WrongProfile({0x00080050: Action.KEEP}))
    assert place.exported() == {}
    assert (place.quarantine / order.target).is_file()
    place.run([order], people)
    assert list(place.exported()) == [order.target]
    assert [path for path in place.quarantine.rglob("*") if path.is_file()] == []


def test_files_that_are_gone_or_refused_are_told_by_reason(place: Place) -> None:
    sources = [image(), image(text(0x00080060, "CS", "OT")), image()[:-1], image()]
    orders, people = place.put(sources)
    (place.root / "sorted" / "00000.dcm").unlink()
    rows = {row.source: row for row in place.run(orders, people)}
    assert [rows[f"0000{number}.dcm"].reason for number in range(4)] == [
        VANISHED, "modality-mismatch", "truncated", "",
    ]  # fmt: skip
    assert list(place.exported()) == [rows["00003.dcm"].target]
    # Their sources lie in the sorted tree, so there is nothing to keep a second time.
    assert not place.quarantine.exists()


def test_a_run_killed_in_the_middle_leaves_whole_files_and_a_second_run_the_same_tree(place: Place) -> None:
    orders, people = place.put([image(text(0x00200013, "IS", str(number))) for number in range(12)])
    place.run(orders, people)
    whole = place.exported()
    other = Place(root=place.root / "other")
    again, same_people = other.put([image(text(0x00200013, "IS", str(number))) for number in range(12)])
    assert again == orders
    dying = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tasks.deidentify import export\n"
        "from tasks.deidentify.identity import Identity\n"
        "from tasks.deidentify.plan import read_orders\n"
        "from tasks.deidentify.profile import DEFAULT_PROFILE\n"
        "root, left = Path(sys.argv[1]), int(sys.argv[2])\n"
        "real = os.replace\n"
        "def replace(*names):\n"
        "    global left\n"
        "    left -= 1\n"
        "    if left < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(*names)\n"
        "export.os.replace = replace\n"
        "export.export_files(*read_orders(root / 'orders'), sorted_tree=root / 'sorted', export=root / 'export',\n"
        "    quarantine=root / 'quarantine', profile=DEFAULT_PROFILE, identity=Identity(bytes(range(32))),\n"
        "    advance=lambda count: None)\n"
    )
    write_orders(other.root / "orders", orders, same_people)
    ended = subprocess.run([sys.executable, "-c", dying, str(other.root), "7"], capture_output=True, check=False)
    assert ended.returncode == -9, ended.stderr.decode()
    left = other.exported()
    finished = {name: digest for name, digest in left.items() if not Path(name).name.startswith(".")}
    assert len(finished) == 7
    assert finished.items() <= whole.items()
    assert sweep_temporaries(other.export) == 1
    other.run(orders, same_people)
    assert other.exported() == whole


def test_a_full_disk_leaves_no_part_of_a_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    orders, people = place.put([image()])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting.os, "fsync", full)
    with pytest.raises(DiskFullError):
        place.run(orders, people)
    assert place.exported() == {}


# ---- words


def test_every_reason_has_a_sentence() -> None:
    for code in (*REFUSALS, *REFUSAL_REASONS, VANISHED):
        assert explain(code) == QUARANTINE_REASONS[code]
    for code, sentence in FINDINGS.items():
        assert explain(AUDIT_PREFIX + code) == QUARANTINE_REASONS[AUDIT_PREFIX + code]
        assert explain(f"{AUDIT_PREFIX}{code}+uid").startswith(f"The audit refused it: {sentence} A UID ")
    assert all(sentence.endswith(".") for sentence in QUARANTINE_REASONS.values())
    with pytest.raises(KeyError):
        explain("no such reason")

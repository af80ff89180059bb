"""Write content items and codes byte by byte, and de-identify the images that hold them."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence

import pydicom
from pydicom.dataset import Dataset, FileDataset

from tasks.deidentify.audit.compare import Expectation, audit_file
from tasks.deidentify.identity import Identity, Subject
from tasks.deidentify.profile import Profile
from tasks.deidentify.rewrite import rewrite
from tests.deidentify.images import image, nested, text
from tests.dicom.encoder import Nested, Node
from tests.dicom.oracle import compare

SUBJECT = Subject(pseudonym="SUB-0003", shift_days=-1000)
IDENTITY = Identity(bytes(range(32)))

STRUCTURED = "clean_structured_content"
DESCRIPTORS = "clean_descriptors"
MODIFIED, FULL = "retain_longitudinal_modified_dates", "retain_longitudinal_full_dates"
CHARACTERISTICS = "retain_patient_characteristics"

ACQUISITION_CONTEXT, CONTENT, ANNOTATIONS = 0x00400555, 0x0040A730, 0x0040B020
CONCEPT_NAME, CONCEPT_CODE, UNITS, MEASURED = 0x0040A043, 0x0040A168, 0x004008EA, 0x0040A300

FREE_TEXT = "Frau Zwiebelhuber, brain T1"
CLEANED_TEXT = "X, brain T1"
PERSON = "Zwiebelhuber^Anna"
REFERENCED = "1.2.826.0.1.3680043.8.498.77.99"
DAY, MOVED_DAY = "20200229", "20170604"
CLOCK = "101112.5"

Code = tuple[str, str, str]
"""Code value, coding scheme designator, code meaning."""

UNIT: Code = ("mm", "UCUM", "mm")
YEARS: Code = ("a", "UCUM", "year")
LIVER: Code = ("10200004", "SCT", "Liver")
FINDING: Code = ("121071", "DCM", "Finding")
LENGTH: Code = ("410668003", "SCT", "Length")


def code(value: str, scheme: str, meaning: str, *more: Node) -> tuple[Node, ...]:
    """Write the item of a code sequence."""
    nodes: list[Node] = [text(0x00080100, "SH", value)] if len(value) <= 16 else [text(0x00080119, "UC", value)]
    nodes += [text(0x00080102, "SH", scheme), text(0x00080104, "LO", meaning), *more]
    return tuple(sorted(nodes, key=lambda node: node.tag))


def number_of(value: str, *units: Code) -> Nested:
    """Write Measured Value Sequence."""
    return nested(MEASURED, (nested(UNITS, *(code(*unit) for unit in units)), text(0x0040A30A, "DS", value)))


def reference(uid: str = REFERENCED) -> Nested:
    """Write Referenced SOP Sequence."""
    image = (text(0x00081150, "UI", "1.2.840.10008.5.1.4.1.1.4"), text(0x00081155, "UI", uid))
    return nested(0x00081199, image)


def value_of(value_type: str) -> tuple[Node, ...]:
    """Write a value that points at somebody, or could."""
    return {
        "CODE": (nested(CONCEPT_CODE, code(*LIVER)),),
        "COMPOSITE": (reference(),),
        "CONTAINER": (text(0x0040A050, "CS", "SEPARATE"),),
        "DATE": (text(0x0040A121, "DA", DAY),),
        "DATETIME": (text(0x0040A120, "DT", DAY + CLOCK),),
        "IMAGE": (reference(),),
        "NUM": (number_of("45", YEARS),),
        "PNAME": (text(0x0040A123, "PN", PERSON),),
        "TEXT": (text(0x0040A160, "UT", FREE_TEXT),),
        "TIME": (text(0x0040A122, "TM", CLOCK),),
        "UIDREF": (text(0x0040A124, "UI", REFERENCED),),
        "WAVEFORM": (reference(),),
    }[value_type]


def item(value_type: str, concept: Code | None, *values: Node, relationship: str = "CONTAINS") -> tuple[Node, ...]:
    """Write a content item; without values, with the one that `value_of` gives."""
    nodes: list[Node] = [text(0x0040A010, "CS", relationship)]
    nodes += [text(0x0040A040, "CS", value_type)] if value_type else []
    nodes += [nested(CONCEPT_NAME, code(*concept))] if concept else []
    nodes += values or value_of(value_type)
    return tuple(sorted(nodes, key=lambda node: node.tag))


def in_form(nodes: Sequence[Node], **form: bool) -> tuple[Node, ...]:
    """Write all sequences in nodes, however deep, in a form: lengths undefined, or VR unknown."""
    return tuple(
        Nested(tag=node.tag, items=tuple(in_form(inside, **form) for inside in node.items), **form)
        if isinstance(node, Nested)
        else node
        for node in nodes
    )


def picture(*nodes: Node, explicit: bool = True) -> bytes:
    """Write an MR image of somebody whose name is no word of any code's meaning."""
    return image(text(0x00100010, "PN", "Vlinderova^Olga"), *nodes, explicit=explicit)


def exported(source: bytes, options: Collection[str], known: frozenset[str] = frozenset()) -> bytes:
    """De-identify a file."""
    return rewrite(source, profile=Profile.of(options), identity=IDENTITY, subject=SUBJECT, known=known).content


def read(content: bytes) -> FileDataset:
    """Read a file with pydicom, to its last nested element: a warning is a fault here."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    dataset.decode()
    return dataset


def alarms(source: bytes, export: bytes, options: Collection[str]) -> list[str]:
    """Ask the audit of an export."""
    codes = tuple(value for value, _ in Profile.of(options).codes())
    return audit_file(
        source,
        export,
        Expectation(
            pseudonym=SUBJECT.pseudonym,
            shift_days=SUBJECT.shift_days,
            identifiers=frozenset(),
            uids=frozenset(),
            codes=codes,
        ),
    )


def proved(source: bytes, options: Collection[str], known: frozenset[str] = frozenset()) -> FileDataset:
    """De-identify a file and read the export, whose lengths are right and of which the audit has nothing to say."""
    export = exported(source, options, known)
    assert not compare(export)
    assert alarms(source, export, options) == []
    return read(export)


def written(dataset: Dataset) -> bytes:
    """Write an export back with pydicom, after something in it was changed."""
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=False)
    return out.getvalue()

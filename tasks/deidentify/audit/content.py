"""What the audit knows of content items and codes: whose text points at somebody, and which schemes are published.

Source: table E.3.4-1 of PS3.15 and section 8 of PS3.16.
"""

from __future__ import annotations

import re

from pydicom.dataset import Dataset

from tasks.deidentify.audit.dates import WRITTEN_TEXTS
from tasks.deidentify.audit.read import Piece

TEXT_VALUE = 0x0040A160
CONTENT_UID = 0x0040A124
CONTENT_TEXTS = frozenset({TEXT_VALUE, 0x00700006})
"""Text Value and Unformatted Text Value, of content items, annotations and graphics."""

OF_CONTENT = frozenset({0x00400440, 0x00400441, 0x00400555, 0x00400612, 0x0040A730, 0x0040B020})
OF_CONTENT |= {0x004008EA, 0x0040A043, 0x0040A168, 0x0040A195, 0x0040A301}
"""Sequences of content items, and of codes in them: from no others may single items go."""

_CONCEPT_NAME = 0x0040A043
_RELATIONSHIP, _VALUE_TYPE = 0x0040A010, 0x0040A040
_CODE_VALUE, _SCHEME, _LONG_CODE_VALUE = 0x00080100, 0x00080102, 0x00080119

Concept = tuple[str, str]
"""Code value and coding scheme designator."""


def _of_dicom(*values: str) -> frozenset[Concept]:
    return frozenset((value, "DCM") for value in values)


IDENTIFYING = _of_dicom(
    "110190",  # issuer of identifier
    "111700",  # specimen container
    "111705",  # parent specimen, and who gave its identifier
    "111706",
    "111724",
    "113511",  # radiopharmaceutical: unit, lot, vial, radionuclide, prescription
    "113512",
    "113513",
    "113514",
    "113516",
    "113605",  # irradiation event
    "113871",  # person, and who gave the ID
    "113872",
    "121020",  # placer, filler and accession number
    "121021",
    "121022",
    "121030",  # subject
    "121041",  # specimen
    "121121",  # room
    "121435",  # service performer
    "125010",  # identifier
    "128774",  # login
    "128775",
)
IDENTIFYING |= {("11951-1", "LN"), ("53", "NCDR [2.0b]")}
"""Concepts whose texts point at the patient, the visit or who did it: none stays, and none stands anywhere else."""

_OF_DEVICES = _of_dicom(
    "110119",  # AE title
    "113832",  # X-ray source
    "113877",  # name, serial number, description
    "113880",
    "120999",
    "121012",  # observer: UID, name, serial number
    "121013",
    "121016",
    "121122",  # equipment
    "121193",  # subject: name, serial number, UID
    "121196",
    "121198",
)
_OF_DEVICES |= {("74711-3", "LN")}
_OF_INSTITUTIONS = _of_dicom("113873", "121009", "121017", "121197", "121434", "122128", "130527")

RETAINED = {"113109": _OF_DEVICES, "113112": _OF_INSTITUTIONS}
"""Concepts whose values an option leaves in the export, by its code."""


OWN_CODES = {
    "113108": {0x00100046, 0x00102161},
    "113109": {0x00404025, 0x00404027, 0x00404028, 0x00404030},
    "113112": {0x00080082, 0x00081041},
}
"""Sequences whose codes may be anybody's where an option leaves them: of clinical use, stations and institutions."""

_OF_ONE_FORM = {
    "DCM": re.compile(
        r"[0-9]{6}|[A-Z3]{1,4}|ARCHIVE|STAIN|CTPROTOCOL|FILMD|PRINT|CAPTURE|IVOCT|Margin|NEARLINE|O[FN]F?LINE|OPT(BSV|ENF)"
        r"|MEDIM|RT(DOSE|IMAGE|PLAN|STRUCT|RECORD)|TEXTUREMAP|UNAVAILABLE"
    ),
    "LN": re.compile(r"[0-9]{1,7}-[0-9]|C745[67][0-9]"),
    "SCT": re.compile(r"[0-9]{6,18}"),
}
_SCHEMES = frozenset({"99SDM", "BARI", "FMA", "I10", "IBSI", "ITIS_TSN", "MDC", "MSH", "NCDR [2.0b]", "NCIt", "NDC"})
_SCHEMES |= {"NEU", "PUBCHEM_CID", "RADLEX", "RXNORM", "SNM3", "SRT", "UCUM", "UMLS"}


def is_foreign(item: Dataset) -> bool:
    """Tell whether the item of a code sequence holds a code of a scheme that is not published, or not in its form."""
    value = _text(item, _CODE_VALUE) or _text(item, _LONG_CODE_VALUE)
    if not value or value in WRITTEN_TEXTS:
        return False
    scheme = _text(item, _SCHEME)
    form = _OF_ONE_FORM.get(scheme)
    return scheme not in _SCHEMES if form is None else form.fullmatch(value) is None


def concept_of(item: Dataset) -> Concept:
    """Return what names a content item; empty texts where nothing does, or more than one."""
    named = item.get_item(_CONCEPT_NAME) if _CONCEPT_NAME in item else None
    codes = Piece(item, named).items if named is not None else []
    return (_text(codes[0], _CODE_VALUE), _text(codes[0], _SCHEME)) if len(codes) == 1 else ("", "")


def kind_of(item: Dataset) -> tuple[str, ...]:
    """Return what no rewriting changes of an item that stays: its concept, its type and its relationship."""
    return (*concept_of(item), _text(item, _VALUE_TYPE), _text(item, _RELATIONSHIP))


def _text(item: Dataset, tag: int) -> str:
    element = item.get_item(tag) if tag in item else None
    return "\\".join(Piece(item, element).texts) if element is not None else ""

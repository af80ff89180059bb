"""Plant texts, names, dates and UIDs wherever a file can hold some, and look for them in what came out.

A canary is a value that stands in a source and must not stand in its export, in no encoding and no case, be it in a
file's bytes or its name.
"""

from __future__ import annotations

import datetime as dt
import io
import os
import re
import unicodedata
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import Tag
from pydicom.uid import UID

from tasks.deidentify.profile import DEFAULT_PROFILE, MR_IMAGE_STORAGE, Action

FAMILY, GIVEN = "Canaryfamily", "Canarygiven"
KANJI, KANA = "山田金糸雀", "やまだかなりあ"
HANGUL = "김금사조새"
UMLAUT = "Müllerßkanärie"

LEVELS = (0x00189112, 0x00189114, 0x00189117, 0x00189125)
"""Sequences of an MR image that are walked into, used one inside the other."""

TEXT_VRS = ("AE", "LO", "LT", "SH", "ST", "UC", "UR", "UT", "PN")

_CODECS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "shift_jis", "iso2022_jp", "euc_kr", "gb18030", "cp1252")
_ESCAPE = re.compile(rb"\x1b[\x20-\x2f]+[\x30-\x7e]")


def _tags_of_text() -> dict[str, int]:
    """Pick for each text VR attributes that the table lists and such as it does not list, none of them kept."""
    rules = DEFAULT_PROFILE.actions(MR_IMAGE_STORAGE)
    found: dict[str, int] = {}
    for tag, entry in sorted(DicomDictionary.items()):
        if entry[0] in TEXT_VRS and 0x0008 <= tag >> 16 < 0x5000 and rules.action(tag, entry[0]) is Action.REMOVE:
            name = f"{entry[0]} {'listed' if tag in rules.by_tag else 'unlisted'}"
            found.setdefault(name, tag)
            found[f"{name}, late"] = tag
    return found


TEXT_TAGS = _tags_of_text()
"""By a name that says what it is: the first and the last such attribute."""


@dataclass
class Aviary:
    """What was planted, by a name that tells where."""

    planted: dict[str, str] = field(default_factory=dict)
    number: int = 0

    def text(self, place: str) -> str:
        """Make a word that stands nowhere else; it fits every text VR."""
        self.number += 1
        return self._keep(place, f"CNRY{self.number:03d}XQ")

    def uid(self, place: str) -> str:
        """Make a UID that stands nowhere else."""
        self.number += 1
        return self._keep(place, f"1.2.840.99999.{self.number}.77.{self.number}")

    def date(self, place: str) -> str:
        """Make a date (YYYYMMDD) that stands nowhere else: all lie within one year, which no shift lands in."""
        self.number += 1
        return self._keep(place, f"{dt.date(1931, 1, 7) + dt.timedelta(days=self.number):%Y%m%d}")

    def name(self, place: str, name: str) -> str:
        """Plant a name as it is, to be looked for whole and in its parts."""
        for number, part in enumerate(re.split(r"[\^=]", name)):
            if part:
                self._keep(f"{place}, part {number}", part)
        return name

    def _keep(self, place: str, value: str) -> str:
        assert place not in self.planted, place
        self.planted[place] = value
        return value


def put(dataset: Dataset, tag: int, vr: str, value: str | bytes) -> None:
    """Set a raw value, valid or not; texts are UTF-8."""
    raw = value.encode() if isinstance(value, str) else value
    raw += b"\0" * (len(raw) % 2) if vr in ("UI", "OB", "UN") else b" " * (len(raw) % 2)
    dataset._dict[Tag(tag)] = RawDataElement(Tag(tag), vr, len(raw), raw, 0, False, True)  # type: ignore[index]


def _items(dataset: Dataset, tag: int, *items: Dataset) -> None:
    dataset.add_new(tag, "SQ", list(items))


def plant(dataset: FileDataset) -> Aviary:
    """Plant canaries in every kind of place of a data set, which is one that may be exported and stays so."""
    birds = Aviary()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    # Else pydicom would decode what is put here in the character set that it read, and write it in this one.
    dataset.set_original_encoding(*dataset.original_encoding, dataset._character_set)
    _plant_patient(dataset, birds)
    for place, tag in TEXT_TAGS.items():
        vr = place[:2]
        put(dataset, tag, vr, birds.text(f"text {place}"))
    _plant_values(dataset, birds)
    _plant_private(dataset, birds, "top")
    _plant_sequences(dataset, birds)
    level: Dataset = dataset
    for depth, tag in enumerate(LEVELS, 1):
        inside = Dataset()
        _items(level, tag, Dataset(), inside)
        put(inside, 0x00180050, "DS", f"{depth}")
        put(inside, 0x00100010, "PN", birds.name(f"name at depth {depth}", f"{FAMILY}{depth}^{GIVEN}{depth}"))
        for place in ("LO unlisted", "SH listed", "UT unlisted", "ST listed, late", "AE listed"):
            put(inside, TEXT_TAGS[place], place[:2], birds.text(f"{place} at depth {depth}"))
        put(inside, 0x00081155, "UI", birds.uid(f"UID at depth {depth}"))
        put(inside, 0x00080020, "DA", birds.date(f"DA at depth {depth}"))
        put(inside, 0x0008002A, "DT", birds.date(f"DT at depth {depth}") + "101112.5")
        put(inside, 0x00720FF0, "UN", birds.text(f"unknown element at depth {depth}"))
        put(inside, 0x00180080, "DS", birds.text(f"DS at depth {depth}"))
        _plant_private(inside, birds, f"depth {depth}")
        level = inside
    _plant_pictures(dataset, birds)
    put(dataset, 0xFFFCFFFC, "OB", birds.text("trailing padding"))
    return birds


def _plant_patient(dataset: Dataset, birds: Aviary) -> None:
    name = f"{FAMILY}^{GIVEN}={KANJI}^{KANJI}={KANA}^{KANA}"
    put(dataset, 0x00100010, "PN", birds.name("Patient's Name", name))
    put(dataset, 0x00080090, "PN", birds.name("Referring Physician's Name", f"{UMLAUT}^{GIVEN}x"))
    put(dataset, 0x00081070, "PN", birds.name("Operators' Name", f"{HANGUL}^{GIVEN}y"))
    # The patient's own name and ID where nobody expects them.
    put(dataset, 0x00102000, "LO", f"call {FAMILY.upper()} {KANJI}")
    put(dataset, 0x00400310, "ST", f"{GIVEN.lower()} {UMLAUT.upper()}")
    patient = birds.text("Patient ID")
    put(dataset, 0x00100020, "LO", patient)
    put(dataset, 0x00101000, "LO", f"{patient}\\{birds.text('Other Patient IDs')}")
    put(dataset, 0x00080050, "SH", birds.text("Accession Number"))
    put(dataset, 0x00200010, "SH", birds.text("Study ID"))
    put(dataset, 0x00104000, "LT", f"born {birds.date('a date in a comment')}, {birds.text('a comment')}")
    put(dataset, 0x0008103E, "LO", f"t1 {birds.text('Series Description')}")
    put(dataset, 0x00181030, "LO", birds.text("Protocol Name"))
    put(dataset, 0x00100030, "DA", birds.date("Patient's Birth Date"))


def _plant_values(dataset: Dataset, birds: Aviary) -> None:
    for tag in (0x00080020, 0x00080021, 0x00080022, 0x00080023, 0x00080012, 0x00181012, 0x00181200):
        put(dataset, tag, "DA", birds.date(f"DA {tag:08X}"))
    for tag in (0x0008002A, 0x00189074, 0x00189151):
        put(dataset, tag, "DT", birds.date(f"DT {tag:08X}") + "101112.123456")
    dotted = birds.date("a date with dots")
    put(dataset, 0x00080025, "DA", f"{dotted[:4]}.{dotted[4:6]}.{dotted[6:]}")
    put(dataset, 0x00400244, "DA", "of " + birds.date("a date that is no DA"))
    put(dataset, 0x00080014, "UI", birds.uid("Instance Creator UID"))
    put(dataset, 0x00200052, "UI", birds.uid("Frame of Reference UID"))
    put(dataset, 0x00080058, "UI", f"{birds.uid('first UID of several')}\\{birds.uid('second UID of several')}")
    put(dataset, 0x00181002, "UI", birds.uid("Device UID"))
    for tag in (0x0020000D, 0x0020000E, 0x00080018):
        put(dataset, tag, "UI", birds.uid(f"UID {tag:08X}"))
    put(dataset, 0x00180015, "CS", "a term longer than any, " * 3 + birds.text("CS that is too long"))
    put(dataset, 0x00180022, "CS", UMLAUT + birds.text("CS of other letters"))
    put(dataset, 0x00080033, "TM", "noon " + birds.text("TM"))
    put(dataset, 0x00180080, "DS", birds.text("DS"))
    put(dataset, 0x00180086, "IS", birds.text("IS"))
    put(dataset, 0x00101010, "AS", birds.text("AS"))
    put(dataset, 0x00101030, "LO", birds.text("LO in the place of a number"))
    put(dataset, 0x00181078, "UT", birds.text("UT in the place of a date"))
    put(dataset, 0x00181020, "LO", "version 1")
    put(dataset, 0x00420011, "OB", birds.text("Encapsulated Document"))
    put(dataset, 0x54001010, "OW", birds.text("Waveform Data") + " ")
    put(dataset, 0x00400280, "UN", birds.text("UN in the place of a text"))
    put(dataset, 0x00720FF0, "UN", birds.text("unknown element"))
    put(dataset, 0x00760FF0, "LO", birds.text("unknown element that says it is a text"))
    put(dataset, 0x00040002, "LO", birds.text("an element of a DICOMDIR"))


def _plant_private(dataset: Dataset, birds: Aviary, where: str) -> None:
    inside = Dataset()
    put(inside, 0x00100010, "PN", birds.name(f"name in a private sequence, {where}", f"{FAMILY}p^{GIVEN}p"))
    put(inside, 0x00080018, "UI", birds.uid(f"UID in a private sequence, {where}"))
    put(dataset, 0x00110010, "LO", birds.text(f"private creator, {where}"))
    put(dataset, 0x00111001, "LO", birds.text(f"private LO, {where}"))
    put(dataset, 0x00111002, "UN", birds.text(f"private UN, {where}"))
    put(dataset, 0x00111003, "OB", birds.text(f"private OB, {where}").encode("utf-16-le"))
    put(dataset, 0x00111004, "DA", birds.date(f"private DA, {where}"))
    _items(dataset, 0x00111005, inside)
    put(dataset, 0x00112001, "LO", birds.text(f"private element that nobody claims, {where}"))


def _plant_sequences(dataset: Dataset, birds: Aviary) -> None:
    """Plant in sequences that the table removes, empties, or lets stand with their codes."""
    for tag in (
        0x00081032,
        0x00321064,
        0x00400260,
        0x00081084,
        0x0040A730,
        0x00400275,
        0x00101002,
        0x04000561,
        0x00880200,
    ):
        name = DicomDictionary[tag][4]
        inside = Dataset()
        put(inside, 0x00080100, "SH", birds.text(f"Code Value in {name}"))
        put(inside, 0x00080102, "SH", birds.text(f"Coding Scheme Designator in {name}"))
        put(inside, 0x00080104, "LO", birds.text(f"Code Meaning in {name}"))
        put(inside, 0x00081155, "UI", birds.uid(f"UID in {name}"))
        put(inside, 0x00100020, "LO", birds.text(f"Patient ID in {name}"))
        put(inside, 0x0040A160, "UT", birds.text(f"Text Value in {name}"))
        put(inside, 0x7FE00010, "OW", birds.text(f"Pixel Data in {name}") + " ")
        _items(dataset, tag, inside)
    # What earlier tools wrote of what they did.
    put(dataset, 0x00120063, "LO", birds.text("De-identification Method"))
    earlier = Dataset()
    put(earlier, 0x00080104, "LO", birds.text("Code Meaning in DeidentificationMethodCodeSequence"))
    _items(dataset, 0x00120064, earlier)


def _plant_pictures(dataset: Dataset, birds: Aviary) -> None:
    put(dataset, 0x50003000, "OW", birds.text("curve") + " ")
    put(dataset, 0x50000022, "LO", birds.text("curve description"))
    for group in (0x60000000, 0x601E0000):
        put(dataset, group | 0x0022, "LO", birds.text(f"overlay description {group:08X}"))
        put(dataset, group | 0x0100, "US", b"\1\0" if dataset.original_encoding[1] is not False else b"\0\1")
        put(dataset, group | 0x0102, "US", b"\0\0")
        put(dataset, group | 0x1500, "LO", birds.text(f"overlay label {group:08X}"))
        put(dataset, group | 0x3000, "OW", birds.text(f"overlay {group:08X}") + " ")


def plant_in_head(dataset: FileDataset, birds: Aviary) -> None:
    """Plant in the preamble and in the file meta information."""
    dataset.preamble = b"MZ" + birds.text("preamble").encode() * 14
    meta = dataset.file_meta
    meta.MediaStorageSOPInstanceUID = UID(birds.planted["UID 00080018"])
    for tag in (0x00020016, 0x00020017, 0x00020018):
        put(meta, tag, "AE", birds.text(f"file meta {tag:08X}"))
    put(meta, 0x00020012, "UI", birds.uid("Implementation Class UID"))
    put(meta, 0x00020013, "SH", birds.text("Implementation Version Name"))
    put(meta, 0x00020100, "UI", birds.uid("Private Information Creator UID"))
    put(meta, 0x00020102, "OB", birds.text("Private Information"))


def plant_file(source: bytes) -> tuple[bytes, Aviary]:
    """Read a file, plant canaries in all of it, and write it in the syntax that it had."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(source))
        if dataset.original_encoding[1] is False:
            # pydicom writes what it has not decoded in the order in which it was read, so it may stay as it is.
            assert "PixelData" in dataset
        birds = plant(dataset)
        plant_in_head(dataset, birds)
        out = io.BytesIO()
        pydicom.dcmwrite(out, dataset, enforce_file_format=False)
    return out.getvalue(), birds


def forms(text: str) -> set[bytes]:
    """Spell a text in every encoding it may stand in, in lower case as far as bytes have one."""
    found = set()
    for spelt in {text, text.lower(), text.upper(), text.title(), unicodedata.normalize("NFD", text)}:
        for codec in _CODECS:
            try:
                raw = _ESCAPE.sub(b"", spelt.encode(codec))
            except UnicodeEncodeError:
                continue
            found.add(raw.lower())
    if re.fullmatch(r"\d{8}", text):
        found |= {f"{text[:4]}{mark}{text[4:6]}{mark}{text[6:]}".encode() for mark in ".-/"}
    return {raw for raw in found if len(raw) >= 5}


def sightings(folder: Path, planted: dict[str, str]) -> list[str]:
    """List where canaries stand in a tree: in names of files and folders, and in contents."""
    spelt = {place: forms(text) for place, text in planted.items()}
    seen = []
    for parent, folders, names in os.walk(folder):
        texts = {name: os.fsencode(name) for name in [*folders, *names]}
        texts |= {f"inside {name}": (Path(parent) / name).read_bytes() for name in names}
        for where, content in texts.items():
            lowered = content.lower()
            seen += [f"{place}, {where}" for place, those in spelt.items() if any(form in lowered for form in those)]
    return sorted(seen)

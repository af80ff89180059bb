"""Convert a series with dcm2niix before and after de-identification, and compare what comes out.

This is the last part of the audit: what a scientist gets from the export has to be what he would have got from the
source. It shares nothing with the rewriter and goes by what another program reads of both.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from tasks.files import make_folder, refusals_named, temporary_sibling

CONVERSION_FINDINGS = {
    "conversion": "A converter makes other images or parameters of the series' export than of its source.",
    "converted-identifier": "What a converter tells of the export holds an identifier of the patient.",
}
"""What the comparison can find: code to sentence."""


class Verdict(enum.StrEnum):
    """What became of the comparison of one series."""

    EQUAL = "equal"
    DIFFERENT = "different"
    NOT_CONVERTIBLE = "not-convertible"
    """Nothing comes out of the source either, so there is nothing to compare."""
    NOT_RUN = "not-run"


_FIELDS_BY_REASON = {
    "It names the patient; in the export it is the pseudonym, or nothing.": "PatientName PatientID PatientBirthDate",
    "It describes the patient: an age is capped, and the study file may not retain it at all.": (
        "PatientAge PatientSex PatientSize PatientWeight"
    ),
    "It names a person, a visit or an order.": "AccessionNumber ReferringPhysicianName StudyID",
    "It tells the moment and the scanner, and is replaced.": "SeriesInstanceUID StudyInstanceUID",
    "Its date is moved.": "AcquisitionDateTime",
    "It names the place or the machine.": (
        "DeviceSerialNumber InstitutionAddress InstitutionName InstitutionalDepartmentName StationName"
    ),
    "It is text that people type; words that are not the field's own are masked.": (
        "ImageComments ProcedureStepDescription ProtocolName PulseSequenceName SequenceName SeriesDescription "
        "StudyDescription"
    ),
    "It is guessed from such text.": "BidsGuess",
    "It is the file name of the pulse sequence, to which sites add their own.": "PulseSequenceDetails",
    "It is what the author of a sequence wrote into the protocol: names and moments among it.": "WipMemBlock",
    "It tells how the export was de-identified.": "DeidentificationMethod DeidentificationMethodCodeSequence",
}

IDENTITY_FIELDS: Mapping[str, str] = MappingProxyType(
    {field: reason for reason, fields in _FIELDS_BY_REASON.items() for field in fields.split()}
)
"""The fields of a sidecar that may differ or be missing, with the reason. All others have to be the same."""

_NOT_SEARCHED = frozenset(
    {"AcquisitionDateTime", "AcquisitionTime", "SeriesInstanceUID", "SeriesTime", "StudyInstanceUID"}
    | {"DeidentificationMethod", "DeidentificationMethodCodeSequence"}
)
"""Moments and UIDs, in which a number of four digits stands by chance, and our own stamps."""

_PSEUDONYMOUS = frozenset({"PatientID", "PatientName"})

_RETAINED = {
    "113109": {"DeviceSerialNumber", "StationName"},
    "113112": {"InstitutionAddress", "InstitutionName", "InstitutionalDepartmentName"},
}
"""Fields that an option (code of PS3.16 CID 7050) leaves in the export although they point at a machine or hospital."""

_SAFE_PRIVATE = "113111"
_DATES_KEPT = frozenset({"113106", "113107"})

_SHORTEST_SEARCHED = 4
"""Characters below which an identifier stands in other texts by chance."""

_LONG = 5
"""Characters from which on an identifier inside a longer word is masked with it."""

_HEADER_TEXTS = {
    348: ((14, 32), (148, 252), (328, 344)),  # NIfTI-1 (nifti1.h): db_name, descrip and aux_file, intent_name
    540: ((240, 344), (508, 524)),  # NIfTI-2 (nifti2.h): descrip and aux_file, intent_name
}
"""Where a NIfTI header holds text, by its length: dcm2niix writes comments and the moment of the scan there."""

_FIELD = re.compile(r'^\t"(\w+)": ', re.MULTILINE | re.ASCII)
_VERSION = re.compile(rb"\bv\d+\.\d+\.\d+\b")
_PIECE = 1 << 20
_UNPACKED = 4
"""How many times the size of a series, as a rule, its images may have: compressed ones come out unpacked."""

_SECONDS = 60.0
_BYTES_A_SECOND = 2_000_000
"""How long a conversion may take: a thousand times what it takes as a rule, so that only one that hangs is ended."""


def promises_same_conversion(codes: AbstractSet[str]) -> bool:
    """Tell whether a profile keeps what a converter reads: safe private elements, and times of day.

    Parameters
    ----------
    codes
        Code values of the method (PS3.16 CID 7050).
    """
    return _SAFE_PRIVATE in codes and not _DATES_KEPT.isdisjoint(codes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """What is searched for in what a converter tells of an export.

    Attributes
    ----------
    pseudonym
        The subject's, which may stand for name and ID.
    identifiers
        What is known of the patient.
    codes
        Code values of the method, by which a machine or a hospital may be told.
    """

    pseudonym: str
    identifiers: AbstractSet[str]
    codes: AbstractSet[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What a comparison gave.

    Attributes
    ----------
    verdict
        See `Verdict`.
    differing
        Fields of the sidecars, and endings of other files, that are not the same.
    findings
        Codes of `CONVERSION_FINDINGS`; empty if the series may be exported.
    """

    verdict: Verdict
    differing: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.verdict}: {' '.join(self.differing)}" if self.differing else str(self.verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Converter:
    """How series are converted.

    Attributes
    ----------
    program
        The program dcm2niix.
    folder
        Where temporary folders are made. They hold what identifies: give one that only its owner can open.
    seconds
        What any conversion may take, on top of what its size allows.
    """

    program: str
    folder: Path
    seconds: float = _SECONDS

    @contextlib.contextmanager
    def comparison(self) -> Iterator[Comparison]:
        """Offer a temporary folder for one series, and take it away whatever happens."""
        folder = temporary_sibling(self.folder / "conversion")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            yield Comparison(self, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class Comparison:
    """The files of one series, before and after.

    Parameters
    ----------
    converter
        How they are converted.
    folder
        A folder that is not there yet.
    """

    def __init__(self, converter: Converter, folder: Path) -> None:
        self._converter = converter
        self._folder = folder
        self._source, self._export = folder / "source", folder / "export"
        self._count = 0
        self._bytes = 0
        for part in (folder, self._source, self._export):
            make_folder(part, mode=0o700)

    def keep(self, content: bytes, *, source: Path | None) -> Path:
        """Keep a file until the whole series is there, and compare it if its source is given.

        Returns
        -------
        Path
            Where it is kept; names are numbers, the same for a source and its export.
        """
        self._count += 1
        name = f"{self._count:07d}.dcm"
        with refusals_named(self._converter.folder):
            if source is not None:
                os.symlink(os.path.abspath(source), self._source / name)
                self._bytes += len(content)
            kept = (self._folder if source is None else self._export) / name
            kept.write_bytes(content)
        return kept

    def run(self, sought: Sought) -> Compared:
        """Convert both, compare, and search what comes out of the export.

        Raises
        ------
        DiskFullError
            If there was no room for what comes out: then nothing that was seen counts.
        """
        if not self._bytes:
            return Compared(verdict=Verdict.NOT_RUN)
        compared = self._compare(sought)
        if compared.verdict is not Verdict.EQUAL:
            # The converter does not tell a full disk from a series it cannot read, and the second would pass.
            with refusals_named(self._converter.folder), open(self._folder / "room", "wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, _PIECE + _UNPACKED * self._bytes)
        return compared

    def _compare(self, sought: Sought) -> Compared:
        seconds = self._converter.seconds + self._bytes / _BYTES_A_SECOND
        before, after = self._folder / "before", self._folder / "after"
        code, names = convert(self._converter.program, self._source, before, seconds=seconds)
        # An empty file is what a full disk leaves, of the source and of the export alike.
        if code < 0 or not names or not all((before / name).stat().st_size for name in names):
            return Compared(verdict=Verdict.NOT_CONVERTIBLE)
        same_code, same_names = convert(self._converter.program, self._export, after, seconds=seconds)
        differing = set() if same_code == code else {"outcome"}
        differing |= {Path(name).suffix for name in {*names} ^ {*same_names}}
        for name in {*names} & {*same_names}:
            differing |= differences(before / name, after / name, sought.identifiers)
        findings = ["conversion"] if differing else []
        if any(_tells(after / name, sought) for name in same_names if name.endswith(".json")):
            findings.append("converted-identifier")
        verdict = Verdict.DIFFERENT if findings else Verdict.EQUAL
        return Compared(verdict=verdict, differing=tuple(sorted(differing)), findings=tuple(findings))


def convert(program: str, source: Path, target: Path, *, seconds: float) -> tuple[int, list[str]]:
    """Convert the DICOM files of a folder into a new one.

    Parameters
    ----------
    program
        dcm2niix.
    source, target
        Folders; names of output files begin with series and echo number.
    seconds
        After which the program is ended.

    Returns
    -------
    code, names
        What it ended with, negative if a signal ended it; the files it made, sorted.
    """
    make_folder(target, mode=0o700)
    # The sidecar with everything in it, no gzip (which holds the time), nothing from a user's defaults file.
    options = ("-b", "y", "-ba", "n", "-z", "n", "-g", "i", "-d", "0", "-f", "%s_%e")
    process = subprocess.Popen(
        [program, *options, "-o", os.fspath(target), os.fspath(source)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # it quotes patients
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    timer = threading.Timer(seconds, _kill_group, (process.pid,))
    timer.start()
    try:
        # Not Popen.wait(timeout), which looks only every 50 ms; and not yet collected, so that the number is still its.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    except BaseException:
        _kill_group(process.pid)
        raise
    finally:
        timer.cancel()
        timer.join()
        process.wait()
    return process.returncode, sorted(os.listdir(target))


def _kill_group(leader: int) -> None:
    """End a program and all it started: the one on the path may be a script that started the real one."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def converter_version(program: str) -> str:
    """Return the version of a dcm2niix, such as v1.0.20260724; empty if it cannot be run."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = _VERSION.search(done.stdout)
    return found[0].decode("ascii") if found else ""


def differences(before: Path, after: Path, identifiers: AbstractSet[str] = frozenset()) -> set[str]:
    """Name what differs between two outputs of the same name: fields of a sidecar, or the ending of any other file.

    Images may differ in the texts of their header, sidecars in `IDENTITY_FIELDS` and in texts in which one of the
    patient's identifiers stood.
    """
    if before.suffix == ".json":
        old, new = read_sidecar(before), read_sidecar(after)
        fields = {
            field
            for field in old.keys() | new.keys()
            if old.get(field) != new.get(field) and not _holds(old.get(field, ""), identifiers)
        }
        return fields - IDENTITY_FIELDS.keys() or (set() if old and new else {before.suffix})
    if before.stat().st_size != after.stat().st_size:
        return {before.suffix}
    with open(before, "rb") as one, open(after, "rb") as other:
        pieces = zip_longest(_pieces(one, before.suffix), _pieces(other, after.suffix))
        return set() if all(piece == same for piece, same in pieces) else {before.suffix}


def _pieces(stream: BinaryIO, suffix: str) -> Iterator[bytes]:
    """Read a file bit by bit, an image without the texts of its header."""
    piece = stream.read(_PIECE)
    if suffix == ".nii":
        blank = bytearray(piece)
        for begin, end in _HEADER_TEXTS.get(int.from_bytes(piece[:4], "little"), ()):
            blank[begin:end] = bytes(end - begin)
        piece = bytes(blank)
    while piece:
        yield piece
        piece = stream.read(_PIECE)


def read_sidecar(path: Path) -> dict[str, str]:
    """Return the fields of a sidecar, the values as they are spelled.

    It is not read as JSON because it may be none: dcm2niix prints numbers as C does, nan and inf among them.
    """
    pieces = _FIELD.split(path.read_bytes().decode("utf-8", "replace"))
    # The last value is followed by the closing brace, the others by a comma.
    return {
        field: value.removesuffix("}\n").rstrip("\n,") for field, value in zip(pieces[1::2], pieces[2::2], strict=True)
    }


def _holds(value: str, identifiers: AbstractSet[str]) -> bool:
    """Tell whether a text, not a number, holds one of the patient's identifiers as a word or in a longer one."""
    text = value.casefold()
    return '"' in value and any(
        identifier in text and (len(identifier) >= _LONG or _stands_apart(identifier, text))
        for identifier in map(str.casefold, identifiers)
    )


def _tells(path: Path, sought: Sought) -> bool:
    """Tell whether an identifier of the patient stands in the texts of a sidecar."""
    retained = frozenset[str]().union(*(fields for code, fields in _RETAINED.items() if code in sought.codes))
    texts = [
        value.casefold()
        for field, value in read_sidecar(path).items()
        if '"' in value
        and field not in _NOT_SEARCHED | retained
        and not (field in _PSEUDONYMOUS and value == f'"{sought.pseudonym}"')
    ]
    whole = "\n".join(texts)
    return any(
        _stands_apart(identifier, whole)
        for identifier in {identifier.casefold() for identifier in sought.identifiers}
        if len(identifier) >= _SHORTEST_SEARCHED and identifier in whole
    )


def _stands_apart(identifier: str, text: str) -> bool:
    """Find an identifier where no letter or digit adjoins it; one of digits alone also where no decimal point does."""
    if identifier.isdigit():
        pattern = rf"(?<![^\W_])(?<!\.){identifier}(?!\.?[^\W_])"
    else:
        pattern = rf"(?<![^\W_]){re.escape(identifier)}(?![^\W_])"
    return re.search(pattern, text) is not None

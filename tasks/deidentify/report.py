"""Write beside an export what was done to it, what was held back, how it was checked, and who may still be singled out.

The report repeats no value of any header: it holds numbers, codes, sentences, pseudonyms and digests. It follows from
the outcomes alone, so that the same state gives the same bytes, in whatever order and by however many workers it came.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from tasks import __version__
from tasks.deidentify.audit.conversion import Verdict
from tasks.deidentify.cohort import Cohort, Combination, assess_cohort, gather_facts
from tasks.deidentify.export import AUDIT_PREFIX
from tasks.deidentify.ledger import ExportRow
from tasks.deidentify.ocr import OCR_REASONS, READ_BY
from tasks.deidentify.pixels import REGION_RULE
from tasks.deidentify.profile import METHODS, Option, Profile
from tasks.deidentify.reasons import AUDIT_FINDINGS, explain
from tasks.deidentify.report_page import render_page
from tasks.deidentify.standard import load_confidentiality_table
from tasks.files import refusals_named, write_atomically
from tasks.receipt import digest_of
from tasks.workspace import EXPORT_CHECKSUMS, EXPORT_REPORT, EXPORT_REPORT_PAGE

FORMAT = 1
"""Of the JSON; raised when a reader of an older report would misread a newer one."""

ACTIONS: Mapping[str, str] = {
    "keep": "Attributes kept as they were.",
    "remove": "Attributes removed, with everything nested in them.",
    "empty": "Attributes emptied.",
    "dummy": "Attributes replaced by a value that says nothing.",
    "uid": "Attributes whose UIDs were replaced by new ones, equal for equal ones.",
    "date": "Dates moved by the patient's number of days.",
    "age": "Ages kept, from 90 years on as 90.",
    "pseudonym": "Names and IDs replaced by the pseudonym.",
    "clean_sequence": "Sequences kept, with the same rules applied inside.",
    "descriptor": "Descriptions of which only known words were kept.",
    "masked_words": "Words masked in descriptions.",
    "private_kept": "Private elements kept because a list says that they describe the acquisition.",
    "private_cleaned": "Private elements kept after their inside was cleaned.",
    "pixel_areas": "Areas blacked out in pixel data.",
    "pixel_unused_bits": "Files in whose pixel data bits that no value uses were cleared.",
    "pixel_bytes_cut": "Bytes cut off that stood behind the end of a frame.",
    "pixel_fragments_cut": "Fragments cut off that belong to no frame.",
    "pixel_segments_cut": "Comments and other texts cut out of compressed frames.",
    "pixel_offset_tables": "Files whose table of frames was made anew.",
    "moved_before": "Files whose dates somebody had moved before; they were not moved again.",
}
"""What the entries of a tally count; an action that is not here is told by its name."""

_FACES = (
    "Faces: a head scan shows its owner to whoever renders it, and the picture can be compared with a known face. "
    "This software removed none (Recognizable Visual Features). Share under an agreement, not on the open internet."
)
_BURNED_IN = {
    "off": (
        "Text burnt into pixels: kinds of images that often have it are held back, as are those that say they have it. "
        "The pixels of the others were not searched."
    ),
    "suspects": (
        "Text burnt into pixels: kinds of images that often have it were searched by text recognition, which can miss "
        "some. The pixels of the others were not searched."
    ),
    "all": "Text burnt into pixels: all images were searched by text recognition, which can miss some.",
}
"""By how much text recognition looked at."""

_KNOWN_ELSEWHERE = (
    "What others know: whoever has another copy of an image, or of measures taken from it, can find it here by its "
    "pixels. Rare findings, implants and anatomy are not hidden."
)
_KEY = (
    "The key: the workspace in which this was made can lead back to the patients. Keep its folder “identified” apart "
    "from the export, and never pass it on with it."
)
_LAW = (
    "The law: pseudonymous data is personal data in many countries. This report describes what was done; whether that "
    "is enough for a purpose is for a person to decide."
)
_BY_OPTION = {
    Option.RETAIN_UIDS: (
        "UIDs stand as the scanner made them: they can tell its serial number, the date and the time, and they match "
        "the hospital's own archive."
    ),
    Option.RETAIN_DEVICE_IDENTITY: "The scanner's serial number and station tell where it stands.",
    Option.RETAIN_INSTITUTION_IDENTITY: "The institution's name and address stand in the export.",
    Option.RETAIN_PATIENT_CHARACTERISTICS: (
        "Sex, age, size, weight and ethnic group stand in the export; see who could be singled out."
    ),
    Option.RETAIN_LONGITUDINAL_FULL_DATES: "Dates and times are those of the scans.",
    Option.RETAIN_LONGITUDINAL_MODIFIED_DATES: (
        "Dates are moved, but the days between a subject's scans and all times of day are true: whoever knows when "
        "somebody was scanned repeatedly can compare the intervals."
    ),
    Option.CLEAN_DESCRIPTORS: (
        "Descriptions keep the words of imaging: a rare protocol can narrow down where and for what study a scan was "
        "made."
    ),
}
"""What an option leaves in the export that somebody should know of."""

_FACTS = {"age": "age in years", "sex": "sex", "site": "site", "date": "month of the scan"}
_ALONE = {
    "scanner": "A scanner of a maker, model and software release that no other subject was scanned with",
    "ethnic_group": "An ethnic group that no other subject has",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSettings:
    """What a report tells beside the outcomes.

    Attributes
    ----------
    profile
        By which the files were made.
    prefix
        Of numbered pseudonyms.
    smallest_cohort
        Subjects that a group should have at least.
    compare_conversion, ocr
        What the study file says of comparing conversions, and of text recognition.
    """

    profile: Profile
    prefix: str
    smallest_cohort: int
    compare_conversion: str = "auto"
    ocr: str = "off"


def write_report(export: Path, rows: Sequence[ExportRow], settings: ReportSettings) -> None:
    """Write the report, its page and the list of checksums into the export, each atomically; what is the same stays.

    Parameters
    ----------
    export
        The folder of the export.
    rows
        What became of every sorted file.
    settings
        How it was done.
    """
    checksums = checksum_list(rows)
    report = build_report(rows, settings)
    report["integrity"]["sha256"] = hashlib.sha256(checksums).hexdigest()
    content = json.dumps(report, indent=1, ensure_ascii=False).encode("utf-8") + b"\n"
    page = render_page(report, digest=hashlib.sha256(content).hexdigest()).encode("utf-8")
    for name, written in ((EXPORT_CHECKSUMS, checksums), (EXPORT_REPORT, content), (EXPORT_REPORT_PAGE, page)):
        path = export / name
        if not path.is_file() or path.read_bytes() != written:
            write_atomically(path, written)


def withdraw_report(export: Path) -> None:
    """Take the report away: it does not speak of what the export is about to become."""
    with refusals_named(export):
        for name in (EXPORT_REPORT_PAGE, EXPORT_REPORT, EXPORT_CHECKSUMS):
            (export / name).unlink(missing_ok=True)


def checksum_list(rows: Iterable[ExportRow]) -> bytes:
    """List the digests of all exported files, sorted by name, in the form that `sha256sum --check` reads."""
    exported = sorted((row.target, row.digest) for row in rows if not row.reason)
    return b"".join(_checksum_line(target, digest) for target, digest in exported)


def _checksum_line(target: str, digest: str) -> bytes:
    # Pseudonyms are letters and digits, so no name needs the escapes that sha256sum has for line breaks.
    return f"{digest}  {target}\n".encode()


def build_report(rows: Sequence[ExportRow], settings: ReportSettings) -> dict[str, Any]:
    """Put together everything that the report says, but for the digest of the list of checksums.

    Returns
    -------
    dict
        What JSON can hold, in the order in which it is told.
    """
    exported = sorted((row for row in rows if not row.reason), key=lambda row: row.target)
    refused = [row for row in rows if row.reason]
    cohort = _cohort(exported, settings)
    return {
        "format": FORMAT,
        "software": {
            "scanward": __version__,
            "pydicom": pydicom.__version__,
            "python": platform.python_version(),
            "made_by": dict(sorted(Counter(_fact(row, "software") or "unknown" for row in exported).items())),
        },
        "profile": _profile(exported, settings),
        "counts": _counts(rows, exported, refused),
        "actions": _actions(exported),
        "quarantine": [
            {"reason": reason, "files": count, "meaning": explain(reason)}
            for reason, count in sorted(Counter(row.reason for row in refused).items())
        ],
        "audit": _audit(rows, exported, refused, settings.ocr),
        "conversion": _conversion(rows),
        "cohort": _cohort_json(cohort, settings.profile),
        "warnings": _warnings(cohort),
        "not_promised": _not_promised(settings),
        "integrity": {
            "list": EXPORT_CHECKSUMS,
            "files": len(exported),
            "verify": f"sha256sum --check --quiet {EXPORT_CHECKSUMS}",
            "verify_series": f"grep '  SERIES/' {EXPORT_CHECKSUMS} | sha256sum",
        },
        "series": _series(exported),
    }


def _profile(exported: Sequence[ExportRow], settings: ReportSettings) -> dict[str, Any]:
    profile = settings.profile
    codes = Counter(code for row in exported for code in _fact(row, "codes").split())
    return {
        "name": "Basic Application Level Confidentiality Profile",
        "standard": "DICOM PS3.15 annex E, table E.1-1",
        "edition": load_confidentiality_table().edition,
        "methods": [
            {"code": code, "meaning": METHODS[code], "files": codes[code]} for code in sorted(codes) if code in METHODS
        ],
        "options": sorted(option.column for option in profile.options),
        "dates": profile.temporal_information(),
        "own_words": len(profile.words),
        "area_rules": len(profile.regions),
        "files_by_area_rule": files_by_rule(exported, len(profile.regions)),
        "digest": profile.digest(),
        # Without the study's own list of pseudonyms: its digest would let short patient IDs be found by trying them.
        "settings_digest": digest_of(
            {
                "profile": profile.digest(),
                "prefix": settings.prefix,
                "smallest_cohort": settings.smallest_cohort,
                "compare_conversion": settings.compare_conversion,
                "ocr": settings.ocr,
            }
        ),
        "tables": _table_digests(),
    }


def _table_digests() -> dict[str, str]:
    """Digest every data file that decides what is kept."""
    folder = importlib.resources.files("tasks.deidentify").joinpath("data")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _counts(rows: Sequence[ExportRow], exported: Sequence[ExportRow], refused: Sequence[ExportRow]) -> dict[str, Any]:
    places = {tuple(row.target.split("/")[:-1]) for row in exported}
    return {
        "sorted_files": len(rows),
        "exported": len(exported),
        "quarantined": len(refused),
        "subjects": len({place[:1] for place in places}),
        "visits": len({place[:2] for place in places}),
        "series": len(places),
        "read_by_pydicom": dict(sorted(Counter(row.by_pydicom for row in exported if row.by_pydicom).items())),
    }


def _sums(exported: Iterable[ExportRow]) -> Counter[str]:
    """Add up the tallies; most files of a series share one."""
    sums: Counter[str] = Counter()
    for tally, files in Counter(row.tally for row in exported if row.tally).items():
        for name, count in json.loads(tally).items():
            sums[name] += count * files
    return sums


def files_by_rule(exported: Iterable[ExportRow], rules: int) -> list[int]:
    """Count the exported files that each region rule of the study file fits, in the file's order."""
    sums = _sums(exported)
    return [sums[f"{REGION_RULE}{number}"] for number in range(1, rules + 1)]


def _actions(exported: Sequence[ExportRow]) -> list[dict[str, Any]]:
    sums = {name: count for name, count in _sums(exported).items() if not name.startswith((READ_BY, REGION_RULE))}
    order = {name: place for place, name in enumerate(ACTIONS)}
    return [
        {"action": name, "count": sums[name], "meaning": ACTIONS.get(name, "")}
        for name in sorted(sums, key=lambda name: (order.get(name, len(order)), name))
    ]


def _audit(
    rows: Sequence[ExportRow], exported: Sequence[ExportRow], refused: Sequence[ExportRow], ocr: str
) -> dict[str, Any]:
    """Count what was audited; text recognition, the last to look at a file, counts as a part of the audit."""
    checks = AUDIT_FINDINGS | (OCR_REASONS if ocr != "off" else {})
    stopped = [
        row.reason.removeprefix(AUDIT_PREFIX)
        for row in refused
        if row.reason.startswith(AUDIT_PREFIX) or row.reason in OCR_REASONS
    ]
    found = Counter(code for reason in stopped for code in reason.split("+"))
    return {
        "audited": len(exported) + len(stopped),
        "passed": len(exported),
        "stopped": len(stopped),
        "not_audited": len(rows) - len(exported) - len(stopped),
        "text_recognition": ocr,
        "text_read_by": {
            name.removeprefix(READ_BY): count
            for name, count in sorted(_sums(exported).items())
            if name.startswith(READ_BY)
        },
        "checks": [{"code": code, "meaning": checks[code], "files": found[code]} for code in sorted(checks)],
    }


_VERDICTS = (Verdict.DIFFERENT, Verdict.EQUAL, Verdict.NOT_CONVERTIBLE, Verdict.NOT_RUN)
"""The first that any file of a series has is the series'."""


def _conversion(rows: Sequence[ExportRow]) -> dict[str, Any]:
    """Count series by what comparing their conversions gave; those refused before have no part in it."""
    told: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.conversion:
            told[row.target.rpartition("/")[0]].add(row.conversion)
    verdicts: Counter[str] = Counter()
    differing: Counter[str] = Counter()
    for texts in told.values():
        words = {text.partition(":")[0] for text in texts}
        verdicts[next((verdict for verdict in _VERDICTS if verdict in words), Verdict.NOT_RUN)] += 1
        differing.update({name for text in texts for name in text.partition(":")[2].split()})
    return {
        "ran": any(verdicts[verdict] for verdict in _VERDICTS if verdict != Verdict.NOT_RUN),
        **{verdict.value.replace("-", "_"): verdicts[verdict] for verdict in _VERDICTS},
        "differing": dict(sorted(differing.items())),
    }


def _cohort(exported: Sequence[ExportRow], settings: ReportSettings) -> Cohort:
    return assess_cohort(
        gather_facts((row.target.partition("/")[0], row.cohort) for row in exported),
        asked_for=settings.smallest_cohort,
        dates_are_moved=settings.profile.temporal_information() == "MODIFIED",
    )


def _cohort_json(cohort: Cohort, profile: Profile) -> dict[str, Any]:
    def told(one: Combination) -> dict[str, Any]:
        return {
            "facts": list(one.names),
            "groups": one.groups,
            "smallest_group": one.smallest,
            "small_groups": one.small_groups,
            "subjects_in_small_groups": one.subjects,
            "driven_by": one.driver,
        }

    return {
        "subjects": cohort.subjects,
        "asked_for": cohort.asked_for,
        "facts": list(cohort.present),
        "dates": profile.temporal_information(),
        "judged": told(cohort.judged),
        "in_small_groups": list(cohort.in_small_groups),
        "combinations": [told(one) for one in cohort.combinations],
        "alone": {name: list(subjects) for name, subjects in cohort.alone.items()},
        "outlying": {name: list(subjects) for name, subjects in cohort.outlying.items()},
    }


def _warnings(cohort: Cohort) -> list[dict[str, Any]]:
    """Say what makes subjects stand out: a sentence, and whom it is about."""
    warnings = []
    judged = cohort.judged
    if judged.subjects:
        some = f"{judged.subjects:,} of {_counted(cohort.subjects, 'subject')}"
        if judged.names:
            others = "nobody else" if cohort.asked_for == 2 else f"fewer than {cohort.asked_for - 1:,} others"
            share = "shares" if judged.subjects == 1 else "share"
            meaning = (
                f"{some} {share} {_listed(judged.names)} with {others}; the smallest group has {judged.smallest:,}."
            )
            if judged.driver:
                meaning += f" The most would be gained by coarsening or removing {_FACTS[judged.driver]}."
        else:
            meaning = f"There are only {_counted(cohort.subjects, 'subject')} in the export."
        warnings.append({"code": "small-groups", "meaning": meaning, "subjects": list(cohort.in_small_groups)})
    for name, subjects in cohort.alone.items():
        if subjects:
            warnings.append({"code": f"alone-{name}", "meaning": f"{_ALONE[name]}.", "subjects": list(subjects)})
    for name, subjects in cohort.outlying.items():
        if subjects:
            meaning = f"A {name} far from that of the other subjects."
            warnings.append({"code": f"outlying-{name}", "meaning": meaning, "subjects": list(subjects)})
    return warnings


def _listed(names: Sequence[str]) -> str:
    *some, last = (_FACTS[name] for name in names)
    return f"{', '.join(some)} and {last}" if some else last


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _not_promised(settings: ReportSettings) -> list[str]:
    profile = settings.profile
    return [
        _FACES,
        _BURNED_IN[settings.ocr],
        *(_BY_OPTION[option] for option in Option if option in profile.options and option in _BY_OPTION),
        *(_KNOWN_ELSEWHERE, _KEY, _LAW),
    ]


def _series(exported: Sequence[ExportRow]) -> list[dict[str, Any]]:
    """Digest each series over its lines in the list of checksums, so that standard tools can work it out again."""
    lines: dict[str, list[bytes]] = defaultdict(list)
    for row in exported:
        lines[row.target.rpartition("/")[0]].append(_checksum_line(row.target, row.digest))
    return [
        {"folder": folder, "files": len(own), "sha256": hashlib.sha256(b"".join(own)).hexdigest()}
        for folder, own in sorted(lines.items())
    ]


def _fact(row: ExportRow, name: str) -> str:
    return _facts(row.cohort).get(name, "")


@functools.lru_cache(maxsize=4096)
def _facts(cohort: str) -> dict[str, str]:
    return json.loads(cohort) if cohort else {}

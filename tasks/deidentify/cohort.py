"""Ask of an export how easily one of its subjects could be singled out by what it still tells of them.

What a subject tells is read from the exported bytes, not from what the rewriter meant to write. Subjects who tell the
same form a group; whoever knows these facts of a person can narrow them down to the group, and no further (k-anonymity:
Sweeney, Int. J. Uncertainty, Fuzziness and Knowledge-Based Systems 10 (2002) 557). No value leaves this module: a
result names facts, numbers and pseudonyms.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tasks.dicom.elements import WalkError, pick
from tasks.dicom.syntax import SyntaxRefusalError, read_start
from tasks.dicom.text import decode_text

QUASI_IDENTIFIERS = ("age", "sex", "site", "date")
"""Facts that somebody outside may know of a person: age in whole years, sex, where they were scanned, and the month."""

RARITIES = ("scanner", "ethnic_group")
"""Facts that point at a subject where nobody else in the export shares them."""

MEASURES = ("height", "weight")
"""Numbers that point at a subject where they lie far from everybody else's."""

FEWEST_MEASURED = 5
"""With fewer subjects than this nothing can be said to lie far from the others."""

OUTLYING = 3.5
"""From so many robust standard deviations from the median on a number lies far from the others: the modified z-score of
Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993)."""

_LEAST_SPREAD = 0.02
"""Of the median: subjects of nearly one height are not told apart by a centimetre."""

_MONTH = re.compile(r"(\d{4})\D?(\d{2})")
_AGE = re.compile(r"(\d{3})([DWMY])")
_SOFTWARE = re.compile(r"scanward [0-9]+(?:\.[0-9]+)*")
_METHOD_CODE = re.compile(rb"1131\d\d")
_EMPTY = frozenset({"", "REMOVED", "000Y"})
"""What an empty or replaced value says: nothing."""

_STUDY_DATE = 0x00080020
_SERIES_DATE = 0x00080021
_ACQUISITION_DATE = 0x00080022
_SEX = 0x00100040
_AGE_TAG = 0x00101010
_SIZE = 0x00101020
_WEIGHT = 0x00101030
_ETHNIC_GROUP = 0x00102160
_METHOD = 0x00120063
_METHOD_CODES = 0x00120064
_SITE = (
    0x00080080,  # Institution Name
    0x00080081,  # Institution Address
    0x00081010,  # Station Name
    0x00081040,  # Institutional Department Name
    0x00120030,  # Clinical Trial Site ID
    0x00120031,  # Clinical Trial Site Name
    0x00181000,  # Device Serial Number
)
_SCANNER = (0x00080070, 0x00081090, 0x00181020)  # Manufacturer, Model Name, Software Versions
_DATES = (_STUDY_DATE, _SERIES_DATE, _ACQUISITION_DATE)
_WANTED = frozenset({*_SITE, *_SCANNER, *_DATES, _SEX, _AGE_TAG, _SIZE, _WEIGHT, _ETHNIC_GROUP, _METHOD, _METHOD_CODES})


def read_facts(content: bytes) -> str:
    """Read from one exported file what it tells of its subject, and what it says was done to it.

    Parameters
    ----------
    content
        The whole file, in one of the little-endian syntaxes.

    Returns
    -------
    str
        A JSON object of texts, equal for files that tell the same: by the names of `QUASI_IDENTIFIERS`, `RARITIES` and
        `MEASURES`, and `codes` (of the method, PS3.16 CID 7050) and `software`. What a file does not tell is left out.
        Empty where the file cannot be followed.
    """
    try:
        start = read_start(content[:4096])
        found = pick(
            lambda offset, size: content[offset : offset + size],
            len(content),
            start.offset,
            explicit=start.explicit,
            wanted=_WANTED,
            last=max(_WANTED),
        )
    except (SyntaxRefusalError, WalkError):
        return ""
    return _facts(tuple(sorted(found.items())))


@functools.lru_cache(maxsize=256)
def _facts(found: tuple[tuple[int, bytes], ...]) -> str:
    """Say in JSON what the values say; nearly all files of a series hold the same."""
    values = dict(found)
    texts = {tag: decode_text(value) for tag, value in found if tag != _METHOD_CODES}
    facts = {
        "age": _years(texts.get(_AGE_TAG, "")),
        "sex": _told(texts.get(_SEX, "")),
        "site": "\\".join(filter(None, (_told(texts.get(tag, "")) for tag in _SITE))),
        "date": next(filter(None, (_month(texts.get(tag, "")) for tag in _DATES)), ""),
        "scanner": "\\".join(filter(None, (_told(texts.get(tag, "")) for tag in _SCANNER))),
        "ethnic_group": _told(texts.get(_ETHNIC_GROUP, "")),
        "height": texts.get(_SIZE, ""),
        "weight": texts.get(_WEIGHT, ""),
        "codes": " ".join(code.decode("ascii") for code in _METHOD_CODE.findall(values.get(_METHOD_CODES, b""))),
        "software": next(filter(_SOFTWARE.fullmatch, reversed(texts.get(_METHOD, "").split("\\"))), ""),
    }
    return json.dumps({name: text for name, text in facts.items() if text}, sort_keys=True, separators=(",", ":"))


def _told(text: str) -> str:
    text = text.strip().upper()
    return "" if text in _EMPTY else text


def _years(text: str) -> str:
    """Return the age in whole years of an Age String (PS3.5 table 6.2-1), or nothing."""
    found = _AGE.fullmatch(_told(text))
    if found is None:
        return ""
    per_year = {"D": 365, "W": 52, "M": 12, "Y": 1}[found[2]]
    return str(int(found[1]) // per_year)


def _month(text: str) -> str:
    found = _MONTH.match(text.strip())
    return "" if found is None or found[1] == "1900" else f"{found[1]}-{found[2]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """The groups that some facts make.

    Attributes
    ----------
    names
        The facts, in the order of `QUASI_IDENTIFIERS`; none makes one group of all.
    groups
        How many groups there are.
    smallest
        Subjects in the smallest; 0 where there are no subjects.
    small_groups, subjects
        Groups below the asked-for size, and subjects in them.
    driver
        The fact without which the fewest subjects would be in small groups; empty if none are, or it would not help.
    """

    names: tuple[str, ...]
    groups: int
    smallest: int
    small_groups: int
    subjects: int
    driver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """How easily subjects of an export can be singled out.

    Attributes
    ----------
    subjects
        How many there are.
    asked_for
        The size that no group should fall below.
    present
        The facts that the export tells of anybody.
    combinations
        Every choice of them, the empty one left out, short ones first.
    judged
        The combination that the warning goes by.
    in_small_groups
        Pseudonyms of the subjects that `judged` puts into groups below the asked-for size.
    alone
        For each of `RARITIES` that the export tells: pseudonyms of subjects who share it with nobody.
    outlying
        For each of `MEASURES` that the export tells: pseudonyms of subjects far from the others.
    """

    subjects: int
    asked_for: int
    present: tuple[str, ...]
    combinations: tuple[Combination, ...]
    judged: Combination
    in_small_groups: tuple[str, ...]
    alone: Mapping[str, tuple[str, ...]]
    outlying: Mapping[str, tuple[str, ...]]


Told = Mapping[str, frozenset[str]]
"""Fact to all values that the files of a subject tell: somebody scanned twice may have two ages."""


def gather_facts(files: Iterable[tuple[str, str]]) -> dict[str, Told]:
    """Gather what each subject tells.

    Parameters
    ----------
    files
        Pseudonym, and what `read_facts` made of one of the subject's files.
    """
    gathered: dict[str, defaultdict[str, set[str]]] = {}
    for pseudonym, facts in sorted(set(files)):
        told = gathered.setdefault(pseudonym, defaultdict(set))
        for name, text in (json.loads(facts) if facts else {}).items():
            told[name].add(text)
    return {pseudonym: {name: frozenset(texts) for name, texts in told.items()} for pseudonym, told in gathered.items()}


def group_by(subjects: Mapping[str, Told], names: Sequence[str]) -> list[list[str]]:
    """Group subjects who tell the same of all the named facts; those who tell nothing of a fact are alike in it."""
    groups: dict[tuple[frozenset[str], ...], list[str]] = defaultdict(list)
    for pseudonym, told in subjects.items():
        groups[tuple(told.get(name, frozenset()) for name in names)].append(pseudonym)
    return list(groups.values())


def assess_cohort(subjects: Mapping[str, Told], *, asked_for: int, dates_are_moved: bool) -> Cohort:
    """Say which subjects can be singled out.

    Parameters
    ----------
    subjects
        As `gather_facts` makes them.
    asked_for
        The size that no group should fall below; 1 is always met.
    dates_are_moved
        Whether dates are moved by a number of days that only the key map knows. Nobody outside can then compare a
        month, so the warning goes by the other facts; the combinations are told with it and without it.
    """
    present = tuple(name for name in QUASI_IDENTIFIERS if any(told.get(name) for told in subjects.values()))
    in_small_groups: dict[tuple[str, ...], tuple[str, ...]] = {}
    combinations: dict[tuple[str, ...], Combination] = {}
    for size in range(len(present) + 1):
        for names in itertools.combinations(present, size):
            groups = group_by(subjects, names)
            small = [group for group in groups if len(group) < asked_for]
            in_small_groups[names] = tuple(sorted(itertools.chain.from_iterable(small)))
            left = {name: len(in_small_groups[tuple(n for n in names if n != name)]) for name in names}
            best = min(left, key=left.__getitem__, default="")
            combinations[names] = Combination(
                names=names,
                groups=len(groups),
                smallest=min(map(len, groups), default=0),
                small_groups=len(small),
                subjects=len(in_small_groups[names]),
                driver=best if best and left[best] < len(in_small_groups[names]) else "",
            )
    judged = tuple(name for name in present if not (name == "date" and dates_are_moved))
    return Cohort(
        subjects=len(subjects),
        asked_for=asked_for,
        present=present,
        combinations=tuple(one for names, one in combinations.items() if names),
        judged=combinations[judged],
        in_small_groups=in_small_groups[judged],
        alone={name: _alone(subjects, name) for name in RARITIES if _is_told(subjects, name)},
        outlying={name: _outlying(subjects, name) for name in MEASURES if _is_told(subjects, name)},
    )


def _is_told(subjects: Mapping[str, Told], name: str) -> bool:
    return any(told.get(name) for told in subjects.values())


def _alone(subjects: Mapping[str, Told], name: str) -> tuple[str, ...]:
    """List the subjects with a value that no other subject has; of a single subject that would say nothing."""
    if len(subjects) < 2:
        return ()
    owners = Counter(text for told in subjects.values() for text in told.get(name, ()))
    return tuple(
        sorted(
            pseudonym for pseudonym, told in subjects.items() if any(owners[text] == 1 for text in told.get(name, ()))
        )
    )


def _outlying(subjects: Mapping[str, Told], name: str) -> tuple[str, ...]:
    """List the subjects with a number far from everybody's median."""
    numbers = {pseudonym: _numbers(told.get(name, frozenset())) for pseudonym, told in subjects.items()}
    typical = [statistics.fmean(own) for own in numbers.values() if own]
    if len(typical) < FEWEST_MEASURED:
        return ()
    middle = statistics.median(typical)
    # 1.4826 makes of the median deviation the standard deviation, where numbers are spread normally.
    spread = max(1.4826 * statistics.median(abs(number - middle) for number in typical), _LEAST_SPREAD * middle)
    return tuple(
        sorted(
            pseudonym
            for pseudonym, own in numbers.items()
            if any(abs(number - middle) >= OUTLYING * spread for number in own)
        )
    )


def _numbers(texts: frozenset[str]) -> list[float]:
    """Read Decimal Strings (PS3.5 table 6.2-1); what is none, or no measure of a body, is left out."""
    numbers = []
    for text in sorted(texts):
        try:
            number = float(text)
        except ValueError:
            continue
        if math.isfinite(number) and number > 0:
            numbers.append(number)
    return numbers

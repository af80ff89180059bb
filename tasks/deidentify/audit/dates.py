"""The audit's own arithmetic of dates: how one has to move, and where one stands in texts and counts of seconds."""

from __future__ import annotations

import datetime as dt
import re
import struct
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import numpy as np

DATE = re.compile(r"(?<!\d)(\d{4})[./-]?(\d{2})[./-]?(\d{2})")
_OTHER_DATE = re.compile(r"(?<!\d)(\d{1,2})([./-])(\d{1,2})\2(\d{4})(?!\d)")
_AGE = re.compile(r"(\d+)([DWMY])")
_HIGHEST_AGE = {"Y": 90, "M": 90 * 12, "W": 90 * 53, "D": 90 * 366}

WRITTEN_TEXTS = frozenset({"", "REMOVED", "000Y", "090Y", "19000101", "19000101000000", "000000", "0"})
"""What stands where a value had to go."""

_MIDNIGHT = dt.date(1970, 1, 1)
_DAY = 86_400
_BESIDE = 36 * 3600
_SECONDS = re.compile(r"(?<![\d.])\d{9,10}(?!\d)")
_FORMS = {"UL": "L", "SL": "L", "FL": "f", "FD": "d", "SV": "q", "UV": "Q"}
_FEWEST, _MOST = 10**8, 1 << 32
_LETTERS = re.compile(rb"[ -~\t\r\n]{4}")
_FLOATS_END = 0x4A000000
"""Below it, which is May 2009, a 32-bit number in a blob is as well a floating-point one, or half of one."""


def dates_in(texts: Iterable[str]) -> set[str]:
    """Return the dates that DA and DT values begin with, as YYYYMMDD."""
    return {"".join(match.groups()) for text in texts for match in DATE.finditer(text)}


class Days:
    """Dates of a patient that must not be found.

    Parameters
    ----------
    dates
        As YYYYMMDD.
    """

    def __init__(self, dates: AbstractSet[str]) -> None:
        self._dates = dates
        self._years = tuple(sorted({date[:4] for date in dates}))
        years = "|".join(self._years)
        self._pattern = re.compile(rf"(?<!\d)({years})[./-]?(\d{{2}})[./-]?(\d{{2}})") if dates else None
        begins = sorted({second for date in dates for second in _second(date)})
        self._seconds = [(begin - _BESIDE, begin + _DAY + _BESIDE) for begin in begins]

    def stand_in(self, text: str) -> bool:
        """Tell whether one of them stands in a text, year first or last."""
        if self._pattern is None or not any(year in text for year in self._years):
            return False
        if any("".join(match.groups()) in self._dates for match in self._pattern.finditer(text)):
            return True
        if not any(f"{sign}{year}" in text for year in self._years for sign in "./-"):
            return False
        return any(
            f"{year}{int(one):02d}{int(other):02d}" in self._dates
            for match in _OTHER_DATE.finditer(text)
            for one, other, year in ((match[1], match[3], match[4]), (match[3], match[1], match[4]))
        )

    def are_counted_in(self, numbers: Iterable[float]) -> bool:
        """Tell whether a number counts the seconds since 1970 to one of them, or to 36 hours before or after."""
        return any(
            begin <= number < end for number in numbers if _FEWEST <= number < _MOST for begin, end in self._seconds
        )

    def are_counted_in_text(self, text: str) -> bool:
        """Tell the same of numbers of nine or ten digits in a text."""
        return bool(self._seconds) and self.are_counted_in(map(int, _SECONDS.findall(text)))

    def are_counted_in_value(self, vr: str, raw: bytes) -> bool:
        """Tell the same of the numbers of a binary value, in little endian."""
        form = _FORMS.get(vr)
        if form is None or not self._seconds:
            return False
        count = len(raw) // struct.calcsize("<" + form)
        return self.are_counted_in(struct.unpack_from(f"<{count}{form}", raw))

    def are_counted_in_blob(self, raw: bytes) -> bool:
        """Tell the same of 32-bit words, those aside that may be letters or floating-point numbers."""
        if not self._seconds or self._seconds[-1][1] < _FLOATS_END:
            return False
        words = np.frombuffer(raw, "<u4", len(raw) // 4)
        words = words[(words >= max(self._seconds[0][0], _FLOATS_END)) & (words < self._seconds[-1][1])]
        found = [words[(words >= max(begin, _FLOATS_END)) & (words < end)] for begin, end in self._seconds]
        return any(not _LETTERS.fullmatch(word.tobytes()) for hits in found for word in hits)


def _second(date: str) -> list[int]:
    try:
        return [(dt.date(int(date[:4]), int(date[4:6]), int(date[6:8])) - _MIDNIGHT).days * _DAY]
    except ValueError:
        return []


def moved(date: str, days: int) -> str:
    """Move a date (YYYYMMDD); empty if it is none or leaves the calendar."""
    try:
        day = dt.date(int(date[:4]), int(date[4:6]), int(date[6:8])) + dt.timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return f"{day.year:04d}{day.month:02d}{day.day:02d}"


def is_moved(was: str, now: str, days: int) -> bool:
    """Tell whether a DA or DT value is another one, moved by whole days.

    The time of day has to stay as it was, too: slice timing hangs on it. What is no date has to go.
    """
    if now in WRITTEN_TEXTS:
        return True
    has_dots = was[4:5] == "." and was[7:8] == "."
    plain = was.replace(".", "", 2) if has_dots else was
    digits = re.split(r"[+.-]", plain)[0][:8]
    try:
        day = dt.date(int(digits[:4]), int(digits[4:6] or 1), int(digits[6:8] or 1)) + dt.timedelta(days=days)
    except (ValueError, OverflowError):
        return False
    # It is spelled as precisely as it was, with the time and zone it had.
    return now == f"{day.year:04d}{day.month:02d}{day.day:02d}"[: len(digits)] + plain[len(digits) :]


def age_findings(was: Sequence[str], now: Sequence[str]) -> set[str]:
    """Compare ages (AS)."""
    found = set()
    for text in now:
        match = _AGE.fullmatch(text)
        if match and int(match[1]) > _HIGHEST_AGE[match[2]]:
            found.add("age")
        elif text not in was and text not in WRITTEN_TEXTS:
            found.add("value")
    return found

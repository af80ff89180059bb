"""Who and what becomes whom and what: keyed, so that nobody without the secret can undo it by trying.

The same secret gives the same result in every run, worker and machine, with nothing shared but 32 bytes.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from pydicom._uid_dict import UID_dictionary

from tasks.dicom.text import plain_name
from tasks.errors import KeyMapError
from tasks.files import refusals_named, write_once

SECRET_BYTES = 32

SHORTEST_SHIFT_DAYS = 366
LONGEST_SHIFT_DAYS = 3652
"""Dates move back by more than one and at most ten years, one number of whole days a patient."""

_OWN_UID = re.compile(r"2\.25\.([1-9][0-9]{0,38})")
_DRAWN_BYTES = 11
_CHECK_BITS = 40
"""Of the 122 free bits of a new UID 82 are drawn from the old one and 40 check them: a stranger's UID passes for one of
ours once in 2^40, and two of a thousand million become the same one with a chance of one in ten million."""
_LOW_DRAWN = (1 << 82) - 1

HIGHEST_AGE_YEARS = 89
"""Ages above are told as 090Y: so few people are older that the age points at them (45 CFR 164.514(b)(2)(i)(C))."""

_DATE = re.compile(rb"(\d{4})\.?(\d{2})\.?(\d{2})")
_TIME = rb"(?:\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)?"
_DATE_TIME = re.compile(rb"(\d{4})(?:(\d{2})(?:(\d{2})(" + _TIME + rb"))?)?([+-]\d{4})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Who a patient is in the export.

    Attributes
    ----------
    pseudonym
        Stands for name and ID.
    shift_days
        Whole days, negative, that all dates of this patient move by.
    """

    pseudonym: str
    shift_days: int


class Identity:
    """Keyed replacements for identifiers.

    Parameters
    ----------
    secret
        At least 32 bytes; see `load_secret`.
    """

    def __init__(self, secret: bytes) -> None:
        # A key for each purpose, so that nothing can be learnt of one by looking at another.
        self._uid_key = hmac.digest(secret, b"scanward uid", "sha256")
        self._check_key = hmac.digest(secret, b"scanward uid check", "sha256")
        self._date_key = hmac.digest(secret, b"scanward date", "sha256")
        self._name_key = hmac.digest(secret, b"scanward name", "sha256")
        self._order_key = hmac.digest(secret, b"scanward order", "sha256")
        self._uids: dict[str, str] = {}

    def new_uid(self, uid: str) -> str:
        """Replace a UID; those stay that the standard itself assigns (SOP classes, ...) and that this secret has made.

        Returns
        -------
        str
            Below 2.25, from 82 bits of HMAC-SHA-256 of the old one and 40 bits of it that check them (PS3.5 section
            B.2): at most 44 characters.
        """
        known = self._uids.get(uid)
        if known is None:
            if uid in UID_dictionary or self.has_made(uid):
                known = uid
            else:
                digest = hmac.digest(self._uid_key, uid.encode("utf-8", "replace"), "sha256")
                known = self._checked(int.from_bytes(digest[:_DRAWN_BYTES], "big") & _LOW_DRAWN)
            if len(self._uids) > 500_000:
                self._uids.clear()
            self._uids[uid] = known
        return known

    def has_made(self, uid: str) -> bool:
        """Tell whether a UID is one that `new_uid` makes with this secret: it bears the check."""
        match = _OWN_UID.fullmatch(uid)
        if match is None:
            return False
        number = int(match[1])
        # Back from the UUID to what was drawn, without looking at the check; then what was drawn gives all of it anew.
        drawn = (number >> 80 & 0xFFFFFFFFFFFF) << 34 | (number >> 64 & 0xFFF) << 22 | number >> _CHECK_BITS & 0x3FFFFF
        return self._checked(drawn) == uid

    def _checked(self, drawn: int) -> str:
        """Make a UID of 82 bits: a UUID of version 8 (RFC 9562, section 5.8), which is what stands below 2.25."""
        check = hmac.digest(self._check_key, drawn.to_bytes(_DRAWN_BYTES, "big"), "sha256")[: _CHECK_BITS // 8]
        # 48 free bits, 4 for the version, 12 free bits, 2 for the variant, 62 free bits: the last 40 are the check.
        high = (drawn >> 34) << 80 | 8 << 76 | (drawn >> 22 & 0xFFF) << 64
        low = 2 << 62 | (drawn & 0x3FFFFF) << _CHECK_BITS | int.from_bytes(check, "big")
        return f"2.25.{high | low}"

    def shift_for(self, patient: str, *, whole_weeks: bool = False) -> int:
        """Draw the days, negative, by which all dates of a patient move; a multiple of 7 keeps the day of the week."""
        number = int.from_bytes(hmac.digest(self._date_key, patient.encode("utf-8", "replace"), "sha256")[:8], "big")
        step = 7 if whole_weeks else 1
        least, most = -(-SHORTEST_SHIFT_DAYS // step), LONGEST_SHIFT_DAYS // step
        return -step * (least + number % (most - least + 1))

    def tag(self, *parts: str, digits: int = 8) -> str:
        """Name something in a file name of the export by a few hexadecimal digits."""
        return hmac.digest(self._name_key, "\0".join(parts).encode("utf-8", "replace"), "sha256").hex()[:digits]

    def rank(self, patient: str) -> bytes:
        """Give patients an order that says nothing of them, for numbering."""
        return hmac.digest(self._order_key, patient.encode("utf-8", "replace"), "sha256")

    def fingerprint(self) -> str:
        """Name the secret without telling it, so that a changed one is noticed."""
        return hashlib.sha256(self._uid_key + self._date_key).hexdigest()


def load_secret(path: Path) -> bytes:
    """Read the secret, drawing it on first use; the file is readable by its owner alone.

    Raises
    ------
    KeyMapError
        If the file is too short or readable by others.
    """
    with refusals_named(path.parent):
        if not path.exists():
            write_once(path, secrets.token_bytes(SECRET_BYTES), mode=0o600)
    if path.stat().st_mode & 0o077:
        raise KeyMapError(
            what="secret",
            path=path,
            problem="others than its owner may read it",
            remedy="Make it mode 0600, if you are sure that nobody has read it",
        )
    secret = path.read_bytes()
    if len(secret) < SECRET_BYTES:
        raise KeyMapError(
            what="secret",
            path=path,
            problem=f"it has fewer than {SECRET_BYTES} bytes",
            remedy="Restore it from a copy; a new one would give every patient another pseudonym",
        )
    return secret


def patient_key(patient_id: str, patient_name: str, study_instance_uid: str) -> str:
    """Tell patients apart: by Patient ID, else by name, else by the DICOM study, each in its own range."""
    if patient_id:
        return f"id:{patient_id}"
    if plain_name(patient_name):
        return f"name:{plain_name(patient_name)}"
    return f"study:{study_instance_uid}"


def shift_date(value: bytes, days: int) -> bytes | None:
    """Move a DA value (PS3.5 table 6.2-1); None if it is no date or leaves the calendar."""
    match = _DATE.fullmatch(value.strip(b" \0"))
    if match is None:
        return None
    moved = _move(int(match[1]), int(match[2]), int(match[3]), days)
    return None if moved is None else _digits(moved)


def shift_date_time(value: bytes, days: int) -> bytes | None:
    """Move a DT value; time, fraction and zone stay, and so does its precision. None if it is no date.

    Of a value that ends with the month or the year, the first day it covers is moved and cut to the same precision.
    """
    match = _DATE_TIME.fullmatch(value.strip(b" \0"))
    if match is None:
        return None
    year, month, day, time, zone = match.groups()
    moved = _move(int(year), int(month or 1), int(day or 1), days)
    if moved is None:
        return None
    precision = 8 if day else 6 if month else 4
    return _digits(moved)[:precision] + (time or b"") + (zone or b"")


def cap_age(value: bytes) -> bytes:
    """Tell an age (AS) above 89 years as 090Y; an age that cannot be read becomes empty."""
    match = re.fullmatch(rb"(\d{3})([DWMY])", value.strip(b" \0"))
    if match is None:
        return b""
    years = int(match[1]) / {b"D": 365.25, b"W": 52.18, b"M": 12, b"Y": 1}[match[2]]
    return b"090Y" if years > HIGHEST_AGE_YEARS else match[0]


def _digits(date: dt.date) -> bytes:
    # Not strftime, which leaves the zeros in front of early years out on some platforms.
    return b"%04d%02d%02d" % (date.year, date.month, date.day)


def _move(year: int, month: int, day: int, days: int) -> dt.date | None:
    try:
        return dt.date(year, month, day) + dt.timedelta(days=days)
    except (ValueError, OverflowError):
        return None

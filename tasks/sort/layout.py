"""Where a file belongs in the sorted tree: names made of header values, safe on every file system.

`patient/study date/series/instance`, each name but the date ending in a short hash of the identity behind it, so that
two things with equal names never merge, on file systems that fold case as well.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import unicodedata
from typing import TYPE_CHECKING

from tasks.dicom.text import plain_name

if TYPE_CHECKING:
    from tasks.index.row import IndexRow

UNKNOWN_DATE = "unknown-date"
UNKNOWN_PATIENT = "unknown-patient"

LONGEST_NAME = 255
"""Bytes that ext4, XFS, NTFS and APFS all allow in one name."""

_LONGEST_PART = 80
"""Bytes that one header value may take of a name; three of them and a hash stay below `LONGEST_NAME`."""

_RESERVED = re.compile(r"(?is)^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?$")
_KEPT_MARKS = frozenset("-+.,=")


def safe_part(text: str, *, limit: int = _LONGEST_PART) -> str:
    """Turn a header value into a piece of a file name.

    Letters and digits of every script stay; everything else (separators, control and format characters, spaces)
    becomes an underscore. The result never begins with a dot, dash or underscore, never ends with a dot, is no name
    that Windows reserves, and may be empty.

    Parameters
    ----------
    text
        The value, decoded.
    limit
        The most bytes of UTF-8 the piece may take; one more for a reserved name.
    """
    composed = unicodedata.normalize("NFC", text)
    kept = "".join(mark if mark.isalnum() or mark in _KEPT_MARKS or _combines(mark) else "_" for mark in composed)
    kept = re.sub(r"_+", "_", kept)
    kept = re.sub(r"\.{2,}", "_", kept).strip("._- ")
    cut = kept.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore").strip("._- ")
    # Windows looks at what stands before the first dot: "con.1" is as reserved as "con".
    return _RESERVED.sub(r"\1_\2", cut)


def short_hash(*identity: str, digits: int = 8) -> str:
    """Name an identity by the first hexadecimal digits of its SHA-256."""
    # A value may hold the separator: escaped, or two identities with shifted borders would be one.
    parts = (part.replace("\1", "\1\1").replace("\0", "\1\0") for part in identity)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:digits]


def visit_date(row: IndexRow) -> str:
    """Return the date a file is filed under, as YYYY-MM-DD: the study's, else the series', else the acquisition's."""
    for value in (row.study_date, row.series_date, row.acquisition_date, row.acquisition_datetime, row.content_date):
        digits = value.replace(".", "")[:8]
        if not re.fullmatch(r"[0-9]{8}", digits):
            continue
        try:
            return datetime.datetime.strptime(digits, "%Y%m%d").date().isoformat()  # noqa: DTZ007 - a date, no moment
        except ValueError:
            continue
    return UNKNOWN_DATE


def place_of(row: IndexRow, *, digest: str = "", digits: int = 8) -> str:
    """Return where a file belongs, relative to the sorted tree, with forward slashes.

    Parameters
    ----------
    row
        What the file's header says.
    digest
        The content's SHA-256, where the SOP Instance UID alone does not name it: for a file without one, or one of
        several that share one.
    digits
        How long the hashes are.
    """
    name = plain_name(row.patient_name)
    patient = "_".join(part for part in (safe_part(row.patient_id), safe_part(name)) if part)
    patient = f"{patient or UNKNOWN_PATIENT}_{short_hash(row.patient_id, name, digits=digits)}"
    series = "_".join(part for part in (_number(row.series_number, 3), safe_part(row.series_description)) if part)
    series = f"{series}_{short_hash(row.study_instance_uid, row.series_instance_uid, digits=digits)}"
    instance = f"{_number(row.instance_number, 5)}_{short_hash(row.sop_instance_uid, digits=digits)}"
    if digest:
        instance += f"_{digest[:digits]}"
    return f"{patient}/{visit_date(row)}/{series}/{instance}.dcm"


def fold(path: str) -> str:
    """Return what a case-folding, composition-blind file system takes a path for."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKD", path).casefold())


def _number(text: str, width: int) -> str:
    return f"{int(text):0{width}d}" if re.fullmatch(r"[0-9]{1,9}", text) else "0" * width


def _combines(mark: str) -> bool:
    """Tell whether a mark belongs to the letter before it, as vowel signs do in many scripts."""
    return unicodedata.category(mark) in ("Mn", "Mc")

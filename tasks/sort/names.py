"""Names made of what strangers wrote: every file system takes them, and takes none of them for another."""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

LONGEST_NAME = 255
"""Bytes that ext4, XFS, NTFS and APFS all allow in one name."""

LONGEST_PART = 80
"""Bytes that one header value may take of a name."""

LONG_HASH = 32
"""Digits that a hash takes where a short one is not enough; room is kept for it."""

_RESERVED = re.compile(r"(?is)^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?$")
_KEPT_MARKS = frozenset("-+.,=")
_UNSAFE_ASCII = re.compile(r"[^0-9A-Za-z+.,=-]+")

_INVISIBLE = dict.fromkeys(
    map(
        ord,
        "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
        + "".join(map(chr, range(0xFE00, 0xFE10)))
        + "".join(map(chr, range(0xE0100, 0xE01F0))),
    )
)
"""Letters and marks that show nothing: ext4 with case folding leaves them out when it compares names.

Source: Unicode, DerivedCoreProperties, Default_Ignorable_Code_Point, of the categories Lo and Mn.
"""


@functools.lru_cache(maxsize=8192)
def safe_part(text: str, *, limit: int = LONGEST_PART) -> str:
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
    kept = replace_unsafe(text).strip("._- ")
    cut = kept.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore").strip("._- ")
    # Windows looks at what stands before the first dot: "con.1" is as reserved as "con".
    return _RESERVED.sub(r"\1_\2", cut)


def replace_unsafe(text: str) -> str:
    """Replace what may not stand in a name somewhere by underscores; what a name may not begin or end with stays."""
    if text.isascii():
        kept = _UNSAFE_ASCII.sub("_", text)
    else:
        composed = unicodedata.normalize("NFC", text.translate(_INVISIBLE))
        kept = "".join(mark if mark.isalnum() or mark in _KEPT_MARKS or _combines(mark) else "_" for mark in composed)
        kept = re.sub(r"_+", "_", kept)
    return re.sub(r"\.{2,}", "_", kept) if ".." in kept else kept


def _combines(mark: str) -> bool:
    """Tell whether a mark belongs to the letter before it, as vowel signs do in many scripts."""
    return unicodedata.category(mark) in ("Mn", "Mc")


def pad_number(text: str, width: int) -> str:
    """Pad a number of 0 or more; empty if the value is none (IS has at most twelve characters, PS3.5 table 6.2-1)."""
    digits = text if text.isdecimal() else text.strip().removeprefix("+")
    if not (digits.isdecimal() and digits.isascii() and len(digits) <= 12):
        return ""
    return (digits.lstrip("0") or "0").zfill(width)


def short_hash(*identity: str, digits: int = 8) -> str:
    """Name an identity by the first hexadecimal digits of its SHA-256."""
    text = "\0".join(identity)
    if "\1" in text or text.count("\0") >= len(identity):
        # A value holds the separator: escaped, or two identities with shifted borders would be one.
        text = "\0".join(part.replace("\1", "\1\1").replace("\0", "\1\0") for part in identity)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]


# Folders that a file system could take for one -----------------------------------------------------------------------


def fold(path: str) -> str:
    """Return what a case-folding, composition-blind file system takes a path for."""
    if path.isascii():
        return path.lower()
    visible = path.translate(_INVISIBLE)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKD", visible).casefold())


def unfold(folders: Iterable[str]) -> dict[str, str]:
    """Rename folders, so that no file system takes two of them for one.

    Of names that stand in one folder and differ in case, composition or compatible forms only (`fold`), each gets the
    hash of its exact spelling. The order in which folders are given does not matter.

    Parameters
    ----------
    folders
        All folders of a plan, with forward slashes; no name ends in a slash or is empty.

    Returns
    -------
    dict
        Each folder that has to be renamed, and its new name.
    """
    paths = {folder: folder.split("/") for folder in set(folders)}
    inside: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for path in paths.values():
        for depth, name in enumerate(path):
            inside[tuple(path[:depth])].add(name)
    apart = {parent: _tell_apart(names) for parent, names in inside.items()}
    unfolded = {}
    for folder, path in paths.items():
        renamed = "/".join(apart[tuple(path[:depth])].get(name, name) for depth, name in enumerate(path))
        if renamed != folder:
            unfolded[folder] = renamed
    return unfolded


def _tell_apart(names: set[str]) -> dict[str, str]:
    """Return new names for those of one folder that another one folds to."""
    renamed: dict[str, str] = {}
    digits = 8
    while alike := _alike({name: renamed.get(name, name) for name in names}):
        if alike <= renamed.keys():
            digits = LONG_HASH
        renamed = {name: _name_with_hash(name, digits) for name in alike | renamed.keys()}
    return renamed


def _alike(names: dict[str, str]) -> set[str]:
    """Return the keys whose values fold together."""
    groups: dict[str, list[str]] = defaultdict(list)
    for key, name in names.items():
        groups[fold(name)].append(key)
    return {key for group in groups.values() if len(group) > 1 for key in group}


def _name_with_hash(name: str, digits: int) -> str:
    room = LONGEST_NAME - 1 - digits
    cut = name.encode("utf-8", "surrogatepass")[:room].decode("utf-8", "ignore")
    return f"{cut}_{short_hash(name, digits=digits)}"

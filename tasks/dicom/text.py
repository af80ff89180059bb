"""What the raw value of a text element says, by the character sets its data set declares.

Source: PS3.5 section 6.1 (character repertoires), section 6.2 (padding of the text VRs), annexes H to K (examples).
"""

from __future__ import annotations

import unicodedata
import warnings

SPECIFIC_CHARACTER_SET = 0x00080005

_PLAIN = {"": "ascii", "ISO_IR 6": "ascii", "ISO_IR 100": "latin-1", "ISO_IR 192": "utf-8"}


def decode_text(value: bytes, character_set: str = "") -> str:
    """Decode a text value; padding is gone, letters are composed (NFC), and what cannot be decoded becomes U+FFFD.

    Parameters
    ----------
    value
        The value as it stands in the file. Several values stay separated by backslashes.
    character_set
        (0008,0005) as it stands in the file, decoded as ASCII; empty for the default repertoire.
    """
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii").strip(" \0")
    codec = _PLAIN.get(character_set)
    if codec == "ascii":
        # The declared repertoire has no such byte; the writer most often meant the Western one.
        codec = "latin-1"
    if codec is not None:
        return unicodedata.normalize("NFC", value.decode(codec, "replace")).strip(" \0")
    # pydicom knows the fifteen others and their escape sequences; it is imported only for the files that need it.
    from pydicom.charset import convert_encodings, decode_bytes  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            encodings = convert_encodings([part.strip() for part in character_set.split("\\")])
            # pydicom 3.0 leaves the escape sequence of ISO 2022 IR 58 (simplified Chinese) in the text.
            text = decode_bytes(value, encodings, set(b"\\^=")).replace("\x1b$)A", "")
        except (LookupError, ValueError):
            text = value.decode("latin-1")
    return unicodedata.normalize("NFC", text).strip(" \0")


def decode_ascii(value: bytes) -> str:
    """Decode a value of VR UI, CS, DA, TM, IS or DS, whose repertoire is ASCII; stray bytes become U+FFFD."""
    return value.decode("ascii", "replace").strip(" \0")


def plain_name(name: str) -> str:
    """Drop what a person's name may end with and means nothing: `A^B`, `A^B^^^` and `A^B=` are one (PS3.5 6.2.1.1)."""
    return "=".join(group.rstrip("^ ") for group in name.split("=")).rstrip("=")

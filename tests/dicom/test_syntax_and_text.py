"""Where a data set begins, in which syntax, and what its text says: every written form, judged by pydicom."""

from __future__ import annotations

import io
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import AllTransferSyntaxes, ExplicitVRBigEndian

from tasks.dicom.syntax import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    MEDIA_STORAGE_SOP_CLASS,
    MEDIA_STORAGE_SOP_INSTANCE,
    SyntaxRefusalError,
    needs_more,
    read_meta,
    read_start,
)
from tasks.dicom.text import decode_ascii, decode_text, plain_name
from tests import strategies
from tests.builders.world import make_instance, write_instance
from tests.dicom.encoder import Leaf, encode, head, write_meta
from tests.dicom.oracle import PYDICOM_FILES, data_files

UID = Leaf(tag=0x00080018, vr="UI", value=b"1.2\0")
BIG_ENDIAN_UID = b"\0\x08\0\x18UI\0\x04" + b"1.2\0"
Place = tuple[int, ...]
"""The tags and item numbers on the way to an element."""

TEXT_VRS = ("PN", "LO", "SH", "ST", "LT", "UT", "UC")


@pytest.mark.parametrize("group_length", [True, False])
@pytest.mark.parametrize("explicit", [True, False])
def test_beginning_is_found(group_length: bool, explicit: bool) -> None:
    syntax = EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE
    more = [
        Leaf(tag=MEDIA_STORAGE_SOP_CLASS, vr="UI", value=b"1.2.840.10008.5.1.4.1.1.4\0"),
        Leaf(tag=MEDIA_STORAGE_SOP_INSTANCE, vr="UI", value=b"1.2.3\0"),
        Leaf(tag=0x00020100, vr="UI", value=b"1.9\0"),
        Leaf(tag=0x00020102, vr="OB", value=b"\2\0" * 50),
    ]
    meta = write_meta(syntax, group_length=group_length, more=more)
    start = read_start(meta + encode([UID], explicit=explicit)[0])
    assert (start.offset, start.transfer_syntax, start.explicit) == (len(meta), syntax, explicit)
    assert start.meta[MEDIA_STORAGE_SOP_INSTANCE] == b"1.2.3\0"


def test_wrong_group_length_does_not_matter() -> None:
    """Some writers forget to count; the elements themselves tell where group 2 ends."""
    meta = bytearray(write_meta(EXPLICIT_LITTLE))
    for wrong in (0, 7, 10_000):
        meta[140:144] = wrong.to_bytes(4, "little")
        assert read_start(bytes(meta) + encode([UID], explicit=True)[0]).offset == len(meta)


def test_file_of_meta_information_alone() -> None:
    meta = write_meta(EXPLICIT_LITTLE)
    assert read_start(meta).offset == len(meta)


def test_needs_more_until_the_meta_information_is_whole() -> None:
    more = [Leaf(tag=0x00020102, vr="OB", value=b"\1" * 20_000)]
    meta = write_meta(EXPLICIT_LITTLE, more=more) + encode([UID], explicit=True)[0]
    assert needs_more(meta[:8192])
    assert not needs_more(meta)
    with pytest.raises(SyntaxRefusalError, match="meta-damaged"):
        read_start(meta[:8192])
    assert read_start(meta).offset == len(meta) - 12


def test_needs_more_is_not_talked_into_reading_gigabytes() -> None:
    meta = bytearray(write_meta(EXPLICIT_LITTLE))
    meta[140:144] = b"\xff\xff\xff\x7f"
    assert not needs_more(bytes(meta))


PREAMBLE = b"\0" * 128
REFUSALS = {
    "nothing": (b"", "not-dicom"),
    "a text": (b"Dear colleague,\n" * 40, "not-dicom"),
    "zeros": (b"\0" * 4096, "not-dicom"),
    "DICM at the beginning": (b"DICM" + b"\0" * 400, "not-dicom"),
    "no preamble, explicit": (encode([UID, UID], explicit=True)[0], "no-preamble"),
    "no preamble, big-endian": (BIG_ENDIAN_UID + b"\0" * 20, "no-preamble"),
    "no preamble but group 2": (write_meta(EXPLICIT_LITTLE)[132:], "no-preamble"),
    "preamble and no more": (PREAMBLE + b"DICM", "meta-damaged"),
    "no transfer syntax": (PREAMBLE + b"DICM" + encode([UID], explicit=True)[0], "meta-damaged"),
    "implicit meta information": (
        PREAMBLE + b"DICM" + encode([Leaf(tag=0x00020010, vr="UI", value=b"1.2.840.10008.1.2\0")], explicit=False)[0],
        "meta-damaged",
    ),
    "cut in the meta information": (write_meta(EXPLICIT_LITTLE)[:-4], "meta-damaged"),
    "meta information longer than the file": (
        PREAMBLE + b"DICM" + head(0x00020001, "OB", 0x7FFFFFFF, explicit=True) + b"\0\1",
        "meta-damaged",
    ),
    "big-endian": (write_meta(EXPLICIT_BIG) + BIG_ENDIAN_UID, "big-endian"),
    "deflated": (write_meta("1.2.840.10008.1.2.1.99") + b"\xb3\0\0" * 9, "deflated"),
    "JPIP referenced deflate": (write_meta("1.2.840.10008.1.2.4.95") + b"\xb3\0\0" * 9, "deflated"),
    "a private syntax": (write_meta("1.2.840.113619.5.2") + encode([UID], explicit=False)[0], "private-syntax"),
    "no transfer syntax UID": (write_meta("little endian"), "private-syntax"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_each_refusal_has_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(SyntaxRefusalError) as caught:
        read_start(data)
    assert caught.value.reason == reason


@pytest.mark.parametrize("uid", AllTransferSyntaxes)
def test_every_transfer_syntax_is_walked_or_refused(uid: str) -> None:
    """Pydicom's list of the standard's syntaxes; only the big-endian and the deflated cannot be walked."""
    data = write_meta(uid) + encode([UID], explicit=uid != IMPLICIT_LITTLE)[0]
    wayward = {
        ExplicitVRBigEndian: "big-endian",
        "1.2.840.10008.1.2.1.99": "deflated",
        "1.2.840.10008.1.2.4.95": "deflated",
    }
    wayward["1.2.840.10008.1.2.4.205"] = "deflated"
    if uid in wayward:
        with pytest.raises(SyntaxRefusalError, match=wayward[uid]):
            read_start(data)
    else:
        assert read_start(data).explicit == (uid != IMPLICIT_LITTLE)


@given(st.binary(max_size=300))
def test_any_meta_information_is_read_or_refused(data: bytes) -> None:
    for content in (data, PREAMBLE + b"DICM" + data, write_meta(EXPLICIT_LITTLE) + data):
        needs_more(content)
        try:
            start = read_meta(content)
        except SyntaxRefusalError:
            continue
        assert 132 <= start.offset <= len(content) or start.transfer_syntax.endswith((".99", ".95", ".205"))


def test_meta_information_of_every_file_of_pydicom() -> None:
    """Syntax and the start of the data set, as pydicom finds them."""
    checked = 0
    for path in data_files(PYDICOM_FILES):
        data = path.read_bytes()
        try:
            start = read_meta(data)
        except SyntaxRefusalError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stream = io.BytesIO(data)
            pydicom.filereader.read_preamble(stream, force=False)
            meta = pydicom.filereader.read_file_meta_info(path)
            pydicom.filereader._read_file_meta_info(stream)
        assert start.transfer_syntax == meta.TransferSyntaxUID, path.name
        assert start.offset == stream.tell(), path.name
        checked += 1
    assert checked > 180


# --- text


def _texts(dataset: Dataset, encoded: str = "", place: Place = ()) -> Iterator[tuple[Place, bytes, str]]:
    """Give (place, raw value, character set) of every text, nested ones in the set of their own item."""
    declared = dataset.get("SpecificCharacterSet")
    if declared is not None:
        encoded = declared if isinstance(declared, str) else "\\".join(part or "" for part in declared)
    for tag in list(dataset._dict):
        raw = dataset._dict[tag]
        if isinstance(raw, RawDataElement) and not tag.is_private:
            vr = raw.VR or pydicom.datadict.dictionary_VR(tag)
            if vr in TEXT_VRS:
                yield (*place, tag), raw.value or b"", encoded
        if dataset[tag].VR == "SQ":
            for number, item in enumerate(dataset[tag].value):
                yield from _texts(item, encoded, (*place, tag, number))


def _as_pydicom(dataset: Dataset, place: Place) -> str:
    """Give the text at a place as pydicom decodes it."""
    for step in place[:-1]:
        dataset = dataset[step].value if isinstance(dataset, Dataset) else dataset[step]
    element = dataset[place[-1]]
    parts = element.value if element.VM > 1 else [element.value]
    return "\\".join(str(part or "") for part in parts)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip(" \0=")


def _compare_texts(data: bytes) -> int:
    """Compare every text; of a name pydicom leaves out the delimiters of empty groups at its end (PS3.5 6.2.1.2)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = list(_texts(pydicom.dcmread(io.BytesIO(data))))
        decoded = pydicom.dcmread(io.BytesIO(data))
        decoded.decode()
        for place, value, encoded in raw:
            assert _plain(decode_text(value, encoded)) == _plain(_as_pydicom(decoded, place)), place
    return len(raw)


CHARSET_FILES = sorted((PYDICOM_FILES / "charset_files").glob("*.dcm"))


@pytest.mark.parametrize("path", CHARSET_FILES, ids=lambda path: path.stem)
def test_every_character_set_reads_as_in_pydicom(path: Path) -> None:
    assert _compare_texts(path.read_bytes()) > 0


def test_all_character_sets_are_there() -> None:
    assert len(CHARSET_FILES) == 17
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = [str(pydicom.dcmread(path).get("PatientName", "")) for path in CHARSET_FILES]
    assert sum(not name.isascii() for name in names) >= 12


NAMES = {
    "ISO_IR 100": "Müller^Jürgen",
    "ISO_IR 101": "Wałęsa^Lech",
    "ISO_IR 109": "Ĉapelo^Ĝoja",
    "ISO_IR 110": "Bērziņš^Jānis",
    "ISO_IR 126": "Διονυσιος^Α",
    "ISO_IR 127": "قباني^لنزار",
    "ISO_IR 138": "שרון^דבורה",
    "ISO_IR 144": "Люкceмбypг^Ф",
    "ISO_IR 148": "Çavuşoğlu^İ",
    "ISO_IR 166": "สมชาย^ใจดี",
    "ISO_IR 192": "Žižek^श्री=山田^太郎=やまだ^たろう",
    "GB18030": "王^小东",
    "GBK": "王^小东",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "\\ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
    "ISO 2022 IR 13\\ISO 2022 IR 87": "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
}
"""A synthetic name in each repertoire of PS3.3 C.12.1.1.2."""


@pytest.mark.parametrize("encoded", NAMES)
def test_names_written_by_pydicom_are_read(encoded: str, tmp_path: Path) -> None:
    dataset = make_instance(SpecificCharacterSet=encoded.split("\\"), PatientName=NAMES[encoded])
    path = write_instance(tmp_path / "file", dataset)
    assert _compare_texts(path.read_bytes()) > 5
    raw = pydicom.dcmread(path).get_item("PatientName").value
    assert decode_text(raw, encoded) == unicodedata.normalize("NFC", NAMES[encoded])


@pytest.mark.parametrize(
    ("value", "encoded", "text"),
    [
        (b"Plain^Name ", "", "Plain^Name"),
        (b" padded\0", "ISO_IR 192", "padded"),
        (b"a\\b", "", "a\\b"),
        (b"M\xfcller", "", "Müller"),
        (b"M\xfcller", "ISO_IR 6", "Müller"),
        (b"M\xfcller", "ISO_IR 192", "M\ufffdller"),
        ("Mu\u0308ller".encode(), "ISO_IR 192", "Müller"),
        (b"M\xfcller", "NO SUCH SET", "Müller"),
        (b"M\xfcller", "ISO-IR 100", "Müller"),
        (b"", "ISO_IR 192", ""),
        (b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=", "\\ISO 2022 IR 58", "Zhang^XiaoDong=张^小东="),
    ],
)
def test_single_values(value: bytes, encoded: str, text: str) -> None:
    assert decode_text(value, encoded) == text


@given(st.binary(max_size=60), st.one_of(st.sampled_from(sorted(NAMES)), strategies.header_texts()))
def test_any_bytes_in_any_declared_set_become_text(value: bytes, encoded: str) -> None:
    """What is damaged or wrongly declared shows as replacement characters; it never stops the index."""
    text = decode_text(value, encoded)
    assert text == unicodedata.normalize("NFC", text)
    text.encode("utf-8")
    decode_ascii(value).encode("utf-8")


def test_backslash_as_second_byte_does_not_tear_a_letter() -> None:
    """PS3.5 section 6.1.2.5.4: in GB 18030 and GBK the second byte of a letter may be 5C."""
    torn = [letter for letter in map(chr, range(0x4E00, 0x9FA6)) if letter.encode("gb18030")[1:] == b"\\"]
    assert len(torn) > 50
    for letter in torn:
        for encoded in ("GB18030", "GBK"):
            assert decode_text(letter.encode("gb18030"), encoded) == letter


@pytest.mark.parametrize("written", ["A^B", "A^B^^^", "A^B=", "A^B^=", "A^B =="])
def test_what_a_name_may_end_with_and_means_nothing_is_dropped(written):
    assert plain_name(written) == "A^B"


def test_groups_of_a_name_keep_their_places():
    assert plain_name("Gosei^Shiken^^=合成^試験^=") == "Gosei^Shiken=合成^試験"
    assert plain_name("=合成^試験") == "=合成^試験"

"""The rewriter does to every element what the profile says, and to nothing else anything; pydicom is the judge."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tasks.deidentify.identity import Subject
from tasks.deidentify.profile import DEFAULT_PROFILE, MR_IMAGE_STORAGE, STAMPED_TAGS, Option, Profile
from tasks.deidentify.rewrite import IMPLEMENTATION_CLASS_UID, REFUSALS, RefusalError, Rewritten, rewrite
from tasks.dicom.syntax import DEFLATED_LITTLE, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from tests.builders.world import make_instance, write_instance
from tests.deidentify.images import (
    INSTANCE_UID,
    PIXELS,
    SERIES_UID,
    base,
    encapsulated,
    image,
    nested,
    number,
    sequence_of_implicit_items,
    text,
)
from tests.deidentify.oracle import IDENTITY, SUBJECT, Value, differences, form_faults, forms, read, values
from tests.dicom.encoder import Leaf, Node, encode, write_meta
from tests.dicom.oracle import PYDICOM_FILES, data_files, sampled

EXPORTED_OF_PYDICOM = 20
"""At least so many of pydicom's own files are images that may be exported; the others are refused."""


def made(source: bytes, *, profile: Profile = DEFAULT_PROFILE, subject: Subject = SUBJECT) -> Rewritten:
    return rewrite(source, profile=profile, identity=IDENTITY, subject=subject)


def refused(source: bytes) -> str:
    with pytest.raises(RefusalError) as refusal:
        made(source)
    return refusal.value.reason


def faults(source: bytes, result: Rewritten) -> list[str]:
    """List what does not stand in an export as it has to."""
    converted = result.by_pydicom in ("big-endian", "no-preamble")
    wrong = differences(source, result.content, by_pydicom=converted)
    return wrong if result.by_pydicom else wrong + form_faults(source, result.content)


def outcome(source: bytes) -> Rewritten | str:
    try:
        return made(source)
    except RefusalError as refusal:
        return refusal.reason


def values_of(content: bytes) -> dict[tuple[int, ...], bytes]:
    return {place: value.raw for place, value in values(read(content)).items()}


# ---- real files


def check_files(files: Iterable[Path]) -> int:
    """Return how many files were exported; each of them is right."""
    exported = 0
    wrong = {}
    for path in files:
        source = path.read_bytes()
        result = outcome(source)
        if isinstance(result, Rewritten):
            exported += 1
            wrong[path.name] = faults(source, result)
    assert {name: found for name, found in wrong.items() if found} == {}
    return exported


def test_every_element_of_pydicoms_files_is_what_the_profile_says() -> None:
    assert check_files(data_files(PYDICOM_FILES)) >= EXPORTED_OF_PYDICOM


def test_every_element_of_scanner_files_is_what_the_profile_says(scanner_data: Path) -> None:
    files = [path for path in sampled(data_files(scanner_data)) if path.stat().st_size < 1_000_000]
    assert check_files(files[::2]) > 150


@pytest.mark.long
def test_every_element_of_all_scanner_files_is_what_the_profile_says(scanner_data: Path) -> None:
    assert check_files(data_files(scanner_data)) > 2000


def test_the_same_file_gives_the_same_bytes() -> None:
    for path in data_files(PYDICOM_FILES)[::5]:
        source = path.read_bytes()
        assert outcome(source) == outcome(source)


# ---- lengths

INNER: tuple[Node, ...] = (
    text(0x00080020, "DA", "20200301"),
    text(0x00080080, "LO", "An Institution"),
    text(0x00081155, "UI", INSTANCE_UID),
    text(0x00180050, "DS", "2"),
)
KEPT: tuple[Node, ...] = (text(0x00180050, "DS", "2"), number(0x00189074 - 2, "US", 3))
SEQUENCES = (0x00189112, 0x00189114, 0x00189115, 0x00189117, 0x00189119, 0x00189125, 0x00189126, 0x00189152)
"""Sequences of an MR image that are walked into."""

FORMS = [
    {"undefined": undefined, "items_undefined": items_undefined, "unknown": unknown}
    for undefined, items_undefined, unknown in itertools.product((False, True), repeat=3)
]


@pytest.mark.parametrize(
    ("outer", "explicit"),
    # An implicit stream states no VR, so there `unknown` changes nothing.
    [(form, explicit) for form in FORMS for explicit in (True, False) if explicit or not form["unknown"]],
)
def test_lengths_stay_of_their_kind_and_are_right(outer: dict[str, bool], explicit: bool) -> None:
    """Every form of a sequence inside every other, with items that change, do not, and are empty, in any order."""
    for items in itertools.permutations((INNER, KEPT, ())):
        inside = [nested(tag, *items, **inner) for tag, inner in zip(SEQUENCES, FORMS, strict=True)]
        around = nested(0x00189346, (*KEPT, nested(0x00400440, inside, KEPT, **outer)), **outer)
        source = image(around, explicit=explicit)
        assert faults(source, made(source)) == []


def test_implicit_items_in_an_explicit_stream_stay_implicit() -> None:
    source = image(sequence_of_implicit_items(0x00081199, INNER, KEPT), sequence_of_implicit_items(0x00189346, KEPT))
    result = made(source)
    assert faults(source, result) == []
    found = values_of(result.content)
    assert found[0x00081199, 0, 0x00081155] == found[0x00080018,]
    assert (0x00081199, 0, 0x00080080) not in found


@pytest.mark.parametrize("explicit", [True, False])
def test_a_sequence_that_has_to_be_there_is_emptied(explicit: bool) -> None:
    """(0040,0555), type 2 in an enhanced image, whose content nobody has examined."""
    enhanced = text(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.4.1")
    for form in FORMS:
        source = image(enhanced, nested(0x00400555, INNER, **form), explicit=explicit)
        result = made(source)
        assert faults(source, result) == []
        assert values(read(result.content))[0x00400555,] == Value("SQ", b"0")


def test_what_is_kept_is_kept_to_the_byte() -> None:
    """Even where the standard wants another padding, and where a length is odd."""
    odd = [
        text(0x00180050, "DS", b"1.5\0"),
        Leaf(tag=0x00180080, vr="DS", value=b"2"),
        text(0x00180020, "CS", b"GR\0\0"),
    ]
    source = image(*odd)
    result = made(source)
    assert faults(source, result) == []
    old, new = forms(source), forms(result.content)
    for node in odd:
        assert new[node.tag,] == old[node.tag,]


def test_elements_out_of_order_and_repeated_are_all_cleaned() -> None:
    nodes = [*base()[:9], text(0x00100010, "PN", "Second^Name"), *base()[9:], text(0x00080081, "ST", "A Street")]
    source = write_meta(EXPLICIT_LITTLE) + encode(nodes, explicit=True)[0]
    content = made(source).content
    for planted in (b"Second", b"Synthetic", b"Street"):
        assert planted in source
        assert planted not in content


# ---- pixel data


@pytest.mark.parametrize(
    "fragments", [(), (b"",), (b"", b"\xff\xd8" + bytes(50)), (bytes(8), b"\1" * 33 + b"\0", b"\2\2")]
)
def test_encapsulated_pixel_data_stay_to_the_byte(fragments: tuple[bytes, ...]) -> None:
    source = image(encapsulated(*fragments), text(0xFFFCFFFC, "OB", b"trailing"), syntax="1.2.840.10008.1.2.4.50")
    result = made(source)
    assert faults(source, result) == []
    assert forms(result.content)[0x7FE00010,].whole == forms(source)[0x7FE00010,].whole
    assert str(read(result.content).file_meta.TransferSyntaxUID) == "1.2.840.10008.1.2.4.50"
    assert result.content.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")


@pytest.mark.parametrize("explicit", [True, False])
def test_native_pixel_data_stay_to_the_byte(explicit: bool) -> None:
    content = made(image(explicit=explicit)).content
    assert content.endswith(PIXELS)
    assert read(content).pixel_array.shape == (16, 16)


def test_float_pixel_data_and_lookup_tables_stay() -> None:
    tables = [Leaf(tag=tag, vr="OW", value=bytes(range(64))) for tag in (0x00281201, 0x00281202, 0x00281203)]
    floats = Leaf(tag=0x7FE00008, vr="OF", value=bytes(range(64)))
    source = image(*tables, floats, without=[0x7FE00010])
    result = made(source)
    assert faults(source, result) == []
    assert {0x00281201, 0x00281203, 0x7FE00008} <= {place[0] for place in values_of(result.content)}


# ---- what stands before the data set, and the stamps


def test_preamble_and_group_2_are_made_anew() -> None:
    planted = [
        text(0x00020002, "UI", MR_IMAGE_STORAGE),
        text(0x00020003, "UI", INSTANCE_UID),
        text(0x00020012, "UI", "1.2.3.4.5"),
        text(0x00020013, "SH", "SCANNER_9"),
        text(0x00020016, "AE", "HOSPITAL_AE"),
        text(0x00020017, "AE", "SENDER_AE"),
        text(0x00020018, "AE", "RECEIVER_AE"),
        text(0x00020026, "UR", "http://here.example"),
        text(0x00020100, "UI", "1.2.3.4.6"),
        text(0x00020102, "OB", b"private information"),
    ]
    meta = write_meta(EXPLICIT_LITTLE, more=[node for node in planted if isinstance(node, Leaf)])
    source = b"MZ preamble with a name".ljust(128, b"\xee") + meta[128:] + image()[len(write_meta(EXPLICIT_LITTLE)) :]
    result = made(source)
    assert result.content[:132] == bytes(128) + b"DICM"
    found = read(result.content)
    assert [f"{int(element.tag):08X}" for element in found.file_meta] == [
        "00020000", "00020001", "00020002", "00020003", "00020010", "00020012", "00020013",
    ]  # fmt: skip
    assert found.file_meta.MediaStorageSOPInstanceUID == found.SOPInstanceUID == result.sop_instance_uid
    assert found.file_meta.MediaStorageSOPClassUID == found.SOPClassUID == MR_IMAGE_STORAGE
    assert found.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    # The group length counts to the first element of the data set.
    assert result.content[144 + found.file_meta.FileMetaInformationGroupLength :][:4] == b"\x08\0\x05\0"
    for node in planted[2:]:
        assert isinstance(node, Leaf)
        assert node.value.strip(b"\0 ") not in result.content


@pytest.mark.parametrize(
    ("options", "dates"),
    [
        ((), "REMOVED"),
        (tuple(DEFAULT_PROFILE.options), "MODIFIED"),
        ((Option.RETAIN_PATIENT_CHARACTERISTICS,), "REMOVED"),
        ((Option.RETAIN_LONGITUDINAL_FULL_DATES,), "UNMODIFIED"),
    ],
)
@pytest.mark.parametrize("explicit", [True, False])
def test_stamps_say_what_was_done(options: tuple[Option, ...], dates: str, explicit: bool) -> None:
    """What an earlier de-identification wrote gives way: nobody can vouch for it."""
    earlier = [
        text(0x00120062, "CS", "NO"),
        text(0x00120063, "LO", "by hand, J. Doe"),
        nested(0x00120064, (text(0x00080104, "LO", "done by J. Doe"),), undefined=True),
        text(0x00280303, "CS", "NONE OF THE TERMS"),
    ]
    profile = Profile(options=frozenset(options))
    for more in ([], earlier):
        found = read(made(image(*more, explicit=explicit), profile=profile).content)
        assert found.PatientIdentityRemoved == "YES"
        assert found.DeidentificationMethod.startswith("scanward ")
        assert found.LongitudinalTemporalInformationModified == dates
        codes = [(item.CodeValue, item.CodingSchemeDesignator) for item in found.DeidentificationMethodCodeSequence]
        assert codes == [(code, "DCM") for code, _ in profile.codes()]


@pytest.mark.parametrize("explicit", [True, False])
def test_a_character_set_that_is_none_refuses_the_file(explicit: bool) -> None:
    """Wherever it stands: it is copied, and free text could hide in it."""
    inside = nested(0x00081140, (text(0x00080005, "CS", "MILLER^ANNE"),))
    for more in ((text(0x00080005, "CS", "MILLER^ANNE"),), (inside,)):
        with pytest.raises(RefusalError) as caught:
            made(image(*more, explicit=explicit))
        assert caught.value.reason == "character-set"
    assert made(image(text(0x00080005, "CS", "ISO_IR 192"), explicit=explicit)).content


def test_stamps_stand_in_the_order_of_tags() -> None:
    """Whether or not anything stands before, between and behind them."""
    around = [text(0x00120010, "LO", "sponsor"), text(0x00120062, "CS", "NO"), text(0x00280303, "CS", "REMOVED")]
    after = [node.tag for node in base() if node.tag > 0x00200013]
    for source in (image(), image(*around), image(without=after), image(*around[:2], without=after)):
        tags = [place[0] for place in forms(made(source).content) if len(place) == 1]
        assert tags == sorted(set(tags))
        assert set(tags) > STAMPED_TAGS


# ---- other syntaxes


def test_implicit_files_stay_implicit() -> None:
    source = image(nested(0x00081199, INNER, undefined=True, items_undefined=True), explicit=False)
    result = made(source)
    assert faults(source, result) == []
    assert read(result.content).file_meta.TransferSyntaxUID == IMPLICIT_LITTLE


def test_a_deflated_data_set_is_inflated_and_otherwise_the_same() -> None:
    plain = image(nested(0x00081199, INNER, undefined=True))
    meta = write_meta(DEFLATED_LITTLE)
    data_set = plain[len(write_meta(EXPLICIT_LITTLE)) :]
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    result = made(meta + squeeze.compress(data_set) + squeeze.flush())
    assert result.by_pydicom == "deflated"
    assert result.content == made(plain).content


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_deflated_data_set_is_refused(damage: str) -> None:
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = squeeze.compress(image()[len(write_meta(EXPLICIT_LITTLE)) :]) + squeeze.flush()
    body = {"cut": body[:-20], "flipped": b"\xff" + body[1:], "empty": b""}[damage]
    assert refused(write_meta(DEFLATED_LITTLE) + body) == "malformed"


@pytest.mark.parametrize(
    "syntax", [ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=lambda u: u.name
)
@pytest.mark.parametrize("preamble", [True, False], ids=["preamble", "no preamble"])
def test_what_only_pydicom_reads_is_written_as_explicit_little_endian(
    tmp_path: Path, syntax: str, preamble: bool
) -> None:
    dataset = make_instance()
    plain = write_instance(tmp_path / "plain", dataset).read_bytes()
    source = write_instance(tmp_path / "odd", dataset, transfer_syntax=syntax, preamble=preamble).read_bytes()
    result = made(source)
    assert faults(source, result) == []
    assert values_of(result.content) == values_of(made(plain).content)
    expected = IMPLICIT_LITTLE if preamble and syntax == IMPLICIT_LITTLE else EXPLICIT_LITTLE
    assert read(result.content).file_meta.TransferSyntaxUID == expected
    assert read(result.content).PixelData == dataset.PixelData


def test_words_of_every_size_are_turned_round_from_big_endian(tmp_path: Path) -> None:
    """Float pixel data and offset tables, whose bytes pydicom hands through as it reads them."""
    dataset = make_instance(PixelData=None)
    dataset.add_new(0x7FE00008, "OF", bytes(range(128)))
    dataset.add_new(0x00281201, "OW", bytes(range(64)))
    source = write_instance(tmp_path / "big", dataset, transfer_syntax=ExplicitVRBigEndian).read_bytes()
    found = read(made(source).content)
    whole = bytes(range(128))
    assert found.FloatPixelData == b"".join(whole[at : at + 4][::-1] for at in range(0, 128, 4))
    assert found.RedPaletteColorLookupTableData == b"".join(whole[at : at + 2][::-1] for at in range(0, 64, 2))


def test_compressed_pixels_without_a_preamble_keep_their_syntax() -> None:
    jpeg = "1.2.840.10008.1.2.4.50"
    fragments = (b"", b"\xff\xd8" + bytes(50))
    source = image(encapsulated(*fragments), syntax=jpeg)
    result = made(source[132:])
    assert result.by_pydicom == "no-preamble"
    assert read(result.content).file_meta.TransferSyntaxUID == jpeg
    assert forms(result.content)[0x7FE00010,].whole == forms(source)[0x7FE00010,].whole


# ---- single actions


@pytest.mark.parametrize(
    ("tag", "vr", "value", "expected"),
    [
        (0x00080020, "DA", "20200301", b"20170605"),
        (0x00080020, "DA", "2020.03.01", b"20170605"),
        (0x00080020, "DA", "20200301\\20200302", b"20170605\\20170606 "),
        (0x00080020, "DA", "1 March 2020", b""),
        (0x00080020, "DA", "00010101", b""),
        (0x0008002A, "DT", "20200301101112.123456+0800", b"20170605101112.123456+0800"),
        (0x0008002A, "DT", "2020030120200301", b""),
        (0x00080030, "TM", "101112.123456", b"101112.123456 "),
        (0x00101010, "AS", "089Y", b"089Y"),
        (0x00101010, "AS", "093Y", b"090Y"),
        (0x00101010, "AS", "old", b""),
        (0x00100020, "LO", "", b"SUB-0001"),
        (0x00081010, "SH", "STATION7", None),
        (0x00080050, "SH", "ACC 1", b""),
        (0x00120040, "LO", "A Person", b"REMOVED "),
        (0x00120040, "LO", "  ", b""),
        (0x00080016, "UI", MR_IMAGE_STORAGE, MR_IMAGE_STORAGE.encode() + b"\0"),
    ],
)
@pytest.mark.parametrize("explicit", [True, False])
def test_values(tag: int, vr: str, value: str, expected: bytes | None, explicit: bool) -> None:
    """`None` stands for an element that is left out."""
    source = image(text(tag, vr, value), explicit=explicit)
    result = made(source)
    assert faults(source, result) == []
    assert values_of(result.content).get((tag,)) == expected


def test_one_uid_becomes_one_uid_wherever_and_however_it_stands() -> None:
    """Alone, among others, padded in the middle, nested, in UN; and in the file meta information."""
    uids = f"{INSTANCE_UID}\0\\ {SERIES_UID} \\{INSTANCE_UID}"
    unknown = Leaf(tag=0x00081155, vr="UI", value=INSTANCE_UID.encode(), written="UN")
    source = image(text(0x00080058, "UI", uids), nested(0x00081199, (unknown,)))
    result = made(source)
    assert faults(source, result) == []
    found = values_of(result.content)
    new, series = found[0x00080018,].rstrip(b"\0"), found[0x0020000E,].rstrip(b"\0")
    assert found[0x00080058,].rstrip(b"\0") == b"\\".join([new, series, new])
    assert found[0x00081199, 0, 0x00081155].rstrip(b"\0") == new == result.sop_instance_uid.encode()


def test_uids_that_outgrow_their_length_field_are_still_all_there() -> None:
    """65,534 bytes are the most that VR UI can hold; 13,000 short UIDs make more than that when they are replaced."""
    many = "\\".join(f"1.{index}" for index in range(1000, 9000))
    source = image(text(0x00080058, "UI", many))
    found = values(read(made(source).content))[0x00080058,]
    assert found.vr == "UN"
    assert len(set(found.raw.rstrip(b"\0").split(b"\\"))) == 8000


@pytest.mark.parametrize("explicit", [True, False])
def test_what_cannot_be_of_its_vr_is_not_kept(explicit: bool) -> None:
    """Each would be kept if it were the number, time or term that it says it is."""
    junk = [
        text(0x00080008, "CS", "ORIGINAL\\" + "x" * 65),
        text(0x00080030, "TM", "noon, with J. Doe"),
        text(0x00101030, "DS", "70 kg J. Doe"),
        text(0x00180015, "CS", b"BR\xc4IN"),
        text(0x00180020, "CS", "a note, as long as a sentence, on what was done to a person that day"),
        text(0x00180050, "DS", "1.5 Doe"),
        text(0x00180086, "IS", "1 Doe"),
        text(0x00185100, "CS", "HFS\n"),
    ]
    source = image(*junk, nested(0x00189346, junk), explicit=explicit)
    result = made(source)
    assert faults(source, result) == []
    found = values_of(result.content)
    for node in junk:
        assert found[node.tag,] == found[0x00189346, 0, node.tag] == b""
    assert b"Doe" not in result.content


@pytest.mark.parametrize("explicit", [True, False])
def test_what_can_be_of_its_vr_is_kept(explicit: bool) -> None:
    """As scanners write it, which is not always as the standard has it."""
    real = [
        text(0x00080008, "CS", "ORIGINAL\\PRIMARY\\" + "X" * 64 + "\\\\none"),
        text(0x00080030, "TM", "10:11:12.123456"),
        text(0x00101030, "DS", b"70\0\0"),
        text(0x00180020, "CS", "EP\\SE"),
        text(0x00180050, "DS", " -1.50e+00 \\+2E-3\\"),
        text(0x00180086, "IS", "+1\\ -2 "),
        text(0x00185100, "CS", b"HFS\0"),
    ]
    source = image(*real, nested(0x00189346, real), explicit=explicit)
    result = made(source)
    assert faults(source, result) == []
    found = values_of(result.content)
    for node in real:
        assert isinstance(node, Leaf)
        assert found[node.tag,] == found[0x00189346, 0, node.tag] == node.value


def test_text_under_the_tag_of_a_number_or_time_is_not_kept() -> None:
    """The table keeps these attributes by tag alone; the VR that the file states is another."""
    posing = [
        text(0x00080031, "LO", "J. Doe was here"),
        text(0x00100040, "UT", "female, J. Doe"),
        text(0x00101030, "SH", "J. Doe"),
        Leaf(tag=0x00101020, vr="DS", value=b"J. Doe" * 12000, written="UN"),
        Leaf(tag=0x00180050, vr="DS", value=b"J. Doe" * 12000, written="UN"),
        text(0x001021C0, "ST", "J. Doe"),
    ]
    result = made(image(*posing))
    assert b"Doe" not in result.content
    found = values_of(result.content)
    assert [found[node.tag,] for node in posing] == [b""] * len(posing)


@pytest.mark.parametrize(
    "tag", [0x00100010, 0x00080020, 0x00101030, 0x00080050, 0x00120040, 0x00080018 + 0x60, 0x00181030]
)
def test_items_under_the_tag_of_a_value_are_not_kept(tag: int) -> None:
    source = image(nested(tag, (text(0x00180024, "SH", "J. Doe"), text(0x00080070, "LO", "J. Doe"))))
    assert b"Doe" not in made(source).content


@pytest.mark.parametrize("tag", [0x00081199, 0x52009230, 0x00400555])
def test_a_value_under_the_tag_of_a_sequence_is_not_kept(tag: int) -> None:
    assert b"Doe" not in made(image(text(tag, "LO", "J. Doe"))).content


# ---- refusals


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (text(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.7"), "secondary-capture"),
        (text(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.88.22"), "report"),
        (text(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.104.1"), "encapsulated-document"),
        (text(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.11.1"), "presentation-state"),
        (text(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.66"), "raw-data"),
        (text(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.4.2"), "spectroscopy"),
        (text(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.6.1"), "ultrasound"),
        (text(0x00080016, "UI", "1.2.3"), "no-rule"),
        (text(0x00080016, "UI", ""), "no-rule"),
        (text(0x00080008, "CS", "DERIVED\\SECONDARY\\SCREEN SAVE"), "screen-save"),
        (text(0x00080060, "CS", "OT"), "modality-mismatch"),
        (text(0x00080064, "CS", "WSD"), "secondary-capture"),
        (text(0x00280301, "CS", "YES"), "burned-in-annotation"),
        (text(0x00280301, "SH", "YES"), "burned-in-annotation"),
        (number(0x60000102, "US", 12), "overlay-in-pixel-data"),
        (number(0x60020100, "US", 16), "overlay-in-pixel-data"),
        (text(0x00080018, "UI", ""), "uid-missing"),
        (text(0x0020000D, "UI", b"\0\0"), "uid-missing"),
        (text(0x0020000E, "UI", "  "), "uid-missing"),
    ],
)
@pytest.mark.parametrize("explicit", [True, False])
def test_files_are_refused_by_what_they_say(node: Node, reason: str, explicit: bool) -> None:
    assert refused(image(node, explicit=explicit)) == reason


@pytest.mark.parametrize("tag", [0x00080018, 0x0020000D, 0x0020000E])
def test_files_without_a_uid_are_refused(tag: int) -> None:
    assert refused(image(without=[tag])) == "uid-missing"


def test_an_overlay_beside_the_pixels_does_not_refuse_the_file_and_goes() -> None:
    overlay = [
        number(0x60000100, "US", 1),
        number(0x60000102, "US", 0),
        Leaf(tag=0x60003000, vr="OW", value=b"Doe " * 8),
    ]
    assert b"Doe" not in made(image(*overlay)).content


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (image(syntax="1.2.840.113619.5.2"), "private-syntax"),
        (image(syntax="1.2.840.10008.1.2.DOE^JOHN"), "private-syntax"),
        (image(syntax="1.2.840.10008.1.2.19450508.123456"), "private-syntax"),
        (image(text(0x00080080, "LO", "x")).replace(b"\x80\0LO", b"\x80\0??"), "malformed"),
        (image(syntax="1.2.840.10008.1.2.?").replace(b"10008.1.2.?", b"10008.1.2.\xc4"), "private-syntax"),
        (b"", "malformed"),
        (b"not DICOM at all" * 20, "malformed"),
        (bytes(128) + b"DICM", "malformed"),
        (image()[132:400], "truncated"),
        (image()[132:-1], "truncated"),
        (image() + b"\0\0\0\0", "malformed"),
    ],
    ids=[
        "GE",
        "name",
        "digits",
        "VR",
        "not ASCII",
        "empty",
        "other",
        "head",
        "cut in the head",
        "cut in the pixels",
        "trailing bytes",
    ],
)
def test_files_are_refused_that_cannot_be_followed(source: bytes, reason: str) -> None:
    assert refused(source) == reason


def test_a_file_cut_anywhere_is_refused_or_wholly_clean() -> None:
    """A cut may fall between two elements; what is left is then a data set like any other."""
    source = image(nested(0x00081199, INNER, undefined=True, items_undefined=True), nested(0x00400440, INNER))
    whole = made(source)
    reasons = set()
    for size in range(len(source)):
        result = outcome(source[:size])
        if isinstance(result, Rewritten):
            assert faults(source[:size], result) == []
            assert result.sop_instance_uid == whole.sop_instance_uid
        else:
            reasons.add(result)
    assert reasons == {"truncated", "malformed", "no-rule", "uid-missing"}
    assert refused(source[:-1]) == "truncated"


def test_every_refusal_has_its_sentence() -> None:
    assert all(sentence.endswith(".") for sentence in REFUSALS.values())
    assert {"malformed", "private-syntax", "truncated", "uid-missing"} == set(REFUSALS)

"""The rewriter does to every element what the profile says, and to nothing else anything; pydicom is the judge."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tasks.deidentify.identity import Subject
from tasks.deidentify.profile import DEFAULT_PROFILE, METHODS, MR_IMAGE_STORAGE, STAMPED_TAGS, Option, Profile
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
    jpeg,
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
    wrong += [] if result.by_pydicom else form_faults(source, result.content)
    # Whether pixel data that were cleaned still show the same is judged where pixels are.
    cleaned = any(name.startswith("pixel_") for name in result.tally)
    return [fault for fault in wrong if not (cleaned and fault.startswith("7FE00010 "))]


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


JPEG = jpeg()


@pytest.mark.parametrize("fragments", [(b"",), (b"", JPEG), (bytes(4), JPEG), (b"", JPEG[:20], JPEG[20:])])
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


@pytest.mark.parametrize("fragments", [(), (b"", b"a name, not a picture "), (bytes(4), JPEG[:-2])])
def test_pixel_data_that_do_not_follow_their_format_are_refused(fragments: tuple[bytes, ...]) -> None:
    assert refused(image(encapsulated(*fragments), syntax="1.2.840.10008.1.2.4.50")) == "pixel-data"


def test_an_overlay_in_unused_bits_of_the_pixels_is_wiped_out() -> None:
    """The twelve bits of each value stay."""
    drawn = b"".join(
        (int.from_bytes(PIXELS[at : at + 2], "little") | 0x1000 * (at % 6 == 0)).to_bytes(2, "little")
        for at in range(0, len(PIXELS), 2)
    )
    source = image(number(0x60000102, "US", 12), Leaf(tag=0x7FE00010, vr="OW", value=drawn))
    result = made(source)
    assert result.content.endswith(PIXELS)
    assert result.tally["pixel_unused_bits"] == 1


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
    syntax = "1.2.840.10008.1.2.4.50"
    source = image(encapsulated(b"", JPEG), syntax=syntax)
    result = made(source[132:])
    assert result.by_pydicom == "no-preamble"
    assert read(result.content).file_meta.TransferSyntaxUID == syntax
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
        text(0x00080030, "TM", "noon, with J. Doe"),
        text(0x00101030, "DS", "70 kg J. Doe"),
        text(0x00180015, "CS", b"BR\xc4IN"),
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
        text(0x00080008, "CS", "ORIGINAL\\PRIMARY\\M_FFE\\\\none\\DIS2D"),
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


# ---- coded strings, and numbers that are none

WITHOUT_DESCRIPTORS = Profile(options=DEFAULT_PROFILE.options - {Option.CLEAN_DESCRIPTORS})

CODED = [
    (0x00080008, "ORIGINAL\\PRIMARY\\DOE^JANE\\M", b"ORIGINAL\\PRIMARY\\X\\M"),
    (0x00080008, "ORIGINAL\\" + "x" * 65, b"ORIGINAL\\X"),
    (0x00180015, "ZWIEBELHUBER", b"X"),
    (0x00180020, "a note, as long as a sentence, on what was done to a person that day", b"X"),
    (0x00180020, "SE\\\\MRN4711", b"SE\\\\X"),
    (0x00180022, "FS\\19580412\\PFP", b"FS\\X\\PFP"),
    (0x00185100, "HFS Jane", b"X"),
]


@pytest.mark.parametrize(("tag", "value", "expected"), CODED)
@pytest.mark.parametrize("explicit", [True, False])
def test_what_is_no_term_is_masked_in_its_place(tag: int, value: str, expected: bytes, explicit: bool) -> None:
    """So that the third value of Image Type stays the third; without Clean Descriptors nothing of the text is left."""
    node = text(tag, "CS", value)
    source = image(node, nested(0x00189346, (node,)), explicit=explicit)
    for profile, left in ((DEFAULT_PROFILE, expected), (WITHOUT_DESCRIPTORS, b"")):
        result = made(source, profile=profile)
        assert differences(source, result.content, profile=profile) == []
        assert form_faults(source, result.content) == []
        found = values_of(result.content)
        assert found[tag,].rstrip(b" ") == found[0x00189346, 0, tag].rstrip(b" ") == left


def test_a_retained_term_that_is_none_is_emptied() -> None:
    """The table keeps Patient's Sex by tag; a name under it goes whole."""
    source = image(text(0x00100040, "CS", "DOE JANE"), nested(0x00081140, (text(0x00100040, "CS", "F"),)))
    found = values_of(made(source).content)
    assert found[0x00100040,] == b""
    assert values_of(made(image(text(0x00100040, "CS", "F"))).content)[0x00100040,] == b"F "


def test_a_term_that_is_the_patients_name_is_masked() -> None:
    """A short text may be a term of some scanner, unless it is known of the patient; words of terms stay."""
    source = image(text(0x00080008, "CS", "ORIGINAL\\MR47\\BRAIN"), text(0x00180015, "CS", "BRAIN"))
    assert faults(source, made(source)) == []
    assert values_of(made(source).content)[0x00080008,] == b"ORIGINAL\\MR47\\BRAIN "
    known = frozenset({"mr47", "Brain"})
    result = rewrite(source, profile=DEFAULT_PROFILE, identity=IDENTITY, subject=SUBJECT, known=known)
    assert differences(source, result.content, known=known) == []
    found = values_of(result.content)
    assert found[0x00080008,].rstrip() == b"ORIGINAL\\X\\BRAIN"
    assert found[0x00180015,] == b"BRAIN "


WORDS = b"Anna Zwiebelhuber 4711  "


@pytest.mark.parametrize(
    ("tag", "vr"),
    [
        (0x0018106C, "US"),  # Synchronization Channel
        (0x00189069, "FD"),  # Parallel Reduction Factor In-plane
        (0x00186020, "SL"),  # Reference Pixel X0
        (0x00280009, "AT"),  # Frame Increment Pointer
        (0x00280006, "US"),  # Planar Configuration, and others that say how pixels are laid out
        (0x00280102, "US"),
        (0x00280103, "US"),
        (0x001021C0, "US"),  # Pregnancy Status, which the table's option keeps by its tag
    ],
)
@pytest.mark.parametrize("explicit", [True, False])
def test_numbers_that_are_a_text_are_emptied(tag: int, vr: str, explicit: bool) -> None:
    node = Leaf(tag=tag, vr=vr, value=WORDS)
    source = image(node, nested(0x00189346, (node,)), explicit=explicit)
    result = made(source)
    assert faults(source, result) == []
    found = values_of(result.content)
    assert found[tag,] == found[0x00189346, 0, tag] == b""
    assert b"Zwiebelhuber" not in result.content


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (0x0018106C, "US", b"DOE^JANE DOE^JA"),  # fifteen that can be printed are chance
        (0x00189069, "FD", struct.pack("<4d", 0.1, -2.5, 1e-9, 1234567.875)),
        (0x00189069, "FD", struct.pack("<2d", 0.0, float("inf"))),
        (0x00186020, "SL", struct.pack("<4l", 1, -2, 70000, 3)),
        (0x00280106, "US", b"0A"),
    ],
)
def test_numbers_that_may_be_some_stay(tag: int, vr: str, value: bytes) -> None:
    node = Leaf(tag=tag, vr=vr, value=value + bytes(len(value) % 2))
    source = image(node)
    result = made(source)
    assert faults(source, result) == []
    assert values_of(result.content)[tag,] == node.value


def test_tables_are_kept_whatever_their_entries_look_like() -> None:
    """Sixteen entries of a palette may all be bytes that can be printed."""
    source = image(Leaf(tag=0x00281201, vr="OW", value=b"@@AABBCCDDEEFFGGHHII"))
    assert values_of(made(source).content)[0x00281201,] == b"@@AABBCCDDEEFFGGHHII"


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


# ---- descriptors

UTF_8 = text(0x00080005, "CS", "ISO_IR 192")
JAPANESE = text(0x00080005, "CS", "\\ISO 2022 IR 87")
YAMADA = "t1 mprage 山田 太郎 sag"


@pytest.mark.parametrize(
    ("tag", "vr", "value", "expected"),
    [
        (0x0008103E, "LO", "t1_mprage_sag_p2_iso", b"t1_mprage_sag_p2_iso"),
        (0x0008103E, "LO", "T1 MPRAGE Doe Jane 12.04.1958", b"T1 MPRAGE X"),
        (0x00181030, "LO", "ep2d diff Mueller 3iso", b"ep2d diff X 3iso"),
        (0x00081030, "LO", "brain\\Doe\\MRI", b"brain\\X\\MRI"),  # several values, each by itself
        (0x00081030, "LO", "Jane Doe", b"X"),
        (0x00081030, "LO", "  ", b""),
        (0x00204000, "LT", "flair \\ Jane Doe", b"flair _ X"),  # a backslash separates nothing here
        (0x00400280, "ST", "t2\\Doe\\sag", b"t2_X_sag"),
        (0x00180024, "SH", "epfid2d1_64", b"epfid2d1_64"),
        (0x00180024, "SH", "*fl3d1 of Jane", b"*fl3d1 X"),
        (0x00181400, "LO", b"sagittal\0", b"sagittal"),
    ],
)
@pytest.mark.parametrize("explicit", [True, False])
def test_of_descriptors_the_words_of_imaging_stay(
    tag: int, vr: str, value: str | bytes, expected: bytes, explicit: bool
) -> None:
    source = image(text(tag, vr, value), explicit=explicit)
    result = made(source)
    assert faults(source, result) == []
    assert values_of(result.content)[tag,].rstrip(b" ") == expected
    for planted in (b"Jane", b"Doe", b"Mueller", b"1958"):
        assert planted not in result.content


def test_descriptors_stay_within_the_length_of_their_vr() -> None:
    words = " ".join(["sagittal"] * 40)
    source = image(
        text(0x0008103E, "LO", words),
        text(0x00180024, "SH", words),
        nested(0x00400275, (text(0x00400007, "LO", words),)),
    )
    found = values_of(made(source).content)
    assert found[0x0008103E,] == b"sagittal" + b" sagittal" * 6
    assert found[0x00180024,] == b"sagittal"
    assert found[0x00400275, 0, 0x00400007] == found[0x0008103E,]


@pytest.mark.parametrize("explicit", [True, False])
def test_descriptors_are_read_in_the_character_set_of_their_item(explicit: bool) -> None:
    """Of the item itself, else of the nearest around it, and never of one beside or behind it."""
    in_japanese = text(0x00400007, "LO", YAMADA.encode("iso2022_jp"))
    in_utf_8 = text(0x00400007, "LO", "t1 Schädel Jäger sag".encode())
    in_latin = text(0x00400007, "LO", "t1 Schädel Jäger sag".encode("latin-1"))
    source = image(
        JAPANESE,
        text(0x0008103E, "LO", YAMADA.encode("iso2022_jp")),
        nested(
            0x00400275,
            (UTF_8, in_utf_8),
            (in_japanese,),
            (text(0x00080005, "CS", "ISO_IR 100"), in_latin, nested(0x00400275, (in_latin,), (UTF_8, in_utf_8))),
            (in_japanese,),
        ),
        explicit=explicit,
    )
    result = made(source)
    assert faults(source, result) == []
    found = values_of(result.content)
    expected = b"t1 mprage X sag "
    assert found[0x0008103E,] == expected
    assert found[0x00400275, 1, 0x00400007] == found[0x00400275, 3, 0x00400007] == expected
    assert found[0x00400275, 0, 0x00400007] == found[0x00400275, 2, 0x00400007]
    assert found[0x00400275, 0, 0x00400007].startswith(b"t1 ")
    for inner in (0, 1):
        assert found[0x00400275, 2, 0x00400275, inner, 0x00400007] == found[0x00400275, 0, 0x00400007]
    descriptions = [value for place, value in found.items() if place[-1] in (0x0008103E, 0x00400007)]
    assert len(descriptions) == 7
    assert all(value.isascii() and b"\x1b" not in value and b"ger" not in value for value in descriptions)


def test_a_broken_text_is_masked() -> None:
    """Bytes that are no text in the stated character set say nothing that could be kept."""
    for stated in (UTF_8, JAPANESE, text(0x00080005, "CS", "GB18030")):
        source = image(stated, text(0x0008103E, "LO", b"t1 \xff\xfe\xe4\xf6 \x1b$B\x1b sag"))
        result = made(source)
        assert faults(source, result) == []
        value = values_of(result.content)[0x0008103E,]
        assert value.isascii()
        assert value.startswith(b"t1 X")


@pytest.mark.parametrize("explicit", [True, False])
def test_a_descriptor_in_unknown_vr_is_cleaned_and_in_a_wrong_one_emptied(explicit: bool) -> None:
    source = image(Leaf(tag=0x0008103E, vr="LO", value=b"t1 Doe", written="UN"), explicit=explicit)
    result = made(source)
    assert faults(source, result) == []
    assert values_of(result.content)[0x0008103E,] == b"t1 X"
    for vr in ("OB", "PN", "DS", "FD", "CS", "UI", "DA", "UR", "AE"):
        source = image(Leaf(tag=0x0008103E, vr=vr, value=b"t1 Doe  "))
        result = made(source)
        assert faults(source, result) == []
        assert values_of(result.content)[0x0008103E,] == b""
    assert (0x0008103E,) not in values_of(made(image(nested(0x0008103E, (text(0x00080070, "LO", "x"),)))).content)


def test_a_request_keeps_its_descriptions_and_loses_its_numbers_and_codes() -> None:
    reason = nested(0x0040100A, (text(0x00080100, "SH", "C71.9"), text(0x00080104, "LO", "brain sarcoidosis")))
    request = (
        text(0x00080050, "SH", "ACC 4711"),
        text(0x00321060, "LO", "MRI brain for Jane Doe"),
        nested(0x00321064, (text(0x00080100, "SH", "HEAD01"), text(0x00080104, "LO", "brain"))),
        text(0x00400007, "LO", "t2 flair tra Doe"),
        nested(0x00400008, (text(0x00080100, "SH", "T2F"),)),
        text(0x00400009, "SH", "4711-1"),
        text(0x00401001, "SH", "4711"),
        text(0x00401002, "LO", "sarcoidosis of Jane Doe"),
        reason,
    )
    source = image(
        nested(0x00400275, request), nested(0x00081084, (text(0x00080104, "LO", "brain sarcoidosis"),)), reason
    )
    result = made(source)
    assert faults(source, result) == []
    inside = {place[2:]: value for place, value in values_of(result.content).items() if place[0] == 0x00400275}
    assert inside.pop(()) == b"1"
    assert {place[0]: value.rstrip(b" ") for place, value in inside.items() if value} == {
        0x00321060: b"MRI brain for X",
        0x00400007: b"t2 flair tra X",
        0x00401002: b"X",
    }
    for planted in (b"sarcoidosis", b"4711", b"C71", b"HEAD01", b"Doe"):
        assert planted not in result.content


def test_without_the_option_descriptors_go() -> None:
    profile = Profile(options=DEFAULT_PROFILE.options - {Option.CLEAN_DESCRIPTORS})
    source = image(text(0x0008103E, "LO", "t1"), nested(0x00400275, (text(0x00400007, "LO", "t1"),)))
    result = made(source, profile=profile)
    assert differences(source, result.content, profile=profile) == []
    assert not {0x0008103E, 0x00400275} & {place[0] for place in values_of(result.content)}
    assert "113105" not in result.codes


def test_words_of_the_study_stay() -> None:
    source = image(text(0x0008103E, "LO", "t1 Alphawave Zebrafish Doe"))
    profile = Profile.of((option.column for option in DEFAULT_PROFILE.options), ["alphawave", "zebrafish"])
    result = made(source, profile=profile)
    assert differences(source, result.content, profile=profile) == []
    assert values_of(result.content)[0x0008103E,].rstrip() == b"t1 Alphawave Zebrafish X"
    assert values_of(made(source).content)[0x0008103E,] == b"t1 X"


# ---- codes

BRAIN = ("12738006", "SCT", "Brain")
OLD_BRAIN = ("T-A0100", "SRT", "Brain")
DUMMY_CODE = {0x00080100: b"REMOVED ", 0x00080102: b"REMOVED ", 0x00080104: b"REMOVED "}


def code(value: str, scheme: str, meaning: str, *more: Node) -> list[Node]:
    """Write the item of a code sequence."""
    own = [text(0x00080100, "SH", value), text(0x00080102, "SH", scheme), text(0x00080104, "LO", meaning)]
    return sorted([*own, *more], key=lambda node: node.tag)


def codes_in(content: bytes, sequence: int = 0x00082218) -> list[dict[int, bytes]]:
    """Return the items of a code sequence of the export."""
    found = {place: value for place, value in values_of(content).items() if place[0] == sequence}
    items: list[dict[int, bytes]] = [{} for _ in range(int(found.pop((sequence,))))]
    for place, value in found.items():
        items[place[1]][place[2]] = value
    return items


@pytest.mark.parametrize("explicit", [True, False])
def test_a_code_with_its_schemes_words_stays_to_the_byte(explicit: bool) -> None:
    resource = text(0x00080122, "LO", "DICOM Content Mapping Resource")
    published = [
        code(*BRAIN),
        code(*OLD_BRAIN),
        code("113100", "DCM", "Basic Application Confidentiality Profile"),
        code("69536005", "SCT", "HEAD"),
        code(*BRAIN, text(0x00080103, "SH", "1.1"), resource),
        code("mm", "UCUM", "mm"),
    ]
    source = image(nested(0x00082218, *published), explicit=explicit)
    for profile in (DEFAULT_PROFILE, WITHOUT_DESCRIPTORS):
        result = made(source, profile=profile)
        assert differences(source, result.content, profile=profile) == []
        assert forms(result.content)[0x00082218,] == forms(source)[0x00082218,]


@pytest.mark.parametrize("explicit", [True, False])
def test_a_code_in_other_words_has_them_cleaned(explicit: bool) -> None:
    reworded = code("T-A0100", "SRT", "brain, Jane Doe")
    dated = code(*BRAIN, text(0x00080103, "SH", "20200229"), text(0x00080122, "LO", "list of Dr Doe"))
    source = image(nested(0x00082218, reworded, dated), explicit=explicit)
    result = made(source)
    assert faults(source, result) == []
    first, second = codes_in(result.content)
    assert first == {0x00080100: b"T-A0100 ", 0x00080102: b"SRT ", 0x00080104: b"brain, X"}
    assert second[0x00080100] == b"12738006"
    assert second[0x00080103] == b"X "
    assert second[0x00080104] == b"Brain "
    for planted in (b"Doe", b"Jane", b"20200229"):
        assert planted not in result.content
    bare = made(source, profile=WITHOUT_DESCRIPTORS)
    assert differences(source, bare.content, profile=WITHOUT_DESCRIPTORS) == []
    for item in codes_in(bare.content):
        assert item[0x00080104] == b"REMOVED "
        assert item.get(0x00080103, b"REMOVED ") == b"REMOVED "


OWN_CODES = [
    code("DOE", "99HOSPITAL", "Jane Doe"),
    code("DOE^JANE", "DCM", "Brain"),
    code("12738007", "SCT", "Brain"),  # the check digit is wrong
    code("1958-04", "LN", "born"),
    code("12738006", "99HOSPITAL", "Brain"),
    [text(0x00080104, "LO", "Jane Doe")],
]


@pytest.mark.parametrize("own", OWN_CODES)
@pytest.mark.parametrize("explicit", [True, False])
def test_of_a_code_that_is_none_of_its_schemes_nothing_is_left(own: list[Node], explicit: bool) -> None:
    """But for what the IOD demands; codes beside it stay. And what it was cannot be told from the export."""
    source = image(nested(0x00082218, own, code(*BRAIN)), explicit=explicit)
    result = made(source)
    assert faults(source, result) == []
    first, second = codes_in(result.content)
    assert first == {tag: value for tag, value in DUMMY_CODE.items() if tag in {node.tag for node in own}}
    assert list(second.values()) == [b"12738006", b"SCT ", b"Brain "]
    other = [text(node.tag, "SH" if node.tag != 0x00080104 else "LO", "OTHER") for node in own]
    assert made(image(nested(0x00082218, other, code(*BRAIN)), explicit=explicit)).content == result.content


def test_a_code_stated_twice_is_none() -> None:
    """What a reader takes of two values nobody knows."""
    item = code(*BRAIN)
    source = image(nested(0x00082218, [item[0], text(0x00080100, "SH", "DOE^JANE"), *item[1:]]))
    assert b"DOE^JANE" in source
    content = made(source).content
    assert b"DOE^JANE" not in content
    assert b"12738006" not in content


def test_a_code_that_is_known_of_the_patient_goes() -> None:
    """Numbers of six or more digits pass the check digit now and then; and a name may be a part of the body."""
    source = image(nested(0x00082218, code(*BRAIN), code("69536005", "SCT", "Head")))
    known = frozenset({"12738006", "Head"})
    result = rewrite(source, profile=DEFAULT_PROFILE, identity=IDENTITY, subject=SUBJECT, known=known)
    assert differences(source, result.content, known=known) == []
    first, second = codes_in(result.content)
    assert first == DUMMY_CODE
    assert second == {0x00080100: b"69536005", 0x00080102: b"SCT ", 0x00080104: b"X "}


def test_an_option_that_keeps_an_institutions_codes_keeps_what_they_say() -> None:
    source = image(nested(0x00080082, code("CHR", "99HOSPITAL", "Charity")))
    profile = Profile(options=frozenset({Option.RETAIN_INSTITUTION_IDENTITY}))
    result = made(source, profile=profile)
    assert differences(source, result.content, profile=profile) == []
    assert forms(result.content)[0x00080082,] == forms(source)[0x00080082,]
    assert b"Charity" not in made(source).content


@pytest.mark.parametrize("explicit", [True, False])
def test_an_icc_profile_goes(explicit: bool) -> None:
    """It holds a copyright and a description in words."""
    icc = Leaf(tag=0x00282000, vr="OB", value=b"prof Zwiebelhuber Imaging ltd.".ljust(64, b"\0"))
    source = image(icc, nested(0x00480105, (icc,)), explicit=explicit)
    result = made(source)
    assert faults(source, result) == []
    assert b"Zwiebelhuber" not in result.content
    assert not [place for place in values_of(result.content) if place[-1] == 0x00282000]


# ---- graphics and content

GRAPHICS = Profile(options=DEFAULT_PROFILE.options | {Option.CLEAN_GRAPHICS})
STRUCTURED = Profile(options=DEFAULT_PROFILE.options | {Option.CLEAN_STRUCTURED_CONTENT})


@pytest.mark.parametrize("explicit", [True, False])
def test_texts_among_graphics_are_cleaned_and_planes_of_bits_go(explicit: bool) -> None:
    points = Leaf(tag=0x00700022, vr="FL", value=bytes(range(1, 33)))
    annotation = (
        text(0x00700002, "CS", "LAYER"),
        nested(0x00700008, (text(0x00700003, "CS", "PIXEL"), text(0x00700006, "ST", "brain of Jane Doe"))),
        nested(0x00700009, (text(0x00700005, "CS", "PIXEL"), points, text(0x00700023, "CS", "POLYLINE"))),
    )
    overlay = Leaf(tag=0x60003000, vr="OW", value=b"Doe " * 8)
    source = image(nested(0x00700001, annotation), overlay, text(0x60004000, "LT", "Jane Doe"), explicit=explicit)
    result = made(source, profile=GRAPHICS)
    assert differences(source, result.content, profile=GRAPHICS) == []
    assert form_faults(source, result.content) == []
    found = values_of(result.content)
    assert found[0x00700001, 0, 0x00700008, 0, 0x00700006].rstrip() == b"brain X"
    assert found[0x00700001, 0, 0x00700009, 0, 0x00700022] == points.value
    assert b"Doe" not in result.content
    without = made(source).content
    assert b"brain" not in without
    assert points.value not in without


@pytest.mark.parametrize("explicit", [True, False])
def test_content_items_go_or_stay_one_by_one(explicit: bool) -> None:
    """Under the option; those behind one that goes move up, and nothing else of the file changes."""
    finding, age = code("121071", "DCM", "Finding"), code("121033", "DCM", "Subject Age")
    years = code("a", "UCUM", "year")
    items = (
        (text(0x0040A040, "CS", "TEXT"), nested(0x0040A043, finding), text(0x0040A160, "UT", "brain of Jane Doe")),
        (text(0x0040A040, "CS", "PNAME"), nested(0x0040A043, finding), text(0x0040A123, "PN", "Doe^Jane")),
        (text(0x0040A040, "CS", "CODE"), nested(0x0040A043, finding), nested(0x0040A168, code("X", "99X", "Doe"))),
        (text(0x0040A040, "CS", "CODE"), nested(0x0040A043, finding), nested(0x0040A168, code(*BRAIN))),
        (nested(0x0040A043, age), nested(0x0040A300, (nested(0x004008EA, years), text(0x0040A30A, "DS", "93")))),
        (nested(0x0040A043, age), nested(0x0040A300, (nested(0x004008EA, years), text(0x0040A30A, "DS", "45")))),
        (nested(0x0040A043, finding), text(0x0040A160, "UT", "brain, untyped")),
    )
    for form in FORMS:
        source = image(nested(0x0040A730, *items, **form), explicit=explicit)
        result = made(source, profile=STRUCTURED)
        assert differences(source, result.content, profile=STRUCTURED) == []
        assert form_faults(source, result.content) == []
        found = values_of(result.content)
        assert found[0x0040A730,] == b"4"
        assert found[0x0040A730, 0, 0x0040A160].rstrip() == b"brain X"
        assert found[0x0040A730, 1, 0x0040A168, 0, 0x00080104] == b"Brain "
        assert found[0x0040A730, 2, 0x0040A300, 0, 0x0040A30A] == b"45"
        assert found[0x0040A730, 3, 0x0040A160].rstrip() == b"brain, X"
        assert b"Doe" not in result.content
        without = made(source).content
        assert b"rain" not in without
        assert b"Doe" not in without


def test_an_annotations_text_needs_no_concept() -> None:
    """What elsewhere is a text without a name, and goes."""
    item = (text(0x0040A160, "UT", "brain of Jane Doe"),)
    source = image(nested(0x0040B020, item), nested(0x0040A730, item))
    result = made(source, profile=STRUCTURED)
    assert differences(source, result.content, profile=STRUCTURED) == []
    found = values_of(result.content)
    assert found[0x0040B020, 0, 0x0040A160].rstrip() == b"brain X"
    assert found[0x0040A730,] == b"0"


# ---- what is known of the patient


@pytest.mark.parametrize("explicit", [True, False])
def test_what_is_known_of_the_patient_is_masked_in_texts_that_are_kept(explicit: bool) -> None:
    known = frozenset({"Skyra", "Doe", "4711", "sagittal"})
    siemens = [text(0x00190010, "LO", "SIEMENS MR HEADER"), text(0x00191008, "CS", "IMAGE NUM 4 ")]
    source = image(
        text(0x00080070, "LO", "SIEMENS"),
        text(0x00081090, "LO", "Skyra fit"),
        text(0x0008103E, "LO", "t1 sagittal 3d"),  # a word of imaging, and here a part of the name
        text(0x00181020, "LO", "syngo 4711\\VE11"),
        nested(0x00189346, (text(0x00081090, "LO", "of Doe"),)),
        *siemens,
        explicit=explicit,
    )
    result = rewrite(source, profile=DEFAULT_PROFILE, identity=IDENTITY, subject=SUBJECT, known=known)
    assert differences(source, result.content, known=known) == []
    assert form_faults(source, result.content) == []
    found = values_of(result.content)
    assert found[0x00080070,].rstrip() == b"SIEMENS"
    assert found[0x0008103E,].rstrip() == b"t1 X 3d"
    for planted in (b"Skyra", b"Doe", b"4711", b"sagittal"):
        assert planted not in result.content
    assert b"Skyra" in made(source).content
    basic = Profile(options=frozenset())
    bare = rewrite(source, profile=basic, identity=IDENTITY, subject=SUBJECT, known=known)
    assert differences(source, bare.content, profile=basic, known=known) == []
    assert values_of(bare.content)[0x00081090,] == b""


# ---- counts


def test_the_tally_counts_what_was_done() -> None:
    source = image(
        text(0x00080050, "SH", "4711"),
        text(0x00080080, "LO", "Hospital"),
        text(0x0008103E, "LO", "t1 Doe Jane sag Miller"),
        text(0x00101010, "AS", "093Y"),
        text(0x00090010, "LO", "ACME UNHEARD OF 1"),
        text(0x00091001, "LO", "private"),
        text(0x00190010, "LO", "GEMS_ACQU_01"),
        text(0x0019109C, "LO", "efgre3d"),
    )
    assert made(source).tally == {
        "remove": 3,  # institution, unknown creator and its element
        "empty": 1,
        "uid": 4,
        "date": 1,
        "age": 1,
        "pseudonym": 2,
        "descriptor": 1,
        "masked_words": 3,
        "private_kept": 1,
    }
    assert made(image()).tally == {"uid": 4, "date": 1, "pseudonym": 2}


# ---- input that is de-identified already

EARLIER = [
    text(0x00120062, "CS", "YES"),
    text(0x00120063, "LO", "CTP by Jane Doe\\scanward 0.0.1"),
    nested(
        0x00120064,
        (text(0x00080100, "SH", "113100"), text(0x00080102, "SH", "DCM"), text(0x00080104, "LO", "by Jane Doe")),
        (text(0x00080100, "SH", "113106"), text(0x00080102, "SH", "DCM"), text(0x00080104, "LO", "whatever")),
        (text(0x00080100, "SH", "DOE"), text(0x00080102, "SH", "99JANE"), text(0x00080104, "LO", "Jane")),
    ),
]
MOVED = text(0x00280303, "CS", "MODIFIED")


@pytest.mark.parametrize("explicit", [True, False])
def test_what_was_done_before_stands_in_front_of_what_is_done_now(explicit: bool) -> None:
    source = image(*EARLIER, explicit=explicit)
    result = made(source)
    assert faults(source, result) == []
    found = read(result.content)
    ours = [code for code, _ in DEFAULT_PROFILE.codes()]
    assert list(result.codes) == ["113100", "113106", *(code for code in ours if code != "113100")]
    items = [
        (item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)
        for item in found.DeidentificationMethodCodeSequence
    ]
    assert items == [(code, "DCM", METHODS[code]) for code in result.codes]
    first, earlier, last = found.DeidentificationMethod
    assert "Doe" not in first
    assert "Jane" not in first
    assert earlier == "scanward 0.0.1"
    assert last.startswith("scanward ")
    assert b"Doe" not in result.content


def test_dates_that_were_moved_before_are_not_moved_again() -> None:
    day = text(0x00080020, "DA", "20200229")
    for more, expected, moved_before in (
        ((*EARLIER, MOVED), b"20200229", 1),
        ((MOVED,), b"20170604", 0),  # nobody says that it is de-identified
        ((*EARLIER,), b"20170604", 0),
        ((*EARLIER, text(0x00280303, "CS", "UNMODIFIED")), b"20170604", 0),
    ):
        source = image(day, *more)
        result = made(source)
        assert faults(source, result) == []
        assert values_of(result.content)[0x00080020,] == expected
        assert result.tally.get("moved_before", 0) == moved_before
        assert read(result.content).LongitudinalTemporalInformationModified == "MODIFIED"
    bare = made(image(day, *EARLIER, MOVED), profile=Profile(options=frozenset()))
    assert values_of(bare.content)[0x00080020,] == b""


def test_an_export_rewritten_with_the_same_secret_is_the_same(scanner_data: Path) -> None:
    checked = 0
    for path in sampled(data_files(scanner_data))[::6]:
        if path.stat().st_size > 500_000:
            continue
        first = outcome(path.read_bytes())
        if isinstance(first, Rewritten):
            checked += 1
            again = made(first.content)
            assert again.content == first.content
            assert again.tally["moved_before"] == 1
    assert checked > 30


def test_a_face_that_may_be_seen_is_told() -> None:
    """What the part of the body says counts more than what the file says, unless a face was removed before."""
    defaced = nested(0x00120064, (text(0x00080100, "SH", "113102"),))
    for more, expected in (
        ((text(0x00180015, "CS", "HEAD"),), "YES"),
        ((text(0x00180015, "CS", "HEAD"), text(0x00280302, "CS", "NO")), "YES"),
        ((text(0x00180015, "CS", "KNEE"),), None),
        ((text(0x00280302, "CS", "NO"),), ""),
        ((text(0x00280302, "CS", "YES"),), "YES"),
        ((text(0x00120062, "CS", "YES"), defaced, text(0x00280302, "CS", "NO")), "NO"),
        ((defaced, text(0x00280302, "CS", "NO")), ""),
    ):
        value = values_of(made(image(*more)).content).get((0x00280302,))
        assert (None if value is None else value.decode().strip()) == expected


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
        (number(0x60000102, "US", 11), "overlay-in-pixel-data"),
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
    of_pixels = {"lossy-stream", "no-codec", "pixel-data", "wide-values"}
    assert {"malformed", "private-syntax", "truncated", "uid-missing"} | of_pixels == set(REFUSALS)

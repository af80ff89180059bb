"""Siemens blobs: what is kept is kept to the byte, what is not is nowhere, and every reader still finds its way."""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
import random
import re
import shutil
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.deidentify.siemens import clean_csa, clean_protocol, load_siemens_table
from tests.deidentify.conversion import convert

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # nibabel calls its reader experimental on import
    from nibabel.nicom import csareader

NIBABEL_DATA = Path(csareader.__file__).parent / "tests" / "data"
TOKEN = b"QuixZorblatt"
PROTOCOL_TAGS = {"MrPhoenixProtocol", "MrProtocol", "MrEvaProtocol"}
BLANK = {b"", b"0"}


# ------------------------------------------------------------------------------------------------- reading and writing


def blobs(path: Path) -> list[tuple[str, bytes]]:
    """Return the kind (csa or protocol) and value of each Siemens blob of a file, nested ones included."""
    found: list[tuple[str, bytes]] = []

    def walk(dataset: pydicom.Dataset) -> None:
        for element in dataset:
            kind = blob_kind(dataset, element)
            if kind:
                found.append((kind, element.value))
            elif element.VR == "SQ":
                for item in element.value:
                    walk(item)

    walk(pydicom.dcmread(path, stop_before_pixels=True))
    return found


def blob_kind(dataset: pydicom.Dataset, element: pydicom.DataElement) -> str | None:
    if not element.tag.is_private or element.tag.element < 0x1000 or not isinstance(element.value, bytes):
        return None
    creator = dataset.get((element.tag.group, element.tag.element >> 8))
    last = element.tag.element & 0xFF
    if creator is not None and creator.value == "SIEMENS CSA HEADER" and last in (0x10, 0x20):
        return "csa"
    return "protocol" if element.tag.group == 0x0021 and last == 0x19 else None


@functools.cache
def siemens_files(root: Path) -> tuple[Path, ...]:
    """All Siemens files of the sets that hold MR series."""
    folders = [root / "dcm_qa_stc/In/Siemens", root / "dcm_qa_nih/In/20180918Si", root / "dcm_qa_enh/In/Siemens"]
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return tuple(path for path in paths if path.suffix not in (".md", ".txt", ".json") and is_dicom(path))


def is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


@functools.cache
def distinct_blobs(root: Path) -> tuple[tuple[str, bytes], ...]:
    """Each blob once."""
    return tuple(dict.fromkeys(blob for path in siemens_files(root) for blob in blobs(path)))


def one_of_each(root: Path) -> list[bytes]:
    """CSA headers of the image and the series from the oldest to the newest release, one of each."""
    chosen = []
    for release in ("B12", "B15", "B17", "E11"):
        path = next(path for path in siemens_files(root) if release in path.parts)
        chosen.extend(value for _, value in blobs(path))
    return chosen


def spans(value: bytes) -> Iterator[tuple[int, int, str]]:
    """Walk a CSA2 header and yield offset, end and role of every part; written for this test alone."""
    yield 4, 8, "unused"
    count = struct.unpack_from("<I", value, 8)[0]
    at = 16
    for _ in range(count):
        name = value[at : at + 64].split(b"\0")[0]
        yield at, at + len(name), "name"
        yield at + len(name) + 1, at + 64, "slack"
        yield at + 70, at + 72, "slack"  # after the two letters of the VR
        yield at + 72, at + 76, "word"  # the scanner's own number for the VR
        yield at + 80, at + 84, "word"
        items = struct.unpack_from("<i", value, at + 76)[0]
        at += 84
        for _ in range(items):
            length = struct.unpack_from("<i", value, at + 4)[0]
            yield from ((at, at + 4, "word"), (at + 8, at + 16, "word"))
            at += 16
            text = value[at : at + length].split(b"\0")[0]
            yield at, at + len(text), "text"
            yield at + len(text) + 1, at + (length + 3) // 4 * 4, "slack"
            at += (length + 3) // 4 * 4
    yield at, len(value), "slack"


def write_csa(tags: list[tuple[str, str, list[bytes]]], *, form: str = "CSA2") -> bytes:
    """Write a header with the given names, VRs and items.

    Forms: CSA2; CSA1 with lengths in the second word; CSA1-sum with the length and the number of items of the second
    tag together in the first word, as nibabel reads it.
    """
    surplus = len(tags[1][2]) if form == "CSA1-sum" else 0
    out = bytearray(b"SV10\x04\x03\x02\x01" if form == "CSA2" else b"")
    out += struct.pack("<2I", len(tags), 77)
    for name, vr, items in tags:
        out += struct.pack("<64si4s3i", name.encode(), len(items), vr.encode(), 0, len(items), 77 if items else 205)
        for item in items:
            length = len(item)
            if form == "CSA1-sum":
                out += struct.pack("<4i", length + surplus, 1 << 30, 77, 0)
            else:
                out += struct.pack("<4i", length, length, 77, length)
            out += item + bytes(-length % 4)
    return bytes(out + bytes(4))


def hides(content: bytes, token: bytes = TOKEN) -> bool:
    """Tell whether no half of the token is there, in either case, in one byte or two bytes a letter."""
    lower = content.lower()
    halves = (token[: len(token) // 2].lower(), token[len(token) // 2 :].lower())
    wide = [half.decode().encode(code) for half in halves for code in ("utf-16-le", "utf-16-be")]
    return not any(half in lower for half in (*halves, *wide))


def text_of(item: object) -> bytes:
    return str(item).strip().encode("latin-1")


# ------------------------------------------------------------------------------------------------------ the whole table


def test_every_row_says_what_it_holds_and_why():
    table = load_siemens_table()
    content = importlib.resources.files("tasks.deidentify").joinpath("data", "siemens.json").read_bytes()
    assert table.digest == hashlib.sha256(content).hexdigest()
    kinds = {row["kind"] for row in json.loads(content)["values"]}
    assert {row.kind for row in table.rows} <= kinds | {"term", "blank", "protocol"}
    assert kinds <= {row.kind for row in table.rows}
    assert all(len(row.reason) > 8 and row.reason.endswith(".") for row in table.rows)
    assert len({(row.place, row.name) for row in table.rows}) == len(table.rows) > 600
    assert load_siemens_table() is table


CONVERTER_KEYS = """sKSpace.lPhaseEncodingLines sSliceArray.ucImageNumb sSliceArray.ucMode sKSpace.lBaseResolution
sKSpace.uc2DInterpolation sKSpace.ucPhasePartialFourier sFastImaging.lEchoSpacing sSliceArray.lConc sDiffusion.dsScheme
ucReadOutMode sPat.lAccelFactPE sPat.lAccelFact3D sPat.dTotalAccelFact sPat.lRefLinesPE ucCoilCombineMode sPat.ucPATMode
sPrepPulses.ucMTC sProtConsistencyInfo.tMeasuredBaselineString sProtConsistencyInfo.tBaselineString
sProtConsistencyInfo.ulConvFromVersion sCoilSelectMeas.sCoilStringForConversion tSequenceFileName
sAsl.sPostLabelingDelay[*] sAsl.ulLabelingDuration alTE[*] alTI[*] sWipMemBlock.alFree[*] sWipMemBlock.adFree[*]
sWiPMemBlock.adFree[*] sRSatArray.asElm[*].dThickness sRSatArray.asElm[*].ulShape sRSatArray.asElm[*].sPosition.dTra
sRSatArray.asElm[*].sNormal.dTra dAveragesDouble lDelayTimeInTR sKSpace.dPhaseOversamplingForDialog
sKSpace.dPhaseResolution sTXSPEC.asNucleusInfo[*].flReferenceAmplitude sGRADSPEC.asGPAData[*].lOffsetX
sGRADSPEC.asGPAData[*].lOffsetY sGRADSPEC.asGPAData[*].lOffsetZ sGRADSPEC.lOffsetX sGRADSPEC.lOffsetY sGRADSPEC.lOffsetZ
sGRADSPEC.alShimCurrent[*] sDiffusion.sFreeDiffusionData.lDiffDirections lContrasts lInvContrasts
sDiffusion.sFreeDiffusionData.asDiffDirVector[*].dSag asCoilSelectMeas[*].asList[*].sCoilElementID.tCoilID"""
CONVERTER_TAGS = """ImageHistory ICE_Dims NumberOfImagesInMosaic B_value DiffusionGradientDirection SliceNormalVector
SliceMeasurementDuration BandwidthPerPixelPhaseEncode ImaRelTablePosition MosaicRefAcqTimes ProtocolSliceNumber
PhaseEncodingDirectionPositive"""


def test_all_that_a_converter_reads_is_kept_but_two_texts():
    table = load_siemens_table()
    assert {key for key in CONVERTER_KEYS.split() if key.encode() not in table.protocol} == set()
    assert {name for name in CONVERTER_TAGS.split() if table.csa.get(name.encode()) is None} == set()
    # A converter would take the protocol's name from here where the public attribute is missing, and quotes this text.
    assert not {b"tProtocolName", b"sWipMemBlock.tFree"} & set(table.protocol)


# ------------------------------------------------------------------------------------------------- real scanner headers


def test_nibabel_reads_every_kept_value_and_nothing_else(scanner_data):
    table = load_siemens_table().csa
    kept, blanked = set(), set()
    for value in [value for kind, value in distinct_blobs(scanner_data) if kind == "csa"]:
        cleaned = clean_csa(value)
        before, after = csareader.read(value), csareader.read(cleaned)
        assert after["n_tags"] == before["n_tags"]
        assert list(after["tags"]) == list(before["tags"])
        for name, tag in before["tags"].items():
            again = after["tags"][name]
            assert {**again, "items": None} == {**tag, "items": None}, name
            if name in PROTOCOL_TAGS:
                assert all(len(a) == len(b) for a, b in zip(again["items"], tag["items"], strict=True))
            elif table[name.encode()] is None:
                assert {text_of(item) for item in again["items"]} <= BLANK, name
                blanked.update(name for item in tag["items"] if text_of(item))
            else:
                assert again["items"] == tag["items"], name
                kept.update(name for item in tag["items"] if text_of(item))
    assert len(kept) > 75
    assert blanked == {"CoilId", "FmriExternalInfo", "LongModelName", "PatReinPattern", "UsedPatientWeight"}


def test_kept_values_are_equal_to_the_byte_and_every_offset_stays(scanner_data):
    for value in one_of_each(scanner_data):
        cleaned = clean_csa(value)
        assert len(cleaned) == len(value)
        ours, theirs = list(spans(cleaned)), list(spans(value))
        structure = [(start, stop) for start, stop, role in theirs if role in ("name", "word", "unused")]
        assert [span for span in ours if span[2] in ("word", "unused")] == [
            span for span in theirs if span[2] in ("word", "unused")
        ]
        assert all(cleaned[start:stop] == value[start:stop] for start, stop in structure)
        assert not any(any(cleaned[start:stop]) for start, stop, role in theirs if role == "slack" and stop > start)


@pytest.mark.parametrize("name", ["csa2_b0.bin", "csa2_b1000.bin", "csa_str_valid.bin"])
def test_headers_of_other_scanners(name):
    value = (NIBABEL_DATA / name).read_bytes()
    cleaned = clean_csa(value)
    before, after = csareader.read(value)["tags"], csareader.read(cleaned)["tags"]
    read = ("B_value", "B_matrix", "DiffusionGradientDirection", "SliceNormalVector", "NumberOfImagesInMosaic")
    assert {key: after[key]["items"] for key in read if key in before} == {
        key: before[key]["items"] for key in read if key in before
    }


def test_a_header_that_claims_too_many_items_is_refused():
    assert clean_csa((NIBABEL_DATA / "csa_str_1001n_items.bin").read_bytes()) is None


def test_xa_protocols_keep_all_that_the_table_allows(scanner_data):
    protocols = [value for kind, value in distinct_blobs(scanner_data) if kind == "protocol"]
    assert protocols
    for value in protocols:
        cleaned = clean_protocol(value)
        assert_protocol_is_clean(value, cleaned)
        assert b'tSequenceFileName\t = \t""%SiemensSeq%\\ep2d_bold""\n' in cleaned
        assert b"sSliceAcceleration.lMultiBandFactor\t = \t2\n" in cleaned


def test_series_headers_keep_the_lines_of_their_protocols(scanner_data):
    for value in one_of_each(scanner_data)[1::2]:
        before, after = csareader.read(value)["tags"], csareader.read(clean_csa(value))["tags"]
        name = next(name for name in ("MrPhoenixProtocol", "MrProtocol") if name in before)
        protocol, cleaned = [tags[name]["items"][0].encode("latin-1") for tags in (before, after)]
        assert_protocol_is_clean(protocol, cleaned)


def assert_protocol_is_clean(value: bytes, cleaned: bytes) -> None:
    """Compare line by line: equal, or blank, or a sequence's name; and count what is left."""
    assert len(cleaned) == len(value)
    table = load_siemens_table().protocol
    inside, kept = False, 0
    for before, after in zip(value.split(b"\n"), cleaned.split(b"\n"), strict=True):
        assert len(before) == len(after)
        if before.startswith(b"### ASCCONV BEGIN"):
            inside = True
            assert after == before
        elif before.startswith(b"### ASCCONV END ###"):
            inside = False
            assert after == b"### ASCCONV END ###".ljust(len(before))
        elif after.strip():
            key = re.sub(rb"\[\d+\]", b"[*]", before.split(b"=")[0].strip())
            assert inside
            assert key in table
            assert after == before or (key == b"tSequenceFileName" and b"X" in after)
            kept += 1
        else:
            key = re.sub(rb"\[\d+\]", b"[*]", before.split(b"=")[0].strip())
            assert not inside or key not in table, before
    assert kept > 150


def test_what_the_public_header_says_of_patient_and_scanner_is_nowhere(scanner_data):
    checked = 0
    for path in siemens_files(scanner_data)[::3]:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        uids = [str(element.value) for element in dataset.iterall() if element.VR == "UI"]
        own = [uid for uid in uids if not uid.startswith("1.2.840.10008")]
        said = [
            str(dataset.get(keyword, ""))
            for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyDate", "SeriesDate", "StationName",
                            "DeviceSerialNumber", "InstitutionName", "AccessionNumber", "StudyTime", "SeriesTime")
        ]  # fmt: skip
        said += [str(dataset.get(keyword, "")) for keyword in ("ProtocolName", "SeriesDescription")]
        words = {word.split(".")[0] if word.count(".") == 1 else word for word in (*own, *said)}
        for kind, value in blobs(path):
            cleaned = clean_csa(value) if kind == "csa" else clean_protocol(value)
            for word in words:
                if len(word) >= 5 and word.encode("latin-1", "ignore") in value:
                    checked += 1
                    assert word.encode("latin-1", "ignore") not in cleaned
    assert checked > 50


def test_the_day_of_the_scan_in_a_matrix_size_is_not_kept(scanner_data):
    # A sequence in wide use writes day and time of its start into fields of the protocol meant for spectroscopy.
    path = next(path for path in siemens_files(scanner_data) if "7_Rest_fMRI_AP" in path.parts)
    day = pydicom.dcmread(path, stop_before_pixels=True).StudyDate.encode()
    value = blobs(path)[1][1]
    assert re.search(rb"lFinalMatrixSize\w+\s*=\s*" + day, value)
    cleaned = clean_csa(value)
    assert day not in cleaned
    assert b"lFinalMatrixSize" not in cleaned
    assert clean_protocol(b"### ASCCONV BEGIN ###\nalTR[0] = 2000000\nalTI[0] = %s\n### ASCCONV END ###" % day) == (
        b"### ASCCONV BEGIN ###\nalTR[0] = 2000000\n                  \n### ASCCONV END ###"
    )


def test_cleaning_twice_changes_nothing(scanner_data):
    for kind, value in distinct_blobs(scanner_data):
        clean = clean_csa if kind == "csa" else clean_protocol
        once = clean(value)
        assert clean(once) == once


# ------------------------------------------------------------------------------------------------------------- canaries


def test_no_canary_survives_in_any_slack_of_a_real_header(scanner_data):
    for value in one_of_each(scanner_data):
        planted = bytearray(value)
        filler = TOKEN * (len(value) // len(TOKEN) + 1)
        places = [(start, stop) for start, stop, role in spans(value) if role in ("slack", "unused") and stop > start]
        for start, stop in places:
            planted[start:stop] = filler[: stop - start]
        assert len(places) > 100
        cleaned = clean_csa(bytes(planted))
        plain = bytearray(clean_csa(value))
        plain[4:8] = bytes(4)  # the unused word is kept only if it is the usual one
        assert cleaned == bytes(plain)


def test_no_canary_survives_in_the_reserved_words(scanner_data):
    for value in one_of_each(scanner_data):
        planted = bytearray(value)
        for start, stop, role in spans(value):
            if role == "word":
                planted[start:stop] = TOKEN[: stop - start]
        cleaned = clean_csa(bytes(planted))
        assert not any(TOKEN[:4] in cleaned[start:stop] for start, stop, role in spans(value) if role == "word")
        unplanted = csareader.read(clean_csa(value))["tags"]
        read = csareader.read(cleaned)["tags"]
        assert {name: tag["items"] for name, tag in read.items()} == {
            name: tag["items"] for name, tag in unplanted.items()
        }


def test_no_canary_survives_in_the_text_of_any_tag_of_a_real_header(scanner_data):
    for value in one_of_each(scanner_data):
        for pattern in (TOKEN, TOKEN.upper(), TOKEN.decode().encode("utf-16-le"), b"1.3.12.2.1107.5.2.32.35131."):
            planted = bytearray(value)
            places = [(start, stop) for start, stop, role in spans(value) if role == "text" and stop - start >= 6]
            for start, stop in places:
                planted[start:stop] = (pattern * ((stop - start) // len(pattern) + 1))[: stop - start]
            assert places
            cleaned = clean_csa(bytes(planted))
            assert len(cleaned) == len(value)
            assert hides(cleaned)
            assert b"1.3.12" not in cleaned
            assert b"35131" not in cleaned


@pytest.mark.parametrize("form", ["CSA2", "CSA1", "CSA1-sum"])
@pytest.mark.parametrize("vr", ["IS", "LO", "FD", "UN"])
@pytest.mark.parametrize("text", [TOKEN, b"12 " + TOKEN, TOKEN + b"\0", b"1\0" + TOKEN, b"20180918", b"1.2.840.35131"])
def test_no_canary_survives_in_any_tag_of_the_table(form, vr, text):
    names = [row.name for row in load_siemens_table().rows if row.place == "csa"]
    tags = [("Empty", "IS", [])] + [(name, vr, [text, b"", text + b" "]) for name in names]
    tags += [(TOKEN.decode(), vr, [b"1"]), ("NewTagOfTomorrow", vr, [b"1", b"word"])]
    value = write_csa(tags, form=form)
    cleaned = clean_csa(value)
    assert len(cleaned) == len(value)
    assert hides(cleaned)
    assert b"20180918" not in cleaned
    assert b"35131" not in cleaned
    assert b"NewTagOfTomorrow" not in cleaned  # a name that nobody has examined
    assert len(re.findall(rb"(?<!\w)EchoTrainLength\0", cleaned)) == 1


@pytest.mark.parametrize("form", ["CSA1", "CSA1-sum"])
def test_the_form_without_magic_word_is_read_as_nibabel_reads_it(form):
    tags = [
        ("Empty", "IS", []),
        ("B_value", "IS", [b"1000    \0", b"", b""]),
        ("ImaCoilString", "LO", [b"HE1-4;NE1,2\0junk"]),
        ("UsedPatientWeight", "IS", [b"72      \0"]),
        ("PatReinPattern", "ST", [b"1;HFS;72.00;33.00;2;0;2;-2048984740\0"]),
        ("MosaicRefAcqTimes", "FD", [b"0.00000000\0", b"102.50000000\0"]),
    ]
    value = write_csa(tags, form=form)
    cleaned = clean_csa(value)
    assert clean_csa(cleaned) == cleaned
    if form == "CSA1-sum":  # nibabel knows this form only
        tags_read = csareader.read(cleaned)["tags"]
        assert tags_read["B_value"]["items"] == [1000]
        assert tags_read["MosaicRefAcqTimes"]["items"] == [0.0, 102.5]
        assert tags_read["UsedPatientWeight"]["items"] == [0]
        assert tags_read["PatReinPattern"]["items"] == [""]
    for kept in (b"1000    \0", b"HE1-4;NE1,2\0\0", b"102.50000000\0"):
        assert cleaned.find(kept) == value.find(kept[:8])
    assert b"72 " not in cleaned
    assert b"junk" not in cleaned


def protocol_of(root: Path) -> bytes:
    return next(value for kind, value in distinct_blobs(root) if kind == "protocol")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_canary_survives_anywhere_in_a_protocol(scanner_data, data):
    value = protocol_of(scanner_data)
    lines = value.split(b"\n")
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(lines) - 1))
        key, equals, said = lines[at].partition(b"=")
        lines[at] = data.draw(
            st.sampled_from(
                [
                    TOKEN + lines[at],
                    lines[at] + TOKEN,
                    key + equals + b" " + TOKEN,
                    key + equals + b' "' + TOKEN + b'"',
                    key + equals + b' ""' + TOKEN + b'""',
                    key + equals + b' \\"' + TOKEN + b'\\"',
                    key + equals + b" 1 # " + TOKEN,
                    key + equals + b' ""%SiemensSeq%\\' + TOKEN + b'""',
                    key + equals + b' ""%CustomerSeq%\\ep2d_' + TOKEN + b'_bold""',
                    key + TOKEN + equals + said,
                    key.strip() + b"." + TOKEN + b" = 1",
                    b"sKSpace." + TOKEN + b" = 1",
                    b"alTE[" + TOKEN + b"] = 1",
                    TOKEN.decode().encode("utf-16-le") + lines[at],
                    b"# " + TOKEN,
                    TOKEN + b"\r",
                ]
            )
        )
    planted = b"\n".join(lines)
    cleaned = clean_protocol(planted)
    if cleaned is None:
        assert planted.count(b"### ASCCONV END ###") != planted.count(b"### ASCCONV BEGIN")
        return
    assert len(cleaned) == len(planted)
    assert hides(cleaned)
    assert [at for at, code in enumerate(cleaned) if code == 10] == [
        at for at, code in enumerate(planted) if code == 10
    ]


def test_every_key_loses_a_value_that_is_not_of_its_kind():
    rows = [row for row in load_siemens_table().rows if row.place == "protocol"]
    wrong = [
        TOKEN,
        b"20180918",
        b"19991231.5",
        b"1.3.12.2.1107",
        b"12345678901",
        b"0x1g",
        b"1 2",
        b"3,4",
        b"1e5000",
        b"-",
    ]
    for quote in (b"", b'"', b'""', b'\\"'):
        lines = [row.name.replace("*", "7").encode() + b" = " + quote + said + quote for row in rows for said in wrong]
        text = b"\n".join([b"### ASCCONV BEGIN ###", *lines, b"### ASCCONV END ###"])
        left = [line for line in clean_protocol(text).split(b"\n")[1:-1] if line.strip()]
        assert left == []


@pytest.mark.parametrize("quote", [b'"', b'""', b'\\"'])
@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (b"tSequenceFileName = @%CustomerSeq%\\nih_ep2d_bold@", b"tSequenceFileName = @%CustomerSeq%\\XXX_ep2d_bold@"),
        (b"tSequenceFileName = @%SiemensSeq%\\tfl@", b"tSequenceFileName = @%SiemensSeq%\\tfl@"),
        (b"tSequenceFileName = @C:\\users\\zorblatt@", None),
        (b"sTXSPEC.asNucleusInfo[0].tNucleus = @1H@", b"sTXSPEC.asNucleusInfo[0].tNucleus = @1H@"),
        (b"sCoilSelectMeas.sCoilStringForConversion = @HC1-7;NC1,2@",) * 2,
        (b"sCoilSelectMeas.sCoilStringForConversion = @Zorblatt@", None),
        (b"asCoilSelectMeas[0].asList[3].sCoilElementID.tCoilID = @8Channel_Head@",) * 2,
        (b"asCoilSelectMeas[0].asList[3].sCoilElementID.tCoilID = @HeadZorblatt@", None),
        (b"sProtConsistencyInfo.tBaselineString = @N4_VE11C_LATEST_20160120@",) * 2,
        (b"tProtocolName = @Zorblatt@", None),
        (b"tReferenceImage0 = @1.3.12.2.1107.5.2.32.35131.2014031012405855226785388@", None),
        (b"sWipMemBlock.tFree = @12@", None),
        (b"sSpecPara.lFinalMatrixSizePhase = 12", None),
        (b"sWipMemBlock.alFree[3] = 0x1f",) * 2,
        (b"sWipMemBlock.adFree[3] = -1.5e-005\r",) * 2,
        (b"alTE.__attribute__.size\t = \t128",) * 2,
    ],
)
def test_lines_of_a_protocol(quote, line, kept):
    line = line.replace(b"@", quote)
    expected = re.sub(rb"[^\r]", b" ", line) if kept is None else kept.replace(b"@", quote)
    text = b'<P> "Zorblatt" ### ASCCONV BEGIN ###\n' + line + b'\n### ASCCONV END ###" \r\n}\0\0'
    cleaned = clean_protocol(text)
    assert cleaned == b" " * 15 + b"### ASCCONV BEGIN ###\n" + expected + b"\n### ASCCONV END ###  \r\n \0\0"


def test_a_protocol_without_a_block_is_all_blank_and_one_without_an_end_is_refused():
    assert clean_protocol(b'<EVAProtocol>\r\n{ <Name> "Zorblatt" }\n') == b" " * 13 + b"\r\n" + b" " * 21 + b"\n"
    assert clean_protocol(b"### ASCCONV BEGIN ###\nalTE[0] = 1\n### ASCCONV E") is None
    assert clean_protocol(b"") == b""
    odd = b"### ASCCONV BEGIN object=Zorblatt ###\nalTE[0] = 1\n### ASCCONV END ###"
    assert clean_protocol(odd) == odd.replace(b" object=Zorblatt ###", b" " * 20)


@pytest.mark.parametrize(
    "unit", [b"1", b"Head", b"Ch", b"X", b"X_", b"HE1,", b"p2", b"_", b" ", b"a.", b"0x1", b"ep2d_"]
)
def test_no_value_makes_a_pattern_run_away(unit):
    names = [row.name for row in load_siemens_table().rows if row.place == "csa"]
    text = unit * 3000 + b"!"
    assert text[-99:] not in clean_csa(write_csa([(name, "LO", [text]) for name in names]))
    keys = [row.name.replace("*", "1").encode() for row in load_siemens_table().rows if row.place == "protocol"]
    lines = [b"%s = %s" % (key, (unit * 300)[:250] + b"!") for key in keys]
    block = b"\n".join([b"### ASCCONV BEGIN ###", *lines, b"### ASCCONV END ###"])
    assert clean_protocol(block).count(b"=") == 0


# ------------------------------------------------------------------------------------------------------ damaged content

MAY_REPLACE = frozenset(b"\0 0XM\xcd\x04\x03\x02\x01")
"""Blanks, masks, and the constants that stand for odd words: 77 and 205."""


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    step = st.tuples(
        st.sampled_from(["cut", "drop", "flip", "insert", "word"]),
        st.floats(0, 1),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from([-1, 0, 1, 77, 1000, 1001, 2**31 - 1, -(2**31), 2**30]).map(lambda n: struct.pack("<i", n)),
        ),
    )
    return draw(st.lists(step, min_size=1, max_size=5))


def damaged(value: bytes, steps: list[tuple[str, float, bytes]]) -> bytes:
    for act, where, content in steps:
        at = int(where * len(value))
        if act == "cut":
            value = value[:at]
        elif act == "drop":
            value = value[:at] + value[at + len(content) :]
        elif act == "insert":
            value = value[:at] + content + value[at:]
        else:
            at = at // 4 * 4 if act == "word" else at
            value = value[:at] + content + value[at + len(content) :]
    return value


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 7), early=st.booleans(), steps=damages())
def test_damaged_headers_are_refused_or_clean(scanner_data, which, early, steps):
    value = one_of_each_cached(scanner_data)[which]
    if early:  # the first tags, where a word that lies is the most likely to matter
        steps = [(act, where * 0.02, content) for act, where, content in steps]
    value = damaged(value, steps)
    cleaned = clean_csa(value)
    if cleaned is None:
        return
    assert len(cleaned) == len(value)
    assert all(new == old or new in MAY_REPLACE for old, new in zip(value, cleaned, strict=True))
    assert clean_csa(cleaned) == cleaned
    assert b"1.3.12.2.1107" not in cleaned


@functools.cache
def one_of_each_cached(root: Path) -> list[bytes]:
    return one_of_each(root)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=damages())
def test_damaged_protocols_are_refused_or_clean(scanner_data, steps):
    value = damaged(protocol_of(scanner_data), steps)
    cleaned = clean_protocol(value)
    if cleaned is None:
        return
    assert len(cleaned) == len(value)
    assert all(new == old or new in b"\0 X" for old, new in zip(value, cleaned, strict=True))
    assert clean_protocol(cleaned) == cleaned
    assert b"1.3.12.2.1107" not in cleaned


@given(st.binary(max_size=600))
def test_any_bytes_at_all(content):
    for value in (content, b"SV10" + content, b"SV10\4\3\2\1\2\0\0\0M\0\0\0" + content, b"\1\0\0\0M\0\0\0" + content):
        for clean in (clean_csa, clean_protocol):
            cleaned = clean(value)
            assert cleaned is None or len(cleaned) == len(value)


def test_every_cut_of_a_header_is_refused(scanner_data):
    value = blobs(next(path for path in siemens_files(scanner_data) if "B17" in path.parts))[0][1]
    end = max(stop for _, stop, role in spans(value) if role == "word")
    cuts = random.Random(5).sample(range(end), 200)
    assert [cut for cut in cuts if clean_csa(value[:cut]) is not None] == []


def test_other_blobs_under_the_same_number_are_refused(scanner_data):
    path = scanner_data / "pydicom-data/data_store/data/MR-SIEMENS-DICOM-WithOverlays.dcm"
    assert clean_csa(pydicom.dcmread(path)[0x0029, 0x1110].value) is None


# ----------------------------------------------------------------------------------------------------------- conversion

FREE_TEXT = {"WipMemBlock"}
"""What a sequence's author wrote into the protocol: an identifier of the run, the author's initials, a day."""
SEQUENCE_NAME = {"PulseSequenceDetails"}
"""A site put its own name into the file name of the sequence; that word is masked, the others are there."""

SERIES = {
    "stc/In/Siemens/B12/2_FMRI_AX_ASC": set(),
    "stc/In/Siemens/B15/2_ep2d_DTI_20_dir_AP": set(),
    "stc/In/Siemens/B17/6_ax_asc_35sl": set(),
    "stc/In/Siemens/D13/ep2d_Asc_HF_10": set(),
    "stc/In/Siemens/E11/7_Rest_fMRI_AP": FREE_TEXT,
    "nih/In/20180918Si/mr_0005": SEQUENCE_NAME,
    "stc/In/Siemens/XA10/6_REST1_w_SMS_PF7-8": set(),
    "enh/In/Siemens/XA10": set(),
}
"""The series that are converted, with the sidecar keys that change."""


def clean_blobs(dataset: pydicom.Dataset) -> int:
    """Clean the blobs of a data set and touch nothing else; return how many there were."""
    count = 0
    for element in dataset:
        kind = blob_kind(dataset, element)
        if kind:
            element.value = (clean_csa if kind == "csa" else clean_protocol)(element.value)
            assert element.value is not None
            count += 1
        elif element.VR == "SQ":
            count += sum(clean_blobs(item) for item in element.value)
    return count


OTHER_RELEASES = {"stc/In/Siemens/B12/2_FMRI_AX_ASC", "stc/In/Siemens/D13/ep2d_Asc_HF_10", "enh/In/Siemens/XA10"}


@pytest.mark.parametrize(
    "series", [pytest.param(name, marks=[pytest.mark.long] if name in OTHER_RELEASES else []) for name in SERIES]
)
def test_conversion_gives_the_same_images_and_sidecars(series, scanner_data, dcm2niix, tmp_path):
    source, cleaned = tmp_path / "source", tmp_path / "cleaned"
    source.mkdir()
    cleaned.mkdir()
    for path in siemens_files(scanner_data):
        if (scanner_data / f"dcm_qa_{series}") in path.parents:
            shutil.copy(path, source / path.name)
            dataset = pydicom.dcmread(path)
            assert clean_blobs(dataset) > 0
            dataset.save_as(cleaned / path.name)
    before = convert(dcm2niix, source, tmp_path / "before")
    after = convert(dcm2niix, cleaned, tmp_path / "after")
    assert list(after) == list(before) != []
    if "DTI" in series:
        assert {Path(name).suffix for name in before} == {".nii", ".json", ".bval", ".bvec"}
    changed: set[str] = set()
    for name, content in before.items():
        if name.endswith(".json"):
            old, new = json.loads(content), json.loads(after[name])
            assert len(old) > 60
            changed |= {key for key in {*old, *new} if old.get(key) != new.get(key)}
        else:
            assert after[name] == content, name
    assert changed == SERIES[series]

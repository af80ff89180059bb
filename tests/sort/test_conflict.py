"""What differs between files of one SOP Instance UID is said truly, on real copies in every syntax and on damage."""

from __future__ import annotations

import copy
import gzip
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    UID_dictionary,
)

from tasks.sort.conflict import CONFLICT_KINDS, LOSSY_SYNTAXES, compare_group
from tests.builders.world import make_instance, write_instance
from tests.dicom.oracle import PYDICOM_FILES, data_files
from tests.strategies import FEWER

SAME, HEADER, LOSSY, OPEN = "transfer-syntax", "header", "transfer-syntax-lossy", "transfer-syntax-unverified"
PIXELS, AGAIN, CUT = "pixel-data", "pixel-encoding", "unreadable"

REAL_GROUPS = [
    {
        "MR_small.dcm": "reference",
        "MR_small_RLE.dcm": SAME,
        "MR_small_bigendian.dcm": SAME,
        "MR_small_expb.dcm": SAME,
        "MR_small_implicit.dcm": SAME,
        "MR_small_jp2klossless.dcm": SAME,
        "MR_small_jpeg_ls_lossless.dcm": SAME,
        "MR_small_padded.dcm": AGAIN,
        "MR_truncated.dcm": CUT,
        "CT_small.dcm": PIXELS,
        "README.txt": CUT,
    },
    {
        "emri_small.dcm": "reference",
        "emri_small_RLE.dcm": SAME,
        "emri_small_big_endian.dcm": SAME,
        "emri_small_jpeg_2k_lossless.dcm": SAME,
        "emri_small_jpeg_2k_lossless_too_short.dcm": CUT,
        "emri_small_jpeg_ls_lossless.dcm": SAME,
    },
    {
        "liver.dcm": "reference",
        "liver_expb.dcm": SAME,
        "liver_j2k.dcm": SAME,
        "liver_rle.dcm": OPEN,  # one bit a pixel in RLE: no decoder here knows it
        "liver_1frame.dcm": PIXELS,
    },
    {"693_UNCR.dcm": "reference", "693_J2KR.dcm": SAME, "693_UNCI.dcm": PIXELS, "693_J2KI.dcm": LOSSY},
    {"OBXXXX1A_2frame.dcm": "reference", "OBXXXX1A_expb_2frame.dcm": SAME, "OBXXXX1A_rle_2frame.dcm": SAME},
    {"rtdose.dcm": "reference", "rtdose_expb.dcm": SAME, "rtdose_rle.dcm": SAME},
    {
        "SC_rgb.dcm": "reference",
        "SC_rgb_expb.dcm": SAME,
        "SC_rgb_rle.dcm": SAME,
        "SC_rgb_gdcm_KY.dcm": SAME,
        "SC_rgb_dcmtk_+eb+cr.dcm": LOSSY,
        "SC_rgb_2frame.dcm": PIXELS,
    },
    {"SC_rgb_32bit.dcm": "reference", "SC_rgb_expb_32bit.dcm": SAME, "SC_rgb_rle_32bit.dcm": SAME},
    {"gdcm-US-ALOKA-16.dcm": "reference", "gdcm-US-ALOKA-16_big.dcm": SAME},
    {"reportsi.dcm": "reference", "reportsi_with_empty_number_tags.dcm": HEADER, "image_dfl.dcm": PIXELS},
]
"""Copies of one image among the shared files and pydicom's own, and what they are of the first."""


@pytest.mark.parametrize("group", REAL_GROUPS, ids=lambda group: next(iter(group)))
def test_real_copies(scanner_data: Path, group: dict[str, str]) -> None:
    shared = scanner_data / "pydicom-data" / "data_store" / "data"
    own = PYDICOM_FILES / "test_files"
    paths = [shared / name if (shared / name).exists() else own / name for name in group]
    assert dict(zip(group, compare_group(paths), strict=True)) == group


def _write(folder: Path, name: str, dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> Path:
    path = folder / name
    if syntax not in (RLELossless, JPEGLSLossless):
        return write_instance(path, dataset, transfer_syntax=syntax)
    compressed = pydicom.dcmread(write_instance(path, dataset))
    compressed.compress(syntax, generate_instance_uid=False)
    compressed.save_as(path)
    return path


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
    ],
    ids=lambda syntax: syntax.name,
)
def test_a_copy_in_another_syntax(tmp_path: Path, syntax: str) -> None:
    """It is recognised, both ways round, and one changed pixel is not overlooked in it."""
    plain = _write(tmp_path, "plain", make_instance())
    other = _write(tmp_path, "other", make_instance(), syntax)
    changed = make_instance()
    changed.PixelData = changed.PixelData[:-2] + b"\1\0"
    changed = _write(tmp_path, "changed", changed, syntax)
    assert compare_group([plain, other, changed]) == ["reference", "transfer-syntax", "pixel-data"]
    assert compare_group([other, plain, changed]) == ["reference", "transfer-syntax", "pixel-data"]


def test_header_and_pixels(tmp_path: Path) -> None:
    paths = [
        _write(tmp_path, "first", make_instance()),
        _write(tmp_path, "header", make_instance(PatientWeight="1")),
        _write(tmp_path, "both", make_instance(instance=2)),
        _write(tmp_path, "pixels gone", make_instance(PixelData=None)),
    ]
    assert compare_group(paths) == ["reference", "header", "pixel-data", "pixel-data"]


def test_a_file_without_preamble_is_the_same_image(tmp_path: Path) -> None:
    whole = _write(tmp_path, "whole", make_instance())
    bare = tmp_path / "bare"
    bare.write_bytes(whole.read_bytes()[132:])
    assert compare_group([whole, bare]) == ["reference", "header"]


def _rle(folder: Path, name: str, **layout: object) -> Path:
    """Write the 2-frame image of the tests in RLE, its fragments and tables laid out as asked."""
    dataset = make_instance(NumberOfFrames="2")
    dataset.PixelData += bytes(reversed(dataset.PixelData))
    path = _write(folder, name, dataset, RLELossless)
    dataset = pydicom.dcmread(path)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=2))
    dataset.PixelData = encapsulate(frames, **layout)
    dataset.save_as(path)
    return path


def test_fragments_and_offset_tables_are_no_difference(tmp_path: Path) -> None:
    one = _rle(tmp_path, "table", has_bot=True)
    bare = _rle(tmp_path, "none", has_bot=False)
    split = _rle(tmp_path, "split", has_bot=True, fragments_per_frame=2)
    assert len({path.read_bytes() for path in (one, bare, split)}) == 3
    assert compare_group([one, bare, split]) == ["reference", "header", "header"]


def test_compressed_anew(tmp_path: Path) -> None:
    """Another stream that decodes to the same pixels is told from other pixels."""
    path = _write(tmp_path, "one", make_instance(), RLELossless)
    dataset = pydicom.dcmread(path)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    other = copy.deepcopy(dataset)
    other.PixelData = encapsulate([frame + b"\x80\x80"])  # 80 is the run that RLE decoders skip (PS3.5 G.3.2)
    other.save_as(tmp_path / "other")
    assert compare_group([path, tmp_path / "other"]) == ["reference", "pixel-encoding"]


def test_what_no_codec_decodes_is_left_open(scanner_data: Path, tmp_path: Path) -> None:
    source = scanner_data / "pydicom-data" / "data_store" / "data" / "liver_rle.dcm"
    content = source.read_bytes()
    other = tmp_path / "other"
    other.write_bytes(content[:-10] + bytes([content[-10] ^ 1]) + content[-9:])
    assert compare_group([source, other]) == ["reference", "pixel-encoding-unverified"]


def test_the_first_readable_file_is_the_reference(tmp_path: Path) -> None:
    whole = _write(tmp_path, "whole", make_instance())
    other = _write(tmp_path, "other", make_instance(PatientWeight="1"))
    cut = tmp_path / "cut"
    cut.write_bytes(whole.read_bytes()[:-1])
    gone = tmp_path / "gone"
    assert compare_group([cut, gone, tmp_path, whole, cut, other]) == [
        "unreadable",
        "unreadable",
        "unreadable",
        "reference",
        "unreadable",
        "header",
    ]
    assert compare_group([]) == []
    assert compare_group([cut]) == ["reference"], "it stands for the instance where none can be read"
    assert compare_group([cut, cut]) == ["reference", "unreadable"]


SMALL = [path for path in data_files(PYDICOM_FILES / "test_files") if path.stat().st_size < 20_000]


@FEWER
@given(st.sampled_from(SMALL), st.data())
def test_damage_is_never_raised(tmp_path_factory: pytest.TempPathFactory, source: Path, data: st.DataObject) -> None:
    """Cut anywhere, or with a few bytes changed, a file gets a kind of the list."""
    content = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    damaged = tmp_path_factory.mktemp("damaged") / "file"
    damaged.write_bytes(content)
    for kinds in (compare_group([source, damaged]), compare_group([damaged, source])):
        assert len(kinds) == 2
        assert set(kinds) <= set(CONFLICT_KINDS)


def test_every_kind_is_a_sentence() -> None:
    assert all(sentence.endswith((".", ").")) and sentence[0].isupper() for sentence in CONFLICT_KINDS.values())


def test_lossy_syntaxes_are_those_that_do_not_call_themselves_lossless() -> None:
    """As far as pydicom knows them; JPIP only points to pixels, and JPEG XL came later."""
    named = {
        uid: name
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "Transfer Syntax" and uid.startswith("1.2.840.10008.1.2.4.") and "JPIP" not in name
    }
    assert LOSSY_SYNTAXES - {"1.2.840.10008.1.2.4.112"} == {
        uid for uid, name in named.items() if "Lossless" not in name.replace("Near-Lossless", "")
    }


def test_a_compressed_file_is_no_dicom_file(tmp_path: Path) -> None:
    """Whoever hands over members of archives has unpacked them before."""
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(_write(tmp_path, "plain", make_instance()).read_bytes()))
    assert compare_group([packed, packed]) == ["reference", "unreadable"]

"""A series that lost a file is found out, and a whole one never is: on real series, on synthetic ones, on cut files."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    MRImageStorage,
    RawDataStorage,
    SecondaryCaptureImageStorage,
)

from tasks.dicom.elements import walk
from tasks.dicom.syntax import read_start
from tasks.index import completeness
from tasks.index.completeness import INCOMPLETE_REASONS, CompletenessRow, FrameCount, count_frames, find_gaps
from tests.dicom.oracle import PYDICOM_FILES, data_files

AXIAL = "1\\0\\0\\0\\1\\0"
SAGITTAL = "0\\1\\0\\0\\0\\-1"
CORONAL = "1\\0\\0\\0\\0\\-1"
OBLIQUE = "0.99990\\0.01396\\0\\-0.01343\\0.96189\\-0.27311"
"""Orientations that scanners use; the last one is tilted and rotated."""


def row(number: int | str, position: Sequence[float] | str, orientation: str = AXIAL, **values: str) -> CompletenessRow:
    text = position if isinstance(position, str) else "\\".join(f"{value:.6f}" for value in position)
    base = CompletenessRow(str(number), text, orientation, "", "", MRImageStorage)
    return base._replace(**values)


def stack(slices: int, orientation: str = AXIAL, spacing: float = 3.0, start: float = -40.0) -> list[tuple[float, ...]]:
    """Positions of an even stack along its normal."""
    a, b, c, d, e, f = map(float, orientation.split("\\"))
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    return [tuple(-90.5 + value * (start + spacing * number) for value in normal) for number in range(slices)]


def by_volume(slices: int, volumes: int, **values: str) -> list[CompletenessRow]:
    """Make a whole series that is numbered volume after volume, as Siemens and GE do."""
    places = stack(slices)
    return [
        row(volume * slices + number + 1, place, **values)
        for volume in range(volumes)
        for number, place in enumerate(places)
    ]


# Real series ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_series(scanner_data: Path) -> dict[str, list[CompletenessRow]]:
    """Every series of the shared brain scans: the first folder that holds it, and its rows."""
    keywords = ["InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "NumberOfFrames", "SOPClassUID"]
    series: dict[str, dict[str, CompletenessRow]] = defaultdict(dict)
    folders: dict[str, str] = {}
    for path in data_files(scanner_data):
        if not path.relative_to(scanner_data).parts[0].startswith("dcm_qa"):
            continue
        try:
            dataset = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=[*keywords, "SeriesInstanceUID", "SOPInstanceUID"]
            )
        except pydicom.errors.InvalidDicomError:
            continue
        number, *others = (
            ""
            if keyword not in dataset
            else "\\".join(map(str, dataset[keyword].value))
            if dataset[keyword].VM > 1
            else str(dataset[keyword].value)
            for keyword in keywords
        )
        position, orientation, frames, sop_class = others
        uid = str(dataset.SeriesInstanceUID)
        folders.setdefault(uid, str(path.parent.relative_to(scanner_data)))
        series[uid][str(dataset.SOPInstanceUID)] = CompletenessRow(number, position, orientation, "", frames, sop_class)
    return {folders[uid]: list(rows.values()) for uid, rows in series.items()}


GE_RUN = "dcm_qa_nih/In/20180918GE/mr_0004"
PHILIPS_DIFFUSION = "dcm_qa_philips/In/Vanderbilt_2018/601_WIP_dti_ax"
UIH_HEAD = "dcm_qa_uih/In/DTI_132225/t1_gre_fsp_3d_sag__132750"
SIEMENS_MOSAICS = "dcm_qa_stc/In/Siemens/B15/2_ep2d_DTI_20_dir_AP"


def test_no_real_series_is_flagged(real_series: dict[str, list[CompletenessRow]]) -> None:
    """All of them are whole: GE and UIH by slice, mosaics, enhanced files, and Philips' numbers full of holes."""
    assert {GE_RUN, PHILIPS_DIFFUSION, UIH_HEAD, SIEMENS_MOSAICS} <= set(real_series)
    assert {name: find_gaps(rows) for name, rows in real_series.items() if find_gaps(rows)} == {}


@pytest.mark.parametrize("name", [GE_RUN, PHILIPS_DIFFUSION])
def test_any_file_lost_of_a_real_4d_series_is_found(real_series: dict[str, list[CompletenessRow]], name: str) -> None:
    rows = real_series[name]
    chosen = sorted({0, 1, len(rows) // 2, len(rows) - 1} | set(random.Random(1).sample(range(len(rows)), 20)))
    assert [lost for lost in chosen if not find_gaps(rows[:lost] + rows[lost + 1 :])] == []


@pytest.mark.parametrize("name", [UIH_HEAD, SIEMENS_MOSAICS])
def test_any_file_lost_inside_a_real_series_is_found(real_series: dict[str, list[CompletenessRow]], name: str) -> None:
    rows = sorted(real_series[name], key=lambda one: int(one.instance_number))
    assert [lost for lost in range(1, len(rows) - 1) if not find_gaps(rows[:lost] + rows[lost + 1 :])] == []


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        (GE_RUN, lambda number: 61 <= number <= 75),  # the fifth of ten volumes of 15 slices
        (PHILIPS_DIFFUSION, lambda number: number % 32 == 20),  # one direction of every slice
        (PHILIPS_DIFFUSION, lambda number: 32 * 9 < number <= 32 * 10),  # all images of one slice
    ],
)
def test_a_whole_volume_or_slice_lost_of_a_real_series_is_found(
    real_series: dict[str, list[CompletenessRow]], name: str, lost: Callable[[int], bool]
) -> None:
    kept = [one for one in real_series[name] if not lost(int(one.instance_number))]
    assert len(kept) < len(real_series[name])
    assert find_gaps(kept) == ("instance-gap",)


# Synthetic series ----------------------------------------------------------------------------------------------------


@st.composite
def whole_series(draw: st.DrawFn, least: int = 2) -> list[CompletenessRow]:
    """Make a whole series of so many slices and volumes at least, numbered in one of the ways that scanners use."""
    scheme = draw(st.sampled_from(("by volume", "by slice", "grid", "echoes apart", "echoes alike", "restarting")))
    slices, volumes = draw(st.integers(3 if scheme == "grid" else least, 8)), draw(st.integers(least, 6))
    orientation = draw(st.sampled_from((AXIAL, CORONAL, SAGITTAL, OBLIQUE)))
    places = stack(slices, orientation, draw(st.sampled_from((0.5, 1.0, 2.4, 3.3, 9.0))))
    first = draw(st.integers(0, 3))
    step = draw(st.sampled_from((1, 1, 2, 10))) if scheme != "grid" and slices * volumes > 2 else 1
    noise = draw(st.booleans())
    rows = []
    for volume in range(volumes * 2 if scheme == "echoes apart" else volumes):
        for number, (x, y, z) in enumerate(places):
            # A third of the tolerance: software that copies positions changes their last digits.
            place = (x, y, z + (volume % 2) * 0.003 * noise)
            if scheme == "by slice":
                count = number * volumes + volume
            elif scheme == "grid":  # b = 0 comes last in a row of its own, the directions fill the next
                directions = max(volumes - 1, 1)
                count = number * 2 * directions + directions - 1 + volume
            elif scheme == "restarting":
                count = number
            else:
                count = volume * slices + number
            one = row(first + step * count, place, orientation)
            if scheme == "echoes apart":
                rows.append(one._replace(subgroup=f"echo-{volume % 2 + 1}"))
            elif scheme == "echoes alike":
                rows += [one._replace(subgroup="echo-1"), one._replace(subgroup="echo-2")]
            else:
                rows.append(one)
    return draw(st.permutations(rows))


@given(whole_series(least=1))
def test_a_whole_series_is_never_flagged(rows: list[CompletenessRow]) -> None:
    assert find_gaps(rows) == ()


@given(whole_series(), st.data())
def test_any_one_file_lost_is_found(rows: list[CompletenessRow], data: st.DataObject) -> None:
    """Whatever the order of the files and the way they are numbered."""
    lost = data.draw(st.integers(0, len(rows) - 1))
    assert find_gaps(rows[:lost] + rows[lost + 1 :]) != ()


@given(whole_series(), st.randoms())
def test_the_order_of_files_does_not_matter(rows: list[CompletenessRow], chance: random.Random) -> None:
    rows = rows[: max(1, len(rows) - chance.randrange(4))]
    assert find_gaps(rows) == find_gaps(chance.sample(rows, len(rows)))


@pytest.mark.parametrize(
    ("lost", "reasons"),
    [
        ({1}, {"uneven-slices"}),
        ({3}, {"instance-gap", "uneven-slices"}),
        ({6}, {"instance-gap", "uneven-slices"}),
        ({20}, {"uneven-slices"}),
        ({6, 7, 8, 9, 10}, {"instance-gap"}),
    ],
    ids=["first slice", "a slice", "first slice of a volume", "last slice of the last volume", "a volume"],
)
def test_what_is_lost_of_four_volumes_of_five_slices(lost: set[int], reasons: set[str]) -> None:
    rows = [one for one in by_volume(5, 4) if int(one.instance_number) not in lost]
    assert set(find_gaps(rows)) == reasons


def test_one_slice_lost_from_the_middle_of_a_volume() -> None:
    rows = by_volume(160, 1)
    assert find_gaps(rows[:80] + rows[81:]) == ("instance-gap",)
    assert find_gaps([rows[0], rows[2]]) == ("instance-gap",)


def test_one_position_with_a_file_too_many() -> None:
    rows = by_volume(5, 4)
    assert find_gaps([*rows, rows[7]._replace(instance_number="21")]) == ("uneven-slices",)


def test_each_subgroup_is_judged_for_itself() -> None:
    """A map has fewer images at each position than the images it was computed from."""
    images = by_volume(5, 4, subgroup="axial")
    maps = [
        one._replace(instance_number=str(20 + n), subgroup="derived adc axial") for n, one in enumerate(images[:5], 1)
    ]
    assert find_gaps(images + maps) == ()
    assert find_gaps([*images[:-1], *maps]) == ("instance-gap", "uneven-slices")


def test_localizer_planes_are_judged_for_themselves() -> None:
    planes = [(AXIAL, 5, 1), (SAGITTAL, 3, 2), (CORONAL, 1, 3)]
    rows: list[CompletenessRow] = []
    for orientation, slices, times in planes:
        for place in stack(slices, orientation) * times:
            rows.append(row(len(rows) + 1, place, orientation))
    assert find_gaps(rows) == ()
    assert "uneven-slices" in find_gaps([one for one in rows if one.instance_number != "6"])


def test_positions_that_drift_are_not_judged() -> None:
    """With prospective motion correction mosaics and slices move a little from volume to volume."""
    chance = random.Random(7)
    still = [row(n, (-100.0, -90.0, 10.0)) for n in range(1, 30)]
    moved = [row(n, (-100.0 + chance.gauss(0, 0.2), -90.0, 10.0 + chance.gauss(0, 0.2))) for n in range(30, 60)]
    assert find_gaps(still + moved) == ()
    once = [row(n, (-100.08, -90.03, 10.2)) for n in range(30, 60)]
    assert find_gaps(still + once) == ()


def test_two_slices_are_a_stack_only_along_their_normal() -> None:
    assert find_gaps([row(1, (0, 0, 0)), row(2, (0, 0, 5)), row(3, (0, 0, 0))]) == ("uneven-slices",)
    assert find_gaps([row(1, (0, 0, 0)), row(2, (3, 0, 4)), row(3, (0, 0, 0))]) == ()


def test_slices_side_by_side_are_no_stack() -> None:
    places = [(0, 0, 0), (50, 0, 0), (0, 0, 0.001), (0, 0, 0), (0, 0.5, 0)]
    assert find_gaps([row(n, place) for n, place in enumerate(places)]) == ()
    assert find_gaps([row(n, f"{x}\\0\\0") for n, x in enumerate(("0", "50", "0.0", "0"))]) == ()


@pytest.mark.parametrize("number", ["", "x", "1.5", "9" * 5000])
@pytest.mark.parametrize("place", ["", "1\\2", "a\\b\\c", "nan\\0\\0", "1e308\\-1e308\\0"])
def test_odd_texts_are_no_reason(number: str, place: str) -> None:
    """Nor do they raise anything."""
    rows = [row(1, place), row(number, (0, 0, 0)), row(9, (0, 0, 1), orientation=place)]
    assert find_gaps(rows) == ()


@given(
    st.lists(
        st.builds(CompletenessRow, *[st.text(max_size=8)] * 5, st.sampled_from((MRImageStorage, "1.2", CTImageStorage)))
    )
)
def test_any_rows_get_reasons_of_the_list(rows: list[CompletenessRow]) -> None:
    assert set(find_gaps(rows)) <= set(INCOMPLETE_REASONS)


@pytest.mark.parametrize(
    "sop_class", [RawDataStorage, SecondaryCaptureImageStorage, "1.2.840.10008.5.1.4.1.1.88.22", ""]
)
def test_what_is_no_slice_is_never_incomplete(sop_class: str) -> None:
    rows = [one._replace(sop_class_uid=sop_class) for one in by_volume(5, 4) if one.instance_number not in ("3", "9")]
    assert find_gaps(rows) == ()


def test_a_report_among_the_images_fills_its_number() -> None:
    rows = by_volume(160, 1)
    rows[80] = rows[80]._replace(sop_class_uid=RawDataStorage)
    assert find_gaps(rows) == ()


@pytest.mark.parametrize(
    "numbers",
    [
        [1, 3, 5, 7],
        [10, 20, 30],
        [5],
        [],
        [1, 1, 3, 3],
        [7, 8, 9],
    ],
)
def test_numbers_that_say_nothing(numbers: list[int]) -> None:
    """A constant step, one number, and numbers that several files share."""
    assert find_gaps([row(number, (0, 0, 0)) for number in numbers]) == ()


@pytest.mark.parametrize("numbers", [[1, 3], [1, 2, 4], [1, 2, 4, 5, 7, 8], [1, 3, 5, 9], [1, 2, 3, 7, 8, 9]])
def test_numbers_that_jump(numbers: list[int]) -> None:
    assert find_gaps([row(number, (0, 0, 0)) for number in numbers]) == ("instance-gap",)


# Frames --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", ["", "0", "x", "-1"])
def test_an_enhanced_file_that_does_not_say_how_many_frames(frames: str) -> None:
    one = row(1, "", "", number_of_frames="6", sop_class_uid=EnhancedMRImageStorage)
    assert find_gaps([one]) == ()
    assert find_gaps([one, one._replace(instance_number="2", number_of_frames=frames)]) == ("frames-missing",)


def test_enhanced_volumes_are_numbered() -> None:
    rows = [row(n, "", "", number_of_frames="6", sop_class_uid=EnhancedMRImageStorage) for n in range(1, 19)]
    assert find_gaps(rows) == ()
    assert find_gaps(rows[:4] + rows[5:]) == ("instance-gap",)


def test_counted_frames_are_reasons() -> None:
    assert find_gaps([], [None, FrameCount(6, 6, truncated=False)]) == ()
    assert find_gaps([], [FrameCount(6, 5, truncated=False)]) == ("frames-missing",)
    assert find_gaps([], [FrameCount(6, 5, truncated=True)]) == ("frames-missing", "truncated")


def _multi_frame(scanner_data: Path) -> dict[str, Path]:
    names = ("emri", "liver", "OBXXXX", "eCT", "rtdose", "SC_rgb", "parametric")
    files = [
        *(scanner_data / "dcm_qa_enh").rglob("*.dcm"),
        *(path for path in (scanner_data / "pydicom-data").rglob("*.dcm") if path.name.startswith(names)),
        *(path for path in data_files(PYDICOM_FILES) if path.name.startswith(names)),
    ]
    return {path.name: path for path in files}


def _declared(path: Path) -> int:
    dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
    return int(dataset.get("NumberOfFrames") or 0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_frames_of_real_files(scanner_data: Path) -> None:
    """In every syntax, compressed or not, all frames are found; one file was cut by its authors."""
    counts = {name: count_frames(path) for name, path in _multi_frame(scanner_data).items() if _declared(path)}
    assert len(counts) >= 30
    assert counts.pop("emri_small_jpeg_2k_lossless_too_short.dcm") == FrameCount(10, 10, truncated=True)
    declared = {name: _declared(path) for name, path in _multi_frame(scanner_data).items() if name in counts}
    assert counts == {name: FrameCount(number, number, truncated=False) for name, number in declared.items()}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_short_and_long_way_agree(scanner_data: Path) -> None:
    """What is taken as whole from its length, the walk finds whole as well."""
    files = [path for path in _multi_frame(scanner_data).values() if _declared(path)]
    whole = [path for path in files if completeness._count_by_length(_fetch(path), path.stat().st_size)]
    assert len(whole) >= 10
    assert [path.name for path in whole if completeness._count_by_walk(path.read_bytes()) != count_frames(path)] == []


def _fetch(path: Path) -> Callable[[int, int], bytes]:
    content = path.read_bytes()
    return lambda offset, amount: content[offset : offset + amount]


def _pixel_value(content: bytes) -> tuple[int, int]:
    start = read_start(content)
    elements: Iterable = walk(content, start.offset, explicit=start.explicit)
    return next((one.start, one.value) for one in elements if one.depth == 0 and one.tag == 0x7FE00010)


@pytest.mark.parametrize(
    "name", ["IM_0027_fMAP.dcm", "6_1.dcm", "emri_small.dcm", "emri_small_RLE.dcm", "emri_small_jpeg_ls_lossless.dcm"]
)
def test_a_cut_file_is_found_wherever_it_was_cut(scanner_data: Path, tmp_path: Path, name: str) -> None:
    content = _multi_frame(scanner_data)[name].read_bytes()
    head, pixels = _pixel_value(content)
    chance = random.Random(3)
    ends = [head + 4, pixels, pixels + 1, len(content) - 1] + [chance.randrange(pixels, len(content)) for _ in range(6)]
    declared = _declared(_multi_frame(scanner_data)[name])
    cut = tmp_path / "cut"
    for end in ends:
        cut.write_bytes(content[:end])
        count = count_frames(cut)
        assert count is not None
        assert count.truncated
        assert count.declared == declared
        assert count.present <= declared
    cut.write_bytes(content[: (pixels + len(content)) // 2])
    count = count_frames(cut)
    assert count is not None
    assert count.present < declared


@pytest.mark.parametrize("name", ["6_1.dcm", "emri_small.dcm", "emri_small_RLE.dcm", "emri_small_big_endian.dcm"])
def test_one_frame_less_than_promised(scanner_data: Path, tmp_path: Path, name: str) -> None:
    dataset = pydicom.dcmread(_multi_frame(scanner_data)[name])
    declared = int(dataset.NumberOfFrames)
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        dataset.PixelData = encapsulate(list(generate_frames(dataset.PixelData, number_of_frames=declared))[:-1])
    else:
        dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // declared * (declared - 1)]
    dataset.save_as(tmp_path / "less")
    assert count_frames(tmp_path / "less") == FrameCount(declared, declared - 1, truncated=False)


def test_one_group_of_frame_attributes_less_than_promised(scanner_data: Path, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(_multi_frame(scanner_data)["liver_j2k.dcm"])
    dataset.PerFrameFunctionalGroupsSequence.pop()
    dataset.save_as(tmp_path / "less")
    assert count_frames(tmp_path / "less") == FrameCount(3, 2, truncated=False)


def test_what_cannot_be_counted(tmp_path: Path) -> None:
    """No file, no DICOM file, no pixel data, no frames."""
    empty = tmp_path / "empty"
    empty.touch()
    texts = [PYDICOM_FILES / "test_files" / name for name in ("README.txt", "test-SR.dcm", "CT_small.dcm")]
    assert [count_frames(path) for path in (tmp_path / "absent", tmp_path, empty, *texts)] == [None] * 6


@given(st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 10_000))
def test_damage_is_never_raised(tmp_path_factory: pytest.TempPathFactory, offset: int, value: int, end: int) -> None:
    content = bytearray((PYDICOM_FILES / "test_files" / "rtdose_rle.dcm").read_bytes())
    content[offset % len(content)] = value
    del content[len(content) - end % len(content) :]
    damaged = tmp_path_factory.getbasetemp() / "damaged"
    damaged.write_bytes(content)
    count = count_frames(damaged)
    assert count is None or count.present >= 0

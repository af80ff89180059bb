"""Tell from what the index knows of a series whether files of it, or frames of a file, are missing.

Nothing in DICOM says how many files a series has, so this goes by what the files themselves show: numbers that jump,
positions with fewer files than the others, frames that are promised and not there. A series that lost its end, with
all its positions, shows none of that.

Source: PS3.3 sections C.7.6.1 (Instance Number), C.7.6.2.1.1 (image position and orientation), C.7.6.6 (multi-frame),
C.7.6.16 (functional groups); PS3.5 section A.4 (offset table and fragments).
"""

from __future__ import annotations

import os
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import dist, sqrt
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from tasks.dicom.elements import ITEM, UNDEFINED, Fetch, WalkError, pick, walk
from tasks.dicom.normalise import open_data_set
from tasks.dicom.syntax import SyntaxRefusalError, read_start
from tasks.index.subgroup import slice_normal

INCOMPLETE_REASONS = {
    "instance-gap": "Instance numbers inside the series are missing.",
    "uneven-slices": "Some slice positions have fewer images than others, so a volume lacks slices.",
    "frames-missing": "A multi-frame file holds fewer frames than it says, or does not say how many it holds.",
    "truncated": "A multi-frame file was cut: its pixel data end too early.",
}
"""Why a series counts as incomplete: code to sentence."""

POSITION_TOLERANCE = 0.01
"""Millimetres within which two image positions are the same."""

STACK_TOLERANCE = 0.1
"""How far a slice may stand off its place in an evenly spaced stack, as a part of the spacing."""

_STRAIGHT_COSINE = 0.9998
"""Cosine of one degree: two slices stand in one stack if the line between them is this close to their normal."""

_CLASSIC = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT
        "1.2.840.10008.5.1.4.1.1.4",  # MR
        "1.2.840.10008.5.1.4.1.1.128",  # PET
    }
)
_MULTI_FRAME = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT
        "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
        "1.2.840.10008.5.1.4.1.1.4.3",  # Enhanced MR Color
        "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR
        "1.2.840.10008.5.1.4.1.1.128.1",  # Legacy Converted Enhanced PET
        "1.2.840.10008.5.1.4.1.1.130",  # Enhanced PET
    }
)


class CompletenessRow(NamedTuple):
    """What counts of one instance; texts as in `IndexRow` and `SharedHeader`, absent ones empty."""

    instance_number: str
    image_position_patient: str
    image_orientation_patient: str
    subgroup: str
    number_of_frames: str
    sop_class_uid: str


class FrameCount(NamedTuple):
    """How many frames a multi-frame file says it holds, how many it does hold, and whether it was cut.

    `declared` and `present` are 0 where a cut file ends before it says so.
    """

    declared: int
    present: int
    truncated: bool


def find_gaps(rows: Iterable[CompletenessRow], counts: Iterable[FrameCount | None] = ()) -> tuple[str, ...]:
    """List why a series counts as incomplete; empty if nothing speaks for it.

    Only MR, CT and PET images are judged, classic and enhanced: reports, raw data, presentation states and screen
    shots come in any number. Memory grows with the number of different slice positions and of instances.

    Parameters
    ----------
    rows
        Each distinct instance of the series once, in any order. One that is there twice in different bytes must be
        handed in once, or it passes for an image too many.
    counts
        What `count_frames` said of the series' multi-frame files, as far as they were looked at.

    Returns
    -------
    tuple of str
        Keys of `INCOMPLETE_REASONS`, in their order there, each once.
    """
    found = set()
    numbers: dict[str, list[str]] = defaultdict(list)
    fillers: list[str] = []
    positions: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    places: dict[str, str] = {}
    for number, position, orientation, subgroup, frames, sop_class in rows:
        if sop_class in _CLASSIC:
            positions[subgroup, orientation][position] += 1
            places[number] = position
        elif sop_class in _MULTI_FRAME:
            if _read_count(frames) == 0:
                found.add("frames-missing")
        else:
            fillers.append(number)
            continue
        numbers[subgroup].append(number)
    if _numbers_jump(list(numbers.values()), fillers, places):
        found.add("instance-gap")
    if _slices_uneven(positions):
        found.add("uneven-slices")
    for count in counts:
        if count is not None:
            if count.present < count.declared:
                found.add("frames-missing")
            if count.truncated:
                found.add("truncated")
    return tuple(reason for reason in INCOMPLETE_REASONS if reason in found)


# Instance numbers ----------------------------------------------------------------------------------------------------


def _numbers_jump(groups: Sequence[list[str]], fillers: Sequence[str], places: dict[str, str]) -> bool:
    """Tell whether instance numbers are missing between the lowest and the highest.

    Numbers that are unique in the series are taken as one run; where echoes, or magnitude and phase, share them, each
    sub-group has its own. Where they are not unique in a sub-group either, they count something else.
    """
    runs = [_integers(group) for group in groups]
    together = [number for run in runs for number in run or ()]
    if None in runs or not together:
        return False
    if len(set(together)) == len(together):
        runs = [together]
    taken = _integers(fillers) or []
    for run in runs:
        unique = set(run or ())
        if len(unique) != len(run or ()):
            continue
        low, high = min(unique), max(unique)
        unique.update(number for number in taken if low < number < high)
        if high - low >= len(unique) and not _regular_blocks(sorted(unique), places):
            return True
    return False


def _regular_blocks(numbers: Sequence[int], places: dict[str, str]) -> bool:
    """Tell whether numbers with holes come in equal blocks at equal distance, which is a way to count and no loss.

    Blocks of one number are a constant step. Longer ones must be the images of one position each: Philips numbers the
    diffusion images of a slice by b-value and direction as if there were an image for each pair, and b = 0 has one.
    """
    starts = [numbers[0]] + [later for earlier, later in pairwise(numbers) if later != earlier + 1]
    if len(starts) < 3 or len({later - earlier for earlier, later in pairwise(starts)}) > 1:
        return False
    length, rest = divmod(len(numbers), len(starts))
    if rest or any(numbers[index * length] != start for index, start in enumerate(starts)):
        return False
    if length == 1:
        return True
    points = {int(number): _floats(place, 3) for number, place in places.items()}
    corners = [points.get(start) for start in starts]
    for start, corner in zip(starts, corners, strict=True):
        block = [points.get(number) for number in range(start, start + length)]
        if corner is None or any(point is None or dist(corner, point) > POSITION_TOLERANCE for point in block):
            return False
    return len(set(corners)) == len(corners)


def _integers(texts: Iterable[str]) -> list[int] | None:
    """Read instance numbers; None if one is absent or no integer."""
    try:
        return list(map(int, texts))
    except ValueError:  # also what Python says to thousands of digits
        return None


def _read_count(text: str) -> int:
    """Read (0028,0008); 0 if it is absent, no number, or not above 0."""
    number = _integers([text])
    return max(number[0], 0) if number else 0


# Slice positions -----------------------------------------------------------------------------------------------------


def _slices_uneven(groups: dict[tuple[str, str], Counter[str]]) -> bool:
    """Tell whether the positions of one sub-group and orientation do not all have equally many files."""
    merged: dict[tuple[str, tuple[float, ...]], Counter[str]] = {}
    for (subgroup, orientation), counts in groups.items():
        cosines = _floats(orientation, 6)
        if cosines is None:
            continue
        # Some software writes the same orientation with noise in its last digits.
        key = subgroup, tuple(round(cosine, 3) + 0.0 for cosine in cosines)
        if key in merged:
            merged[key].update(counts)
        else:
            merged[key] = counts
    return any(_stack_uneven(counts, "\\".join(map(str, orientation))) for (_, orientation), counts in merged.items())


def _stack_uneven(counts: Counter[str], orientation: str) -> bool:
    """Tell whether evenly spaced slices have different numbers of files.

    What is not an evenly spaced stack is not judged: with prospective motion correction the position drifts from
    volume to volume, and counts say nothing then.
    """
    if len(counts) < 2:
        return False
    normal = slice_normal(orientation)
    if normal is None:
        return False
    nx, ny, nz = normal
    slices = []
    for text, count in counts.items():
        point = _floats(text, 3)
        if point is None:
            return False
        x, y, z = point
        slices.append((x * nx + y * ny + z * nz, point, count))
    slices.sort(key=itemgetter(0))

    points: list[tuple[float, ...]] = []
    files: list[int] = []
    for _, point, count in slices:
        if points and dist(points[-1], point) <= POSITION_TOLERANCE:
            files[-1] += count
        else:
            points.append(point)
            files.append(count)
    return len(set(files)) > 1 and _is_stack(points, normal)


def _is_stack(points: Sequence[tuple[float, ...]], normal: tuple[float, float, float]) -> bool:
    """Tell whether points, in the order of their stack, stand on a straight line at multiples of one distance."""
    first, last = points[0], points[-1]
    length = dist(first, last)
    if length <= POSITION_TOLERANCE:
        return False
    direction = [(b - a) / length for a, b in zip(first, last, strict=True)]
    if len(points) == 2:
        return abs(sum(a * b for a, b in zip(direction, normal, strict=True))) >= _STRAIGHT_COSINE
    along = []
    for one, other in pairwise(points):
        step = [b - a for a, b in zip(one, other, strict=True)]
        forward = sum(a * b for a, b in zip(step, direction, strict=True))
        aside = sqrt(max(sum(a * a for a in step) - forward * forward, 0.0))
        if aside > max(STACK_TOLERANCE * forward, POSITION_TOLERANCE):
            return False
        along.append(forward)
    spacing = min(along)
    if spacing <= POSITION_TOLERANCE:
        return False
    return all(abs(step - round(step / spacing) * spacing) <= STACK_TOLERANCE * spacing for step in along)


def _floats(text: str, amount: int) -> tuple[float, ...] | None:
    """Read so many finite decimals; None if they are not there."""
    try:
        values = tuple(map(float, text.split("\\")))
    except ValueError:
        return None
    return values if len(values) == amount and all(-1e9 < value < 1e9 for value in values) else None


# Frames inside a file ------------------------------------------------------------------------------------------------

_SAMPLES = 0x00280002
_PHOTOMETRIC = 0x00280004
_NUMBER_OF_FRAMES = 0x00280008
_ROWS = 0x00280010
_COLUMNS = 0x00280011
_BITS_ALLOCATED = 0x00280100
_IMAGE_PIXEL = frozenset({_SAMPLES, _PHOTOMETRIC, _NUMBER_OF_FRAMES, _ROWS, _COLUMNS, _BITS_ALLOCATED})
_PER_FRAME_GROUPS = 0x52009230
_EXTENDED_OFFSETS = 0x7FE00001
_PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_FIRST_READ = 8192
_NO_LENGTH = 0xFFFFFFFF


def count_frames(path: Path) -> FrameCount | None:
    """Count the frames of a multi-frame file without decoding them.

    Counted are the items of (5200,9230), and the bytes of native pixel data or the offset table and fragments of
    encapsulated ones; the lowest counts. A file that ends in native pixel data of the promised length is taken as
    whole from its head and that element's head; any other is read into memory and walked.

    Returns
    -------
    FrameCount or None
        None if it is no DICOM file that can be followed, has no pixel data, or does not say how many frames it has.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            whole = _count_by_length(lambda offset, amount: os.pread(file.fileno(), amount, offset), size)
        return whole or _count_by_walk(path.read_bytes())
    except (OSError, SyntaxRefusalError):
        return None


def _count_by_length(fetch: Fetch, size: int) -> FrameCount | None:
    """Count where native pixel data of the promised length end the file; None if they do not."""
    head = fetch(0, _FIRST_READ)
    try:
        start = read_start(head)
        values = pick(
            fetch, size, start.offset, explicit=start.explicit, wanted=_IMAGE_PIXEL, last=max(_IMAGE_PIXEL), head=head
        )
    except (SyntaxRefusalError, WalkError):
        return None
    frames, frame_bits = _promised(values)
    length = (frames * frame_bits + 7) // 8
    length += length % 2
    begin = size - length - (12 if start.explicit else 8)
    if not length or begin < start.offset or _pixel_head(fetch(begin, 12), explicit=start.explicit) != length:
        return None
    return FrameCount(declared=frames, present=frames, truncated=False)


def _count_by_walk(source: bytes) -> FrameCount | None:
    try:
        data, start, _ = open_data_set(source)
    except SyntaxRefusalError as refusal:
        return FrameCount(declared=0, present=0, truncated=True) if refusal.reason == "truncated" else None
    values: dict[int, bytes] = {}
    container = 0
    group_items = 0
    position = start.offset
    cut = False
    try:
        for element in walk(data, start.offset, explicit=start.explicit):
            if element.depth:
                continue
            if element.tag == ITEM:
                group_items += container == _PER_FRAME_GROUPS
                continue
            if element.tag in _PIXEL_DATA:
                position = element.start
                break
            if element.tag >> 16 != 0xFFFE:  # the delimiters of items and sequences
                container = element.tag
            if element.tag in _IMAGE_PIXEL or element.tag == _EXTENDED_OFFSETS:
                values[element.tag] = data[element.value : element.end]
            if element.end != UNDEFINED:
                position = element.end
        else:
            return None
    except WalkError as fault:
        if fault.reason not in ("truncated", "trailing-bytes"):
            return None
        cut = True
    frames, frame_bits = _promised(values)
    measures = [group_items] if group_items else []
    length = _pixel_head(data[position : position + 12], explicit=start.explicit)
    value = position + (12 if start.explicit else 8)
    if length == _NO_LENGTH:
        measures += _encapsulated_frames(data, value, len(values.get(_EXTENDED_OFFSETS, b"")) // 8, frames)
    elif length is None:
        measures.append(0)
    elif frame_bits:
        measures.append(min(length, len(data) - value) * 8 // frame_bits)
    if not (frames or cut):
        return None
    return FrameCount(declared=frames, present=min(measures, default=frames), truncated=cut)


def _promised(values: dict[int, bytes]) -> tuple[int, int]:
    """Read from the image pixel attributes how many frames there should be, and the bits of one in native form."""

    def number(tag: int) -> int:
        return int.from_bytes(values.get(tag, b"")[:2], "little")

    frames = _read_count(values.get(_NUMBER_OF_FRAMES, b"").decode("latin-1").strip(" \0"))
    # In YBR_FULL_422 two pixels share their chrominance (PS3.3 section C.7.6.3.1.2).
    samples = 2 if values.get(_PHOTOMETRIC, b"").rstrip(b" \0").endswith(b"_422") else number(_SAMPLES)
    return frames, samples * number(_ROWS) * number(_COLUMNS) * number(_BITS_ALLOCATED)


def _pixel_head(head: bytes, *, explicit: bool) -> int | None:
    """Read the length field of a pixel data element from its first twelve bytes; None if it is another element."""
    if len(head) < 12:
        return None
    group, number = struct.unpack_from("<HH", head)
    if group << 16 | number not in _PIXEL_DATA:
        return None
    return int.from_bytes(head[8:12] if explicit else head[4:8], "little")


def _encapsulated_frames(data: bytes, position: int, extended: int, frames: int) -> list[int]:
    """Count what speaks for frames in encapsulated pixel data: offsets, and fragments if they are too few.

    A frame may take several fragments, so more of them than frames say nothing (PS3.5 section A.4).
    """
    sizes = []
    while position + 8 <= len(data):
        group, number, length = struct.unpack_from("<HHL", data, position)
        position += 8 + length
        if group << 16 | number != ITEM or position > len(data):
            break
        sizes.append(length)
    offsets = extended or (sizes[0] // 4 if sizes else 0)
    fragments = max(len(sizes) - 1, 0)
    return ([offsets] if offsets else []) + ([fragments] if fragments < frames else [])

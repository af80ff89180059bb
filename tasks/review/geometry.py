"""Put the planes of a series in order in space and time, and say what is not as it should be.

Conventions, used everywhere in the review wing
-----------------------------------------------
Patient axes
    LPS, in millimetres: +x to the patient's left, +y to the back, +z to the head (PS3.3 C.7.6.2.1.1).
Array axes
    (slices, rows, columns), or (volumes, slices, rows, columns); colour adds a last axis of three.
Voxel to patient
    A 4x4 matrix that takes (column, row, slice, 1), zero-based, to the centre of that voxel in the patient.
Spacing
    (between slices, between rows, between columns) in mm: the order of the array axes.
Slice order
    Ascending along the slice normal, which is the direction along a row crossed with the direction down a column.
    Instance numbers never order slices.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.review.finding import Finding, counted, finding
from tasks.review.plane import Orientation, Plane

DIRECTION_TOLERANCE = 1e-3
"""Two orientations are one if no direction cosine differs by more (0.06 degrees)."""

SAME_POSITION_MM = 0.02
"""Planes nearer than this along the normal lie at one place: no scanner's slices are as near, and rounding is finer."""

STEP_TOLERANCE = 0.01
"""A step between neighbours may differ from the usual one by this share of it, or by `SAME_POSITION_MM`."""

LINE_TOLERANCE_MM = 0.05
"""How far a plane may lie beside the straight line through the first and the last one."""

TILT_TOLERANCE_DEGREES = 0.1
"""A line of slices nearer to the normal than this is taken as upright; gantries tilt by whole degrees."""

PIXEL_SPACING_TOLERANCE = 1e-4
"""Pixel spacings are one if they differ by less than this share."""

VERDICTS = {
    "volume": "parallel, equally spaced slices: a voxel has a place in the patient",
    "stack": "parallel slices that are not equally spaced or not in line: shown in order, without a matrix",
    "planes": "single planes: several orientations or sizes, or places not stated",
    "nothing": "no picture at all",
}
"""Every verdict on a series, and what it means."""

_SENTENCES_NAMED = 3

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The verdict on a series: what a manifest keeps.

    Attributes
    ----------
    verdict
        A key of `VERDICTS`.
    shape
        (volumes, slices, rows, columns), or None if the planes do not form an array.
    spacing
        (between slices, between rows, between columns) in mm; a part is None if unknown.
    affine
        Voxel to patient, row by row, or None if the verdict is not "volume" or the place is not stated.
    volumes_by
        What tells several volumes apart, in the order in which it was used; empty for one volume.
    findings
        What is not as it should be.
    """

    verdict: str
    shape: tuple[int, int, int, int] | None = None
    spacing: tuple[float | None, float | None, float | None] = (None, None, None)
    affine: tuple[tuple[float, float, float, float], ...] | None = None
    volumes_by: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {
            "verdict": self.verdict,
            "shape": None if self.shape is None else list(self.shape),
            "spacing": list(self.spacing),
            "affine": None if self.affine is None else [list(row) for row in self.affine],
            "volumes_by": list(self.volumes_by),
            "findings": [one.to_json() for one in self.findings],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Geometry:
        """Rebuild from `to_json`.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a field is missing or of another type or size.
        """
        if content["verdict"] not in VERDICTS:
            raise ValueError("an unknown verdict")
        shape, spacing, affine = content["shape"], content["spacing"], content["affine"]
        if shape is not None and len(shape) != 4:
            raise ValueError("a shape has four numbers")
        if len(spacing) != 3:
            raise ValueError("a spacing has three numbers")
        if affine is not None and (len(affine) != 4 or any(len(row) != 4 for row in affine)):
            raise ValueError("a matrix has four rows of four numbers")
        return cls(
            verdict=content["verdict"],
            shape=None if shape is None else (int(shape[0]), int(shape[1]), int(shape[2]), int(shape[3])),
            spacing=(_optional(spacing[0]), _optional(spacing[1]), _optional(spacing[2])),
            affine=None
            if affine is None
            else tuple((float(row[0]), float(row[1]), float(row[2]), float(row[3])) for row in affine),
            volumes_by=tuple(str(one) for one in content["volumes_by"]),
            findings=tuple(Finding.from_json(one) for one in content["findings"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """The planes of a series, put in order.

    Attributes
    ----------
    planes
        As they were given.
    volumes
        For each volume the indices into `planes`, in slice order. For the verdict "planes" one list of all.
    left_out
        Indices of planes that are in no volume: doubles, and what belongs to incomplete volumes.
    geometry
        The verdict.
    """

    planes: tuple[Plane, ...]
    volumes: tuple[tuple[int, ...], ...]
    left_out: tuple[int, ...]
    geometry: Geometry


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


def slice_normal(orientation: Orientation) -> NDArray[np.float64]:
    """Return the unit vector, LPS, that stands on a plane: along a row crossed with down a column."""
    return np.cross(np.array(orientation[:3]), np.array(orientation[3:]))


def arrange_planes(planes: Sequence[Plane]) -> Arrangement:
    """Order the planes of one series in space, split them into volumes, and judge the result.

    Parameters
    ----------
    planes
        Every plane of the series. Their order does not matter.

    Returns
    -------
    Arrangement
        For no planes at all, the verdict is "nothing".
    """
    planes = tuple(planes)
    if not planes:
        return Arrangement(planes=(), volumes=(), left_out=(), geometry=Geometry(verdict="nothing"))
    findings = _assumptions(planes)
    same_size = len({(plane.rows, plane.columns) for plane in planes}) == 1
    if not same_size:
        findings.append(finding("sizes-differ", "The images have different numbers of rows or columns."))
    same_spacing = _one_pixel_spacing(planes)
    if not same_spacing:
        findings.append(finding("pixel-spacing-differs", "The images have different pixel spacings."))
    if any(plane.pixel_spacing is None for plane in planes):
        findings.append(finding("spacing-missing", "The pixel spacing is not stated: pixels are taken as square."))
    unoriented = [plane for plane in planes if plane.orientation is None]
    unplaced = [plane for plane in planes if plane.position is None]
    if any("orientation-invalid" not in plane.assumptions for plane in unoriented):
        findings.append(finding("orientation-missing", _some(unoriented, planes, "do not state an orientation")))
    if unplaced:
        findings.append(finding("positions-missing", _some(unplaced, planes, "do not state a position")))
    orientations = _orientations(planes)
    if len(orientations) > 1:
        text = f"The planes lie in {len(orientations)} orientations, so they form no volume."
        findings.append(finding("orientations-differ", text))
    if unoriented or unplaced or len(orientations) != 1 or not same_size or not same_spacing:
        return _as_planes(planes, orientations, findings)
    return _as_volumes(planes, orientations[0], findings)


# -- planes that form no volume ----------------------------------------------------------------------------------------


def _as_planes(planes: tuple[Plane, ...], orientations: list[Orientation], findings: list[Finding]) -> Arrangement:
    def place(index: int) -> Key:
        plane = planes[index]
        if plane.orientation is None:
            return (1, 0, 0.0, *_moment_key(plane))
        group = next(k for k, one in enumerate(orientations) if _same_orientation(one, plane.orientation))
        if plane.position is None:
            return (0, group, math.inf, *_moment_key(plane))
        along = float(slice_normal(orientations[group]) @ np.array(plane.position))
        return (0, group, round(along, 3), *_moment_key(plane))

    order = tuple(sorted(range(len(planes)), key=place))
    spacing = planes[0].pixel_spacing if _one_pixel_spacing(planes) else None
    geometry = Geometry(verdict="planes", spacing=(None, *(spacing or (None, None))), findings=tuple(findings))
    return Arrangement(planes=planes, volumes=(order,), left_out=(), geometry=geometry)


def _assumptions(planes: Iterable[Plane]) -> list[Finding]:
    sentences = {
        "orientation-invalid": "The direction cosines are not two perpendicular unit vectors, so they are not used.",
        "assumed-mosaic": "The slices come from a mosaic; their order along the slice normal was assumed, because the "
        "private header that states it was removed.",
        "assumed-spacing": "The distance between slices is not stated; the slice thickness was taken for it.",
        "positions-missing": "The position is not stated, so slices are placed only relative to each other.",
    }
    held = frozenset[str]().union(*(plane.assumptions for plane in planes))
    return [finding(code, text) for code, text in sentences.items() if code in held]


def _some(named: Sequence[Plane], planes: Sequence[Plane], what: str) -> str:
    if len(named) == len(planes):
        return f"The images {what}."
    return f"{len(named)} of {counted(len(planes), 'image')} {what}."


def _one_pixel_spacing(planes: Sequence[Plane]) -> bool:
    first = planes[0].pixel_spacing
    for plane in planes:
        spacing = plane.pixel_spacing
        if (spacing is None) != (first is None):
            return False
        if spacing and first and not np.allclose(spacing, first, rtol=PIXEL_SPACING_TOLERANCE, atol=0):
            return False
    return True


def _same_orientation(one: Orientation, other: Orientation) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= DIRECTION_TOLERANCE


def _orientations(planes: Iterable[Plane]) -> list[Orientation]:
    """List the distinct orientations: axial first, then coronal, then sagittal."""
    distinct: list[Orientation] = []
    for orientation in sorted({plane.orientation for plane in planes if plane.orientation is not None}):
        if not any(_same_orientation(orientation, known) for known in distinct):
            distinct.append(orientation)
    return sorted(distinct, key=lambda one: (-int(np.argmax(np.abs(slice_normal(one)))), one))


# -- planes that form volumes ------------------------------------------------------------------------------------------


def _as_volumes(planes: tuple[Plane, ...], orientation: Orientation, findings: list[Finding]) -> Arrangement:
    normal = slice_normal(orientation)
    positions = np.array([plane.position for plane in planes], dtype=np.float64)
    places = _places(positions @ normal)
    split = _split(planes, places)
    findings += split.findings
    if not split.volumes:
        return _as_planes(planes, [orientation], findings)
    first = positions[list(split.volumes[0])]
    sound, between, step = _judge_steps(planes, split.volumes[0], first, normal, findings)
    plane = planes[split.volumes[0][0]]
    rows_apart, columns_apart = plane.pixel_spacing or (None, None)
    affine = None
    placed = all("positions-missing" not in one.assumptions for one in planes)
    if sound and placed and step is not None and rows_apart is not None and columns_apart is not None:
        along, down = np.array(orientation[:3]), np.array(orientation[3:])
        matrix = np.eye(4)
        matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = along * columns_apart, down * rows_apart, step
        matrix[:3, 3] = first[0]
        affine = tuple((float(row[0]), float(row[1]), float(row[2]), float(row[3])) for row in matrix)
    geometry = Geometry(
        verdict="volume" if sound else "stack",
        shape=(len(split.volumes), len(split.volumes[0]), plane.rows, plane.columns),
        spacing=(between, rows_apart, columns_apart),
        affine=affine,
        volumes_by=split.by,
        findings=tuple(findings),
    )
    return Arrangement(planes=planes, volumes=split.volumes, left_out=split.left_out, geometry=geometry)


def _places(along: NDArray[np.float64]) -> list[list[int]]:
    """Group planes by their place along the normal, ascending."""
    places: list[list[int]] = []
    start = -math.inf
    for index in np.argsort(along, kind="stable"):
        if along[index] - start > SAME_POSITION_MM:
            places.append([])
            start = float(along[index])
        places[-1].append(int(index))
    return places


def _judge_steps(
    planes: Sequence[Plane],
    volume: tuple[int, ...],
    positions: NDArray[np.float64],
    normal: NDArray[np.float64],
    findings: list[Finding],
) -> tuple[bool, float | None, NDArray[np.float64] | None]:
    """Judge the steps between the slices of a volume.

    Returns
    -------
    sound
        True if the slices are equally spaced and in line.
    between
        The usual distance between slices in mm, measured along the step; for one slice, what the header states.
    step
        The vector from one slice to the next, LPS mm, or None.
    """
    plane = planes[volume[0]]
    if len(volume) == 1:
        between = plane.spacing_between or plane.thickness
        if plane.spacing_between is None and between is not None and plane.tile is None:
            text = "The distance between slices is not stated; the slice thickness was taken for it."
            findings.append(finding("assumed-spacing", text))
        return True, between, None if between is None else normal * between
    line = positions[-1] - positions[0]
    length = float(np.linalg.norm(line))
    direction = line / length
    along = (positions - positions[0]) @ direction
    beside = float(np.max(np.linalg.norm(positions - positions[0] - np.outer(along, direction), axis=1)))
    steps = np.diff(along)
    usual = float(np.median(steps))
    sound = True
    if beside > LINE_TOLERANCE_MM:
        sound = False
        text = f"The slices are shifted sideways against each other, by up to {beside:.2f} mm."
        findings.append(finding("not-in-line", text))
    tilt = math.degrees(math.acos(min(1.0, abs(float(direction @ normal)))))
    if sound and tilt > TILT_TOLERANCE_DEGREES:
        text = f"The slices are stacked {tilt:.1f} degrees away from their normal."
        findings.append(finding("tilted", text))
    odd = _odd_steps(planes, volume, steps, usual)
    if odd:
        sound = False
        findings += odd
    elif plane.spacing_between is not None and plane.tile is None:
        stated = plane.spacing_between
        measured = length / (len(volume) - 1) * abs(float(direction @ normal))
        if abs(measured - stated) > max(STEP_TOLERANCE * stated, SAME_POSITION_MM):
            text = f"Slices lie {measured:.3f} mm apart; the headers state {stated:.3f} mm."
            findings.append(finding("spacing-differs", text))
    return sound, (usual if odd else length / (len(volume) - 1)), line / (len(volume) - 1)


def _odd_steps(
    planes: Sequence[Plane], volume: tuple[int, ...], steps: NDArray[np.float64], usual: float
) -> list[Finding]:
    gaps: list[tuple[int, int]] = []
    uneven: list[int] = []
    for index, step in enumerate(steps):
        times = round(float(step) / usual)
        if times >= 1 and abs(float(step) - times * usual) <= max(STEP_TOLERANCE * usual * times, SAME_POSITION_MM):
            if times > 1:
                gaps.append((index, times - 1))
        else:
            uneven.append(index)

    def between(index: int) -> str:
        one, other = planes[volume[index]], planes[volume[index + 1]]
        return f"{float(steps[index]):.2f} mm between {_name(one)} and {_name(other)}"

    def beside(indices: Iterable[int]) -> list[str]:
        return [planes[volume[k]].source for index in indices for k in (index, index + 1)]

    found = []
    if gaps:
        missing = sum(count for _, count in gaps)
        text = f"{counted(missing, 'slice')} missing where slices usually lie {usual:.2f} mm apart: "
        text += _few([between(index) for index, _ in gaps]) + "."
        found.append(finding("gap", text, beside(index for index, _ in gaps)))
    if uneven:
        text = f"Slices usually lie {usual:.2f} mm apart, but not everywhere: "
        text += _few([between(index) for index in uneven]) + "."
        found.append(finding("uneven-spacing", text, beside(uneven)))
    return found


def _few(sentences: list[str]) -> str:
    text = "; ".join(sentences[:_SENTENCES_NAMED])
    rest = len(sentences) - _SENTENCES_NAMED
    return text if rest <= 0 else f"{text}; and {rest} more"


def _name(plane: Plane) -> str:
    parts = [plane.source]
    if plane.frame:
        parts.append(f"frame {plane.frame + 1}")
    if plane.tile is not None:
        parts.append(f"tile {plane.tile + 1}")
    return " ".join(parts)


# -- several volumes ---------------------------------------------------------------------------------------------------


def _magnitude_first(plane: Plane) -> Key:
    kind = plane.kind
    rank = 0 if {"M", "MAGNITUDE"} & set(kind) or any(one.startswith("M_") for one in kind) else 1
    return (rank, kind)


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)


_LABELS: tuple[tuple[str, Callable[[Plane], Hashable]], ...] = (
    ("image type", lambda plane: plane.kind),
    ("echo time", lambda plane: _rounded(plane.echo_time)),
    ("inversion time", lambda plane: _rounded(plane.inversion_time)),
    (
        "b-value",
        lambda plane: (
            _rounded(plane.b_value),
            None if plane.gradient is None else tuple(round(one, 4) for one in plane.gradient),
        ),
    ),
    ("temporal position", lambda plane: plane.temporal_position),
)
"""What every slice of one volume shares, in the order in which it is tried."""

_MOMENTS: tuple[tuple[str, Callable[[Plane], float | None]], ...] = (
    ("temporal position", lambda plane: plane.temporal_position),
    ("acquisition time", lambda plane: plane.acquired),
    ("trigger time", lambda plane: plane.trigger_time),
    ("acquisition number", lambda plane: plane.acquisition_number),
)
"""What may differ from slice to slice but grows from one volume to the next, in the order in which it is tried."""


def _or_last(value: float | None) -> tuple[bool, float]:
    return (value is None, value or 0.0)


def _moment_key(plane: Plane) -> Key:
    moments = tuple(_or_last(read(plane)) for _, read in _MOMENTS)
    return (*moments, _or_last(plane.instance_number), plane.source, plane.frame, plane.tile or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    volumes: tuple[tuple[int, ...], ...] = ()
    left_out: tuple[int, ...] = ()
    by: tuple[str, ...] = ()
    findings: list[Finding]


def _split(planes: Sequence[Plane], places: list[list[int]]) -> _Split:
    """Split planes that repeat their places into volumes.

    A plane that nothing tells from another at its place is a double, unless most places hold such twins: then they
    are volumes which only the instance number keeps apart. What all slices of a volume share (`_LABELS`) is used
    where it really divides the series into volumes; what is left is counted off in the order of time at each place.
    """
    findings: list[Finding] = []
    places = [sorted(place, key=lambda index: _moment_key(planes[index])) for place in places]
    doubles = _doubles(planes, places)
    if statistics.median_low([len(place) - sum(k in doubles for k in place) for place in places]) == 1:
        doubles = {index: place[0] for place in places for index in place[1:]}
    if doubles:
        pairs = [(double, doubles[double]) for place in places for double in place if double in doubles]
        text = f"{counted(len(pairs), 'image')} too many: "
        text += _few([f"{_name(planes[one])} lies where {_name(planes[other])} does" for one, other in pairs]) + "."
        findings.append(finding("double-position", text, (planes[index].source for pair in pairs for index in pair)))
        places = [[index for index in place if index not in doubles] for place in places]
    if max(map(len, places)) == 1:
        volume = tuple(place[0] for place in places)
        return _Split(volumes=(volume,), left_out=tuple(sorted(doubles)), findings=findings)

    by, key_of = _labels(planes, places)
    volumes: dict[Key, dict[int, int]] = defaultdict(dict)
    repeats = False
    ranked: list[list[int]] = []
    for number, place in enumerate(places):
        groups: dict[Key, list[int]] = defaultdict(list)
        for index in place:
            groups[key_of[index]].append(index)
        for key, members in groups.items():
            ranked.append(members)
            repeats = repeats or len(members) > 1
            for rank, index in enumerate(members):
                volumes[(key, rank)][number] = index
    if repeats:
        told_by = _told_by(planes, ranked)
        by.append(told_by)
        if told_by == "instance number":
            text = "The same places are shown several times, and only the instance numbers tell these volumes apart."
            findings.append(finding("volumes-by-number", text))
    complete = [members for members in volumes.values() if len(members) == len(places)]
    partial = [members for members in volumes.values() if len(members) < len(places)]
    if partial:
        text = f"{len(partial)} of {counted(len(volumes), 'volume')} cover only some of the {len(places)} places "
        text += f"(the fullest {max(map(len, partial))}) and are left out."
        findings.append(finding("incomplete-volume", text, (planes[k].source for one in partial for k in one.values())))
    left = sorted({*doubles, *(index for members in partial for index in members.values())})
    ordered = sorted(
        (tuple(members[number] for number in range(len(places))) for members in complete),
        key=lambda volume: _volume_key([planes[index] for index in volume], by),
    )
    return _Split(volumes=tuple(ordered), left_out=tuple(left), by=tuple(by), findings=findings)


def _doubles(planes: Sequence[Plane], places: list[list[int]]) -> dict[int, int]:
    """Find planes that nothing but a number tells from an earlier one at their place, if that is the exception."""
    doubles: dict[int, int] = {}
    crowded = 0
    for place in places:
        seen: dict[Key, int] = {}
        before = len(doubles)
        for index in place:
            plane = planes[index]
            sign = (*(read(plane) for _, read in _LABELS), *(read(plane) for _, read in _MOMENTS))
            if sign in seen:
                doubles[index] = seen[sign]
            else:
                seen[sign] = index
        crowded += len(doubles) > before
    return doubles if crowded * 2 < len(places) else {}


def _labels(planes: Sequence[Plane], places: list[list[int]]) -> tuple[list[str], dict[int, Key]]:
    """Choose the labels that divide the series into volumes: each value must reach at least half of the places."""
    by: list[str] = []
    key_of: dict[int, Key] = {index: () for place in places for index in place}
    for name, read in _LABELS:
        tried = {index: (*key, read(planes[index])) for index, key in key_of.items()}
        reached: Counter[Key] = Counter()
        divides = False
        for place in places:
            here = {tried[index] for index in place}
            reached.update(here)
            divides = divides or len(here) > len({key_of[index] for index in place})
        if divides and min(reached.values()) * 2 >= len(places):
            by.append(name)
            key_of = tried
    return by, key_of


def _told_by(planes: Sequence[Plane], groups: list[list[int]]) -> str:
    for name, read in _MOMENTS:
        values = [[read(planes[index]) for index in members] for members in groups]
        if all(None not in one and len(set(one)) == len(one) for one in values):
            return name
    return "instance number"


def _volume_key(volume: Sequence[Plane], by: Sequence[str]) -> Key:
    """Order volumes: magnitude before phase, echo by echo, then in the order in which they were acquired."""
    plane = volume[0]
    kind = _magnitude_first(plane) if "image type" in by else ()
    echo = _or_last(plane.echo_time) if "echo time" in by else ()
    earliest = min(_moment_key(one) for one in volume)
    return (kind, echo, earliest)

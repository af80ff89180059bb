"""Draw what changes over time in an image with several volumes: mean, standard deviation, traces and carpet.

One PNG picture: above, every slice of the temporal mean and of the standard deviation, turned the way radiologists look
at them; below, on one time axis, the motion index, DVARS and the global mean, and the carpet plot, which has a line for
a voxel and a column for a volume. The same image gives the same bytes. Nothing in the picture judges.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import MissingPackageError
from tasks.files import make_folder, write_atomically
from tasks.review.finding import counted
from tasks.review.montage import robust_window, shown
from tasks.review.view import View, side, standard_view

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

PLOT_WIDTH = 960
"""Pixels of the time axis; with more volumes than that it grows, so that each has a column of its own."""

WIDEST_PLOT = 1920
"""Beyond so many volumes several share a column, which then shows the one that is farthest from the mean."""

MOST_SLICES = 64
"""So many slices are shown of each map; of more, every second, third, ... one."""

SLICE_ROWS, DEPTH_ROWS = 216, 144
"""Rows of the carpet plot: voxels by slice, and again by their distance from the mask's edge."""

CARPET_RANGE = 2.0
"""The carpet plot runs from black to white over so many standard deviations below and above a voxel's mean."""

BRIGHT_SHARE = 0.2
"""Without a mask, voxels brighter than this share of the image's 98th percentile are looked at."""

_LEFT, _RIGHT, _GAP, _LINE = 88, 22, 2, 13
_APART = 20  # between the two mosaics
_MARGIN = 24  # around a mosaic; holds the side letters at twice the font's size
_TRACE_HEIGHT, _SMOOTHING = 76, 3
_MOST_LAYERS = 64  # a head has less than half as many

# The picture's palette: greys, then for each trace a ramp from faint to full.
_GREYS, _RAMP = 240, 5
_WHITE, _SOFT, _FAINT = _GREYS - 1, 165, 48
_COLOURS = ((255, 184, 92), (118, 196, 255), (150, 222, 150))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Run:
    """An image with several volumes: where its voxels are, and what they mean."""

    voxels: NDArray[Any]  # (x, y, z, volumes) as stored, often a memory map
    slope: float
    intercept: float
    affine: NDArray[np.float64]
    is_placed: bool  # whether the affine says where the patient's sides are
    repetition_time: float | None  # seconds

    @property
    def count(self) -> int:
        return int(self.voxels.shape[3])

    def volumes(self) -> Iterator[NDArray[np.float32]]:
        """Give one volume after the other, (x, y, z); what is no number counts as zero."""
        for number in range(self.count):
            volume = np.asarray(self.voxels[..., number]).astype(np.float32)
            if self.voxels.dtype.kind == "f":
                np.nan_to_num(volume, copy=False, posinf=0.0, neginf=0.0)
            if (self.slope, self.intercept) != (1.0, 0.0):
                volume = volume * np.float32(self.slope) + np.float32(self.intercept)
            yield volume


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trace:
    name: str
    values: tuple[float, ...]  # one a volume; not a number where there is none
    from_zero: bool


def compose_course(
    image: Path | NDArray[Any],
    *,
    affine: NDArray[Any] | None = None,
    mask: NDArray[Any] | None = None,
    motion_index: Sequence[float | None] = (),
    dvars: Sequence[float | None] = (),
    global_mean: Sequence[float | None] = (),
    repetition_time: float | None = None,
    dvars_unit: str = "",
    title: str = "",
) -> bytes:
    """Draw the course of an image into a PNG picture.

    Parameters
    ----------
    image
        A NIfTI file, best uncompressed (it is then mapped into memory), or an array (x, y, z, volumes).
    affine
        Voxel to patient in RAS+ mm, as NIfTI has it; of a file its own. Needed for an array.
    mask
        (x, y, z), true where voxels belong to the carpet plot; bright voxels if None.
    motion_index
        Millimetres, one a volume, or one fewer where the first has none; empty if unknown.
    dvars, global_mean
        As `motion_index`, in their own units.
    repetition_time
        Seconds from volume to volume; of a file its own.
    dvars_unit
        What stands behind DVARS; empty for numbers without a unit, as the standardised ones are.
    title
        First words of the caption; must identify nobody.

    Returns
    -------
    bytes
        A PNG file with a palette.

    Raises
    ------
    MissingPackageError
        If Pillow is not installed, or nibabel for a file.
    ValueError
        If the image has not several volumes of real numbers, an array no affine, or mask and image differ in size.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - pictures are an extra
    except ImportError:
        raise MissingPackageError(purpose="Drawing pictures", package="Pillow", extra="review") from None
    run = _run(image, affine, repetition_time)
    mean, deviation = _moments(run)
    inside = _bright(mean) if mask is None else np.asarray(mask) > 0
    if inside.shape != mean.shape:
        raise ValueError("the mask has not the size of the image")
    traces = [
        _trace("motion index (mm)", motion_index, run.count, from_zero=True),
        _trace(f"DVARS ({dvars_unit})" if dvars_unit else "DVARS", dvars, run.count, from_zero=True),
        _trace("global mean (signal)", global_mean, run.count, from_zero=False),
    ]
    drawn = [trace for trace in traces if trace is not None]
    plot = min(max(PLOT_WIDTH, run.count), WIDEST_PLOT)
    width = _LEFT + plot + _RIGHT
    second = (width + _APART) // 2
    mosaic = _Mosaic.lay_out(run, width - second)
    maps_height = mosaic.height + 2 * _LINE + 6
    carpets_height = SLICE_ROWS + DEPTH_ROWS + 2 * (_LINE + 10)
    height = maps_height + len(drawn) * (_TRACE_HEIGHT + _LINE + 10) + carpets_height + 3 * _LINE + 22 + 2 * _LINE + 8
    sheet = Image.new("P", (width, height))
    sheet.putpalette(_palette())
    pen = _Pen(sheet=sheet, draw=ImageDraw.Draw(sheet), font=ImageFont.load_default_imagefont())

    for left, name, values, window in (
        (0, "mean over time", mean, robust_window([mean[..., z] for z in range(mean.shape[2])])),
        (second, "standard deviation over time", deviation, _spread(deviation, inside)),
    ):
        pen.write(f"{name}, {_figure(window[0])} (black) to {_figure(window[1])} (white)", (left + _MARGIN, 4))
        mosaic.draw(pen, values, window, (left, _LINE + 6))
    top = maps_height + _LINE
    for number, trace in enumerate(traces):
        if trace is not None:
            pen.plot(trace, (_LEFT, top + _LINE + 2), plot, colour=number)
            top += _TRACE_HEIGHT + _LINE + 10
    order = _Order.of(inside)
    bottom = top
    for ranks, rows, name in (
        (order.by_slice, SLICE_ROWS, f"voxels slice by slice, {counted(len(order.by_slice), 'voxel')} thinned"),
        (order.by_depth, DEPTH_ROWS, "the same voxels from the mask's edge to its middle"),
    ):
        pen.write(f"{name}; {-CARPET_RANGE:g} (black) to {CARPET_RANGE:g} (white) SD of each", (_LEFT, top))
        chosen = ranks[np.arange(rows) * len(ranks) // rows] if len(ranks) else ranks
        pen.carpet(_carpet(run, chosen, plot, rows), (_LEFT, top + _LINE + 2))
        if ranks is order.by_slice:
            pen.write("slice", (_LEFT - 9 - round(pen.font.getlength("slice")), top))
            _name_slices(pen, run, order, (top + _LINE + 2, rows))
        else:
            pen.tick_left("edge", (_LEFT, top + _LINE + 8))
            pen.tick_left("middle", (_LEFT, top + _LINE + rows - 4))
        bottom = top + _LINE + 2 + rows
        top = bottom + 10
    pen.time_axis(run, (_LEFT, bottom), plot)
    shape, spacing = run.voxels.shape, _spacing(run)
    seconds = "TR unknown" if run.repetition_time is None else f"TR {run.repetition_time * 1000:.4g} ms"
    about = (
        f"{shape[0]} x {shape[1]} x {shape[2]} voxels, {shape[3]} volumes, "
        f"{' x '.join(f'{one:.2f}' for one in spacing)} mm, {seconds}; slices and volumes are counted from 0"
    )
    for row, line in enumerate((title, about)):
        pen.write(line, (_MARGIN, height - (2 - row) * _LINE - 5), fill=_WHITE)
    stream = io.BytesIO()
    sheet.save(stream, format="PNG", compress_level=6)
    return stream.getvalue()


def render_course(image: Path | NDArray[Any], path: Path, **details: Any) -> None:
    """Draw the course of an image into a PNG file, written whole or not at all.

    Parameters
    ----------
    image, details
        As for `compose_course`.
    path
        The file; its folder is made if needed.

    Raises
    ------
    MissingPackageError, ValueError
        As `compose_course`.
    DiskFullError, WorkspaceError
        If the file cannot be written.
    """
    content = compose_course(image, **details)
    make_folder(path.parent)
    write_atomically(path, content)


# -- the numbers -------------------------------------------------------------------------------------------------------


def _run(image: Path | NDArray[Any], affine: NDArray[Any] | None, repetition_time: float | None) -> _Run:
    if isinstance(image, Path):
        run = _open(image, repetition_time)
    elif affine is None:
        raise ValueError("an array needs an affine")
    else:
        matrix = np.asarray(affine, dtype=np.float64)
        run = _Run(
            voxels=image, slope=1.0, intercept=0.0, affine=matrix, is_placed=True, repetition_time=repetition_time
        )
    if run.voxels.ndim != 4 or run.count < 2 or run.voxels.dtype.kind not in "iuf" or 0 in run.voxels.shape:
        raise ValueError("a course needs several volumes of real numbers")
    return run


def _open(path: Path, repetition_time: float | None) -> _Run:
    """Map a file into memory; nibabel's own scaling would make float64 of all of it."""
    try:
        import nibabel  # noqa: PLC0415 - pictures are an extra
    except ImportError:
        raise MissingPackageError(purpose="Reading NIfTI", package="nibabel", extra="review") from None
    opened: Any = nibabel.load(path)
    header = opened.header
    zooms = header.get_zooms()
    if repetition_time is None and len(zooms) > 3 and zooms[3] > 0:
        # NIfTI-1, field xyzt_units: seconds unless it says otherwise, as most programs take it.
        scale = {"msec": 1e-3, "usec": 1e-6}.get(header.get_xyzt_units()[1], 1.0)
        repetition_time = float(zooms[3]) * scale
    return _Run(
        voxels=opened.dataobj.get_unscaled(),
        slope=float(opened.dataobj.slope),
        intercept=float(opened.dataobj.inter),
        affine=np.asarray(opened.affine, dtype=np.float64),
        is_placed=int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0,
        repetition_time=repetition_time,
    )


def _moments(run: _Run) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and standard deviation over time of each voxel, in one walk.

    Differences from the first volume are summed: they are small, so that nothing is lost by cancellation.
    """
    shape = run.voxels.shape[:3]
    total, squares = np.zeros(shape, order="F"), np.zeros(shape, order="F")
    first: NDArray[np.float32] | None = None
    for volume in run.volumes():
        first = volume if first is None else first
        difference = volume - first
        total += difference
        squares += difference * difference
    assert first is not None
    mean = total / run.count
    variance = np.maximum(squares / run.count - mean * mean, 0.0)
    return (first + mean).astype(np.float32), np.sqrt(variance).astype(np.float32)


def _bright(mean: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(mean > BRIGHT_SHARE * float(np.percentile(mean, 98)))


def _spread(deviation: NDArray[np.float32], inside: NDArray[np.bool_]) -> tuple[float, float]:
    values = deviation[inside]
    high = float(np.percentile(values, 99)) if values.size else 0.0
    return 0.0, high if high > 0 else max(float(deviation.max(initial=0.0)), 1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Order:
    """The mask's voxels as indices into a volume in Fortran order."""

    by_slice: NDArray[np.intp]
    by_depth: NDArray[np.intp]
    slices: NDArray[np.intp]  # of each voxel in `by_slice`

    @classmethod
    def of(cls, inside: NDArray[np.bool_]) -> _Order:
        depth = _depth(inside).ravel(order="F")
        chosen = np.flatnonzero(inside.ravel(order="F"))
        per_slice = inside.shape[0] * inside.shape[1]
        # The last slice stands above: feet are below where slices go from feet to head.
        by_slice = chosen[np.lexsort((depth[chosen], -(chosen // per_slice)))]
        by_depth = chosen[np.argsort(depth[chosen], kind="stable")]
        return cls(by_slice=by_slice, by_depth=by_depth, slices=by_slice // per_slice)


def _depth(inside: NDArray[np.bool_]) -> NDArray[np.int16]:
    """Count in which layer below the mask's edge each voxel lies, peeling off six-neighbourhoods in turn."""
    depth = np.zeros(inside.shape, np.int16)
    left = np.pad(inside, 1)
    core = (slice(1, -1),) * 3
    for _ in range(_MOST_LAYERS):
        if not left.any():
            break
        depth += left[core]
        kept = left[core].copy()
        for axis in range(3):
            for moved in (slice(0, -2), slice(2, None)):
                kept &= left[(*core[:axis], moved, *core[axis + 1 :])]
        left[core] = kept
    return depth


def _carpet(run: _Run, chosen: NDArray[np.intp], columns: int, rows: int) -> NDArray[np.uint8]:
    """Return grey values (rows, columns) of voxels over time, each in standard deviations from its own mean."""
    if not len(chosen):
        return np.full((rows, columns), 128, np.uint8)
    values = np.empty((len(chosen), run.count), np.float32)
    for number, volume in enumerate(run.volumes()):
        values[:, number] = volume.ravel(order="F")[chosen]
    values -= values.mean(axis=1, dtype=np.float64, keepdims=True).astype(np.float32)
    deviation = values.std(axis=1, dtype=np.float64, keepdims=True).astype(np.float32)
    values /= np.where(deviation > 0, deviation, np.float32(1.0))
    if run.count <= columns:
        wide = values[:, np.arange(columns) * run.count // columns]
    else:
        starts = np.arange(columns) * run.count // columns
        high, low = np.maximum.reduceat(values, starts, axis=1), np.minimum.reduceat(values, starts, axis=1)
        wide = np.where(high >= -low, high, low)
    return shown(wide, (-CARPET_RANGE, CARPET_RANGE))


def _trace(name: str, values: Sequence[float | None], count: int, *, from_zero: bool) -> _Trace | None:
    numbers = [math.nan if value is None or not math.isfinite(value) else float(value) for value in values]
    if all(math.isnan(number) for number in numbers):
        return None
    # One fewer than volumes: the first has none before it to differ from.
    numbers = [math.nan] * (len(numbers) == count - 1) + numbers
    if len(numbers) != count:
        raise ValueError("a trace has one value for each volume, or one fewer")
    return _Trace(name=name, values=tuple(numbers), from_zero=from_zero)


# -- the slices --------------------------------------------------------------------------------------------------------


def _spacing(run: _Run) -> tuple[float, float, float]:
    x, y, z = (float(np.linalg.norm(run.affine[:3, axis])) or 1.0 for axis in range(3))
    return x, y, z


def _directions(run: _Run) -> NDArray[np.float64]:
    """Return for each voxel axis the unit vector in LPS along which it grows: RAS+ with two signs turned."""
    unit = run.affine[:3, :3] / np.array(_spacing(run))
    return np.asarray(unit * np.array([[-1.0], [-1.0], [1.0]]))


def _view(run: _Run) -> tuple[View | None, bool]:
    """Return how a slice (y, x) is turned, and whether slices are looked at from the last to the first."""
    if not run.is_placed:
        return None, False
    along, down, through = _directions(run).T
    view = standard_view((*map(float, along), *map(float, down)))  # type: ignore[arg-type] # three and three
    return view, view.reverse_slices != (float(np.cross(along, down) @ through) < 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mosaic:
    """Where the slices of one map stand."""

    view: View | None
    slices: tuple[int, ...]  # in the order in which they are looked at
    tile: tuple[int, int]
    across: int

    @property
    def height(self) -> int:
        down = math.ceil(len(self.slices) / self.across)
        return 2 * _MARGIN + down * (self.tile[1] + _GAP) - _GAP

    @classmethod
    def lay_out(cls, run: _Run, width: int) -> _Mosaic:
        view, is_reversed = _view(run)
        step = math.ceil(run.voxels.shape[2] / MOST_SLICES)
        slices = range(0, run.voxels.shape[2], step)
        columns, rows = (size * one for size, one in zip(run.voxels.shape[:2], _spacing(run)[:2], strict=True))
        if view is not None and view.transpose:
            columns, rows = rows, columns
        # As many beside each other as make the whole about square.
        across = max(1, min(len(slices), round(math.sqrt(len(slices) * rows / columns))))
        wide = min(256.0, (width - 2 * _MARGIN + _GAP) / across - _GAP, 256.0 * columns / rows)
        tile = (max(1, int(wide)), max(1, round(int(wide) * rows / columns)))
        return cls(view=view, slices=tuple(slices)[:: -1 if is_reversed else 1], tile=tile, across=across)

    def draw(self, pen: _Pen, values: NDArray[np.float32], window: tuple[float, float], place: tuple[int, int]) -> None:
        from PIL import Image  # noqa: PLC0415 - pictures are an extra

        wide, high = self.tile
        for number, z in enumerate(self.slices):
            image = shown(values[..., z].T, window)
            image = image[::-1] if self.view is None else self.view.turn(image)
            left = place[0] + _MARGIN + number % self.across * (wide + _GAP)
            top = place[1] + _MARGIN + number // self.across * (high + _GAP)
            tile = Image.fromarray(np.ascontiguousarray(image)).resize(self.tile, Image.Resampling.BILINEAR)
            pen.greys(np.asarray(tile), (left, top))
            if wide >= 40:
                pen.stamp(str(z), (left + 2, top + 1), fill=_SOFT)
        if self.view is not None:
            right = place[0] + 2 * _MARGIN + self.across * (wide + _GAP) - _GAP - 1
            pen.sides(self.view, (place[0] + 1, place[1] + 1, right, place[1] + self.height - 1))


def _name_slices(pen: _Pen, run: _Run, order: _Order, place: tuple[int, int]) -> None:
    """Write beside the carpet plot where slices begin, and to which side of the patient they go."""
    top, rows = place
    if run.is_placed:
        through = _directions(run)[:, 2]
        pen.stamp(side(through), (8, top), fill=_WHITE, times=2)
        pen.stamp(side(-through), (8, top + rows - 2 * _LINE + 4), fill=_WHITE, times=2)
    shown_slices = np.unique(order.slices)
    last = top + rows + _LINE
    for z in shown_slices:
        within = np.flatnonzero(order.slices == z)
        middle = top + int((within[0] + within[-1] + 1) / 2 * rows / len(order.slices))
        if last - middle > _LINE + 3:  # else it would cover the one below
            pen.tick_left(str(z), (_LEFT, middle))
            last = middle


# -- the pen -----------------------------------------------------------------------------------------------------------


def _palette() -> list[int]:
    greys = [round(one * 255 / (_GREYS - 1)) for one in range(_GREYS) for _ in range(3)]
    ramps = [round(part * (step + 1) / _RAMP) for colour in _COLOURS for step in range(_RAMP) for part in colour]
    return greys + ramps


def _figure(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds * 10), 600)
    return f"{minutes}:{rest // 10:02}" + (f".{rest % 10}" if rest % 10 else "")


def _step(extent: float, most: int) -> float:
    """Choose the smallest of 1, 2, 5, 10, ... that divides an extent into at most so many parts."""
    power = 10.0 ** math.floor(math.log10(extent / most))
    return next(one * power for one in (1, 2, 5, 10) if extent / (one * power) <= most * (1 + 1e-9))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pen:
    sheet: Image.Image
    draw: ImageDraw.ImageDraw
    font: ImageFont.ImageFont

    def write(self, text: str, place: tuple[float, float], *, fill: int = _SOFT) -> None:
        """Write a line of text; letters that the font has not become question marks."""
        self.draw.text(place, text.encode("latin-1", "replace").decode("latin-1"), fill=fill, font=self.font)

    def greys(self, image: NDArray[np.uint8], place: tuple[int, int]) -> None:
        """Put values from 0 to 255 there, as greys of the palette."""
        from PIL import Image  # noqa: PLC0415 - pictures are an extra

        indices = (image.astype(np.uint16) * (_GREYS - 1) // 255).astype(np.uint8)
        self.sheet.paste(Image.fromarray(indices), place)

    def stamp(self, text: str, place: tuple[int, int], *, fill: int, times: int = 1) -> None:
        """Write a text with a thin black rim, so that it can be read on any picture."""
        mask = self._mask(text, times)
        for right, down in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            self.sheet.paste(0, (place[0] + right, place[1] + down), mask)
        self.sheet.paste(fill, place, mask)

    def sides(self, view: View, frame: tuple[int, int, int, int]) -> None:
        """Write each side's letters in the middle of its border of a frame."""
        left, top, right, bottom = frame
        for text, x, y in (
            (view.left, left, (top + bottom) // 2),
            (view.right, right, (top + bottom) // 2),
            (view.top, (left + right) // 2, top),
            (view.bottom, (left + right) // 2, bottom),
        ):
            width, height = self._mask(text, 2).size
            place = (min(max(left, x - width // 2), right - width), min(max(top, y - height // 2), bottom - height))
            self.stamp(text, place, fill=_WHITE, times=2)

    def carpet(self, image: NDArray[np.uint8], place: tuple[int, int]) -> None:
        """Draw a carpet plot with a thin frame."""
        left, top = place
        self.greys(image, place)
        self.draw.rectangle((left - 1, top - 1, left + image.shape[1], top + image.shape[0]), outline=_FAINT)

    def tick_left(self, text: str, place: tuple[int, int]) -> None:
        """Write a number beside the left end of an axis."""
        left, middle = place
        self.draw.line((left - 5, middle, left - 2, middle), fill=_SOFT)
        self.write(text, (left - 9 - round(self.font.getlength(text)), middle - 6))

    def plot(self, trace: _Trace, place: tuple[int, int], width: int, *, colour: int) -> None:
        """Draw a trace in a frame with its name above and its scale beside it; gaps stay gaps."""
        from PIL import Image, ImageDraw  # noqa: PLC0415 - pictures are an extra

        left, top = place
        self.write(trace.name, (left, top - _LINE - 2), fill=_GREYS + _RAMP * (colour + 1) - 1)
        known = [value for value in trace.values if not math.isnan(value)]
        low, high = min(0.0, *known) if trace.from_zero else min(known), max(known)
        if high <= low:
            low, high = low - (abs(low) or 1.0) * 0.1, high + (abs(high) or 1.0) * 0.1
        step = _step(high - low, 4)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        ticks = [low + step * number for number in range(round((high - low) / step) + 1)]
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        for tick in ticks:
            y = top + round((high - tick) / (high - low) * (_TRACE_HEIGHT - 1))
            self.draw.line((left, y, left + width - 1, y), fill=_FAINT)
            self.tick_left(f"{tick:.{decimals}f}", (left, y))
        # Drawn larger and made smaller, so that the line is smooth.
        large = Image.new("L", (width * _SMOOTHING, _TRACE_HEIGHT * _SMOOTHING))
        pen, count = ImageDraw.Draw(large), len(trace.values)
        points = [
            ((number + 0.5) / count * large.width, (high - value) / (high - low) * (large.height - _SMOOTHING) + 1)
            for number, value in enumerate(trace.values)
        ]
        nowhere = (0.0, math.nan)
        for before, point, after in zip([nowhere, *points], points, [*points[1:], nowhere], strict=False):
            if not math.isnan(point[1] + after[1]):
                pen.line((point, after), fill=255, width=_SMOOTHING + 1)
            elif not math.isnan(point[1]) and math.isnan(before[1]):
                pen.ellipse((point[0] - 3, point[1] - 3, point[0] + 3, point[1] + 3), fill=255)  # one value alone
        cover = np.asarray(large.reduce(_SMOOTHING)).astype(np.int32)
        level = np.clip((cover * _RAMP + 127) // 255, 0, _RAMP)
        indices = (_GREYS + _RAMP * colour + level - 1).clip(0, 255).astype(np.uint8)
        self.sheet.paste(Image.fromarray(indices), place, Image.fromarray(((level > 0) * 255).astype(np.uint8)))

    def time_axis(self, run: _Run, place: tuple[int, int], width: int) -> None:
        """Draw ticks at volumes, and below them the time since the first where that is known."""
        left, top = place
        step = max(1, round(_step(run.count, 10)))
        for volume in range(0, run.count, step):
            x = left + round((volume + 0.5) / run.count * width)
            self.draw.line((x, top + 2, x, top + 6), fill=_SOFT)
            self._centred(str(volume), x, top + 8)
            if run.repetition_time is not None:
                self._centred(_clock(volume * run.repetition_time), x, top + 8 + _LINE)
        self.write("volume", (8, top + 8))
        if run.repetition_time is not None:
            self.write("min:s", (8, top + 8 + _LINE))

    def _centred(self, text: str, x: int, y: int) -> None:
        self.write(text, (x - round(self.font.getlength(text) / 2), y))

    def _mask(self, text: str, times: int) -> Image.Image:
        from PIL import Image, ImageDraw  # noqa: PLC0415 - pictures are an extra

        width, height = (round(one) for one in self.font.getbbox(text)[2:])
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=self.font)
        # Enlarging the fixed font needs no font file, and its pixels are the same everywhere.
        return mask.resize((width * times, height * times), Image.Resampling.NEAREST)

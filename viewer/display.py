"""What is on screen: images, crosshair, planes, contrast. The window only paints it; it can be tested without one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from viewer.image import Image
from viewer.reslice import PLANES, Oblique, PlaneView, oblique_like, plane_view, rotation, sample
from viewer.windowing import COLOUR_MAPS, Statistics, Window, blend, measure, paint, presets

LAYOUTS: Final = ("ortho", "single", "oblique", "lightbox", "times")
"""How planes share the window."""

DERIVED: Final = ("volume", "mean", "deviation")
"""What is shown of an image with several volumes."""

BACKGROUND_SHARE = 0.08
"""The background view ends at this share of the robust range: ghosts have a few per cent of the head's signal."""

FAST_STEP = 10
"""Slices or volumes at once."""

_ZOOM_STEP = 1.25
_ZOOM_MOST = 16.0
_CUT_PIXELS = 512
_SLAB_STEP_MM = 2.0
_SLAB_MODES: Final = ("mean", "max", "min")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """One image with what was measured of it.

    Attributes
    ----------
    image, statistics
        As they were opened.
    label
        What stands over it; never anything that identifies.
    """

    image: Image
    statistics: Statistics
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """One plane, ready to be painted.

    Attributes
    ----------
    pixels
        (rows, columns) of 0xffRRGGBB, row 0 at the top.
    spacing
        Millimetres between rows and between columns.
    left, right, top, bottom
        Letters of the patient's sides; empty if nothing is known.
    cross
        Where the crosshair is, (row, column) in pixels, not rounded.
    marks
        Marks of this slice: (row, column, text).
    caption
        What the plane is, such as "axial 88/176".
    note
        What a reader must know of it, such as that time points are linked by slice alone.
    """

    pixels: NDArray[np.uint32]
    spacing: tuple[float, float]
    left: str
    right: str
    top: str
    bottom: str
    cross: tuple[float, float]
    marks: tuple[tuple[float, float, str], ...] = ()
    caption: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A place that somebody marked.

    Attributes
    ----------
    mm
        RAS+ millimetres.
    volume
        From 0; -1 for all.
    text
        What was said of it.
    """

    mm: tuple[float, float, float]
    volume: int = -1
    text: str = ""


@dataclass(slots=True, kw_only=True)
class Habits:
    """What is remembered from case to case and from sitting to sitting.

    Attributes
    ----------
    convention
        "radiological" or "neurological".
    nose
        "left" or "right": where the nose points in sagittal planes.
    is_smooth, has_cross
        Whether voxels are smoothed on screen, and whether the crosshair is drawn.
    layout
        One of `LAYOUTS`.
    windows
        The contrast last chosen, for each sequence.
    """

    convention: str = "radiological"
    nose: str = "left"
    is_smooth: bool = True
    has_cross: bool = True
    layout: str = "ortho"
    windows: dict[str, tuple[float, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {
            "convention": self.convention,
            "nose": self.nose,
            "is_smooth": self.is_smooth,
            "has_cross": self.has_cross,
            "layout": self.layout,
            "windows": {name: list(ends) for name, ends in sorted(self.windows.items())},
        }

    @classmethod
    def from_json(cls, content: Any) -> Habits:
        """Rebuild from `to_json`; whatever is not as it must be is as if nobody had chosen it."""
        habits = cls()
        if not isinstance(content, dict):
            return habits
        for name, allowed in (
            ("convention", ("radiological", "neurological")),
            ("nose", ("left", "right")),
            ("is_smooth", (True, False)),
            ("has_cross", (True, False)),
            ("layout", LAYOUTS),
        ):
            value = content.get(name)
            if any(value is one or (isinstance(one, str) and value == one) for one in allowed):
                setattr(habits, name, value)
        windows = content.get("windows")
        for name, ends in windows.items() if isinstance(windows, dict) else ():
            if (
                isinstance(ends, list)
                and len(ends) == 2
                and all(isinstance(end, (int, float)) and math.isfinite(end) for end in ends)
            ):
                habits.windows[str(name)] = (float(ends[0]), float(ends[1]))
        return habits


class Display:
    """The images of one case and how they are looked at.

    Parameters
    ----------
    habits
        Kept up to date as the reader changes them.

    Notes
    -----
    Places are RAS+ millimetres; slices, volumes and pixels count from 0.
    """

    def __init__(self, habits: Habits | None = None) -> None:
        self.habits = habits or Habits()
        self.shown: tuple[Shown, ...] = ()
        self.times: tuple[Shown, ...] = ()
        self.active = 0
        self.plane = "axial"
        self.place: NDArray[np.float64] = np.zeros(3)
        self.volume = 0
        self.derived = "volume"
        self.colours = COLOUR_MAPS[0]
        self.window = Window(low=0.0, high=1.0)
        self.preset = ""
        self.zoom = 1.0
        self.pan = (0.0, 0.0)
        self.cut: Oblique | None = None
        self.slab_mm = 0.0
        self.slab_mode: str = _SLAB_MODES[0]
        self.overlay: Image | None = None
        self.overlay_opacity = 0.5
        self.has_overlay = True
        self.marks: tuple[Spot, ...] = ()
        self.group = ""
        self._visited: dict[str, set[int]] = defaultdict(set)
        self._derived: dict[tuple[int, str], Shown] = {}
        self._sampled: tuple[tuple[object, ...], NDArray[Any]] | None = None
        self._before_background: Window | None = None

    # -- what is there -------------------------------------------------------------------------------------------------

    def show(self, shown: Sequence[Shown], *, group: str = "", overlay: Image | None = None) -> None:
        """Put the images of a case on screen; what the reader chose stays, as far as it fits.

        Parameters
        ----------
        shown
            At least one.
        group
            The sequence, by which contrast is remembered.
        overlay
            A mask or segmentation, or None.
        """
        self.shown, self.times, self.group, self.overlay = tuple(shown), (), group, overlay
        self.active, self.volume, self.derived, self.marks = 0, 0, "volume", ()
        self._visited.clear()
        self._derived.clear()
        self._sampled = None
        self._before_background = None
        self.preset = ""
        self.zoom, self.pan = 1.0, (0.0, 0.0)
        self._settle()

    def _settle(self) -> None:
        """Look at the middle of the image that is shown now, under the contrast that is remembered."""
        self.place = self.image.centre
        self.plane = self._native_plane() if min(self.image.shape) == 1 else self.plane
        self.cut = None
        remembered = self.habits.windows.get(self.group) if self.group else None
        self.window = Window(low=remembered[0], high=remembered[1]) if remembered else self.robust_window()
        self._visit()

    def _native_plane(self) -> str:
        """Name the plane in which a single slice lies."""
        thin = min(range(3), key=lambda axis: self.image.shape[axis])
        return next((plane for plane in PLANES if self.view(plane).axis == thin), PLANES[0])

    def set_times(self, times: Sequence[Shown]) -> None:
        """Give the same acquisition of the subject at other visits, in the visits' order; the active one included."""
        self.times = tuple(times)

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to show."""
        return not self.shown

    @property
    def current(self) -> Shown:
        """What is shown: the active image, or its mean or deviation over time."""
        chosen = self.shown[self.active]
        return chosen if self.derived == "volume" else self._over_time(chosen, self.derived)

    @property
    def image(self) -> Image:
        """The image of `current`."""
        return self.current.image

    def _over_time(self, chosen: Shown, kind: str) -> Shown:
        key = (id(chosen), kind)
        if key not in self._derived:
            image = over_time(chosen.image, kind)
            self._derived[key] = Shown(image=image, statistics=measure(image), label=chosen.label)
        return self._derived[key]

    def robust_window(self) -> Window:
        """Give the contrast that suits the image."""
        return self.current.statistics.robust

    # -- planes --------------------------------------------------------------------------------------------------------

    def view(self, plane: str, image: Image | None = None) -> PlaneView:
        """Say how a plane of an image is turned to be looked at."""
        return plane_view(image or self.image, plane, self.habits.convention, self.habits.nose)

    def slice_number(self, plane: str) -> int:
        """Give the slice in which the crosshair lies."""
        return self._slice_of(self.image, self.view(plane), self.place)

    @staticmethod
    def _slice_of(image: Image, view: PlaneView, place: NDArray[np.float64]) -> int:
        number = view.to_screen(image.to_index(place))[2]
        return min(max(math.floor(number + 0.5), 0), view.count - 1)

    def step(self, slices: int, plane: str | None = None) -> None:
        """Move the crosshair by so many slices of a plane, up to the image's end."""
        plane = plane or self.plane
        if self.habits.layout == "oblique" and self.cut is not None:
            self.move_cut(slices * min(self.image.spacing))
            return
        view = self.view(plane)
        row, column, _ = view.to_screen(self.image.to_index(self.place))
        target = min(max(self.slice_number(plane) + slices, 0), view.count - 1)
        self.place = self.image.to_mm(view.to_index(row, column, target))
        self._visit()

    def look_at(self, plane: str, row: float, column: float) -> None:
        """Put the crosshair on a pixel of a plane."""
        view = self.view(plane)
        target = self.image.to_mm(view.to_index(row, column, self.slice_number(plane)))
        self.place = self._inside(target)
        self._visit()

    def look_at_cut(self, row: float, column: float) -> None:
        """Put the crosshair on a pixel of the cut."""
        cut = self.ready_cut()
        self.place = self._inside(cut.to_mm(row, column))
        self._visit()

    def look_at_place(self, place: Sequence[float]) -> None:
        """Put the crosshair at RAS+ millimetres, or as near as the image comes to them."""
        self.place = self._inside(np.asarray(place, np.float64))
        self._visit()

    def _inside(self, place: NDArray[np.float64]) -> NDArray[np.float64]:
        most = np.array(self.image.shape, float) - 1
        return self.image.to_mm(np.clip(self.image.to_index(place), 0, most))

    def look_at_centre(self) -> None:
        """Put the crosshair in the middle."""
        self.place = self.image.centre
        self._visit()

    def next_plane(self) -> None:
        """Let the arrow keys move the next plane."""
        self.plane = PLANES[(PLANES.index(self.plane) + 1) % len(PLANES)]

    def _visit(self) -> None:
        for plane in PLANES if self.habits.layout == "ortho" else (self.plane,):
            self._visited[plane].add(self.slice_number(plane))

    # -- pictures ------------------------------------------------------------------------------------------------------

    def picture(self, plane: str) -> Picture:
        """Draw a plane through the crosshair."""
        image, view = self.image, self.view(plane)
        row, column, _ = view.to_screen(image.to_index(self.place))
        number = self.slice_number(plane)
        pixels = self._painted(image, view, number, self._volume_of(image))
        return Picture(
            pixels=pixels,
            spacing=view.spacing,
            left=view.left,
            right=view.right,
            top=view.top,
            bottom=view.bottom,
            cross=(row, column),
            marks=tuple(self._marks_in(image, view, number)),
            caption=f"{plane} {number + 1}/{view.count}",
        )

    def _volume_of(self, image: Image) -> int:
        return min(self.volume, image.volumes - 1)

    def _painted(self, image: Image, view: PlaneView, number: int, volume: int) -> NDArray[np.uint32]:
        pixels = paint(view.cut(image, number, volume), self.window, image, colour_map=self.colours)
        if self.overlay is not None and self.has_overlay:
            labels = self._labels(image, view, number)
            if labels is not None:
                pixels = blend(pixels, labels, opacity=self.overlay_opacity)
        return pixels

    def _labels(self, image: Image, view: PlaneView, number: int) -> NDArray[Any] | None:
        """Cut the overlay where the image is cut: voxel for voxel if they share a grid, else to the nearest voxel."""
        overlay = self.overlay
        if overlay is None:
            return None
        if overlay.shape == image.shape and np.allclose(overlay.affine, image.affine, atol=1e-3):
            return view.cut(overlay, number, min(self.volume, overlay.volumes - 1))
        corner, along_row, along_column = (
            image.to_mm(view.to_index(row, column, number)) for row, column in ((0, 0), (1, 0), (0, 1))
        )
        shape = view.cut(image, number, 0).shape[:2]
        grid = Oblique.through(
            corner, across=along_column - corner, down=along_row - corner, shape=(shape[0], shape[1])
        )
        return sample(overlay, min(self.volume, overlay.volumes - 1), grid, order=0)

    def _marks_in(self, image: Image, view: PlaneView, number: int) -> list[tuple[float, float, str]]:
        found = []
        for mark in self.marks:
            row, column, where = view.to_screen(image.to_index(mark.mm))
            if abs(where - number) <= 0.5 and mark.volume in (self.volume, -1):
                found.append((row, column, mark.text))
        return found

    def cut_picture(self, *, coarseness: int = 1) -> Picture:
        """Draw the cut at any angle through the crosshair.

        Parameters
        ----------
        coarseness
            So many times fewer pixels each way, while things move.
        """
        cut = self.ready_cut()
        if coarseness > 1:
            cut = cut.coarser(coarseness)
        image = self.image
        # Contrast changes far more often than the cut it is looked at with.
        key = (id(image), self._volume_of(image), *cut.key)
        if self._sampled is None or self._sampled[0] != key:
            self._sampled = key, sample(image, self._volume_of(image), cut, order=1)
        values = self._sampled[1]
        left, right, top, bottom = cut.letters() if image.is_placed else ("", "", "", "")
        slab = f", {cut.thickness:g} mm {cut.mode}" if cut.thickness else ""
        return Picture(
            pixels=paint(values, self.window, image, colour_map=self.colours),
            spacing=(cut.spacing, cut.spacing),
            left=left,
            right=right,
            top=top,
            bottom=bottom,
            cross=cut.to_pixel(self.place),
            caption=f"cut {cut.name()}{slab}",
        )

    def ready_cut(self) -> Oblique:
        """Give the cut through the crosshair, made from the active plane if there was none."""
        if self.cut is None:
            self.cut = oblique_like(self.image, self.view(self.plane), self.image.centre, pixels=_CUT_PIXELS)
        # It goes through the crosshair, yet stays where it is within its plane, so that the picture does not wander.
        offset = float(np.dot(self.place - self.cut.centre, self.cut.normal))
        cut = self.cut if abs(offset) < 1e-9 else self.cut.moved(offset)
        self.cut = replace(cut, thickness=self.slab_mm, mode=self.slab_mode)
        return self.cut

    def turn_cut(self, axis: str, degrees: float) -> None:
        """Turn the cut about the crosshair: axis "across" tilts, "down" turns, "normal" spins the picture."""
        cut = replace(self.ready_cut(), centre=self.place)
        self._recentre(cut.rotated(axis, degrees))

    def turn_cut_about(self, across: NDArray[np.float64], down: NDArray[np.float64], degrees: float) -> None:
        """Turn the cut about the crosshair as it is seen in a plane: clockwise on that screen.

        Parameters
        ----------
        across, down
            Directions of the plane's screen in the patient, RAS+; of any length.
        """
        one, other = across / np.linalg.norm(across), down / np.linalg.norm(down)
        cut = self.ready_cut()
        turn = rotation(np.cross(one, other), math.radians(degrees))
        turned = replace(cut, centre=self.place, across=turn @ cut.across, down=turn @ cut.down)
        self._recentre(turned)

    def _recentre(self, cut: Oblique) -> None:
        """Keep the middle of the image in the middle of the picture, in whatever plane the cut lies."""
        middle = self.image.centre - self.place
        within = middle - np.dot(middle, cut.normal) * cut.normal
        self.cut = replace(cut, centre=self.place + within)

    def move_cut(self, millimetres: float) -> None:
        """Move the crosshair, and the cut with it, along the cut's normal."""
        self.place = self._inside(self.place + millimetres * self.ready_cut().normal)
        self.ready_cut()

    def reset_cut(self) -> None:
        """Make the cut the plane that the arrow keys move."""
        self.cut = None

    def lightbox(self, count: int) -> list[Picture]:
        """Draw `count` slices of the active plane, evenly spread over the image, from feet, back or left on."""
        image, view = self.image, self.view(self.plane)
        numbers = sorted({round(one) for one in np.linspace(0, view.count - 1, min(count, view.count))})
        row, column, _ = view.to_screen(image.to_index(self.place))
        return [
            Picture(
                pixels=self._painted(image, view, number, self._volume_of(image)),
                spacing=view.spacing,
                left=view.left,
                right=view.right,
                top=view.top,
                bottom=view.bottom,
                cross=(row, column) if number == self.slice_number(self.plane) else (-1.0, -1.0),
                marks=tuple(self._marks_in(image, view, number)),
                caption=f"{number + 1}",
            )
            for number in numbers
        ]

    def time_pictures(self) -> list[Picture]:
        """Draw the active plane of each time point, or of each image of the case if it stands alone."""
        beside = self.times if len(self.times) > 1 else self.shown
        first, here = self.image, self.shown[self.active].image
        own = self.view(self.plane)
        share = self.slice_number(self.plane) / max(own.count - 1, 1)
        pictures = []
        for one in beside:
            image, view = one.image, self.view(self.plane, one.image)
            linked = image is here or (
                image.frame_of_reference != "" and image.frame_of_reference == first.frame_of_reference
            )
            if linked:
                row, column, where = view.to_screen(image.to_index(self.place))
                number = min(max(math.floor(where + 0.5), 0), view.count - 1)
                note = "" if image is here else "linked in millimetres"
            else:
                number = round(share * (view.count - 1))
                row, column = -1.0, -1.0
                note = "linked by slice only: another frame of reference"
            window = self.window if _same_scale(one.statistics, self.current.statistics) else one.statistics.robust
            volume = min(self.volume, image.volumes - 1)
            pictures.append(
                Picture(
                    pixels=paint(view.cut(image, number, volume), window, image, colour_map=self.colours),
                    spacing=view.spacing,
                    left=view.left,
                    right=view.right,
                    top=view.top,
                    bottom=view.bottom,
                    cross=(row, column),
                    caption=f"{one.label} {self.plane} {number + 1}/{view.count}".strip(),
                    note=note,
                )
            )
        return pictures

    # -- contrast ------------------------------------------------------------------------------------------------------

    def set_window(self, low: float, high: float, *, is_remembered: bool = True) -> None:
        """Choose what is black and what is white, in values; ends that cross are put apart."""
        if not (math.isfinite(low) and math.isfinite(high)):
            return
        least = max(abs(high), abs(low), 1.0) * 1e-6
        self.window = Window(low=low, high=max(high, low + least))
        self.preset, self._before_background = "", None
        if is_remembered and self.group and self.derived == "volume":
            self.habits.windows[self.group] = (self.window.low, self.window.high)

    def reset_window(self) -> None:
        """Go back to the contrast that suits the image, and forget what was chosen for the sequence."""
        self.habits.windows.pop(self.group, None)
        self.window, self.preset, self._before_background = self.robust_window(), "", None

    def next_preset(self) -> None:
        """Take the next preset."""
        known = presets(self.current.statistics)
        names = list(known)
        self.preset = names[(names.index(self.preset) + 1) % len(names)] if self.preset in names else names[0]
        self.window, self._before_background = known[self.preset], None

    def toggle_background(self) -> None:
        """Make the background bright, or go back."""
        if self._before_background is not None:
            self.window, self._before_background = self._before_background, None
            self.preset = ""
            return
        robust = self.robust_window()
        self._before_background = self.window
        self.window = Window(low=robust.low, high=robust.low + BACKGROUND_SHARE * (robust.high - robust.low))
        self.preset = "background"

    def change_contrast(self, wider: float = 1.0, brighter: float = 0.0) -> None:
        """Multiply the window's width, and move it down by a share of the width, which is brighter."""
        low, high = self.window.low, self.window.high
        middle, half = (low + high) / 2 - brighter * (high - low), (high - low) / 2 * wider
        self.set_window(middle - half, middle + half)

    def next_colours(self) -> None:
        """Take the next colour map."""
        self.colours = COLOUR_MAPS[(COLOUR_MAPS.index(self.colours) + 1) % len(COLOUR_MAPS)]

    # -- time ----------------------------------------------------------------------------------------------------------

    def step_volume(self, volumes: int) -> None:
        """Go on by so many volumes, up to the end."""
        self.volume = min(max(self.volume + volumes, 0), self.shown[self.active].image.volumes - 1)

    def next_derived(self) -> None:
        """Show the mean over time, the standard deviation, or a volume again."""
        if self.shown[self.active].image.volumes < 2 or self.shown[self.active].image.is_colour:
            return
        self.derived = DERIVED[(DERIVED.index(self.derived) + 1) % len(DERIVED)]
        self.window, self.preset, self._before_background = self.robust_window(), "", None

    def next_image(self) -> None:
        """Show the next image of the case."""
        self.active = (self.active + 1) % len(self.shown)
        self.volume, self.derived = 0, "volume"
        place = self.place
        self._settle()
        if self.image.nearest(place) is not None:
            self.place = place

    def course(self) -> NDArray[np.float32] | None:
        """Give the values under the crosshair over time; None without several volumes."""
        image = self.shown[self.active].image
        index = image.nearest(self.place)
        if image.volumes < 2 or image.is_colour or index is None:
            return None
        return image.course(index)

    # -- zoom ----------------------------------------------------------------------------------------------------------

    def change_zoom(self, factor: float) -> None:
        """Zoom by a factor, in all planes."""
        self.zoom = min(max(self.zoom * factor, 1.0), _ZOOM_MOST)
        if self.zoom == 1.0:
            self.pan = (0.0, 0.0)

    def zoom_in(self) -> None:
        """Zoom in by a step."""
        self.change_zoom(_ZOOM_STEP)

    def zoom_out(self) -> None:
        """Zoom out by a step, at most to the whole image."""
        self.change_zoom(1 / _ZOOM_STEP)

    def shift(self, right: float, down: float) -> None:
        """Pan by shares of the visible part."""
        most = 0.5
        self.pan = (
            min(max(self.pan[0] + right / self.zoom, -most), most),
            min(max(self.pan[1] + down / self.zoom, -most), most),
        )

    def fit(self) -> None:
        """Show the whole image."""
        self.zoom, self.pan = 1.0, (0.0, 0.0)

    # -- slab ----------------------------------------------------------------------------------------------------------

    def change_slab(self, steps: int) -> None:
        """Make the slab of the cut thicker or thinner."""
        self.slab_mm = min(max(self.slab_mm + steps * _SLAB_STEP_MM, 0.0), 100.0)

    def next_slab_mode(self) -> None:
        """Show mean, maximum or minimum through the slab."""
        self.slab_mode = _SLAB_MODES[(_SLAB_MODES.index(self.slab_mode) + 1) % len(_SLAB_MODES)]

    # -- words ---------------------------------------------------------------------------------------------------------

    def probe(self, place: NDArray[np.float64] | None = None) -> str:
        """Say what lies under the crosshair or at a place: millimetres, voxel, value."""
        where = self.place if place is None else place
        image = self.image
        x, y, z = (f"{abs(one):.1f}{letter}" for one, letter in zip(where, _sides(where), strict=True))
        text = f"{x} {y} {z} mm" if image.is_placed else "{:.1f} {:.1f} {:.1f} mm".format(*where)
        index = image.nearest(where)
        if index is None:
            return f"{text}  outside"
        value = image.value(index, self._volume_of(image))
        shown = "RGB {} {} {}".format(*value) if isinstance(value, tuple) else f"{value:.6g}"
        return f"{text}  voxel {index[0]} {index[1]} {index[2]}  value {shown}"

    def state(self, *, quality_shown: bool = False) -> dict[str, Any]:
        """Describe what the reader saw, for the rating."""
        return {
            "layout": self.habits.layout,
            "plane": self.plane,
            "convention": self.habits.convention,
            "nose": self.habits.nose,
            "window": [self.window.low, self.window.high],
            "volume": self.volume,
            "derived": self.derived,
            "zoom": self.zoom,
            "image": self.active,
            "place_mm": [round(float(one), 3) for one in self.place],
            "slices_seen": {plane: len(seen) for plane, seen in sorted(self._visited.items())},
            "quality_shown": quality_shown,
        }


def _sides(place: NDArray[np.float64]) -> tuple[str, str, str]:
    return ("R" if place[0] >= 0 else "L", "A" if place[1] >= 0 else "P", "S" if place[2] >= 0 else "I")


def _same_scale(one: Statistics, other: Statistics) -> bool:
    """Tell whether two images can share a contrast: scanners choose the scale of each scan anew."""
    width, of_other = one.robust.high - one.robust.low, other.robust.high - other.robust.low
    return 0.5 < width / max(of_other, 1e-12) < 2.0


def over_time(image: Image, kind: str) -> Image:
    """Make the mean or the standard deviation (of a sample) of an image over time, in values.

    Parameters
    ----------
    kind
        "mean" or "deviation".

    Returns
    -------
    Image
        With one volume of float32. One volume is added at a time, so that no second copy of the voxels is made.
    """
    count = image.volumes
    total = np.zeros(image.shape, np.float64)
    square = np.zeros(image.shape, np.float64) if kind == "deviation" else None
    start = image.voxels[..., 0].astype(np.float64)
    for volume in range(count):
        # Less the first volume, since squares of large numbers lose what the deviation is made of.
        part = image.voxels[..., volume] - start
        total += part
        if square is not None:
            square += part * part
    if square is None:
        values = (total / count + start) * image.slope + image.intercept
    else:
        values = np.sqrt(np.maximum(square - total * total / count, 0) / max(count - 1, 1)) * abs(image.slope)
    return replace(
        image, voxels=values.astype(np.float32)[..., np.newaxis], slope=1.0, intercept=0.0, padding=None, inverted=False
    )


def act(display: Display, name: str) -> bool:
    """Do what a key of groups Move, Show, Cut, Contrast or Time asks for.

    Returns
    -------
    bool
        False if the display does not know the command, which is then the window's.
    """
    found = _ACTS.get(name)
    if found is None or display.is_empty:
        return False
    found(display)
    return True


def _habit(name: str, values: Sequence[Any]) -> Callable[[Display], None]:
    def change(display: Display) -> None:
        now = getattr(display.habits, name)
        setattr(display.habits, name, values[(values.index(now) + 1) % len(values)])

    return change


def _layout(name: str) -> Callable[[Display], None]:
    def change(display: Display) -> None:
        display.habits.layout = name

    return change


def _fainter(display: Display) -> None:
    display.overlay_opacity = display.overlay_opacity - 0.2 if display.overlay_opacity > 0.25 else 0.9


def _overlay(display: Display) -> None:
    display.has_overlay = not display.has_overlay


_ACTS: Mapping[str, Callable[[Display], None]] = {
    "slice-up": lambda display: display.step(1),
    "slice-down": lambda display: display.step(-1),
    "slice-up-fast": lambda display: display.step(FAST_STEP),
    "slice-down-fast": lambda display: display.step(-FAST_STEP),
    "centre": Display.look_at_centre,
    "plane-next": Display.next_plane,
    "zoom-in": Display.zoom_in,
    "zoom-out": Display.zoom_out,
    "fit": Display.fit,
    "pan-left": lambda display: display.shift(-0.1, 0.0),
    "pan-right": lambda display: display.shift(0.1, 0.0),
    "pan-up": lambda display: display.shift(0.0, -0.1),
    "pan-down": lambda display: display.shift(0.0, 0.1),
    **{f"layout-{name}": _layout(name) for name in LAYOUTS},
    "image-next": Display.next_image,
    "convention": _habit("convention", ("radiological", "neurological")),
    "nose": _habit("nose", ("left", "right")),
    "smooth": _habit("is_smooth", (True, False)),
    "crosshair": _habit("has_cross", (True, False)),
    "overlay": _overlay,
    "overlay-less": _fainter,
    "rotate-left": lambda display: display.turn_cut("down", -2),
    "rotate-right": lambda display: display.turn_cut("down", 2),
    "tilt-up": lambda display: display.turn_cut("across", -2),
    "tilt-down": lambda display: display.turn_cut("across", 2),
    "spin-left": lambda display: display.turn_cut("normal", -2),
    "spin-right": lambda display: display.turn_cut("normal", 2),
    "cut-reset": Display.reset_cut,
    "slab-thicker": lambda display: display.change_slab(1),
    "slab-thinner": lambda display: display.change_slab(-1),
    "slab-mode": Display.next_slab_mode,
    "window-reset": Display.reset_window,
    "window-next": Display.next_preset,
    "window-background": Display.toggle_background,
    "window-wider": lambda display: display.change_contrast(wider=1.1),
    "window-narrower": lambda display: display.change_contrast(wider=1 / 1.1),
    "window-brighter": lambda display: display.change_contrast(brighter=0.05),
    "window-darker": lambda display: display.change_contrast(brighter=-0.05),
    "colours": Display.next_colours,
    "volume-next": lambda display: display.step_volume(1),
    "volume-previous": lambda display: display.step_volume(-1),
    "volume-next-fast": lambda display: display.step_volume(FAST_STEP),
    "volume-previous-fast": lambda display: display.step_volume(-FAST_STEP),
    "derived": Display.next_derived,
}

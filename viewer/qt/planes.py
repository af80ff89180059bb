"""The pictures of a case in one of the layouts, and what the mouse does on them."""

from __future__ import annotations

import math
from typing import Any

from viewer.display import LAYOUTS, Display
from viewer.qt.binding import QtCore, QtWidgets
from viewer.qt.picture_widget import PictureWidget
from viewer.reslice import PLANES

LIGHTBOX = 24
"""Slices of the lightbox."""

FINE_MS = 90
"""So long after the last change, in milliseconds, the cut is drawn in full."""

_COARSE, _COARSE_BESIDE = 2, 3
# While things move the cut has so many times fewer pixels each way; more so where it stands beside what is moved.
_CUT = "cut"
_ORTHO = (("axial", 0, 0), ("coronal", 0, 1), ("sagittal", 1, 0), (_CUT, 1, 1))


class PlanesWidget(QtWidgets.QWidget):  # type: ignore[misc]
    """Every picture of the case that is on screen.

    Signals
    -------
    changed()
        The mouse changed what is shown; the rest of the window follows.
    hovered(text)
        What lies under the pointer.
    """

    changed = QtCore.Signal()
    hovered = QtCore.Signal(str)

    def __init__(self, display: Display, parent: Any = None) -> None:
        super().__init__(parent)
        self.display = display
        self._is_coarse = False
        self._fine = QtCore.QTimer(self)
        self._fine.setSingleShot(True)
        self._fine.timeout.connect(self._refine)
        self._stack = QtWidgets.QStackedLayout(self)
        self._stack.setContentsMargins(0, 0, 0, 0)
        self.ortho = {name: self._picture(name) for name, _, _ in _ORTHO}
        grid = QtWidgets.QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(2)
        for name, row, column in _ORTHO:
            grid.addWidget(self.ortho[name], row, column)
            grid.setRowStretch(row, 1)
            grid.setColumnStretch(column, 1)
        self.single = self._picture("single")
        self.oblique = self._picture(_CUT)
        self.light = [self._picture("light") for _ in range(LIGHTBOX)]
        self.beside = [self._picture("time") for _ in range(6)]
        pages = {
            "ortho": grid,
            "single": self._row([self.single]),
            "oblique": self._row([self.oblique]),
            "lightbox": self._grid(self.light, columns=6),
            "times": self._grid(self.beside, columns=3),
        }
        self._pages = {}
        for name in LAYOUTS:
            page = QtWidgets.QWidget(self)
            page.setLayout(pages[name])
            self._pages[name] = page
            self._stack.addWidget(page)

    def _row(self, widgets: list[PictureWidget]) -> Any:
        layout = QtWidgets.QHBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in widgets:
            layout.addWidget(widget)
        return layout

    def _grid(self, widgets: list[PictureWidget], *, columns: int) -> Any:
        layout = QtWidgets.QGridLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for number, widget in enumerate(widgets):
            layout.addWidget(widget, number // columns, number % columns)
        return layout

    def _picture(self, name: str) -> PictureWidget:
        widget = PictureWidget(self, name=name)
        widget.chosen.connect(lambda: self._chosen(widget))
        widget.looked.connect(lambda row, column: self._looked(widget, row, column))
        widget.hovered.connect(lambda row, column: self._hovered(widget, row, column))
        widget.stepped.connect(lambda slices, fast: self._stepped(widget, slices, is_fast=fast))
        widget.contrasted.connect(self._contrasted)
        widget.panned.connect(self._panned)
        widget.zoomed.connect(self._zoomed)
        widget.turned.connect(lambda degrees: self._turned(widget, degrees))
        return widget

    def _plane_of(self, widget: PictureWidget) -> str:
        return widget.name if widget.name in PLANES else self.display.plane

    # -- painting ------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Draw again what is on screen, and nothing that is not; the cut at half its sharpness until nothing moves."""
        self._is_coarse = True
        self._draw()
        self._fine.start(FINE_MS)

    def _refine(self) -> None:
        """Draw the cut in full."""
        self._is_coarse = False
        layout = self.display.habits.layout
        if not self.display.is_empty and layout in ("ortho", "oblique"):
            widget = self.ortho[_CUT] if layout == "ortho" else self.oblique
            self._give(widget, self.display.cut_picture(), is_active=layout == "oblique")

    def settle(self) -> None:
        """Draw at once what would be drawn when nothing moves any more."""
        self._fine.stop()
        self._refine()

    def _draw(self) -> None:
        display = self.display
        self._stack.setCurrentWidget(self._pages[display.habits.layout])
        if display.is_empty:
            for widget in self.findChildren(PictureWidget):
                widget.show_picture(None)
            return
        getattr(self, f"_refresh_{display.habits.layout}")()

    def _refresh_ortho(self) -> None:
        for name, widget in self.ortho.items():
            if name == _CUT:
                picture = self.display.cut_picture(coarseness=_COARSE_BESIDE if self._is_coarse else 1)
            else:
                picture = self.display.picture(name)
                widget.line = self._line_in(name)
            self._give(widget, picture, is_active=name == self.display.plane)

    def _refresh_single(self) -> None:
        self._give(self.single, self.display.picture(self.display.plane), is_active=True)

    def _refresh_oblique(self) -> None:
        self.oblique.line = None
        self._give(self.oblique, self.display.cut_picture(coarseness=_COARSE if self._is_coarse else 1), is_active=True)

    def _refresh_lightbox(self) -> None:
        self._share_out(self.light, self.display.lightbox(LIGHTBOX))

    def _refresh_times(self) -> None:
        self._share_out(self.beside, self.display.time_pictures())

    def _share_out(self, widgets: list[PictureWidget], pictures: list[Any]) -> None:
        for number, widget in enumerate(widgets):
            widget.setVisible(number < len(pictures))
            if number < len(pictures):
                self._give(widget, pictures[number], is_active=False)

    def _give(self, widget: PictureWidget, picture: Any, *, is_active: bool) -> None:
        widget.is_active = is_active
        widget.is_smooth, widget.has_cross = self.display.habits.is_smooth, self.display.habits.has_cross
        widget.zoom, widget.pan = self.display.zoom, self.display.pan
        widget.show_picture(picture)

    def _line_in(self, plane: str) -> tuple[float, float] | None:
        """Give the direction on screen in which the cut crosses a plane: (right, down) of length 1, or None."""
        display = self.display
        if display.cut is None:
            return None
        view, image = display.view(plane), display.image
        origin, right, down, out = (
            image.to_mm(view.to_index(row, column, number))
            for row, column, number in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1))
        )
        across, along, through = right - origin, down - origin, out - origin
        normal = display.cut.normal
        # The line lies in the plane and in the cut, so it stands on both normals.
        one, other = float(normal @ across) / math.hypot(*across), float(normal @ along) / math.hypot(*along)
        if math.hypot(one, other) < 0.05 or not math.hypot(*through):
            return None
        length = math.hypot(one, other)
        return -other / length, one / length

    # -- the mouse -----------------------------------------------------------------------------------------------------

    def _chosen(self, widget: PictureWidget) -> None:
        if widget.name in PLANES:
            self.display.plane = widget.name

    def _looked(self, widget: PictureWidget, row: float, column: float) -> None:
        if widget.name == _CUT:
            self.display.look_at_cut(row, column)
        elif widget.name in PLANES or widget is self.single:
            self.display.look_at(self._plane_of(widget), row, column)
        elif widget.name == "light" and widget.picture is not None:
            self.display.step(int(widget.picture.caption) - 1 - self.display.slice_number(self.display.plane))
            self.display.look_at(self.display.plane, row, column)
        self._changed()

    def _hovered(self, widget: PictureWidget, row: float, column: float) -> None:
        display = self.display
        if widget.name == _CUT:
            place = display.ready_cut().to_mm(row, column)
        elif widget.name in PLANES or widget is self.single:
            plane = self._plane_of(widget)
            place = display.image.to_mm(display.view(plane).to_index(row, column, display.slice_number(plane)))
        else:
            return
        self.hovered.emit(display.probe(place))

    def _stepped(self, widget: PictureWidget, slices: int, *, is_fast: bool) -> None:
        count = slices * (10 if is_fast else 1)
        if widget.name == _CUT:
            self.display.move_cut(count * min(self.display.image.spacing))
        else:
            self.display.step(count, self._plane_of(widget))
        self._changed()

    def _contrasted(self, wider: float, brighter: float) -> None:
        self.display.change_contrast(wider=max(wider, 0.1), brighter=brighter)
        self._changed()

    def _panned(self, right: float, down: float) -> None:
        self.display.shift(right, down)
        self._changed()

    def _zoomed(self, factor: float) -> None:
        self.display.change_zoom(factor)
        self._changed()

    def _turned(self, widget: PictureWidget, degrees: float) -> None:
        """Turn the cut about the axis that the plane looks along."""
        display = self.display
        if degrees and widget.name in PLANES:
            view, image = display.view(widget.name), display.image
            origin = image.to_mm(view.to_index(0, 0, 0))
            across = image.to_mm(view.to_index(0, 1, 0)) - origin
            down = image.to_mm(view.to_index(1, 0, 0)) - origin
            display.turn_cut_about(across, down, degrees)
        self._changed()

    def _changed(self) -> None:
        self.refresh()
        self.changed.emit()

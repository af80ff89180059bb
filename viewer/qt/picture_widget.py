"""One picture on screen: pixels in true aspect, letters, crosshair, marks; and what the mouse does on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from viewer.display import Picture
from viewer.qt.binding import QtCore, QtGui, QtWidgets, place_of

_BACK = QtGui.QColor(0, 0, 0)
_FRAME = QtGui.QColor(70, 70, 70)
_ACTIVE = QtGui.QColor(0, 158, 115)
_LETTER = QtGui.QColor(255, 255, 255)
_CAPTION = QtGui.QColor(200, 200, 200)
_CROSS = QtGui.QColor(86, 180, 233, 200)
_MARK = QtGui.QColor(230, 159, 0)
_WARNING = QtGui.QColor(240, 228, 66)
# Okabe and Ito's colours, which people with any colour vision can tell apart.

_HANDLE = 9.0
_NEAR = 14.0
_PIXELS_A_CONTRAST = 300.0


class PictureWidget(QtWidgets.QWidget):  # type: ignore[misc]
    """A plane that is painted by the raster engine alone, so that it is as quick over a remote display.

    Signals
    -------
    looked(row, column)
        The left button was pressed or dragged at this pixel, not rounded.
    hovered(row, column)
        The pointer is there.
    stepped(slices, fast)
        The wheel turned.
    contrasted(wider, brighter)
        Dragged with the right button: shares of the window.
    panned(right, down)
        Dragged with the middle button or with Shift: shares of the widget.
    zoomed(factor)
        The wheel turned with Ctrl.
    turned(degrees)
        A handle of the cut's line was dragged.
    chosen()
        Pressed, so that the arrow keys are for it from now on.
    """

    looked = QtCore.Signal(float, float)
    hovered = QtCore.Signal(float, float)
    stepped = QtCore.Signal(int, bool)
    contrasted = QtCore.Signal(float, float)
    panned = QtCore.Signal(float, float)
    zoomed = QtCore.Signal(float)
    turned = QtCore.Signal(float)
    chosen = QtCore.Signal()

    def __init__(self, parent: Any = None, *, name: str = "") -> None:
        super().__init__(parent)
        self.name = name
        self.picture: Picture | None = None
        self.is_active = False
        self.is_smooth = True
        self.has_cross = True
        self.zoom = 1.0
        self.pan = (0.0, 0.0)
        self.line: tuple[float, float] | None = None
        self._image: Any = None
        self._drag = ""
        self._last = (0.0, 0.0)
        self._wheel = 0
        self.setMouseTracking(True)
        self.setMinimumSize(60, 60)
        self.setAttribute(QtCore.Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setAccessibleName(name)

    def sizeHint(self) -> Any:
        """Say how large it would like to be."""
        return QtCore.QSize(400, 400)

    def show_picture(self, picture: Picture | None) -> None:
        """Take a picture and paint it soon."""
        self.picture = picture
        if picture is None:
            self._image = None
        else:
            pixels = np.ascontiguousarray(picture.pixels, dtype=np.uint32)
            rows, columns = pixels.shape
            # The image reads the array's memory, so the array has to live as long: it is kept beside it.
            self._pixels = pixels
            self._image = QtGui.QImage(pixels.data, columns, rows, 4 * columns, QtGui.QImage.Format.Format_RGB32)
        self.update()

    # -- places --------------------------------------------------------------------------------------------------------

    def target(self) -> tuple[float, float, float, float]:
        """Give where the picture lies in the widget: left, top, width, height, by the true size of its pixels."""
        picture = self.picture
        if picture is None:
            return 0.0, 0.0, 1.0, 1.0
        rows, columns = picture.pixels.shape
        high, wide = rows * picture.spacing[0], columns * picture.spacing[1]
        scale = min(self.width() / max(wide, 1e-9), self.height() / max(high, 1e-9)) * self.zoom
        width, height = wide * scale, high * scale
        left = (self.width() - width) / 2 - self.pan[0] * width
        top = (self.height() - height) / 2 - self.pan[1] * height
        return left, top, width, height

    def pixel_at(self, x: float, y: float) -> tuple[float, float]:
        """Give (row, column) of a place in the widget; the middle of the first pixel is (0, 0)."""
        left, top, width, height = self.target()
        rows, columns = self.picture.pixels.shape if self.picture is not None else (1, 1)
        return (y - top) / height * rows - 0.5, (x - left) / width * columns - 0.5

    def place_at(self, row: float, column: float) -> tuple[float, float]:
        """Give (x, y) in the widget of a pixel's middle."""
        left, top, width, height = self.target()
        rows, columns = self.picture.pixels.shape if self.picture is not None else (1, 1)
        return left + (column + 0.5) / columns * width, top + (row + 0.5) / rows * height

    # -- painting ------------------------------------------------------------------------------------------------------

    def paintEvent(self, event: Any) -> None:
        """Paint the picture and what stands on it."""
        painter = QtGui.QPainter(self)
        painter.fillRect(event.rect(), _BACK)
        if self._image is not None and self.picture is not None:
            left, top, width, height = self.target()
            painter.setRenderHint(QtGui.QPainter.RenderHint.SmoothPixmapTransform, self.is_smooth)
            painter.drawImage(QtCore.QRectF(left, top, width, height), self._image)
            if self.has_cross:
                self._paint_cross(painter, self.picture)
            if self.line is not None:
                self._paint_line(painter)
            self._paint_marks(painter, self.picture)
            self._paint_words(painter, self.picture)
        painter.setPen(QtGui.QPen(_ACTIVE if self.is_active else _FRAME, 2 if self.is_active else 1))
        painter.drawRect(0, 0, self.width() - 1, self.height() - 1)
        painter.end()

    def _paint_cross(self, painter: Any, picture: Picture) -> None:
        row, column = picture.cross
        if row < -0.5 or column < -0.5:
            return
        x, y = (round(one) for one in self.place_at(row, column))
        painter.setPen(QtGui.QPen(_CROSS, 1))
        gap = 8
        painter.drawLine(0, y, x - gap, y)
        painter.drawLine(x + gap, y, self.width(), y)
        painter.drawLine(x, 0, x, y - gap)
        painter.drawLine(x, y + gap, x, self.height())

    def _handles(self) -> list[tuple[float, float]]:
        if self.line is None or self.picture is None:
            return []
        x, y = self.place_at(*self.picture.cross)
        length = 0.38 * min(self.width(), self.height())
        across, down = self.line
        return [(x + sign * length * across, y + sign * length * down) for sign in (1, -1)]

    def _paint_line(self, painter: Any) -> None:
        painter.setRenderHint(QtGui.QPainter.RenderHint.Antialiasing, True)  # noqa: FBT003 - Qt's own signature
        painter.setPen(QtGui.QPen(_MARK, 1.5))
        one, other = self._handles()
        painter.drawLine(QtCore.QPointF(*one), QtCore.QPointF(*other))
        for handle in (one, other):
            painter.drawEllipse(QtCore.QPointF(*handle), _HANDLE / 2, _HANDLE / 2)
        painter.setRenderHint(QtGui.QPainter.RenderHint.Antialiasing, False)  # noqa: FBT003

    def _paint_marks(self, painter: Any, picture: Picture) -> None:
        painter.setPen(QtGui.QPen(_MARK, 2))
        for row, column, text in picture.marks:
            x, y = self.place_at(row, column)
            painter.drawEllipse(QtCore.QPointF(x, y), 7.0, 7.0)
            painter.drawText(QtCore.QPointF(x + 10, y + 4), text)

    def _paint_words(self, painter: Any, picture: Picture) -> None:
        middle, font = QtCore.Qt.AlignmentFlag, painter.font()
        within = self.rect().adjusted(6, 4, -6, -4)
        _write(painter, within, middle.AlignLeft | middle.AlignTop, picture.caption, _CAPTION)
        if picture.note:
            below = within.adjusted(0, painter.fontMetrics().lineSpacing(), 0, 0)
            _write(painter, below, middle.AlignLeft | middle.AlignTop, picture.note, _WARNING)
        font.setBold(True)
        painter.setFont(font)
        for letters, place in (
            (picture.left, middle.AlignLeft | middle.AlignVCenter),
            (picture.right, middle.AlignRight | middle.AlignVCenter),
            (picture.top, middle.AlignHCenter | middle.AlignTop),
            (picture.bottom, middle.AlignHCenter | middle.AlignBottom),
        ):
            _write(painter, within, place, letters)

    # -- the mouse -----------------------------------------------------------------------------------------------------

    def mousePressEvent(self, event: Any) -> None:
        """Begin what the button does."""
        if self.picture is None:
            return
        x, y = self._last = place_of(event)
        button, buttons = event.button(), QtCore.Qt.MouseButton
        shifted = bool(event.modifiers() & QtCore.Qt.KeyboardModifier.ShiftModifier)
        self.chosen.emit()
        if button == buttons.RightButton:
            self._drag = "contrast"
        elif button == buttons.MiddleButton or (button == buttons.LeftButton and shifted):
            self._drag = "pan"
        elif any((x - a) ** 2 + (y - b) ** 2 <= _NEAR**2 for a, b in self._handles()):
            self._drag = "turn"
        else:
            self._drag = "look"
            self.looked.emit(*self.pixel_at(x, y))

    def mouseMoveEvent(self, event: Any) -> None:
        """Go on with what the button does."""
        if self.picture is None:
            return
        x, y = place_of(event)
        right, down = x - self._last[0], y - self._last[1]
        if self._drag == "look":
            self.looked.emit(*self.pixel_at(x, y))
        elif self._drag == "contrast":
            self.contrasted.emit(1.0 + right / _PIXELS_A_CONTRAST, -down / _PIXELS_A_CONTRAST)
        elif self._drag == "pan":
            _, _, width, height = self.target()
            self.panned.emit(-right / width * self.zoom, -down / height * self.zoom)
        elif self._drag == "turn":
            self.turned.emit(self._angle(x, y) - self._angle(*self._last))
        else:
            self.hovered.emit(*self.pixel_at(x, y))
        self._last = (x, y)

    def mouseReleaseEvent(self, event: Any) -> None:  # noqa: ARG002 - Qt's own signature
        """End what the button did."""
        self._drag = ""

    def wheelEvent(self, event: Any) -> None:
        """Step slices, or zoom with Ctrl; small turns of a touch pad add up."""
        if self.picture is None:
            return
        keys = QtCore.Qt.KeyboardModifier
        self._wheel += event.angleDelta().y() or event.angleDelta().x()
        notches = int(self._wheel / 120)
        if not notches:
            return
        self._wheel -= 120 * notches
        if event.modifiers() & keys.ControlModifier:
            self.zoomed.emit(1.15**notches)
        else:
            self.chosen.emit()
            self.stepped.emit(notches, bool(event.modifiers() & keys.ShiftModifier))

    def _angle(self, x: float, y: float) -> float:
        if self.picture is None:
            return 0.0
        centre_x, centre_y = self.place_at(*self.picture.cross)
        return float(np.degrees(np.arctan2(y - centre_y, x - centre_x)))


def _write(painter: Any, within: Any, place: Any, text: str, colour: Any = _LETTER) -> None:
    """Write with a shadow, so that it can be read on white and on black."""
    if text:
        painter.setPen(_BACK)
        painter.drawText(within.translated(1, 1), int(place), text)
        painter.setPen(colour)
        painter.drawText(within, int(place), text)

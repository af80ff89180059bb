"""How often each value occurs, with two lines to drag: what is black and what is white."""

from __future__ import annotations

from typing import Any

import numpy as np

from viewer.qt.binding import QtCore, QtWidgets, pyqtgraph
from viewer.windowing import Statistics, Window


class HistogramWidget(QtWidgets.QWidget):  # type: ignore[misc]
    """The histogram of the image with its window.

    Signals
    -------
    moved(low, high)
        The window was dragged; values.
    """

    moved = QtCore.Signal(float, float)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._plot = pyqtgraph.PlotWidget(self, background=None)
        self._plot.setMenuEnabled(False)
        self._plot.hideButtons()
        self._plot.setMouseEnabled(x=True, y=False)
        self._plot.hideAxis("left")
        self._plot.setFocusPolicy(QtCore.Qt.FocusPolicy.NoFocus)
        self._curve = self._plot.plot([0, 1], [0], stepMode="center", fillLevel=0, brush=(86, 180, 233, 90), pen=None)
        self._region = pyqtgraph.LinearRegionItem(brush=(255, 255, 255, 25), hoverBrush=(255, 255, 255, 40))
        self._region.setZValue(10)
        self._plot.addItem(self._region)
        self._region.sigRegionChanged.connect(self._dragged)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._plot)
        self.setMinimumHeight(110)
        self.setAccessibleName("histogram")

    def show_statistics(self, statistics: Statistics) -> None:
        """Draw the histogram of another image."""
        # Background is most of a head's image: on a scale of logarithms the rest can be seen beside it.
        self._curve.setData(np.asarray(statistics.edges, float), np.log1p(np.asarray(statistics.counts, float)))
        low, high = statistics.robust.low, statistics.robust.high
        margin = 0.25 * (high - low)
        self._plot.setXRange(
            max(statistics.minimum, low - margin), min(statistics.maximum, high + 2 * margin), padding=0.02
        )

    def show_window(self, window: Window) -> None:
        """Put the lines where the window is, without telling anybody."""
        self._region.blockSignals(True)  # noqa: FBT003 - Qt's own signature
        self._region.setRegion((window.low, window.high))
        self._region.blockSignals(False)  # noqa: FBT003

    def _dragged(self) -> None:
        low, high = self._region.getRegion()
        self.moved.emit(float(low), float(high))

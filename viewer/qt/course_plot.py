"""What is under the crosshair over time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewer.qt.binding import QtCore, QtWidgets, pyqtgraph


class CoursePlot(QtWidgets.QWidget):  # type: ignore[misc]
    """The values of one voxel over time, with a line at the volume that is shown.

    Signals
    -------
    chosen(volume)
        The line was dragged, or the plot clicked.
    """

    chosen = QtCore.Signal(int)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._plot = pyqtgraph.PlotWidget(self, background=None)
        self._plot.setMenuEnabled(False)
        self._plot.hideButtons()
        self._plot.setMouseEnabled(x=False, y=False)
        self._plot.setFocusPolicy(QtCore.Qt.FocusPolicy.NoFocus)
        self._plot.setLabel("bottom", "volume")
        self._curve = self._plot.plot([], [], pen=pyqtgraph.mkPen(86, 180, 233))
        self._line = pyqtgraph.InfiniteLine(angle=90, movable=True, pen=pyqtgraph.mkPen(230, 159, 0))
        self._plot.addItem(self._line)
        self._line.sigDragged.connect(lambda: self.chosen.emit(round(self._line.value())))
        self._plot.scene().sigMouseClicked.connect(self._clicked)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._plot)
        self.setMinimumHeight(100)
        self.setAccessibleName("course over time")

    def show_course(self, values: NDArray[np.float32], volume: int) -> None:
        """Draw the values, of shape (t,), and where the volume is; volumes count from 0."""
        self._curve.setData(np.arange(len(values)), values)
        self._line.setBounds((0, len(values) - 1))
        self._line.setValue(volume)

    def _clicked(self, event: Any) -> None:
        place = self._plot.getPlotItem().vb.mapSceneToView(event.scenePos())
        self.chosen.emit(round(place.x()))

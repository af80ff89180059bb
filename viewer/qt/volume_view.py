"""The viewer as a part of another program's window."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewer.display import Display, Habits
from viewer.looking import images_of, shown_of
from viewer.qt.binding import QtCore
from viewer.qt.main_window import MainWindow


class VolumeView(MainWindow):
    """A widget with planes, a cut at any angle, contrast and all keys that look; make the QApplication first.

    Parameters
    ----------
    parent
        The widget it becomes a part of, or None.
    habits
        Convention, layout and contrasts to begin with.
    """

    def __init__(self, parent: Any = None, *, habits: Habits | None = None) -> None:
        super().__init__(Display(habits))
        if parent is not None:
            self.setParent(parent)
        self.setWindowFlags(QtCore.Qt.WindowType.Widget)

    def show_volume(
        self, source: Any, *, affine: NDArray[np.float64] | None = None, overlay: Any = None, title: str = ""
    ) -> None:
        """Put an image in; what was there goes.

        Parameters
        ----------
        source, affine, overlay
            As for `viewer.view`.
        title
            What stands beside it.

        Raises
        ------
        OpeningError, MissingPackageError, UsageError
            If it cannot be shown; what was there stays.
        """
        shown = shown_of(images_of(source, affine=affine, label=title))
        over = images_of(overlay, affine=affine)[0] if overlay is not None else None
        self.show_images(shown, title=title, overlay=over)

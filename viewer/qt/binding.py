"""Qt, by whichever binding is installed: PyQt5 unless another one is asked for or loaded already."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from tasks.errors import MissingPackageError

BINDINGS = ("PyQt5", "PyQt6", "PySide6")
"""What can be used, in the order of preference."""


def choose_binding(wanted: str = "") -> str:
    """Load a binding, so that pyqtgraph takes the same one, and return its name.

    Parameters
    ----------
    wanted
        One of `BINDINGS`; empty for the first that is there.

    Raises
    ------
    MissingPackageError
        If none is installed, or a system library that it needs is not there; `doctor` says which.
    """
    loaded = [name for name in BINDINGS if f"{name}.QtCore" in sys.modules]
    if loaded and not wanted:
        return loaded[0]
    for name in (wanted,) if wanted else BINDINGS:
        try:
            importlib.import_module(f"{name}.QtWidgets")
        except ImportError:
            continue
        return name
    raise MissingPackageError(purpose="The viewer's window", package=wanted or BINDINGS[0], extra="viewer")


choose_binding()

import pyqtgraph  # noqa: E402 - it takes the binding that is loaded by now
from pyqtgraph.Qt import QtCore, QtGui, QtWidgets  # noqa: E402

__all__ = ["BINDINGS", "QtCore", "QtGui", "QtWidgets", "choose_binding", "place_of", "pyqtgraph"]


def place_of(event: Any) -> tuple[float, float]:
    """Give (x, y) of a mouse event in its widget, whichever way the binding calls it."""
    place = event.position() if hasattr(event, "position") else event.localPos()
    return float(place.x()), float(place.y())

"""Say what of the viewer works on this machine, and what is missing for the rest."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from dataclasses import dataclass

_WINDOW = "from PyQt5 import QtWidgets; app = QtWidgets.QApplication(['doctor']); print(app.platformName())"
_PACKAGES = (
    ("numpy", "every image", "numpy"),
    ("pydicom", "DICOM", "pydicom"),
    ("nibabel", "NIfTI, MGH, MINC, Analyze, PAR/REC", "viewer"),
    ("isal", "packed NIfTI in half the time", "viewer"),
    ("PIL", "pictures without a screen", "viewer"),
    ("pyqtgraph", "the window", "viewer"),
    ("PyQt5", "the window", "viewer"),
    ("openjpeg", "JPEG 2000", "codecs"),
    ("jpeg_ls", "JPEG-LS", "codecs"),
    ("rle", "RLE, quickly", "codecs"),
)
_LIBRARY = re.compile(r"(lib[\w.+-]+\.so[\w.]*)")
_DEBIAN = {
    "libGL.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libfontconfig.so.1": "libfontconfig1",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-xinerama.so.0": "libxcb-xinerama0",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libdbus-1.so.3": "libdbus-1-3",
}
_SECONDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One thing that was looked at.

    Attributes
    ----------
    what, good_for
        A package or the window, and what needs it.
    problem
        What is missing and how it is installed; empty if it works.
    """

    what: str
    good_for: str
    problem: str = ""


def diagnose() -> list[Checked]:
    """Look at every package and open a window that nobody sees."""
    found = [_package(*one) for one in _PACKAGES]
    if not any(one.problem for one in found if one.good_for == "the window"):
        found.append(_window())
    return found


def _package(name: str, good_for: str, extra: str) -> Checked:
    try:
        importlib.import_module(f"{name}.QtWidgets" if name == "PyQt5" else name)
    except ModuleNotFoundError:
        return Checked(what=name, good_for=good_for, problem=f"not installed: pip install 'scanward[{extra}]'")
    except ImportError as fault:
        return Checked(what=name, good_for=good_for, problem=missing_library(str(fault)))
    except Exception as fault:  # noqa: BLE001 - pyqtgraph fails in any way whatever without a binding
        return Checked(what=name, good_for=good_for, problem=f"cannot be loaded ({type(fault).__name__})")
    return Checked(what=name, good_for=good_for)


def missing_library(text: str) -> str:
    """Say which library of the system a loader's message is about, and which Debian package holds it."""
    named = _LIBRARY.search(text)
    if named is None:
        return "cannot be loaded"
    package = _DEBIAN.get(named[1])
    return f"{named[1]} is missing" + (f": apt install {package}" if package else "")


def _window() -> Checked:
    """Start Qt in a process of its own: without its platform's libraries it ends the process."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _WINDOW], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Checked(what="window", good_for="reading", problem="the display does not answer")
    if done.returncode == 0:
        return Checked(what=f"window ({done.stdout.strip()})", good_for="reading")
    told = done.stderr
    if _LIBRARY.search(told):
        return Checked(what="window", good_for="reading", problem=missing_library(told))
    if "could not connect to display" in told or "no Qt platform plugin" in told:
        return Checked(
            what="window",
            good_for="reading",
            problem="no display: set DISPLAY, connect with `ssh -X`, or QT_QPA_PLATFORM=offscreen to see nothing; on "
            "Debian the X libraries are libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-render-util0 "
            "libxcb-xinerama0 libxkbcommon-x11-0",
        )
    return Checked(what="window", good_for="reading", problem="Qt cannot start")

"""Start Qt, show a window, and end in order."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from viewer.display import Display, Habits, Shown
from viewer.qt.binding import QtCore, QtGui, QtWidgets, pyqtgraph
from viewer.qt.main_window import MainWindow

_DARK = {
    "Window": (38, 38, 38),
    "WindowText": (225, 225, 225),
    "Base": (25, 25, 25),
    "AlternateBase": (45, 45, 45),
    "Text": (225, 225, 225),
    "Button": (55, 55, 55),
    "ButtonText": (225, 225, 225),
    "ToolTipBase": (25, 25, 25),
    "ToolTipText": (225, 225, 225),
    "Highlight": (0, 114, 178),
    "HighlightedText": (255, 255, 255),
    "PlaceholderText": (140, 140, 140),
}
_WAKE_MS = 200
_KEPT: list[Any] = []  # Qt does not own its application: without a reference it goes, and every window with it


def application(*, is_dark: bool = True) -> Any:
    """Give the process's one Qt application, made if there is none yet.

    Parameters
    ----------
    is_dark
        True for dark windows, as rooms in which images are read are dark.
    """
    running = QtWidgets.QApplication.instance()
    if running is not None:
        return running
    # Qt 6 does so by itself: sizes in points of the desk, pixels as fine as the screen has them.
    for name in ("AA_EnableHighDpiScaling", "AA_UseHighDpiPixmaps"):
        flag = getattr(QtCore.Qt, name, None)
        if flag is not None:
            QtCore.QCoreApplication.setAttribute(flag)
    made = QtWidgets.QApplication(["scanward-view"])
    _KEPT.append(made)
    made.setApplicationDisplayName("scanward")
    pyqtgraph.setConfigOptions(useOpenGL=False, antialias=False)
    if is_dark:
        made.setStyle("Fusion")
        palette = QtGui.QPalette()
        for role, colour in _DARK.items():
            palette.setColor(getattr(QtGui.QPalette.ColorRole, role), QtGui.QColor(*colour))
        made.setPalette(palette)
    return made


def keep(window: Any) -> None:
    """Let a window live although nobody holds it, until it is closed."""
    _KEPT.append(window)
    window.setAttribute(QtCore.Qt.WidgetAttribute.WA_DeleteOnClose)
    window.destroyed.connect(lambda *_: _KEPT.remove(window) if window in _KEPT else None)


def run(window: Any) -> None:
    """Show a window until it is closed.

    Raises
    ------
    BaseException
        What the window's own code raised: Qt would end the process over it without a word.
    """
    running = application()
    raised: list[BaseException] = []
    before = sys.excepthook

    def stop(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
        raised.append(fault)
        if len(raised) > 1:
            traceback.print_exception(kind, fault, trace)
        running.quit()

    # Python looks for Ctrl+C only while it runs: a timer that does nothing lets it.
    wake = QtCore.QTimer()
    wake.timeout.connect(lambda: None)
    wake.start(_WAKE_MS)
    interrupted = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *_: running.quit())
    sys.excepthook = stop
    try:
        window.show()
        window.activateWindow()
        window.setFocus()
        running.exec_() if hasattr(running, "exec_") else running.exec()
    finally:
        sys.excepthook = before
        signal.signal(signal.SIGINT, interrupted)
        wake.stop()
    if raised:
        raise raised[0]


def show_images(
    shown: Sequence[Shown],
    *,
    title: str = "",
    overlay: Any = None,
    habits: Habits | None = None,
    prepare: Callable[[MainWindow], None] | None = None,
) -> MainWindow:
    """Open a window on images and return it; `run` waits until it is closed.

    Parameters
    ----------
    shown
        At least one; several are the images of one case.
    title
        Of the window.
    overlay
        A mask or segmentation as an `Image`, or None.
    habits
        What is remembered.
    prepare
        Called with the window before it is shown.
    """
    application()
    window = MainWindow(Display(habits), title=title or "scanward")
    if prepare is not None:
        prepare(window)
    window.show_images(shown, title=title, overlay=overlay)
    window.show()
    return window

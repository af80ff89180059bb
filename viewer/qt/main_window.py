"""The reading room: pictures, contrast, the case's panel, and every key in one place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from viewer.display import Display, Shown, act
from viewer.keys import Command, key_table
from viewer.qt.binding import QtCore, QtGui, QtWidgets
from viewer.qt.course_plot import CoursePlot
from viewer.qt.help_overlay import HelpOverlay
from viewer.qt.histogram import HistogramWidget
from viewer.qt.planes import PlanesWidget

CINE_MS: Final = 80
"""Milliseconds between the pictures of a cine."""

FLICKER_MS: Final = 400
"""Milliseconds between an overlay that is there and one that is not."""

_TEXT_FIELDS = (QtWidgets.QLineEdit, QtWidgets.QPlainTextEdit, QtWidgets.QTextEdit, QtWidgets.QAbstractSpinBox)


class MainWindow(QtWidgets.QMainWindow):  # type: ignore[misc]
    """The window that looks at images; reading is added by a panel.

    Parameters
    ----------
    display
        What is shown.
    title
        Of the window; never anything that identifies.
    commands
        The keys that are in force; those without a study's verdicts if None.
    screenshots
        The folder for pictures of the window, or None to take none.
    """

    def __init__(
        self,
        display: Display,
        *,
        title: str = "scanward",
        commands: dict[str, Command] | None = None,
        screenshots: Path | None = None,
    ) -> None:
        super().__init__()
        self.display = display
        self.setWindowTitle(title)
        self.commands = commands if commands is not None else key_table()
        self.screenshots = screenshots
        self._doers: dict[str, Callable[[], None]] = {
            "help": self.toggle_help,
            "quit": self.close,
            "cine": self.toggle_cine,
            "overlay-flicker": self.toggle_flicker,
            "screenshot": self.take_screenshot,
        }
        self._fallbacks: list[Callable[[str], bool]] = []
        self._cine = QtCore.QTimer(self)
        self._cine.timeout.connect(self._step_cine)
        self._flicker = QtCore.QTimer(self)
        self._flicker.timeout.connect(lambda: self.run("overlay"))
        self._build()
        self.resize(1500, 900)

    def _build(self) -> None:
        self.planes = PlanesWidget(self.display, self)
        self.histogram = HistogramWidget(self)
        self.course = CoursePlot(self)
        self.side = QtWidgets.QWidget(self)
        self.side.setFixedWidth(330)
        self.side_layout = QtWidgets.QVBoxLayout(self.side)
        self.side_layout.setContentsMargins(6, 6, 6, 6)
        self.case_label = QtWidgets.QLabel("", self.side)
        font = self.case_label.font()
        font.setBold(True)
        font.setPointSizeF(font.pointSizeF() * 1.3)
        self.case_label.setFont(font)
        self.case_label.setWordWrap(True)
        self.findings_label = QtWidgets.QLabel("", self.side)
        self.findings_label.setWordWrap(True)
        self.findings_label.setTextFormat(QtCore.Qt.TextFormat.PlainText)
        self.side_layout.addWidget(self.case_label)
        self.side_layout.addWidget(self.findings_label)
        self.side_layout.addWidget(self.histogram)
        self.side_layout.addWidget(self.course)
        self.side_layout.addStretch(1)
        self.probe_label = QtWidgets.QLabel("", self)
        self.view_label = QtWidgets.QLabel("", self)
        self.statusBar().addWidget(self.probe_label, 1)
        self.statusBar().addPermanentWidget(self.view_label)
        centre = QtWidgets.QWidget(self)
        across = QtWidgets.QHBoxLayout(centre)
        across.setContentsMargins(0, 0, 0, 0)
        across.setSpacing(0)
        across.addWidget(self.planes, 1)
        across.addWidget(self.side)
        self.setCentralWidget(centre)
        self.help = HelpOverlay(centre)
        self.help.hide()
        self.planes.changed.connect(self.refresh_words)
        self.planes.hovered.connect(self.probe_label.setText)
        self.histogram.moved.connect(self._window_moved)
        self.course.chosen.connect(self._volume_chosen)
        self.setFocusPolicy(QtCore.Qt.FocusPolicy.StrongFocus)
        self.course.hide()

    # -- what is shown -------------------------------------------------------------------------------------------------

    def show_images(self, shown: Sequence[Shown], *, title: str = "", group: str = "", overlay: Any = None) -> None:
        """Put images on screen.

        Parameters
        ----------
        shown
            At least one.
        title
            What stands above the histogram.
        group
            The sequence, by which contrast is remembered.
        overlay
            A mask or segmentation as an `Image`, or None.
        """
        self._cine.stop()
        self.display.show(shown, group=group, overlay=overlay)
        self.case_label.setText(title)
        findings = [one.text for image in shown for one in image.image.findings if one.is_fault]
        if shown[0].image.is_sheared:
            findings.append("The slices are tilted against their stack: planes follow the voxels, cuts are upright.")
        self.findings_label.setText("\n".join(findings[:5]))
        self.findings_label.setVisible(bool(findings))
        self.histogram.show_statistics(self.display.current.statistics)
        self.refresh()

    def show_nothing(self, text: str, *, title: str = "") -> None:
        """Say why there is nothing to see."""
        self._cine.stop()
        self.display.shown = ()
        self.case_label.setText(title)
        self.findings_label.setText(text)
        self.findings_label.show()
        self.course.hide()
        self.planes.refresh()

    def refresh(self) -> None:
        """Draw everything again."""
        self.planes.refresh()
        self.refresh_words()

    def refresh_words(self) -> None:
        """Write again what stands around the pictures."""
        display = self.display
        if display.is_empty:
            return
        self.histogram.show_window(display.window)
        self.probe_label.setText(display.probe())
        course = display.course()
        self.course.setVisible(course is not None)
        if course is not None:
            self.course.show_course(course, display.volume)
        self.view_label.setText(self._describe_view())

    def _describe_view(self) -> str:
        display = self.display
        words = [display.habits.convention]
        if display.preset:
            words.append(display.preset)
        words.append(f"{display.window.low:.4g} to {display.window.high:.4g}")
        if display.shown[display.active].image.volumes > 1:
            volumes = display.shown[display.active].image.volumes
            words.append(display.derived if display.derived != "volume" else f"volume {display.volume + 1}/{volumes}")
        if len(display.shown) > 1:
            words.append(f"image {display.active + 1}/{len(display.shown)}")
        if display.zoom > 1:
            words.append(f"zoom {display.zoom:.1f}")
        if not display.image.is_placed:
            words.append("sides unknown")
        return "   ".join(words)

    def _window_moved(self, low: float, high: float) -> None:
        if not self.display.is_empty:
            self.display.set_window(low, high)
            self.refresh()

    def _volume_chosen(self, volume: int) -> None:
        self.display.step_volume(volume - self.display.volume)
        self.refresh()

    # -- keys ----------------------------------------------------------------------------------------------------------

    def add_commands(self, doers: dict[str, Callable[[], None]], fallback: Callable[[str], bool] | None = None) -> None:
        """Let a panel do further commands: those it names, and any that `fallback` says it did."""
        self._doers.update(doers)
        if fallback is not None:
            self._fallbacks.append(fallback)

    def run(self, name: str) -> bool:
        """Do a command of the key table.

        Returns
        -------
        bool
            False if nobody knows it.
        """
        if name in self._doers:
            self._doers[name]()
            return True
        if any(fallback(name) for fallback in self._fallbacks):
            return True
        before = (self.display.active, self.display.derived)
        if not act(self.display, name):
            return False
        if before != (self.display.active, self.display.derived):
            self.histogram.show_statistics(self.display.current.statistics)
        self.refresh()
        return True

    def event(self, event: Any) -> bool:
        """See the keys that Qt would take for itself, such as Tab."""
        if event.type() == QtCore.QEvent.Type.KeyPress and self.press(event):
            return True
        return bool(super().event(event))

    def press(self, event: Any) -> bool:
        """Do what a key asks for; keys are dead, but for Esc, while somebody writes."""
        focus = QtWidgets.QApplication.focusWidget()
        if event.key() == QtCore.Qt.Key.Key_Escape:
            if self.help.isVisible():
                self.help.hide()
            self.setFocus()
            return True
        if isinstance(focus, _TEXT_FIELDS) and focus.isEnabled() and self.isAncestorOf(focus):
            return False
        command = self.commands.get(key_name(event))
        if command is None:
            return False
        if event.isAutoRepeat() and not command.repeats:
            return True
        return self.run(command.name)

    def keyPressEvent(self, event: Any) -> None:
        """Leave to Qt what no command is bound to."""
        super().keyPressEvent(event)

    # -- commands of the window itself ---------------------------------------------------------------------------------

    def toggle_help(self) -> None:
        """Show the table of keys, or take it away."""
        if self.help.isVisible():
            self.help.hide()
            return
        self.help.show_commands(dict.fromkeys(command.name for command in self.commands.values()), self.commands)

    def toggle_cine(self) -> None:
        """Run through the volumes, or through the slices where there is but one volume."""
        if self._cine.isActive():
            self._cine.stop()
        elif not self.display.is_empty:
            self._cine.start(CINE_MS)

    def _step_cine(self) -> None:
        display = self.display
        volumes = display.shown[display.active].image.volumes if not display.is_empty else 0
        if volumes > 1:
            display.volume = (display.volume + 1) % volumes
        elif volumes:
            count = display.view(display.plane).count
            number = display.slice_number(display.plane)
            display.step(1 if number < count - 1 else -number)
        self.refresh()

    def toggle_flicker(self) -> None:
        """Let the overlay come and go."""
        if self._flicker.isActive():
            self._flicker.stop()
            self.display.has_overlay = True
            self.refresh()
        elif self.display.overlay is not None:
            self._flicker.start(FLICKER_MS)

    def take_screenshot(self) -> None:
        """Save a picture of the window under a name that says nothing of the case."""
        if self.screenshots is None:
            self.statusBar().showMessage("Pictures of the window need a folder: start with --screenshots DIR.", 5000)
            return
        number = 1
        while (path := self.screenshots / f"picture-{number:04d}.png").exists():
            number += 1
        is_saved = self.grab().save(str(path))
        text = f"Saved {path.name}." if is_saved else "The picture cannot be written."
        self.statusBar().showMessage(text, 5000)

    def closeEvent(self, event: Any) -> None:
        """Stop what runs by itself."""
        self._cine.stop()
        self._flicker.stop()
        super().closeEvent(event)


_NAMES: Final = {
    "PgUp": "PgUp",
    "PgDown": "PgDown",
    "Backtab": "Tab",
    "Enter": "Return",
}


def key_name(event: Any) -> str:
    """Name a key press as the key table does: "Shift+Up", "PgUp", "[", "Ctrl+Z"."""
    modifiers, key = event.modifiers(), event.key()
    flags = QtCore.Qt.KeyboardModifier
    plain = QtGui.QKeySequence(key).toString(QtGui.QKeySequence.SequenceFormat.PortableText)
    plain = _NAMES.get(plain, plain)
    text = event.text()
    # What Shift makes of a sign differs from keyboard to keyboard: the sign counts, not how it is typed.
    is_sign = len(text) == 1 and text.isprintable() and not text.isalnum() and text != " "
    words = []
    if modifiers & flags.ControlModifier:
        words.append("Ctrl")
    if modifiers & flags.AltModifier:
        words.append("Alt")
    if modifiers & flags.ShiftModifier and not is_sign:
        words.append("Shift")
    return "+".join([*words, text if is_sign and "Ctrl" not in words else plain])

"""The panel beside the pictures: verdicts, artefacts, note, marks, progress, and whether everything is saved."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

from tasks.review.reading import Grade, ReadingProtocol
from viewer.qt.binding import QtCore, QtWidgets

_SAVED = "background: #00694c; color: white; padding: 3px; font-weight: bold;"
_UNSAVED = "background: #a33b00; color: white; padding: 3px; font-weight: bold;"
_CHOSEN = "QPushButton:checked { background: #0072b2; color: white; font-weight: bold; }"
_COLUMNS = 2


class ReadingPanel(QtWidgets.QWidget):  # type: ignore[misc]
    """What a reader says of a case, and how far the sitting is.

    Signals
    -------
    rated(name), ticked(name)
        A verdict or an artefact was clicked.
    noted(text)
        The note was finished.
    """

    rated = QtCore.Signal(str)
    ticked = QtCore.Signal(str)
    noted = QtCore.Signal(str)

    def __init__(self, protocol: ReadingProtocol, parent: Any = None) -> None:
        super().__init__(parent)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.verdicts = self._buttons(protocol.scale, self.rated.emit)
        for button in self.verdicts.values():
            layout.addWidget(button)
        artefacts = QtWidgets.QGridLayout()
        self.artefacts = self._buttons(protocol.artefacts, self.ticked.emit)
        for number, button in enumerate(self.artefacts.values()):
            artefacts.addWidget(button, number // _COLUMNS, number % _COLUMNS)
        layout.addLayout(artefacts)
        self.note = QtWidgets.QLineEdit(self)
        self.note.setPlaceholderText("note (T)")
        self.note.setMaxLength(2000)
        self.note.setFocusPolicy(QtCore.Qt.FocusPolicy.ClickFocus)
        self.note.returnPressed.connect(lambda: self.noted.emit(self.note.text()))
        layout.addWidget(self.note)
        self.marks = self._label()
        self.quality = self._label()
        self.progress = QtWidgets.QProgressBar(self)
        self.progress.setFormat("%v of %m")
        self.numbers = self._label()
        self.saved = self._label()
        for widget in (self.marks, self.quality, self.progress, self.numbers, self.saved):
            layout.addWidget(widget)

    def _label(self) -> Any:
        label = QtWidgets.QLabel("", self)
        label.setWordWrap(True)
        return label

    def _buttons(self, grades: Sequence[Grade], tell: Callable[[str], None]) -> dict[str, Any]:
        made = {}
        for grade in grades:
            button = QtWidgets.QPushButton(f"{grade.key}   {grade.name}", self)
            button.setToolTip(grade.meaning)
            button.setCheckable(True)
            button.setStyleSheet(_CHOSEN)
            # The keys are the window's: a button that has the focus would take the space bar and the arrows.
            button.setFocusPolicy(QtCore.Qt.FocusPolicy.NoFocus)
            button.clicked.connect(lambda _checked, name=grade.name: tell(name))
            made[grade.name] = button
        return made

    def show_standing(self, verdict: str, artefacts: Sequence[str], note: str, marks: Sequence[str]) -> None:
        """Show what was said of the case so far."""
        for name, button in self.verdicts.items():
            button.setChecked(name == verdict)
        for name, button in self.artefacts.items():
            button.setChecked(name in artefacts)
        if not self.note.hasFocus():
            self.note.setText(note)
        self.marks.setText("<br>".join(html.escape(mark) for mark in marks))
        self.marks.setVisible(bool(marks))

    def show_quality(self, lines: Sequence[str]) -> None:
        """Show metrics and flags, or nothing."""
        self.quality.setText("<br>".join(html.escape(line) for line in lines))
        self.quality.setVisible(bool(lines))

    def show_progress(self, done: int, total: int, words: str) -> None:
        """Show how far the sitting is."""
        self.progress.setMaximum(max(total, 1))
        self.progress.setValue(done)
        self.numbers.setText(words)

    def show_saved(self, text: str, *, is_saved: bool) -> None:
        """Say whether everything is on disk."""
        self.saved.setText(text)
        self.saved.setStyleSheet(_SAVED if is_saved else _UNSAVED)

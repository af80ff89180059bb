"""The list of cases: type to find one, Return goes there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from viewer.qt.binding import QtCore, QtWidgets


class CaseList(QtWidgets.QDialog):  # type: ignore[misc]
    """Every case of the sitting with its state; keyboard alone suffices.

    Parameters
    ----------
    lines
        For each case its name on screen and its state, such as "accept" or "not read".
    current
        The place of the case that is shown.
    """

    def __init__(self, lines: Sequence[tuple[str, str]], current: int, parent: Any = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Cases")
        self.resize(460, 560)
        self.chosen = -1
        self.search = QtWidgets.QLineEdit(self)
        self.search.setPlaceholderText("type a part of a name or of a state")
        self.list = QtWidgets.QListWidget(self)
        self.list.setUniformItemSizes(True)
        for place, (name, state) in enumerate(lines):
            item = QtWidgets.QListWidgetItem(f"{place + 1}   {name}   {state}")
            item.setData(QtCore.Qt.ItemDataRole.UserRole, place)
            self.list.addItem(item)
        self.list.setCurrentRow(current)
        layout = QtWidgets.QVBoxLayout(self)
        layout.addWidget(self.search)
        layout.addWidget(self.list)
        self.search.textChanged.connect(self._narrow)
        self.search.returnPressed.connect(self._take)
        self.list.itemActivated.connect(lambda _item: self._take())
        self.search.installEventFilter(self)
        self.search.setFocus()

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Let the arrow keys move in the list while the search has the focus."""
        keys = QtCore.Qt.Key
        if event.type() == QtCore.QEvent.Type.KeyPress and event.key() in (
            keys.Key_Up,
            keys.Key_Down,
            keys.Key_PageUp,
            keys.Key_PageDown,
        ):
            QtWidgets.QApplication.sendEvent(self.list, event)
            return True
        return bool(super().eventFilter(watched, event))

    def _narrow(self, text: str) -> None:
        words = text.casefold().split()
        first = -1
        for row in range(self.list.count()):
            item = self.list.item(row)
            fits = all(word in item.text().casefold() for word in words)
            item.setHidden(not fits)
            if fits and first < 0:
                first = row
        if first >= 0:
            self.list.setCurrentRow(first)

    def _take(self) -> None:
        item = self.list.currentItem()
        if item is not None and not item.isHidden():
            self.chosen = int(item.data(QtCore.Qt.ItemDataRole.UserRole))
            self.accept()

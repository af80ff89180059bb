"""The table of keys, laid over the window."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

from viewer.keys import Command, grouped
from viewer.qt.binding import QtCore, QtWidgets


class HelpOverlay(QtWidgets.QLabel):  # type: ignore[misc]
    """Every key and what it does, printed from the table that the window itself obeys."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.setTextFormat(QtCore.Qt.TextFormat.RichText)
        self.setAttribute(QtCore.Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setStyleSheet("background: rgba(15, 15, 15, 235); color: #eee; padding: 16px; font-size: 12px;")
        self.setAlignment(QtCore.Qt.AlignmentFlag.AlignTop)

    def show_commands(self, names: Iterable[str], commands: Mapping[str, Command]) -> None:
        """Lay the table over the parent.

        Parameters
        ----------
        names
            Of the commands, in order.
        commands
            The keys in force.
        """
        known = {command.name: command for command in commands.values()}
        groups = list(grouped(known[name] for name in names).items())
        columns: list[list[str]] = [[], [], []]
        heights = [0, 0, 0]
        for group, members in groups:
            shortest = heights.index(min(heights))
            heights[shortest] += len(members) + 2
            rows = "".join(
                f"<tr><td><b>{html.escape('  '.join(member.keys))}</b>&nbsp;&nbsp;</td>"
                f"<td>{html.escape(member.text)}</td></tr>"
                for member in members
            )
            columns[shortest].append(f"<h3>{html.escape(group)}</h3><table cellspacing=1>{rows}</table>")
        cells = "".join(f"<td valign=top style='padding-right:24px'>{''.join(parts)}</td>" for parts in columns)
        self.setText(f"<table><tr>{cells}</tr></table><p>Esc or H takes this away.</p>")
        parent = self.parentWidget()
        if parent is not None:
            self.setGeometry(parent.rect())
        self.show()
        self.raise_()

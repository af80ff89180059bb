"""Lists for people: tab-separated tables of what was set aside, one row a file, readable in any spreadsheet."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tasks.files import written_atomically

_AT_ONCE = 1000


def write_list(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table in UTF-8; a tab, line break or backslash inside a cell is written as its escape.

    Parameters
    ----------
    columns, rows
        The head, and the cells of each row in the same order.
    """
    with written_atomically(path, mode=0o600) as stream:
        lines = map(_line, itertools.chain([columns], rows))
        while batch := list(itertools.islice(lines, _AT_ONCE)):
            stream.write("".join(batch).encode("utf-8", "backslashreplace"))


def read_list(path: Path) -> list[dict[str, str]]:
    """Read what `write_list` wrote: one dictionary a row, cells still escaped."""
    head, *lines = path.read_text("utf-8").splitlines()
    columns = head.split("\t")
    return [dict(zip(columns, line.split("\t"), strict=True)) for line in lines]


def show_path(path: bytes) -> str:
    """Turn a file name into text; bytes that are no UTF-8 show as escapes."""
    if path.isascii():
        return path.decode("ascii")
    return os.fsdecode(path).encode("utf-8", "backslashreplace").decode("utf-8")


def _line(row: Sequence[str]) -> str:
    text = "".join(row)
    # Rows come by the million, and next to none has anything to escape.
    if not text.isprintable() or "\\" in text:
        row = [_cell(cell) for cell in row]
    return "\t".join(row) + "\n"


def _cell(text: str) -> str:
    if text.isprintable() and "\\" not in text:
        return text
    for mark, escape in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"), ("\x85", "\\x85")):
        text = text.replace(mark, escape)
    return "".join(mark if mark.isprintable() or mark == " " else _escape(mark) for mark in text)


def _escape(mark: str) -> str:
    return f"\\u{ord(mark):04x}" if ord(mark) < 0x10000 else f"\\U{ord(mark):08x}"

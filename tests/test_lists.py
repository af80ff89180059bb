"""A list for people has one line a file, whatever the file's name holds, and loses nothing of it."""

from __future__ import annotations

import re
import stat
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.lists import read_list, show_path, write_list
from tests import strategies

_ESCAPE = re.compile(r"\\(\\|t|n|r|x85|u[0-9a-f]{4}|U[0-9a-f]{8})")


def _unescape(cell: str) -> str:
    named = {"\\": "\\", "t": "\t", "n": "\n", "r": "\r"}

    def mark(found: re.Match[str]) -> str:
        word = found[1]
        return named.get(word) or chr(int(word[1:], 16))

    return _ESCAPE.sub(mark, cell)


@given(st.lists(st.tuples(strategies.header_texts(), strategies.header_texts()), max_size=5))
@example([("a\tb", "c\nd"), ("e\u2028f", "\u2029"), ("\\t", "\\\\"), ("\x85", "\x0b\x0c\x1c\x1e"), ("", "")])
@example([("\U000e0001", "\ue0001")])
def test_any_cells_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.getbasetemp() / "list.tsv"
    write_list(path, ("file", "same_as"), rows)
    assert [(_unescape(row["file"]), _unescape(row["same_as"])) for row in read_list(path)] == rows
    # And for every other program a line is a line: nothing in a cell breaks it.
    text = path.read_bytes().decode("utf-8")
    assert len(text.splitlines()) == text.count("\n") == len(rows) + 1
    assert all(line.count("\t") == 1 for line in text.splitlines())


@given(st.lists(strategies.file_names().filter(lambda name: b"\\" not in name), unique=True, max_size=5))
def test_any_file_names_come_back(tmp_path_factory: pytest.TempPathFactory, names: list[bytes]) -> None:
    """Bytes that are no UTF-8 show as the escapes that Python gives them."""
    path = tmp_path_factory.getbasetemp() / "names.tsv"
    write_list(path, ("file",), [(show_path(name),) for name in names])
    shown = [_unescape(row["file"]) for row in read_list(path)]
    assert [re.sub(r"\\udc(..)", lambda m: f"\\x{m[1]}", text) for text in shown] == [_escaped(name) for name in names]


def _escaped(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def test_names_stay_readable(tmp_path: Path) -> None:
    write_list(tmp_path / "list", ("file",), [("Müller 山田 t1.dcm",)])
    assert (tmp_path / "list").read_text("utf-8") == "file\nMüller 山田 t1.dcm\n"


def test_rows_that_come_one_by_one_are_written_as_they_come(tmp_path: Path) -> None:
    """A plan has a row a file: a million of them never stand in memory at once."""

    def rows() -> Iterator[tuple[str, str]]:
        for number in range(30_000):
            yield f"{number:040d}", "x" * 40

    tracemalloc.start()
    try:
        write_list(tmp_path / "list", ("file", "target"), rows())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "list").stat().st_size > 2_000_000
    assert peak < 1_000_000


def test_rows_that_break_off_leave_the_list_before(tmp_path: Path) -> None:
    write_list(tmp_path / "list", ("file",), [("before",)])

    def rows() -> Iterator[tuple[str]]:
        yield ("after",)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_list(tmp_path / "list", ("file",), rows())
    assert read_list(tmp_path / "list") == [{"file": "before"}]
    assert [path.name for path in tmp_path.iterdir()] == ["list"]


def test_list_is_for_its_owner_only(tmp_path: Path) -> None:
    write_list(tmp_path / "list", ("file",), [])
    assert stat.S_IMODE((tmp_path / "list").stat().st_mode) == 0o600
    assert read_list(tmp_path / "list") == []


def test_row_of_another_length_is_noticed(tmp_path: Path) -> None:
    write_list(tmp_path / "list", ("file", "reason"), [("only one",)])
    with pytest.raises(ValueError, match="shorter"):
        read_list(tmp_path / "list")

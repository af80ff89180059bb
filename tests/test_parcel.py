"""A parcel comes whole, or is refused by name."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from tasks.errors import DamagedRecordError, DiskFullError
from tasks.parcel import Parcel
from tests.builders.disks import tiny_disk

ROWS = [(1, "Zo\u00eb\0", b"\xff\0", None), (2, "", b"", 2**62)]


def fill(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE rows (number, text, bytes, whole)")
    connection.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", ROWS)


def rows_of(parcel: Parcel) -> list[tuple[object, ...]]:
    with parcel.opened() as connection:
        return connection.execute("SELECT * FROM rows").fetchall()


def test_what_is_packed_comes_back(tmp_path: Path) -> None:
    Parcel.of(fill).write(tmp_path / "parcel")
    parcel = Parcel.read(tmp_path / "parcel")
    assert rows_of(parcel) == ROWS
    assert parcel.count("rows") == 2
    assert stat.S_IMODE((tmp_path / "parcel").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["parcel"]


def test_equal_rows_are_equal_bytes() -> None:
    """Whoever packs them: nothing of the machine or the moment stands in a parcel."""
    assert Parcel.of(fill).image == Parcel.of(fill).image


def test_what_a_query_finds_is_packed_and_the_database_is_left_as_it_was() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        fill(connection)
        for wanted, rows in ((1, ROWS[:1]), (3, [])):
            parcel, count, last = Parcel.of_query(connection, "SELECT * FROM rows WHERE number = ?", (wanted,))
            assert (rows_of(parcel), count, last) == (rows, len(rows), rows[-1] if rows else ())
        assert [name for _, name, _ in connection.execute("PRAGMA database_list")] == ["main"]


def test_a_parcel_stands_beside_the_tables_of_a_database() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE mine (number, text, bytes, whole)")
        with Parcel.of(fill).attached(connection):
            connection.execute("INSERT INTO mine SELECT * FROM parcel.rows")
        assert connection.execute("SELECT * FROM mine").fetchall() == ROWS
        with pytest.raises(ZeroDivisionError), Parcel.of(fill).attached(connection):
            raise ZeroDivisionError
        assert [name for _, name, _ in connection.execute("PRAGMA database_list")] == ["main"]


def test_a_parcel_that_was_cut_or_changed_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "parcel"
    Parcel.of(fill).write(path)
    whole = path.read_bytes()
    chance = random.Random(3)
    places = {*range(60), len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(60))}
    for place in sorted(places):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        for content in (whole[:place], bytes(flipped)):
            path.write_bytes(content)
            with pytest.raises(DamagedRecordError, match=str(path)):
                Parcel.read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamagedRecordError, match=str(path)):
        Parcel.read(path)
    path.unlink()
    with pytest.raises(DamagedRecordError, match="not there"):
        Parcel.read(path)


def test_a_full_disk_leaves_no_half_of_a_parcel(tmp_path: Path) -> None:
    def much(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE rows AS SELECT zeroblob(4000000) AS bytes")

    with tiny_disk(tmp_path / "disk") as disk:
        with pytest.raises(DiskFullError):
            Parcel.of(much).write(disk / "parcel")
        assert os.listdir(disk) == []

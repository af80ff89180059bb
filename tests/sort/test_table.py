"""The table of series says what the index knows, a row a series, and is for its owner only."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.errors import DiskFullError, MissingPackageError, WorkspaceError
from tasks.index.chunk import pack
from tasks.index.row import FileStamp, IndexRow
from tasks.lists import read_list
from tasks.sort.store import SERIES_COLUMNS, SERIES_NUMBERS, Planned, SortStore
from tasks.sort.table import export_series
from tests.builders.disks import tiny_disk, unprivileged
from tests.strategies import make_row

SERIES = {"patient_id": "P1", "patient_name": "Müller^山田", "study_instance_uid": "1.1", "study_date": "20010203"}


def make_rows() -> list[IndexRow]:
    """Make three series: one with echoes, a duplicate and a conflict; one with odd texts; one of another patient."""
    one = SERIES | {
        "series_instance_uid": "1.1.1",
        "series_number": "3",
        "modality": "MR",
        "series_description": "fmap",
    }
    rows = [
        make_row(b"0", **one, sop_instance_uid="1", echo_numbers="1", image_type="ORIGINAL\\PRIMARY\\M"),
        make_row(b"1", **one, sop_instance_uid="2", echo_numbers="2", image_type="ORIGINAL\\PRIMARY\\P"),
        make_row(b"2", **one, sop_instance_uid="2", echo_numbers="2", image_type="ORIGINAL\\PRIMARY\\P"),
        make_row(b"3", **one, sop_instance_uid="2", echo_numbers="2", image_type="ORIGINAL\\PRIMARY\\P"),
    ]
    odd = SERIES | {"series_instance_uid": "1.1.2", "series_description": 'tab\tand\nbreak, "quoted"'}
    rows.append(make_row(b"4", **odd, sop_instance_uid="3"))
    other = SERIES | {"series_instance_uid": "1.1.2", "patient_id": "P2"}
    rows.append(make_row(b"5", **other, sop_instance_uid="4"))
    return rows


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SortStore]:
    with SortStore(tmp_path / "index.db") as opened:
        rows = make_rows()
        stamps = [FileStamp(path=row.path, size=1, mtime_ns=1, device=1, inode=n) for n, row in enumerate(rows)]
        opened.take_scan(stamps)
        opened.merge("0", pack(stamps, rows))
        opened.finish_scan([], lambda *_: False)
        files = [file.file for file in opened.instances()]
        opened.write_plan(
            [
                Planned(files[0], "P1/d/s3/1.dcm", None, ""),
                Planned(files[1], "P1/d/s3/2_a.dcm", None, "reference"),
                Planned(files[2], "P1/d/s3/2_a.dcm", files[1], ""),
                Planned(files[3], "P1/d/s3/2_b.dcm", None, "pixel-data"),
                Planned(files[4], "P1/d/s/3.dcm", None, ""),
                Planned(files[5], "P2/d/s/4.dcm", None, ""),
            ]
        )
        first = next(series for series, shared in opened.headers().values() if shared.series_instance_uid == "1.1.1")
        opened.keep_gaps([(first, "instance-gap")])
        yield opened


EXPECTED = [
    {"patient_id": "P1", "series_instance_uid": "1.1.2", "files": 1, "folder": "P1/d/s"},
    {
        "patient_id": "P1",
        "series_instance_uid": "1.1.1",
        "series_number": "3",
        "modality": "MR",
        "series_description": "fmap",
        "files": 3,
        "duplicates": 1,
        "conflicts": 2,
        "incomplete": "instance-gap",
        "folder": "P1/d/s3",
    },
    {"patient_id": "P2", "series_instance_uid": "1.1.2", "files": 1, "folder": "P2/d/s"},
]


def check(rows: list[dict[str, object]], description: str) -> None:
    """Compare a table with what was put in; a column that is not named there is empty, or a patient's."""
    assert len(rows) == len(EXPECTED)
    for row, expected in zip(rows, EXPECTED, strict=True):
        whole = dict.fromkeys(SERIES_COLUMNS, "") | dict.fromkeys(SERIES_NUMBERS, 0) | SERIES | expected
        if expected is EXPECTED[0]:
            whole["series_description"] = description
        assert row.keys() == whole.keys()
        subgroups = row.pop("subgroups")
        assert row == {name: value for name, value in whole.items() if name != "subgroups"}
        assert ("echo" in str(subgroups)) == (expected is EXPECTED[1]), subgroups


def test_tsv_has_a_row_for_each_series(store: SortStore, tmp_path: Path) -> None:
    path = tmp_path / "series.tsv"
    assert export_series(store, path) == 3
    rows: list[dict[str, object]] = [
        {name: int(text) if name in SERIES_NUMBERS else text for name, text in row.items()} for row in read_list(path)
    ]
    assert tuple(rows[0]) == SERIES_COLUMNS
    check(rows, 'tab\\tand\\nbreak, "quoted"')


def test_parquet_says_the_same_with_numbers_as_numbers(store: SortStore, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (the extra `parquet`)")
    path = tmp_path / "series.parquet"
    assert export_series(store, path) == 3
    table = parquet.read_table(path)
    assert tuple(table.column_names) == SERIES_COLUMNS
    assert {str(table.schema.field(name).type) for name in SERIES_NUMBERS} == {"int64"}
    check(table.to_pylist(), 'tab\tand\nbreak, "quoted"')


@pytest.mark.parametrize("ending", ["tsv", "parquet"])
def test_tables_are_for_their_owner_only(ending: str, store: SortStore, tmp_path: Path) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra `parquet`)")
    before = os.umask(0)
    try:
        export_series(store, tmp_path / f"series.{ending}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / f"series.{ending}").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".db") == sorted(
        {f"series.{ending}", *(path.name for path in tmp_path.glob("index.db-*"))}
    )


@pytest.mark.parametrize("ending", ["tsv", "parquet"])
def test_refusals_of_the_file_system_are_named_and_leave_nothing(ending: str, store: SortStore, tmp_path: Path) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra `parquet`)")
    with tiny_disk(tmp_path / "disk", kilobytes=4) as disk:
        (disk / "filler").write_bytes(bytes(4096))
        with pytest.raises(DiskFullError) as caught:
            export_series(store, disk / f"series.{ending}")
        assert "Müller" not in str(caught.value)
        assert os.listdir(disk) == ["filler"]
    with unprivileged() as folder:
        (folder / "locked").mkdir(mode=0o500)
        with pytest.raises(WorkspaceError, match="cannot be written"):
            export_series(store, folder / "locked" / f"series.{ending}")


def test_parquet_without_its_package_says_how_to_get_it(
    store: SortStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'scanward\[parquet\]'"):
        export_series(store, tmp_path / "series.parquet")
    assert not (tmp_path / "series.parquet").exists()


def test_an_index_that_holds_nothing_gives_a_table_without_rows(tmp_path: Path) -> None:
    with SortStore(tmp_path / "empty.db") as store:
        assert export_series(store, tmp_path / "series.tsv") == 0
    assert (tmp_path / "series.tsv").read_text() == "\t".join(SERIES_COLUMNS) + "\n"

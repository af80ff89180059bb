"""A table of all series for people and their tools, as TSV or Parquet. Patients can be read in it."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import MissingPackageError
from tasks.files import written_atomically
from tasks.lists import write_list
from tasks.sort.store import SERIES_COLUMNS, SERIES_NUMBERS, SortStore

_ROW_GROUP = 10_000


def export_series(store: SortStore, path: Path) -> int:
    """Write one row a series; the file's ending, .tsv or .parquet, says how. Return the number of rows.

    Raises
    ------
    MissingPackageError
        If Parquet is asked for and pyarrow is not installed.
    DiskFullError, WorkspaceError
        If the file system refuses.
    """
    if path.suffix == ".parquet":
        return _write_parquet(path, store.series_table())
    count = 0

    def rows() -> Iterator[tuple[str, ...]]:
        nonlocal count
        for row in store.series_table():
            count += 1
            yield tuple(map(str, row))

    write_list(path, SERIES_COLUMNS, rows())
    return count


def _write_parquet(path: Path, rows: Iterator[tuple[str | int, ...]]) -> int:
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingPackageError(purpose="A Parquet table", package="pyarrow", extra="parquet")
    import pyarrow  # noqa: PLC0415 - an extra, and large
    import pyarrow.parquet  # noqa: PLC0415

    schema = pyarrow.schema(
        [(name, pyarrow.int64() if name in SERIES_NUMBERS else pyarrow.string()) for name in SERIES_COLUMNS]
    )
    count = 0
    with (
        written_atomically(path, mode=0o600) as stream,
        pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer,
    ):
        while batch := list(itertools.islice(rows, _ROW_GROUP)):
            records = [dict(zip(SERIES_COLUMNS, row, strict=True)) for row in batch]
            writer.write_table(pyarrow.Table.from_pylist(records, schema))
            count += len(batch)
    return count

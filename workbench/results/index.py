"""An index of a results folder's records, which spares reading each of ten thousand records again.

It is derived: it knows each record by time, size and inode, and is made again from the records when it is gone or
damaged.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.files import check_file, write_atomically
from workbench.results.folders import RECORD, RUNS
from workbench.results.record import RunId

if TYPE_CHECKING:
    import pandas as pd

INDEX = "runs.index.parquet"
FORMAT = b"3"
"""Of the index; another one makes it again."""
STAMP = ["mtime", "size", "inode"]
Stamp = tuple[int, int, int]
RowsOf = Callable[[str], list[dict[str, Any]]]
"""From a run's id to its rows."""


def indexed_rows(results: Path, rows_of: RowsOf, columns: list[str]) -> pd.DataFrame:
    """The rows of every run; `rows_of` is asked only for runs whose record changed since the last time.

    Args:
        columns: that every row has; further ones are kept as they come.
    """
    import pandas as pd

    stamps = dict(_stamps(results / RUNS))
    index = _read(results / INDEX)
    kept = None if index is None or index.empty else index.loc[_unchanged(index, stamps)]
    known = set() if kept is None else set(kept["run"])
    changed = [run for run in stamps if run not in known]
    if kept is not None and index is not None and not changed and len(kept) == len(index):
        return kept.drop(columns=STAMP)
    rows = [{**row, **dict(zip(STAMP, stamps[run], strict=True))} for run in changed for row in rows_of(run)]
    first = [*columns, *STAMP]
    others = [] if kept is None else [name for name in kept.columns if name not in first]
    frame = pd.DataFrame(rows, columns=list(dict.fromkeys([*first, *others, *(name for row in rows for name in row)])))
    if kept is not None and len(kept):
        frame = pd.concat([kept, frame], ignore_index=True) if len(frame) else kept
    _write(results / INDEX, frame)
    return frame.drop(columns=STAMP)


def _stamps(runs: Path) -> Iterator[tuple[str, Stamp]]:
    """Each run's id and its record's stamp; folders with other names are none of ours."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(runs) as settings:
        for setting in settings:
            with contextlib.suppress(NotADirectoryError, FileNotFoundError), os.scandir(setting.path) as seeds:
                for seed in seeds:
                    with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError):
                        run = str(RunId.parse(f"{setting.name}/{seed.name}"))
                        stat = os.stat(f"{seed.path}/{RECORD}")  # noqa: PTH116 - ten thousand times
                        yield run, (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _unchanged(index: pd.DataFrame, stamps: dict[str, Stamp]) -> list[bool]:
    rows = zip(index["run"], *(index[name] for name in STAMP), strict=True)
    return [stamps.get(run) == (mtime, size, inode) for run, mtime, size, inode in rows]


def _read(file: Path) -> pd.DataFrame | None:
    import pyarrow.parquet as parquet

    try:
        check_file(file)
        table = parquet.read_table(file, page_checksum_verification=True)
        if (table.schema.metadata or {}).get(b"workbench") != FORMAT:
            return None
        table.validate(full=True)
        frame: pd.DataFrame = table.to_pandas()
        return frame if {"run", *STAMP} <= set(frame.columns) else None
    except Exception:  # gone, or damaged in any way: it is only an index
        return None


def _write(file: Path, frame: pd.DataFrame) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    table = arrow.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"workbench": FORMAT})
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink, write_page_checksum=True)
    with contextlib.suppress(OSError):  # another user's folder, or a full disk: it is only an index
        write_atomically(file, sink.getvalue().to_pybytes())

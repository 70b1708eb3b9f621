"""A kept summary: what tables and bars need of a grid's runs, as Parquet files small enough to keep.

`<folder>/runs.parquet` holds the frame of the runs, `<folder>/expressions/` a file per completed run without its masks,
and `<folder>/scored/` the scores of other models. `Summary` gives the same frames as the run folders did.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.files import made_whole
from workbench.results.expressions import check_counts, read_expressions, read_table, write_expressions
from workbench.results.folders import StoreError
from workbench.results.frames import COLUMNS, ResultsSource, RunFolders, typed_frame
from workbench.results.record import RunId
from workbench.results.scored import SCORED, ScoredFolder
from workbench.validation import DamagedFile, Mistake

if TYPE_CHECKING:
    import pandas as pd

REMEDY = "make the summary again: workbench summarise GRID"
_RUNS = "runs.parquet"
_EXPRESSIONS = "expressions"


class Summary:
    """A kept summary as a source of frames; see `workbench.results.frames.ResultsSource`.

    Args:
        folder: as `write_summary` made it.

    Raises:
        StoreError: there is no summary.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / _RUNS).is_file():
            raise StoreError(f"{folder} is no summary: it has no {_RUNS}; make one with: workbench summarise GRID")

    def runs(self, settings: Collection[str] | None = None) -> pd.DataFrame:
        """The frame of the runs; DamagedFile where it cannot be read."""
        file = self.folder / _RUNS
        frame = read_table(file, REMEDY)
        for name in COLUMNS:
            if name not in frame:
                raise DamagedFile(file, Mistake(name, "is required", "missing"), REMEDY)
        try:
            for run in frame["run"]:
                RunId.parse(run)
            typed = typed_frame(frame)
        except (ValueError, TypeError) as error:
            raise DamagedFile(file, str(error).splitlines()[0], REMEDY) from None
        return typed if settings is None else typed[typed["setting_id"].isin(list(settings))].reset_index(drop=True)

    def expressions(self, run: str, masks: bool = False) -> pd.DataFrame:
        """The expressions of a run; StoreError for masks, which a summary does not hold."""
        if masks:
            raise StoreError(f"{self.folder}: a summary holds no predicted masks; this needs the run folders")
        file = self.expressions_file(run)
        if not file.exists():
            raise DamagedFile(file, "it is missing", REMEDY)
        frame, runs = read_expressions(file, REMEDY), self.runs()
        here = runs[(runs["run"] == run) & runs["split"].notna()]
        counts = dict(zip(here["split"].astype(str), here["expressions"].astype(float), strict=True))
        check_counts(file, frame, counts, self.folder / _RUNS, REMEDY)
        return frame

    def expressions_file(self, run: str) -> Path:
        """The file of a run's expressions."""
        return self.folder / _EXPRESSIONS / _file_name(run)

    def record_file(self, run: str) -> Path:
        """The file of all runs' metrics."""
        return self.folder / _RUNS

    def scored(self, name: str) -> ScoredFolder:
        """The scores of another model."""
        return ScoredFolder(self.folder, name)


def source_of(results: Path, summary: Path | None) -> ResultsSource:
    """A kept summary, where one is named, or else the run folders."""
    return RunFolders(results) if summary is None else Summary(summary)


def write_summary(
    folder: Path, runs: pd.DataFrame, expressions: Mapping[str, pd.DataFrame], scored: Sequence[ScoredFolder] = ()
) -> None:
    """Write a summary; what was there before is replaced as a whole.

    Args:
        runs: as `runs_frame` gives it.
        expressions: by run, without masks.

    Raises:
        StoreError: there is something else than a summary.
        DataError: it cannot be written.
    """
    is_summary = (folder / _RUNS).is_file() and (folder / _EXPRESSIONS).is_dir()
    if os.path.lexists(folder) and not is_summary and not (folder.is_dir() and not any(folder.iterdir())):
        raise StoreError(f"{folder} is no summary, and would be replaced; name another folder")
    with made_whole(folder, replace=True) as partial:
        runs.to_parquet(partial / _RUNS, index=False, write_page_checksum=True)
        (partial / _EXPRESSIONS).mkdir()
        for run, frame in expressions.items():
            write_expressions(partial / _EXPRESSIONS / _file_name(run), frame)
        for model in scored:
            shutil.copytree(model.path, partial / SCORED / model.name)


def _file_name(run: str) -> str:
    return f"{run.replace('/', '-')}.parquet"

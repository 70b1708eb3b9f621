"""A grid's tables, figures and summary as files in `<results>/<grid>/`; drawn again only when something changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.grids import Grid
from workbench.grids.evaluated import Evaluated, evaluated
from workbench.paper.figures import figures
from workbench.paper.figures.data import FigureData
from workbench.paper.layout import lay_out
from workbench.paper.render import write_table
from workbench.paper.style import save_picture, styled
from workbench.results.folders import StoreError
from workbench.results.frames import RunFolders
from workbench.results.provenance import package_digest

PICTURES = ("png", "pdf")


def make_artefacts(grid: Grid, results: Path, what: Sequence[str]) -> list[Path]:
    """The table, or all figures, of a grid's completed runs.

    Args:
        what: `table`, `figure`, or both.

    Raises:
        StoreError: no run is completed.
    """
    stored = evaluated(grid, RunFolders(results))
    files: list[Path] = []
    if "table" in what:
        files += write_table(lay_out(stored), results / grid.name)
    if "figure" in what:
        for name in figures:
            files += current_files(name, stored, results) or draw_figure(name, stored, results)
    return files


def draw_figure(name: str, stored: Evaluated, results: Path, from_summary: bool = False) -> list[Path]:
    """Draw a figure as NAME.png and NAME.pdf, with its data as NAME.json (and NAME.safetensors).

    Raises:
        StoreError: the figure needs the run folders, and there is a summary alone.
    """
    if from_summary and figures[name].needs_runs:
        raise StoreError(f"the figure {name} needs the run folders; from a summary only bars can be drawn")
    data = figures[name].data(stored, results)
    document = {**data.document, "grid": stored.grid.file.name, "made_from": made_from(stored)}
    return _write(name, FigureData(document, data.arrays), results / stored.grid.name)


@styled
def _write(name: str, data: FigureData, folder: Path) -> list[Path]:
    pictures = save_picture(figures[name].draw(data), folder, name)
    return [*pictures, *data.save(folder, name)]


def current_files(name: str, stored: Evaluated, results: Path) -> list[Path] | None:
    """The files of a figure, if they were made from what is there now; else None."""
    folder = results / stored.grid.name
    files = [folder / f"{name}.{ending}" for ending in (*PICTURES, "json")]
    if not all(file.is_file() for file in files):
        return None
    try:
        document = json.loads(files[-1].read_bytes())
    except (ValueError, RecursionError):
        return None
    same = isinstance(document, dict) and document.get("made_from") == made_from(stored)
    return files if same else None


def made_from(stored: Evaluated) -> dict[str, Any]:
    """All that a figure of a grid depends on: the code, the resolved grid, the runs and when each was finished."""
    completed = stored.runs[stored.runs["state"] == "completed"].drop_duplicates("run")
    return {
        "code": package_digest(),
        "grid": _digest(stored.grid),
        "finished": {
            run: None if pd.isna(finished) else finished
            for run, finished in zip(completed["run"], completed["finished"], strict=True)
        },
        "incomplete": [str(run) for run in stored.incomplete],
    }


def _digest(grid: Grid) -> str:
    """SHA-256 of all that a figure shows of a grid: names, ids, baseline and report; 12 hex digits."""
    shown = {
        "title": grid.title,
        "settings": {name: config.setting_id for name, config in grid.settings.items()},
        "baseline": grid.baseline,
        "report": grid.report.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:12]

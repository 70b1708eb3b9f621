"""A grid's tables, figures and summary as files in `<results>/<grid>/`; drawn again only when something changed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from workbench.errors import WorkbenchError
from workbench.files import read_file
from workbench.grids import Grid, GridError, ReportConfig
from workbench.grids.evaluated import Evaluated, evaluated, without_runs
from workbench.grids.grid import check_report
from workbench.models.catalog import config_of
from workbench.paper.figures import figures
from workbench.paper.figures.data import FigureData
from workbench.paper.layout import lay_out
from workbench.paper.render import write_table
from workbench.paper.style import save_picture, styled
from workbench.results.folders import StoreError
from workbench.results.frames import RunFolders
from workbench.results.provenance import package_digest
from workbench.validation import first_mistake

PICTURES = ("png", "pdf")
MOST_PROCESSES = 4
"""That draw at once: each takes some hundred megabytes, and a job may have been given few."""
VARIANTS = Path("variants")
"""In place of a grid's file, where a variant is drawn without one."""


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
        names = [name for name in figures if obstacle(name, stored, results) is None]
        for drawn in draw_figures(names, stored, results):
            files += drawn.files
    return files


def with_report(
    stored: Evaluated,
    settings: Sequence[str] | None = None,
    expressions: Sequence[str] | None = None,
    seed: int | None = None,
    split: str | None = None,
    columns: int | None = None,
) -> Evaluated:
    """The same with other choices of what figures show, in place of those of the grid's `report`.

    Args:
        expressions: keys, or one number of expressions, which are then chosen by rule.

    Raises:
        GridError: a choice names nothing.
    """
    changes: dict[str, Any] = {"settings": settings, "seed": seed, "figure_split": split, "columns": columns}
    if expressions and len(expressions) == 1 and expressions[0].isdecimal():
        changes |= {"examples": int(expressions[0]), "expressions": ()}
    else:
        changes["expressions"] = expressions
    given = {name: value for name, value in changes.items() if value is not None}
    grid = stored.grid
    try:
        report = ReportConfig.model_validate({**grid.report.model_dump(), **given})
    except ValidationError as error:
        mistake = first_mistake(error, ReportConfig)
        raise GridError(f"{grid.file}: report.{mistake}") from None
    grid.chosen(report.settings)
    if split is not None:
        check_report(f"{grid.file}: --split", report, grid.settings)
    return replace(stored, grid=replace(grid, report=report))


def obstacle(name: str, stored: Evaluated, results: Path) -> str | None:
    """Why a grid has no such figure; None where it has one."""
    return figures[name].obstacle(_shown(name, stored), results)


def draw_figure(
    name: str,
    stored: Evaluated,
    results: Path,
    from_summary: bool = False,
    file_name: str | None = None,
    out: Path | None = None,
) -> list[Path]:
    """Draw a figure as NAME.png (NAME-2.png … of further pages) and NAME.pdf, its data NAME.json and NAME.safetensors.

    Args:
        file_name: NAME, where it is not that of the figure.
        out: in whose folder of the grid it is written, where that is not the results folder.

    Raises:
        StoreError: the figure needs the run folders, and there is a summary alone; or the grid has no such figure.
    """
    data = _data(name, stored, results, from_summary)
    return _write(name, data, (out or results) / stored.grid.name, file_name or name)


@dataclass(frozen=True)
class Drawn:
    """A figure's files.

    Attributes:
        is_new: whether they were drawn now; else they were up to date.
    """

    name: str
    files: list[Path]
    is_new: bool


def draw_figures(
    names: Sequence[str],
    stored: Evaluated,
    results: Path,
    from_summary: bool = False,
    file_name: str | None = None,
    out: Path | None = None,
    redraw: bool = False,
) -> Iterator[Drawn]:
    """Draw figures where they are not up to date, on as many cores as there are; see `draw_figure`.

    Args:
        file_name: of one figure alone.
        redraw: draw those too that are up to date.

    Yields:
        First those that are up to date, then the others in their order.

    Raises:
        WorkbenchError: a figure cannot be drawn; those before it are.
    """
    current = {} if redraw else {name: current_files(name, stored, results, file_name, out) for name in names}
    yield from (Drawn(name, files, is_new=False) for name, files in current.items() if files)
    old = [name for name in names if not current.get(name)]
    if (processes := min(MOST_PROCESSES, len(os.sched_getaffinity(0)), len(old))) < 2:
        for name in old:
            yield Drawn(name, draw_figure(name, stored, results, from_summary, file_name, out), is_new=True)
        return
    folder = (out or results) / stored.grid.name
    failed: WorkbenchError | None = None
    # Ctrl-C is left to this process.
    with ProcessPoolExecutor(processes, get_context("fork"), signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        drawing: dict[str, Future[list[Path]]] = {}
        for name in old:
            try:
                # Only the pictures are drawn elsewhere: models, which some data come from, stay in this process.
                drawing[name] = pool.submit(_write, name, _data(name, stored, results, from_summary), folder, name)
            except WorkbenchError as error:
                failed = error
                break
        for name, files in drawing.items():
            try:
                yield Drawn(name, files.result(), is_new=True)
            except BrokenProcessPool:
                raise StoreError(f"no figure {name}: the process that was to draw it was killed") from None
    if failed is not None:
        raise failed


def _data(name: str, stored: Evaluated, results: Path, from_summary: bool) -> FigureData:
    """What a figure shows, and what it was made from."""
    if from_summary and figures[name].needs_runs:
        without = [other for other in figures if not figures[other].needs_runs]
        raise StoreError(
            f"the figure {name} needs the run folders; from a summary only {', '.join(without)} can be drawn"
        )
    if why := obstacle(name, stored, results):
        raise StoreError(f"{stored.grid.file}: no figure {name}: {why}")
    shown = _shown(name, stored)
    data = figures[name].data(shown, results)
    document = {
        **data.document,
        "grid": stored.grid.file.name,
        "columns_of_page": stored.grid.report.columns,
        "made_from": made_from(shown) | _kept(name, shown, results),
    }
    return FigureData(document, data.arrays)


@styled
def _write(kind: str, data: FigureData, folder: Path, name: str) -> list[Path]:
    pictures = save_picture(figures[kind].draw(data), folder, name)
    return [*pictures, *data.save(folder, name)]


def _shown(name: str, stored: Evaluated) -> Evaluated:
    """What a figure shows of a grid; of one that shows no results, the settings alone."""
    if figures[name].needs_results:
        return shown_of(stored)
    grid = stored.grid
    names = grid.chosen(grid.report.settings)
    return without_runs(replace(grid, settings={setting: grid.settings[setting] for setting in names}))


def variant_grid(variant: str, backbone: str, changes: Mapping[str, Any]) -> Grid:
    """A grid of one setting, to draw a variant that no grid file has.

    Args:
        changes: dotted keys and their values, as a setting of a grid file has them.

    Raises:
        ConfigError: an unknown variant or backbone, or values that do not fit.
    """
    config = config_of(backbone, {"fusion.variant": variant, **changes})
    title = ", ".join([f"{variant} on {backbone}", *(f"{key} {value}" for key, value in changes.items())])
    return Grid(VARIANTS, title, {variant: config}, (0,), None, ReportConfig())


def shown_of(stored: Evaluated) -> Evaluated:
    """What figures show of a grid: the settings that its report names, in that order; scored models stay.

    Raises:
        StoreError: none of them has a completed run.
    """
    grid = stored.grid
    names = grid.chosen(grid.report.settings)
    models = [name for name in stored.expressions if name not in grid.settings]
    expressions = {name: stored.expressions[name] for name in (*names, *models) if name in stored.expressions}
    if not expressions:
        raise StoreError(f"{grid.file}: none of the settings that are to be shown has a completed run")
    baseline = grid.baseline if grid.baseline in names else None
    return replace(
        stored,
        grid=replace(grid, settings={name: grid.settings[name] for name in names}, baseline=baseline),
        expressions=expressions,
        runs=stored.runs[stored.runs["setting"].isin(names)],
        incomplete=[run for run in stored.incomplete if run.setting in names or run.setting not in grid.settings],
    )


def current_files(
    name: str, stored: Evaluated, results: Path, file_name: str | None = None, out: Path | None = None
) -> list[Path] | None:
    """The files of a figure, if they were made from what is there now; else None. The arguments are `draw_figure`'s."""
    folder, stored = (out or results) / stored.grid.name, _shown(name, stored)
    files = [folder / f"{file_name or name}.{ending}" for ending in (*PICTURES, "json")]
    if not all(file.is_file() for file in files):
        return None
    try:
        document = json.loads(read_file(files[-1]))
    except (OSError, ValueError, RecursionError):
        return None
    current = made_from(stored) | _kept(name, stored, results)
    return files if isinstance(document, dict) and document.get("made_from") == current else None


def _kept(name: str, stored: Evaluated, results: Path) -> dict[str, Any]:
    """What a figure reads besides; nothing, for most of them."""
    kept = figures[name].kept(stored, results)
    return {"kept": dict(kept)} if kept else {}


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
        "settings": [[name, grid.label(name), config.setting_id] for name, config in grid.settings.items()],
        "baseline": grid.baseline,
        "report": grid.report.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:12]

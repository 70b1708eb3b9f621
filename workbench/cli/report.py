"""The command that makes the report: one static page of grids' results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.options import (
    RESULTS,
    CheckpointRoot,
    DataRoot,
    Json,
    Preset,
    Results,
    app,
    load_grid_file,
    print_written,
    warn,
    writable,
)
from workbench.cli.outputs import Seeds

if TYPE_CHECKING:
    from workbench.grids import Grid
    from workbench.paper.page import Part

Grids = Annotated[list[Path], typer.Argument(help="Grids, e.g. ablations/demo.yaml.", show_default=False)]
Out = Annotated[
    Path | None,
    typer.Option(help="File to write; by default report.html in <results>/<grid>, or in <results> for several grids."),
]  # fmt: skip
FromEach = Annotated[
    list[Path] | None,
    typer.Option("--from", help="Read a summary in place of the run folders; one for each grid."),
]  # fmt: skip


@app.command()
def report(
    grids: Grids,
    out: Out = None,
    summaries: FromEach = None,
    seeds: Seeds = None,
    preset: Preset = None,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
    as_json: Json = False,
) -> None:
    """Make one HTML page to browse offline: summary, sortable tables, runs, figures and expressions."""
    from workbench.errors import WorkbenchError

    if summaries and len(summaries) != len(grids):
        raise WorkbenchError(f"--from: one summary per grid is expected, {len(grids)}, not {len(summaries)}")
    loaded = [load_grid_file(grid, data_root, checkpoint_root, preset=preset) for grid in grids]
    file, size = write_report(loaded, results, out, summaries, seeds)
    if as_json:
        print_written([file], as_json, bytes=size)
    else:
        print(f"wrote {file.absolute()} ({size / 1e6:.1f} MB)")


def write_report(
    loaded: list[Grid],
    results: Path,
    out: Path | None = None,
    summaries: list[Path] | None = None,
    seeds: str | None = None,
) -> tuple[Path, int]:
    """Write the page of some grids; returns its file and its size in bytes. A grid without results has a sentence.

    Raises:
        StoreError: none of them has any.
    """
    from workbench.files import write_atomically
    from workbench.paper.page import empty_part, page_html
    from workbench.results.folders import StoreError

    parts: list[Part] = []
    failures: list[StoreError] = []
    place = writable(results, loaded[0].name if len(loaded) == 1 else "")
    for number, grid in enumerate(loaded):
        summary = summaries[number] if summaries else None
        try:
            parts.append(_part(number, loaded, summary, seeds, results, place))
        except StoreError as error:
            failures.append(error)
            parts.append(empty_part(number, grid, str(error)))
    if len(failures) == len(loaded):
        raise failures[0]
    file = out or report_file(loaded, place)
    content = page_html(parts)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, content)
    return file, len(content)


def report_file(grids: list[Grid], results: Path) -> Path:
    """Where the page of some grids goes."""
    return (results / grids[0].name if len(grids) == 1 else results) / "report.html"


def _part(number: int, grids: list[Grid], summary: Path | None, seeds: str | None, results: Path, place: Path) -> Part:
    from workbench.grids import parse_seeds
    from workbench.grids.evaluated import evaluated
    from workbench.paper.page import part_of
    from workbench.results.summary import source_of

    wanted = None if seeds is None else parse_seeds(seeds)
    stored = evaluated(grids[number], source_of(results, summary), wanted)
    for run in stored.incomplete:
        if run.state == "damaged":
            warn(str(run.message))
    return part_of(number, len(grids), stored, results, summary is not None, place)

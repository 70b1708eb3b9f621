"""Commands that show results: table and figure."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from workbench.cli.options import RESULTS, CheckpointRoot, DataRoot, GridFile, Results, app, load_grid_file


class FigureName(StrEnum):
    """The figures; `all` makes each."""

    bars = "bars"
    predictions = "predictions"
    attention = "attention"
    all = "all"


@app.command()
def table(grid: GridFile, results: Results = RESULTS) -> None:
    """Print the grid's table and write it as table.md and table.csv, with a JSON of where it comes from."""
    from workbench.paper.tables import make_table

    loaded = load_grid_file(grid)
    made = make_table(loaded, results)
    print(made.text())
    for file in made.write(results / loaded.name):
        print(f"wrote {file}")


@app.command()
def figure(
    name: Annotated[FigureName, typer.Argument(show_default=False)],
    grid: GridFile,
    redraw: Annotated[bool, typer.Option(help="Draw also what is up to date.")] = False,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
) -> None:
    """Draw a figure of a grid's completed runs as PNG and PDF, with a JSON of where it comes from."""
    from workbench.paper.figures import current_files, figures

    loaded = load_grid_file(grid, data_root, checkpoint_root)
    for one in figures if name is FigureName.all else [name.value]:
        if not redraw and (files := current_files(one, loaded, results)):
            print(f"{files[0]} is up to date")
            continue
        for file in figures[one](loaded, results):
            print(f"wrote {file}")

"""The command that runs the notebooks; `workbench lab` opens them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.cli.options import RESULTS, Commands, DataRoot, Json, Preset, Results, app, print_json
from workbench.errors import counted

notebooks_app = typer.Typer(
    cls=Commands, help="Run the notebooks to HTML pages.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(notebooks_app, name="notebooks")
NOTEBOOKS = Path("notebooks")


@notebooks_app.callback()
def notebooks() -> None:
    """Run the notebooks to HTML pages; `workbench lab` opens them in a browser."""


@notebooks_app.command("run")
def run_notebooks(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Notebooks, e.g. 01_results or 01; by default all.")
    ] = None,
    grid: Annotated[Path | None, typer.Option(help="Show this grid in each, in place of its own.")] = None,
    preset: Preset = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the pages; <results>/notebooks where not given.")] = None,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Run notebooks from top to bottom and write each as an HTML page; one that fails does not stop the others."""
    from workbench.errors import WorkbenchError
    from workbench.files import check_writable
    from workbench.paper.notebooks import find_notebooks

    check_writable(out or results / "notebooks", "name a folder of your own with --out")
    if grid is not None and not grid.is_file():
        raise WorkbenchError(f"{grid}: no such file")
    if preset is not None and grid is None:
        raise WorkbenchError("--preset takes the place of a grid's own; name the grid with --grid")
    files = find_notebooks(NOTEBOOKS, names or ())
    pages: list[dict[str, Any]] = []
    keep = pages.append if as_json else None
    failed = run_all(files, out or results / "notebooks", results, grid, preset, data_root, keep)
    if as_json:
        print_json({"notebooks": pages})
    if failed:
        raise WorkbenchError(f"{len(failed)} of {counted(len(files), 'notebook')} failed: {'; '.join(failed)}")


def run_all(
    files: list[Path],
    out: Path,
    results: Path,
    grid: Path | None = None,
    preset: str | None = None,
    data_root: Path | None = None,
    keep: Callable[[dict[str, Any]], object] | None = None,
) -> list[str]:
    """Run notebooks, a line for each as it ends; returns name, cell and error of those that failed.

    Args:
        keep: given what became of each, in place of the line.
    """
    from workbench.paper import browsing
    from workbench.paper.notebooks import run_notebook

    given = {browsing.RESULTS: results, browsing.GRID: grid, browsing.DATA: data_root}
    environment = {name: str(path.absolute()) for name, path in given.items() if path is not None}
    environment |= {} if preset is None else {browsing.PRESET: preset}
    failed = []
    for number, file in enumerate(files, start=1):
        execution = run_notebook(file, out, environment)
        page = execution.page.absolute()
        if keep is not None:
            keep({**vars(execution), "page": page})
        else:
            how = f"wrote {page}" if execution.failure is None else f"FAILED in {execution.failure}"
            print(f"{number}/{len(files)} {execution.name}: {how} ({execution.seconds:.0f} s)", flush=True)
        if execution.failure is not None:
            failed.append(f"{execution.name}, {execution.failure}")
    return failed

"""Commands on tables: table, which makes one, and check, which compares what a file cites with its runs."""

from __future__ import annotations

import json
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.options import (
    RESULTS,
    DataRoot,
    GridFile,
    Json,
    Preset,
    Results,
    app,
    print_json,
    print_written,
    writable,
)
from workbench.cli.outputs import By, From, Seeds, stored_of
from workbench.errors import WorkbenchError, counted
from workbench.files import write_text

if TYPE_CHECKING:
    from workbench.paper.citations import Citation
    from workbench.paper.layout import TableData


class TableFormat(StrEnum):
    """Formats of a table; each is also the file's ending, except that of latex, which is tex."""

    md = "md"
    csv = "csv"
    latex = "latex"
    html = "html"


@app.command()
def table(
    grid: GridFile,
    form: Annotated[
        TableFormat | None,
        typer.Option(
            "--format", help="Print only the table, in this format; latex and html are written as files, too."
        ),
    ] = None,
    explain: Annotated[
        tuple[str, str, str] | None,
        typer.Option(metavar="SETTING SPLIT METRIC", help="Print where one number comes from, and write nothing."),
    ] = None,
    by: By = None,
    seeds: Seeds = None,
    summary: From = None,
    preset: Preset = None,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Print the grid's table and write it as table.md and table.csv; table.json says where its numbers come from."""
    from workbench.paper.breakdowns import breakdown_text, write_breakdown
    from workbench.paper.explain import explain as explanation
    from workbench.paper.layout import lay_out
    from workbench.paper.render import csv_frame, markdown, source_document, write_table

    if as_json and form is not None:
        raise WorkbenchError(f"--format {form.value} and --json both say what is printed; leave one of them out")
    stored = stored_of(grid, seeds, summary, results, data_root, None, preset)
    laid_out = lay_out(stored)
    if explain is not None:
        text = explanation(laid_out, stored, *explain)
        if as_json:
            print_json(dict(zip(("setting", "split", "metric", "lines"), (*explain, text.splitlines()), strict=True)))
        else:
            print(text, end="")
        return
    folder = writable(results, stored.grid.name) / stored.grid.name
    files = write_table(laid_out, folder, seeds)
    if form is not None:
        text = _text(laid_out, form, summary, seeds)
        print(text, end="")
        if form in (TableFormat.latex, TableFormat.html):
            ending = "tex" if form is TableFormat.latex else "html"
            write_text(folder / f"table.{ending}", text)
        return
    if not as_json:
        print(markdown(laid_out))
    broken_down = {}
    for name in by or []:
        text = breakdown_text(stored.expressions, name.value, stored.grid.report.metrics[0])
        broken_down[name.value] = text.splitlines()
        if not as_json:
            print(text)
        files.append(write_breakdown(text, folder, name.value))
    rows = json.loads(csv_frame(laid_out).to_json(orient="records", double_precision=15)) if as_json else []
    print_written(files, as_json, rows=rows, source=source_document(laid_out), by=broken_down)


def _text(table: TableData, form: TableFormat, summary: Path | None, seeds: str | None) -> str:
    """The table in a format, its comments saying all that `check` needs to make it again."""
    from workbench.paper.latex import latex
    from workbench.paper.render import csv_frame, markdown, source_of
    from workbench.paper.web import page

    if form is TableFormat.csv:
        return csv_frame(table).to_csv(index=False, float_format="%.6f")
    write = {TableFormat.md: markdown, TableFormat.latex: latex, TableFormat.html: page}[form]
    return write(table, table.file, source_of(table, seeds, summary))


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Markdown or LaTeX files that cite numbers.", show_default=False)],
    results: Results = RESULTS,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Compare the numbers that files cite with the runs or summaries they name; exits with 1 if one is wrong."""
    from workbench.paper.citations import check_file
    from workbench.paper.layout import lay_out

    @cache
    def made(grid: Path, preset: str | None, summary: Path | None, seeds: str | None) -> TableData:
        return lay_out(stored_of(grid, seeds, summary, results, data_root, None, preset))

    def table_of(citation: Citation) -> TableData:
        fields = citation.fields
        summary = None if "from" not in fields else _located(citation, fields["from"])
        return made(_located(citation, fields["grid"]), fields.get("preset"), summary, fields.get("seeds"))

    wrong, documents = 0, []
    for file in files:
        checked = check_file(file, table_of)
        wrong += len(checked.mistakes)
        documents.append({"file": file, "numbers": checked.numbers, "mistakes": checked.mistakes})
        if as_json:
            continue
        for mistake in checked.mistakes:
            print(mistake)
        print(f"{file}: {counted(checked.numbers, 'number')} checked, {len(checked.mistakes)} wrong")
    if as_json:
        print_json({"files": documents, "wrong": wrong})
    if wrong:
        raise typer.Exit(1)


def _located(citation: Citation, name: str) -> Path:
    """A path as a comment names it: from the working folder, or from one that the file lies in."""
    for base in (Path(), *citation.file.absolute().parents):
        if (base / name).exists():
            return base / name
    raise WorkbenchError(f"{citation.where}: {name}: no such file, neither here nor in a folder above {citation.file}")

"""The page's tables: one per metric, settings × splits, each cell with what opens when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from workbench.evaluation.metrics import metrics
from workbench.paper.explain import making
from workbench.paper.layout import FLAGS, Block, Cell, Row, TableData
from workbench.paper.render import DIFFERENT, EQUIVALENT, STANDING, cell_marks, over, per_cent, published_rows, row_name
from workbench.results.record import RunId

MEANINGS = {
    "other_code": "other code", "scored": "predictions made elsewhere", "fewer_seeds": "fewer seeds",
    "incomplete": "a run is missing, failed or damaged", "other_budget": "another budget than the baseline",
    DIFFERENT: "differs from the baseline", EQUIVALENT: "equivalent to the baseline",
    STANDING["best"]: "best of its column", STANDING["near"]: "within the noise of the best",
}  # fmt: skip
"""Of the marks beside a name or a number, in words."""

NAMED = ("published", "backbone", "data set", "metric", "year", "source")
"""Columns of the published numbers that are no split."""


@dataclass(frozen=True)
class CellView:
    """A number as the page shows it.

    Attributes:
        value: what the column is sorted by; None where there is no number.
        marks: what the tests say of it, with their meanings in words.
        details: what the opened cell says, as plain JSON.
    """

    value: float | None
    text: str
    spread: str = ""
    interval: str = ""
    marks: Sequence[tuple[str, str]] = ()
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class RowView:
    """A line of a table; its marks with their meanings in words."""

    name: str
    marks: Sequence[tuple[str, str]]
    n: int
    cells: Sequence[CellView]


@dataclass(frozen=True)
class TableView:
    """A metric's table.

    Attributes:
        groups: titles and rows: the settings' own numbers, then their differences from the baseline.
        asked: whether the grid's report asks for the metric.
    """

    metric: str
    label: str
    definition: str
    columns: Sequence[str]
    groups: Sequence[tuple[str, Sequence[RowView]]]
    asked: bool


@dataclass(frozen=True)
class PublishedView:
    """Numbers of others: the names of the columns, and a row for each method, metric and source.

    Attributes:
        numbers: which columns hold numbers, from 0.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int]


def published_view(table: TableData) -> PublishedView | None:
    """The published numbers that the grid's report asks for; None where it asks for none."""
    head, *rows = published_rows(table)
    first = head.index("metric") + 1
    numbers = range(first, first + len(table.blocks[0].columns) + 1 if table.blocks else first)
    return (
        PublishedView([name.capitalize() if name in NAMED else name for name in head], rows, numbers) if rows else None
    )


def tables(table: TableData, anchors: Mapping[str, str]) -> list[TableView]:
    """The tables of every metric that applies, those of the report first.

    Args:
        anchors: by setting, the id of the part of the page that describes it.
    """
    return [_view(block, table, anchors, i < table.shown) for i, block in enumerate(table.blocks)]


def number(value: float | None, sign: str = "") -> str:
    """In per cent with one digit and a true minus sign."""
    return per_cent(value, sign).replace("-", "−")


def _view(block: Block, table: TableData, anchors: Mapping[str, str], asked: bool) -> TableView:
    metric = metrics[block.metric]
    by_kind: dict[str, list[RowView]] = {}
    for row in block.rows:
        by_kind.setdefault(row.kind, []).append(_row(row, block, table, anchors))
    titles = {"value": "In per cent", "difference": f"Difference from {table.label(table.baseline)}, in points"}
    groups = [(titles.get(kind, kind.capitalize()), rows) for kind, rows in by_kind.items()]
    return TableView(block.metric, metric.label, metric.definition, block.columns, groups, asked)


def _row(row: Row, block: Block, table: TableData, anchors: Mapping[str, str]) -> RowView:
    name = row_name(row, table)
    cells = []
    for split, cell in zip(block.columns, row.cells, strict=True):
        heading = f"{name}, {split}, {metrics[block.metric].label}"
        sign = "+" if row.kind == "difference" else ""
        cells.append(_cell(cell, sign, heading, anchors.get(row.name), table))
    marks = [(FLAGS[flag], MEANINGS[flag]) for flag in row.flags]
    return RowView(name, marks, row.n, cells)


def _cell(cell: Cell, sign: str, heading: str, anchor: str | None, table: TableData) -> CellView:
    if cell.value is None or pd.isna(cell.value):
        return CellView(None, number(None))
    spread = "" if cell.spread is None else f"± {number(cell.spread)}"
    has_interval = not pd.isna([cell.low, cell.high]).any()
    interval = f"[{number(cell.low, sign)}, {number(cell.high, sign)}]" if has_interval else ""
    runs = {RunId.parse(run).seed: run for run in cell.runs} if cell.seeds else {}
    details = {
        "heading": heading,
        "value": " ".join(filter(None, (number(cell.value, sign), spread))),
        "interval": f"95 % interval {interval} over {over(len(cell.seeds))}" if interval else "",
        "expressions": cell.expressions,
        "tests": [f"{about.capitalize()}: {' '.join(lines)}." for about, lines in making(table, cell)],
        "seeds": [
            {"seed": seed, "value": number(value, sign), "run": runs.get(seed, "")}
            for seed, value in zip(cell.seeds, cell.seed_values, strict=False)
        ],
        "setting": anchor,
    }
    marks = [(mark, MEANINGS[mark]) for mark in cell_marks(cell)]
    return CellView(round(100 * cell.value, 6), number(cell.value, sign), spread, interval, marks, details)

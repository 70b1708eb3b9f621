"""Published numbers beside a grid's own: from `results/reference/*.csv` alone, each with its source."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import pandas as pd

from workbench.config import DataConfig
from workbench.evaluation.metrics import metrics
from workbench.grids import Grid, GridError
from workbench.grids.reference import REFERENCE, unknown_methods

UNNAMED = "metric not named"
NOT_STATED = "not stated"
"""Of a split: the number then stands in no column, but beside its metric."""


@dataclass(frozen=True)
class Published:
    """One method's numbers in one metric, from one source.

    Attributes:
        metric: its label, as the source names it; `UNNAMED` where it names none. A number whose split the source does
            not say stands in it as well.
        values: by split of the grid's table, in per cent; splits that the source lacks are left out.
        year: of the source, where it is known: its date (of a page that changes, that of the version with the numbers),
            its arXiv number's, or that of the paper that it is about.
    """

    method: str
    backbone: str
    dataset: str
    metric: str
    values: dict[str, float]
    source: str
    year: str | None


def published(grid: Grid) -> list[Published]:
    """The rows that `report.published` chooses, on the data set and the splits that the grid's table shows.

    Raises:
        GridError: the file holds no such method.
    """
    if not grid.report.published:
        return []
    table = reference_numbers()
    for line in unknown_methods(grid.report.published, list(dict.fromkeys(table["method"]))):
        raise GridError(f"{grid.file}: {line}")
    rows: list[Published] = []
    for method in grid.report.published:
        here = _in_columns(table[table["method"] == method], grid)
        by = ["backbone", "dataset", "metric", "metric_basis", "source", "year"]
        for key, part in here.groupby(by, sort=False):
            backbone, dataset, metric, basis, source, year = map(str, key)
            numbers = {str(s): float(v) for s, v in zip(part["column"], part["value"], strict=True)}
            values = {split: value for split, value in numbers.items() if split != NOT_STATED}
            label = _label(metric, basis)
            if NOT_STATED in numbers:
                label += f", {numbers[NOT_STATED]:g} on a split not named"
            rows.append(Published(method, backbone, dataset, label, values, source, year or None))
    return rows


@functools.cache
def reference_numbers() -> pd.DataFrame:
    """All published numbers, every value a text but `value`; an empty text stands where the file has nothing."""
    texts = pd.read_csv(REFERENCE, dtype=str, keep_default_na=False)
    return texts.assign(value=texts["value"].astype(float))


def _in_columns(table: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """The numbers that have a `column` in the grid's table, which is then one more of theirs."""
    places: dict[tuple[str, str], str] = {}
    for data in (config.data for config in grid.settings.values()):
        for name, part in zip([member.name for member in data.members] or [""], data.parts, strict=True):
            before = f"{name}/" if name else ""
            splits = [split.removeprefix(before) for split in grid.splits if split.startswith(before)]
            places |= {(_named(part), split): f"{before}{split}" for split in splits}
            places[_named(part), NOT_STATED] = NOT_STATED
    columns = [places.get(key, "") for key in zip(table["dataset"], table["split"], strict=True)]
    placed = table.assign(column=columns)
    return placed[placed["column"] != ""]


def _named(data: DataConfig) -> str:
    """A data set as the file names it: RefCOCOg has a name for each of its splits."""
    return f"refcocog-{data.split_by}" if data.dataset == "refcocog" else data.dataset


def _label(metric: str, basis: str) -> str:
    if metric == "unnamed":
        return UNNAMED
    named = re.fullmatch(r"p(\d)0", metric)
    name = f"P@0.{named[1]}" if named else metrics[metric].label if metric in metrics else metric
    return f"{name} (inferred: {UNNAMED})" if basis == "inferred" else name

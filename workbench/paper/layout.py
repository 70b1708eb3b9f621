"""From a grid's evaluated runs and its `report` to table data: cells that know their value, interval, seeds and runs.

Nothing here is text in a format; `workbench.paper.render` writes table data as Markdown, CSV or JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pandas as pd

from workbench.analysis.comparison import Comparison, PairingError, compared, pairs_of
from workbench.analysis.statistics import Estimate, estimate, sample_of
from workbench.evaluation.metrics import applicable, is_no_target, metrics
from workbench.grids.equal_flops import EqualFlops
from workbench.grids.evaluated import Evaluated, Incomplete
from workbench.grids.tuning import Tuning
from workbench.paper.budget import Budget, budgets, other_budgets
from workbench.paper.published import Published, published
from workbench.paper.verdicts import Family, Judgement, judge, standings

FLAGS = {"other_code": "†", "scored": "‡", "fewer_seeds": "*", "incomplete": "!", "other_budget": "§"}
"""Marks beside a row's name; the notes say what each means."""

Kind = Literal["value", "difference"]


@dataclass(frozen=True)
class Cell:
    """One number of a table, or a gap.

    Attributes:
        value: a fraction, or a difference of two; None: there is no such number.
        low, high: the 95 % interval's bounds.
        seed_values: the number of each seed alone, in the order of `seeds`.
        seeds: over which `value` is the mean and, with images, the interval; empty where it comes from predictions of
            another model.
        runs: the runs that it comes from.
        expressions: evaluated per seed.
        comparison: of a difference, how sure it is.
        judgement: of a difference that the report shows, what the table's tests say.
        standing: of a value, in a column where settings can be told apart: the best, or near it.
        refused: why a difference is not there, where its two sides cannot be paired.
    """

    value: float | None = None
    low: float = float("nan")
    high: float = float("nan")
    seed_values: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()
    expressions: int = 0
    comparison: Comparison | None = None
    judgement: Judgement | None = None
    standing: Literal["best", "near"] | None = None
    refused: str | None = None

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds, None of fewer than two."""
        return float(pd.Series(self.seed_values).std()) if len(self.seed_values) > 1 else None


Cells = dict[tuple[Kind, str, str, str], Cell]
"""By kind, metric, setting and split."""


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: of the setting or model.
        kind: its own numbers, or their difference from the baseline's.
        cells: one per column.
        flags: keys of `FLAGS`.
    """

    name: str
    kind: Kind
    cells: tuple[Cell, ...]
    flags: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Over how many seeds the numbers are."""
        return max((max(1, len(cell.seeds)) for cell in self.cells if cell.value is not None), default=0)


@dataclass(frozen=True)
class Block:
    """One metric's part of a table."""

    metric: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def cell(self, name: str, column: str, kind: str = "value") -> Cell | None:
        """A cell by its row and column."""
        row = next((row for row in self.rows if row.name == name and row.kind == kind), None)
        return None if row is None else row.cells[self.columns.index(column)]


@dataclass(frozen=True)
class TableData:
    """A grid's results, laid out.

    Attributes:
        blocks: one per metric that applies, those of the report first and in its order.
        shown: how many of the blocks the report asks for.
        incomplete: runs that are expected, or have a record, and are not completed.
        scored: of rows that are predictions of other models, where their masks came from.
        changed: files of a submitted grid that have changed since.
        family: the tests of all the differences that the report shows.
        refused: settings without a difference, and why.
        budgets: what each setting's training costs.
        other_budget: the settings that cost something else than the baseline, and in what.
        published: numbers of others.
        file: the grid's, as it was named.
        preset: what took the place of the file's own.
        tuning: what was tried for which setting; None: every setting has the grid's own values.
        equal_flops: of settings that are trained for the FLOPs of another, how many steps that is.
        no_target: of splits in which expressions refer to nothing: how many do, and how many expressions there are.
    """

    title: str
    grid: str
    baseline: str | None
    blocks: tuple[Block, ...]
    shown: int
    seeds: Mapping[str, tuple[int, ...]]
    runs: Mapping[str, tuple[str, ...]]
    other_code: Sequence[str] = ()
    fewer_seeds: Mapping[str, int] = field(default_factory=dict)
    incomplete: Sequence[Incomplete] = ()
    scored: Mapping[str, str] = field(default_factory=dict)
    changed: Sequence[str] = ()
    family: Family = field(default_factory=Family)
    refused: Mapping[str, str] = field(default_factory=dict)
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    other_budget: Mapping[str, str] = field(default_factory=dict)
    published: Sequence[Published] = ()
    file: str = ""
    preset: str | None = None
    tuning: Tuning | None = None
    equal_flops: Mapping[str, EqualFlops] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    """What settings are called, where it is not their name."""
    no_target: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def label(self, name: str | None) -> str:
        """What a row is called."""
        return self.labels.get(str(name), str(name))

    def block(self, metric: str) -> Block:
        """A metric's block; KeyError where it does not apply."""
        for block in self.blocks:
            if block.metric == metric:
                return block
        raise KeyError(metric)


def lay_out(evaluated: Evaluated) -> TableData:
    """The table of a grid."""
    grid, names = evaluated.grid, [*evaluated.grid.settings, *evaluated.sources]
    asked = dict.fromkeys(grid.report.metrics)
    found = {name for frame in evaluated.expressions.values() for name in applicable(frame)}
    others = [name for name in metrics if name in found and name not in asked]
    costs = budgets(evaluated)
    other_budget = other_budgets(costs, grid.baseline)
    flags = {name: _flags(name, evaluated, other_budget) for name in names}
    cells = _cells(evaluated, names, [*asked, *others])
    made = {metric: _block(metric, names, flags, evaluated, cells) for metric in (*asked, *others)}
    shown = [_with_standings(made[metric], evaluated, len(asked)) for metric in asked]
    shown, family = _judged(shown, grid.report.equivalence / 100)
    blocks = (*shown, *(made[metric] for metric in others))
    return TableData(
        grid.title,
        grid.file.name,
        grid.baseline,
        blocks,
        len(asked),
        {name: evaluated.seeds(name) for name in names},
        {name: tuple(sorted(set(frame["run"]))) for name, frame in evaluated.expressions.items()},
        evaluated.other_code,
        evaluated.fewer_seeds,
        evaluated.incomplete,
        evaluated.sources,
        [str(file) for file in grid.changed_sources()] if grid.submitted else [],
        family,
        _refused(shown),
        costs,
        other_budget,
        published(grid),
        str(grid.file),
        grid.preset,
        tuning=grid.tuning,
        equal_flops=grid.equal_flops,
        labels=grid.labels,
        no_target=_no_target(evaluated),
    )


def _no_target(evaluated: Evaluated) -> dict[str, tuple[int, int]]:
    counts: dict[str, tuple[int, int]] = {}
    for split in evaluated.grid.splits:
        for name in evaluated.expressions:
            part = evaluated.part(name, split)
            if part is None or not is_no_target(part).any():
                continue
            of_one = part[part["run"] == part["run"].iloc[0]]
            counts[split] = max(counts.get(split, (0, 0)), (int(is_no_target(of_one).sum()), len(of_one)))
    return counts


def _flags(name: str, evaluated: Evaluated, other_budget: Mapping[str, str]) -> tuple[str, ...]:
    members = {
        "other_code": evaluated.other_code, "scored": evaluated.sources, "fewer_seeds": evaluated.fewer_seeds,
        "incomplete": {run.setting for run in evaluated.incomplete}, "other_budget": other_budget,
    }  # fmt: skip
    return tuple(flag for flag in FLAGS if name in members[flag])


def _block(
    metric: str, names: Sequence[str], flags: Mapping[str, tuple[str, ...]], evaluated: Evaluated, cells: Cells
) -> Block:
    splits, baseline = evaluated.grid.splits, evaluated.grid.baseline

    def row(kind: Kind, name: str) -> Row:
        of_splits = tuple(cells.get((kind, metric, name, split), Cell()) for split in splits)
        return Row(name, kind, of_splits, flags[name] if kind == "value" else ())

    rows = [row("value", name) for name in names]
    if baseline is not None:
        rows += [row("difference", name) for name in names if name != baseline]
    return Block(metric, splits, tuple(rows))


def _with_standings(block: Block, evaluated: Evaluated, blocks: int) -> Block:
    """The same with the best of each column marked, and what cannot be told from it."""
    rows = list(block.rows)
    for column, split in enumerate(block.columns):
        values = {row.name: cell.value for row in rows if row.kind == "value" and (cell := row.cells[column]).value}
        parts = {name: part for name in values if (part := evaluated.part(name, split)) is not None}
        found = standings(block.metric, values, parts, blocks * len(block.columns))
        for number, row in enumerate(rows):
            if row.kind == "value" and row.name in found:
                cells = list(row.cells)
                cells[column] = replace(cells[column], standing=found[row.name])
                rows[number] = replace(row, cells=tuple(cells))
    return replace(block, rows=tuple(rows))


def _judged(blocks: Sequence[Block], margin: float) -> tuple[list[Block], Family]:
    """The same with the judgement of each difference, corrected for the number of all of them."""
    places = {
        (b, r, c): cell.comparison
        for b, block in enumerate(blocks)
        for r, row in enumerate(block.rows)
        for c, cell in enumerate(row.cells)
        if cell.comparison is not None
    }
    judgements, family = judge(places, margin)

    def cells(b: int, r: int, row: Row) -> tuple[Cell, ...]:
        return tuple(replace(cell, judgement=judgements.get((b, r, c))) for c, cell in enumerate(row.cells))

    return [
        replace(block, rows=tuple(replace(row, cells=cells(b, r, row)) for r, row in enumerate(block.rows)))
        for b, block in enumerate(blocks)
    ], family


def _refused(blocks: Sequence[Block]) -> dict[str, str]:
    """By setting, why it has no difference; the first reason of several."""
    reasons: dict[str, str] = {}
    for block in blocks:
        for row in block.rows:
            for cell in row.cells:
                if cell.refused is not None:
                    reasons.setdefault(row.name, cell.refused)
    return reasons


def _cells(evaluated: Evaluated, names: Sequence[str], wanted: Sequence[str]) -> Cells:
    """Every value and difference that there is, of all metrics together: taking rows out of frames takes longest."""
    cells: Cells = {}
    for split in evaluated.grid.splits:
        for name in names:
            part = evaluated.part(name, split)
            if part is None:
                continue
            own = applicable(part)
            counted = [metric for metric in wanted if metrics[metric].by_name or metric in own]
            sample, source = sample_of(part), _Source.of(part)
            for metric in counted:
                values = tuple(metrics[metric].value(run) for run in sample.runs)
                cells["value", metric, name, split] = source.cell(estimate(sample, metric), values)
            for metric, cell in _differences(evaluated, name, split, counted):
                cells["difference", metric, name, split] = cell
    return cells


def _differences(evaluated: Evaluated, name: str, split: str, wanted: Sequence[str]) -> Iterator[tuple[str, Cell]]:
    """From the baseline, over the seeds that both have; of each metric."""
    ours, baseline = evaluated.part(name, split), evaluated.grid.baseline
    theirs = None if baseline is None else evaluated.part(baseline, split)
    if ours is None or theirs is None or name == baseline:
        return
    has_seeds = "seed" in ours
    common = set(ours["seed"]) & set(theirs["seed"]) if has_seeds else set()
    if has_seeds:
        ours, theirs = (part[part["seed"].isin(common)] for part in (ours, theirs))
    refused, pairs = None, None
    if not _comparable(evaluated, name):
        refused = f"it is evaluated on other data than {baseline}"
    elif has_seeds and not common:
        refused = f"it has no seed that {baseline} has"
    else:
        try:
            pairs = pairs_of(ours, theirs)
        except PairingError as error:
            refused = f"{split}: {error}"
    if pairs is None:
        yield from ((metric, Cell(refused=refused)) for metric in wanted)
        return
    source = _Source.of(ours)
    for metric in wanted:
        of = metrics[metric].value
        by_seed = [of(one) - of(other) for one, other in zip(pairs.ours, pairs.theirs, strict=True) if has_seeds]
        comparison = compared(pairs, metric)
        cell = source.cell(comparison.interval, tuple(by_seed))
        yield metric, cell if cell.value is None else replace(cell, comparison=comparison)


def _comparable(evaluated: Evaluated, name: str) -> bool:
    """Whether a setting was evaluated on the baseline's expressions; those of other models were checked when read."""
    settings, baseline = evaluated.grid.settings, evaluated.grid.baseline
    return baseline is not None and (
        name not in settings or settings[name].data.same_set(settings[baseline].data)
    )  # fmt: skip


@dataclass(frozen=True)
class _Source:
    """Where a cell's numbers come from; see `Cell`."""

    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    expressions: int

    @classmethod
    def of(cls, part: pd.DataFrame) -> _Source:
        seeds = tuple(sorted(int(seed) for seed in part["seed"].unique())) if "seed" in part else ()
        runs = tuple(sorted(part["run"].unique()))
        return cls(seeds, runs, len(part) // len(runs))

    def cell(self, interval: Estimate, seed_values: tuple[float, ...]) -> Cell:
        if pd.isna([interval.value, interval.low, interval.high, *seed_values]).any():
            return Cell()  # of a seed, or of a draw, nothing is counted for the metric
        bounds = interval.value, interval.low, interval.high
        return Cell(*bounds, seed_values, self.seeds, self.runs, self.expressions)

"""Where one number of a table comes from: runs, values, configuration, budget, and how its interval is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pandas as pd

from workbench.analysis.comparison import ALPHA, FEWEST_SEEDS
from workbench.analysis.statistics import SAMPLES
from workbench.config.run import difference
from workbench.errors import WorkbenchError, counted
from workbench.evaluation.metrics import is_no_target, metrics
from workbench.grids.evaluated import Evaluated
from workbench.grids.tuning import named
from workbench.paper.budget import NAMES
from workbench.paper.layout import Cell, TableData
from workbench.paper.render import DASH, per_cent
from workbench.paper.tuned import tuned
from workbench.registry import unknown_name


def explain(table: TableData, stored: Evaluated, setting: str, split: str, metric: str) -> str:
    """All that stands behind a cell.

    Raises:
        WorkbenchError: there is no such setting, split or metric.
    """
    for kind, name, known in (
        ("setting", setting, list(table.runs)),
        ("split", split, list(table.blocks[0].columns)),
        ("metric", metric, [block.metric for block in table.blocks]),
    ):
        if name not in known:
            raise WorkbenchError(f"--explain: {unknown_name(kind, name, known)}")
    block = table.block(metric)
    cell = block.cell(setting, split) or Cell()
    lines = [f"{metrics[metric].label} of {setting} on {split} ({metrics[metric].definition})", ""]
    lines += [*_value(cell), "", "runs", *_runs(stored, cell, stored.part(setting, split)), ""]
    if table.baseline is not None and setting != table.baseline:
        lines += _difference(table, block.cell(setting, split, "difference") or Cell())
        lines += ["", f"configuration: {table.baseline} -> {setting}", *_configuration(stored, table.baseline, setting)]
    lines += ["", "budget", *_budget(table, setting)]
    lines += ["", "tuning", *_tuning(table, setting)]
    missing = [str(run) for run in table.incomplete if run.setting == setting]
    return "\n".join([*lines, *(["", "not completed: " + ", ".join(missing)] if missing else [])]) + "\n"


def _value(cell: Cell) -> Iterator[str]:
    if cell.value is None:
        yield f"  {DASH} there is no such number"
        return
    yield f"  value     {per_cent(cell.value)}, the mean of {counted(max(1, len(cell.seeds)), 'run')}"
    yield f"  interval  [{per_cent(cell.low)}, {per_cent(cell.high)}], 95 %"
    if cell.spread is not None:
        yield f"  deviation {per_cent(cell.spread)} over seeds"
        yield f"  made by   Student's t on the seeds' variance plus that of {SAMPLES:,} bootstrap draws of whole images"
    else:
        yield f"  made by   {SAMPLES:,} bootstrap draws of whole images; what another seed would give is not in it"


def _runs(stored: Evaluated, cell: Cell, part: pd.DataFrame | None) -> Iterator[str]:
    records = stored.runs.drop_duplicates("run").set_index("run")
    none = Counter[str]() if part is None else Counter[str](part["run"][is_no_target(part)])
    for number, run in enumerate(cell.runs):
        referring = f", {none[run]:,} of which refer to nothing" if none[run] else ""
        value = per_cent(cell.seed_values[number]) if number < len(cell.seed_values) else DASH
        code = str(records["codes"][run]) if run in records.index and not pd.isna(records["codes"][run]) else DASH
        yield f"  {value:>6}  {run}  {counted(cell.expressions, 'expression')}{referring}, code {code}"


def _difference(table: TableData, cell: Cell) -> Iterator[str]:
    yield f"difference from {table.baseline}"
    if cell.value is None or cell.comparison is None:
        yield f"  {DASH} {cell.refused or 'there is no such number'}"
        return
    made = cell.comparison
    each = ", ".join(
        f"seed {seed}: {per_cent(value, '+')}" for seed, value in zip(cell.seeds, cell.seed_values, strict=False)
    )
    yield f"  value     {per_cent(cell.value, '+')} over {counted(made.seeds, 'pair')} of runs ({each})"
    yield f"  interval  [{per_cent(cell.low, '+')}, {per_cent(cell.high, '+')}], 95 %"
    for name, lines in making(table, cell):
        yield from (f"  {name if number == 0 else '':<10}{line}" for number, line in enumerate(lines))


def making(table: TableData, cell: Cell) -> Iterator[tuple[str, list[str]]]:
    """How a difference's interval is made, and what its tests say: what it is about, and its lines."""
    made, judged = cell.comparison, cell.judgement
    if made is None:
        return
    yield (
        "made by",
        [
            f"{made.seeds} seeds × {made.images} images (clusters of expressions) as crossed random effects:",
            f"standard error {per_cent(made.error)}, Student's t with {made.freedom:.1f} degrees of freedom",
        ],
    )
    if judged is None:
        yield "tests", ["none: the report does not ask for this metric"]
    elif judged.p is None:
        yield "tests", [f"none: {counted(made.seeds, 'pair')}, and no test is made with fewer than {FEWEST_SEEDS}"]
    else:
        yield (
            "tests",
            [
                f"{judged.verdict} at {ALPHA:g}, Student's t with {made.test_freedom:g} degrees of freedom:",
                f"no difference p = {made.p:.2g}, with Holm over {table.family.tests} p = {judged.p:.2g};",
                f"{100 * table.family.margin:g} or more either way p = {judged.p_equivalent:.2g} with Holm;",
                f"a difference of {per_cent(judged.detectable)} would be found four times in five",
            ],
        )


def _configuration(stored: Evaluated, baseline: str, setting: str) -> list[str]:
    settings = stored.grid.settings
    if setting not in settings:
        return [f"  predictions made elsewhere: {stored.sources[setting]}"]
    one, other = (settings[name].identity_document()["config"] for name in (baseline, setting))
    return [f"  {line}" for line in difference(one, other)]


def _tuning(table: TableData, setting: str) -> Iterator[str]:
    yield f"  {tuned(table.tuning, setting)}"
    choice = None if table.tuning is None else table.tuning.choices.get(setting)
    for trial in () if choice is None else choice.trials:
        score = "diverged" if trial.score is None else per_cent(trial.score)
        yield f"  {score:>8}  {named(trial.values)}  {', '.join(trial.runs)}"


def _budget(table: TableData, setting: str) -> Iterator[str]:
    cost = table.budgets.get(setting)
    for key, value in ({} if cost is None else cost.as_dict()).items():
        yield f"  {NAMES[key]:<18}{DASH if value is None else f'{value:,.4g}' if value < 1000 else f'{value:,.0f}'}"
    if setting in table.equal_flops:
        yield f"  {table.equal_flops[setting]}"
    if setting in table.other_budget:
        yield f"  against {table.baseline}: {table.other_budget[setting]}"

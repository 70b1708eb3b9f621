"""A grid's results in sentences: what was compared, what is ahead by how much, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.errors import counted
from workbench.evaluation.metrics import metrics
from workbench.grids.evaluated import Evaluated
from workbench.paper.layout import Block, Cell, TableData
from workbench.paper.page.tables import number

if TYPE_CHECKING:
    from workbench.paper.page.runs import SettingView

MOST_NAMES = 8
"""Of a longer list, only the first are named."""
Differences = Sequence[tuple[str, Cell]]


def sentences(stored: Evaluated, table: TableData) -> list[str]:
    """What was compared; then, split by split, what the report's first metric says."""
    lines = [_compared(stored, table)]
    for block in table.blocks[:1]:
        lines += [line for split in block.columns if (line := _of_split(block, split, table))]
        lines += _by_chance(block, table)
    return lines


def hours_taken(settings: Sequence[SettingView]) -> str:
    """What the completed runs took, training and evaluation together."""
    runs = [run for setting in settings for run in setting.runs if run.state == "completed"]
    gpu = sum(run.gpu_hours or 0.0 for run in runs)
    on_cpu = [run for run in runs if not run.gpu_hours]
    text = f"The {counted(len(runs), 'completed run')} took"
    if on_cpu and all(run.cpu_hours is not None for run in on_cpu):
        with_gpu = f" {gpu:.1f} GPU-hours and" if len(on_cpu) < len(runs) else ""
        return f"{text}{with_gpu} {sum(run.cpu_hours or 0.0 for run in on_cpu):.1f} CPU-hours (time × threads)."
    text += f" {gpu:.1f} GPU-hours"
    hours = sum(run.hours or 0.0 for run in on_cpu)
    return f"{text}; those without a GPU took {hours:.1f} hours." if on_cpu else f"{text}."


def missing(stored: Evaluated, from_summary: bool) -> list[str]:
    """Runs that are not completed, one line each, and what a kept summary does not hold."""
    lines = [_incomplete(str(run), run.message) for run in stored.incomplete]
    if from_summary:
        lines.append(
            "Made from a kept summary, which holds no images, masks, learning curves, commits and versions: these need "
            "the run folders and the data set."
        )
    return lines


def _incomplete(run: str, message: str | None) -> str:
    return f"{run}: {message}" if message and message not in run else run


def _compared(stored: Evaluated, table: TableData) -> str:
    names = [name for name in table.seeds if name in stored.expressions]
    labels = [table.label(name) for name in names]
    counts = sorted({len(table.seeds[name]) for name in names if name in stored.grid.settings})
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "0"
    data = ", ".join(sorted(set(stored.runs["dataset"].dropna())))
    splits = ", ".join(stored.grid.splits)
    each = "seed" if seeds == "1" else "seeds"
    text = f"{counted(len(names), 'setting')} ({_listed(labels)}) on {splits} of {data}, {seeds} {each} per setting"
    return (
        f"{text}; the baseline is {table.label(table.baseline)}."
        if table.baseline
        else f"{text}; no baseline is named."
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _by_chance(block: Block, table: TableData) -> list[str]:
    """What is left of several differences when their number is counted in."""
    cells = [cell for row in block.rows if row.kind == "difference" for cell in row.cells if cell.value is not None]
    without = sum(cell.low > 0 or cell.high < 0 for cell in cells)
    if len(cells) < 2:
        return []
    text = (
        f"Of these {len(cells)} differences, {without} have an interval without zero. Each interval is that of one "
        "difference alone: where nothing differs, about one in twenty leaves zero out."
    )
    if table.family.tests < 2:
        return [text]
    different = sum(cell.judgement is not None and cell.judgement.different for cell in cells)
    return [
        f"{text} The tests are corrected for all {table.family.tests} differences that are tested below; by them "
        f"{different or 'none'} of these {'differs' if different == 1 else 'differ'}."
    ]


def _of_split(block: Block, split: str, table: TableData) -> str | None:
    """One sentence about a split; None where it has no number."""
    label, sign = metrics[block.metric].label, 1 if metrics[block.metric].direction == "higher" else -1
    cells = {
        kind: [
            (table.label(row.name), cell)
            for row in block.rows
            if row.kind == kind and (cell := row.cells[block.columns.index(split)]).value is not None
        ]
        for kind in ("value", "difference")
    }
    if cells["difference"] and table.baseline is not None:
        return f"{label} on {split}: {_differences(cells['difference'], table.label(table.baseline), sign)}"
    if not cells["value"]:
        return None
    name, cell = max(cells["value"], key=lambda one: sign * (one[1].value or 0.0))
    return f"{label} on {split}: {name} has the best value, {number(cell.value)} {_interval(cell)}."


def _differences(differences: Differences, baseline: str, sign: int) -> str:
    """What is ahead of the baseline and what is behind it; if nothing is ahead, the best.

    The tests say so; where there are too few seeds for one, the interval.
    """
    apart = [one for one in differences if _is_apart(one[1])]
    texts = []
    for where, way in (("ahead of", sign), ("behind", -sign)):
        there = [one for one in apart if way * (one[1].value or 0.0) > 0]
        told = {
            "": [one for one in there if _is_tested(one[1])],
            ", with too few seeds for a test": [one for one in there if not _is_tested(one[1])],
        }
        parts = [f"{where} {baseline}{how}: {_told_apart(these)}" for how, these in told.items() if these]
        if way == sign and not parts:
            parts = [f"nothing is clearly ahead of {baseline}"]
            if rest := [one for one in differences if one not in apart]:
                name, cell = max(rest, key=lambda one: sign * (one[1].value or 0.0))
                difference = f"{number(cell.value, '+')} points {_interval(cell, '+')}"
                parts.append(f"the largest difference is that of {name}, {difference}, {_unclear(cell)}")
        texts += parts
    return "; ".join(texts) + "."


def _is_tested(cell: Cell) -> bool:
    return cell.judgement is not None and cell.judgement.p is not None


def _is_apart(cell: Cell) -> bool:
    """Whether a difference is told from zero: by its test, or by its interval where there is no test."""
    if cell.judgement is not None and cell.judgement.p is not None:
        return cell.judgement.different
    return cell.low > 0 or cell.high < 0


def _unclear(cell: Cell) -> str:
    """Why a difference is not called one."""
    if cell.judgement is not None and cell.judgement.equivalent:
        return "equivalent by the test"
    return "whose interval holds zero" if cell.low <= 0 <= cell.high else "which the test does not tell from zero"


def _told_apart(differences: Differences) -> str:
    parts = [
        f"{name} by {number(abs(cell.value or 0.0))} points {_interval(cell, '+')}"
        for name, cell in differences[:MOST_NAMES]
    ]
    more = len(differences) - MOST_NAMES
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def _interval(cell: Cell, sign: str = "") -> str:
    return f"[{number(cell.low, sign)}, {number(cell.high, sign)}]"

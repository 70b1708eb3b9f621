"""Table data as text: Markdown for people, CSV for programs, JSON for where it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from workbench.analysis.comparison import FEWEST_SEEDS
from workbench.errors import counted
from workbench.evaluation.metrics import metrics
from workbench.files import write_text
from workbench.paper.budget import NAMES as BUDGETS
from workbench.paper.budget import Budget
from workbench.paper.layout import FLAGS, Block, Cell, Row, TableData
from workbench.paper.tuned import of_tuning, tuned
from workbench.paper.verdicts import Judgement

DASH = "–"
DIFFERENT, EQUIVALENT = "★", "≈"
STANDING = {"best": "▲", "near": "△"}
MARKER = "workbench: "


def markdown(table: TableData, cited: str | None = None, source: Mapping[str, str] | None = None) -> str:
    """The table as Markdown, one block per metric of the report, in per cent.

    Args:
        cited: the grid as `workbench check` is to find it; a comment above each block then says where its numbers
            come from.
        source: what else the comment is to say, see `workbench.paper.citations`.
    """
    blocks = []
    for block in shown(table):
        mark = "" if cited is None else f"<!-- {marker(cited, source, metric=block.metric)} -->\n"
        blocks.append(mark + _markdown_block(block, table))
    if table.published:
        blocks.append(markdown_rows([[escaped(text) for text in row] for row in published_rows(table)]))
    return "\n\n".join([f"## {table.title}", *blocks, *map(escaped_note, notes(table))]) + "\n"


def escaped_note(text: str) -> str:
    """A sentence below a table, in which names may hold what Markdown takes for HTML."""
    return text.replace("<", "&lt;") if re.search("<[A-Za-z!/?]", text) else text


def source_of(table: TableData, seeds: str | None = None, summary: Path | None = None) -> dict[str, str]:
    """What a comment says of where a table comes from, besides its grid."""
    given = {"preset": table.preset, "from": None if summary is None else str(summary), "seeds": seeds}
    return {key: value for key, value in given.items() if value is not None}


def marker(grid: str, source: Mapping[str, str] | None = None, **fields: str) -> str:
    """What a comment says of the numbers beside it, for `workbench check`; values are percent-encoded."""
    parts = {"grid": grid, **(source or {}), **fields}
    return MARKER + " ".join(f"{key}={quote(value, safe='/@.,=')}" for key, value in parts.items())


def markdown_rows(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of texts, the first row its header, columns as wide as their widest text."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def per_cent(value: float | None, sign: str = "") -> str:
    """A fraction in per cent with one digit, or a dash."""
    return DASH if value is None or pd.isna(value) else f"{100 * value:{sign}z.1f}"


def over(seeds: int) -> str:
    """What the interval of so many seeds is over."""
    return "seeds and images" if seeds > 1 else "images alone: what another seed would give is not in it"


def notes(table: TableData) -> list[str]:
    """What stands below a table: what its numbers are, what its marks mean, and what is missing."""
    most = max((len(seeds) for seeds in table.seeds.values()), default=0)
    spread = (
        "± is the standard deviation over n seeds, and a difference is over the seeds that both have."
        if most > 1
        else "One seed."
    )
    lines = [f"In per cent; in brackets the 95 % interval over {over(most)}. {spread}", *_of_tests(table)]
    lines += _of_no_target(table)
    if any(cell.standing for block in shown(table) for row in block.rows for cell in row.cells):
        lines.append(f"{STANDING['best']} best of its column, {STANDING['near']} within its noise.")
    if table.other_code:
        names = ", ".join(map(table.label, table.other_code))
        lines.append(f"{FLAGS['other_code']} computed by other code than this version's: {names}.")
    if table.fewer_seeds:
        counts = ", ".join(f"{table.label(name)} ({count} of {most})" for name, count in table.fewer_seeds.items())
        lines.append(f"{FLAGS['fewer_seeds']} fewer seeds than others: {counts}.")
    if table.other_budget:
        costs = "; ".join(f"{table.label(name)} ({what})" for name, what in table.other_budget.items())
        lines.append(f"{FLAGS['other_budget']} other budget than {table.label(table.baseline)}: {costs}.")
    if table.equal_flops:
        steps = "; ".join(f"{table.label(name)} {made}" for name, made in table.equal_flops.items())
        lines.append(f"Steps set by training FLOPs: {steps}.")
    lines += of_tuning(table.tuning, table.labels)
    if table.scored:
        files = ", ".join(f"{name} ({file})" for name, file in table.scored.items())
        lines.append(f"{FLAGS['scored']} predictions made elsewhere, scored by this code: {files}.")
    if table.refused:
        reasons = "; ".join(f"{table.label(name)} ({reason})" for name, reason in table.refused.items())
        lines.append(f"No difference, since there are no pairs: {reasons}.")
    if table.incomplete:
        runs = ", ".join(map(str, table.incomplete))
        lines.append(f"{DASH} not completed: {runs}. Their settings are marked {FLAGS['incomplete']}.")
    if table.changed:
        lines.append(
            f"This is the grid as it was submitted; changed or removed since: {', '.join(table.changed)}."
        )  # fmt: skip
    return lines


def _of_no_target(table: TableData) -> list[str]:
    """Which of the metrics that are shown leave out the expressions that refer to nothing, and how many these are."""
    without = [metrics[block.metric].label for block in shown(table) if metrics[block.metric].applies_to == "target"]
    if not table.no_target or not without:
        return []
    counts = ", ".join(f"{none:,} of {total:,} on {split}" for split, (none, total) in table.no_target.items())
    line = f"Without the expressions that refer to nothing ({counts}): {', '.join(without)}."
    names = {block.metric for block in shown(table)}
    others = [name for name, metric in metrics.items() if metric.applies_to == "no_target" and name not in names]
    if others:
        labels = ", ".join(metrics[name].label for name in others)
        line += f" {labels} are in table.csv; the grid's `report: {{metrics: [{', '.join(others)}]}}` shows them."
    return [line]


def _of_tests(table: TableData) -> list[str]:
    """What the tests of the differences say, and what they could have found."""
    family, judged = table.family, _judgements(table)
    lines = []
    if family.tests:
        different, equivalent = (sum(getattr(one, kind) for one in judged) for kind in ("different", "equivalent"))
        margin, inconclusive = 100 * family.margin, sum(one.verdict == "inconclusive" for one in judged)
        counts = [
            f"{different} {DIFFERENT} {'differs' if different == 1 else 'differ'} from {table.label(table.baseline)}",
            f"{equivalent} {EQUIVALENT} {'is' if equivalent == 1 else 'are'} equivalent within ±{margin:g}",
            f"{inconclusive} {'is' if inconclusive == 1 else 'are'} inconclusive",
        ]
        lines.append(
            f"Of {counted(family.tests, 'difference')}: {', '.join(counts)} (p < .05, Holm over the table). Smallest "
            f"difference that such a study finds four times in five: {_detectable(table)}."
        )
    if family.untested:
        lines.append(
            f"{counted(family.untested, 'difference')} not tested: with fewer than {FEWEST_SEEDS} seeds "
            f"no test can reach p < .05 reliably."
        )
    return lines


def _judgements(table: TableData) -> list[Judgement]:
    cells = [cell for block in shown(table) for row in block.rows for cell in row.cells]
    return [cell.judgement for cell in cells if cell.judgement is not None]


def _detectable(table: TableData) -> str:
    """By metric and split, the largest over the settings."""
    texts = []
    for block in shown(table):
        parts = []
        for column, split in enumerate(block.columns):
            found = [row.cells[column].judgement for row in block.rows]
            sizes = [one.detectable for one in found if one is not None and one.detectable is not None]
            if sizes:
                parts.append(f"{per_cent(max(sizes))} on {split}")
        texts.append(f"{metrics[block.metric].label} {', '.join(parts)}")
    return "; ".join(texts)


def shown(table: TableData) -> tuple[Block, ...]:
    """The blocks that the report asks for."""
    return table.blocks[: table.shown]


def row_name(row: Row, table: TableData) -> str:
    """A row's name without its marks: what its setting is called."""
    name = table.label(row.name)
    return name if row.kind == "value" else f"{name} − {table.label(table.baseline)}"


def row_marks(row: Row) -> str:
    """The flags of a row, as they stand behind its name."""
    return "".join(FLAGS[flag] for flag in row.flags)


def cell_marks(cell: Cell) -> str:
    """What the tests say of a cell, as it stands behind its numbers."""
    judged = cell.judgement or Judgement()
    standing = "" if cell.standing is None else STANDING[cell.standing]
    return DIFFERENT * judged.different + EQUIVALENT * judged.equivalent + standing


def _markdown_block(block: Block, table: TableData) -> str:
    rows = [[metrics[block.metric].label, "n", *block.columns]]
    for row in block.rows:
        name = f"{row_name(row, table)} {row_marks(row)}".strip()
        rows.append([name, str(row.n or DASH), *(_markdown_cell(cell, row) for cell in row.cells)])
    return markdown_rows([[escaped(text) for text in row] for row in rows])


def escaped(text: str) -> str:
    """Names and sentences stay text in a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _markdown_cell(cell: Cell, row: Row) -> str:
    if cell.value is None or pd.isna(cell.value):
        return DASH
    sign = "+" if row.kind == "difference" else ""
    spread = "" if cell.spread is None else f" ± {per_cent(cell.spread)}"
    interval = f"[{per_cent(cell.low, sign)}, {per_cent(cell.high, sign)}]"
    return f"{per_cent(cell.value, sign)}{spread} {interval} {cell_marks(cell)}".strip()


def published_rows(table: TableData) -> list[list[str]]:
    """Header and rows of the published numbers; the header alone where there are none."""
    splits = block_columns(table)
    rows = [["published", "backbone", "data set", "metric", *splits, "year", "source"]]
    for one in table.published:
        values = [f"{one.values[split]:g}" if split in one.values else DASH for split in splits]
        named = [one.method, one.backbone or DASH, one.dataset, one.metric]
        rows.append([*named, *values, one.year or DASH, one.source])
    return rows


def csv_frame(table: TableData) -> pd.DataFrame:
    """Every metric that applies, one row per setting, split and metric, then the published numbers; fractions."""
    rows = []
    for row in table.blocks[0].rows if table.blocks else ():
        if row.kind == "value":
            rows += [
                _csv_row(table, block, row.name, split)
                for split in block_columns(table)
                for block in table.blocks
                if (cell := block.cell(row.name, split)) is not None and cell.value is not None
            ]
    for one in table.published:
        rows += [
            {"setting": one.method, "split": split, "metric": one.metric, "value": value / 100, "source": one.source,
             "year": one.year}
            for split, value in one.values.items()
        ]  # fmt: skip
    return pd.DataFrame(rows)


def block_columns(table: TableData) -> tuple[str, ...]:
    """The splits of a table."""
    return table.blocks[0].columns if table.blocks else ()


def _csv_row(table: TableData, block: Block, name: str, split: str) -> dict[str, object]:
    cell, difference = block.cell(name, split) or Cell(), block.cell(name, split, "difference") or Cell()
    judged = difference.judgement
    cost = (table.budgets.get(name) or Budget()).as_dict()
    return {
        "setting": name,
        "split": split,
        "metric": block.metric,
        "value": cell.value,
        "low": cell.low,
        "high": cell.high,
        "seeds": max(1, len(cell.seeds)),
        "seed_sd": cell.spread,
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "difference_sd": difference.spread,
        "difference_seeds": len(difference.seeds),
        "expressions": cell.expressions,
        "p_holm": judged and judged.p,
        "p_equivalent_holm": judged and judged.p_equivalent,
        "verdict": judged and judged.verdict,
        "detectable": judged and judged.detectable,
        "tuned": tuned(table.tuning, name),
        "standing": cell.standing,
        **{BUDGETS[key].replace(" ", "_"): value for key, value in cost.items()},
    }


def source_document(table: TableData) -> dict[str, object]:
    """Where a table comes from, as plain JSON."""
    return {
        "grid": table.grid,
        "title": table.title,
        "baseline": table.baseline,
        "runs": {name: list(runs) for name, runs in table.runs.items()},
        "seeds": {name: list(seeds) for name, seeds in table.seeds.items()},
        "other_code": list(table.other_code),
        "fewer_seeds": dict(table.fewer_seeds),
        "incomplete": [{"run": run.run, "state": run.state, "message": run.message} for run in table.incomplete],
        "scored": dict(table.scored),
        "changed_since_submission": list(table.changed),
        "no_difference": dict(table.refused),
        "budgets": {name: budget.as_dict() for name, budget in table.budgets.items()},
        "tuning": None if table.tuning is None else table.tuning.document(),
        "equal_flops": {name: made.model_dump(mode="json") for name, made in table.equal_flops.items()},
        "published": [asdict(one) for one in table.published],
    }


def write_table(table: TableData, folder: Path, seeds: str | None = None) -> list[Path]:
    """Write table.md, table.csv (every metric) and table.json (where it comes from).

    Args:
        seeds: those that it was narrowed to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"table.{ending}" for ending in ("md", "csv", "json")]
    write_text(files[0], markdown(table, table.file, source_of(table, seeds)))
    write_text(files[1], csv_frame(table).to_csv(index=False, float_format="%.6f"))
    write_text(files[2], json.dumps(source_document(table), indent=1) + "\n")
    return files

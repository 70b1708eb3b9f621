"""Table data as text: Markdown for people, CSV for programs, JSON for where it comes from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from workbench.evaluation.metrics import metrics
from workbench.paper.layout import FLAGS, Block, Cell, Row, TableData

DASH = "–"


def markdown(table: TableData) -> str:
    """The table as Markdown, one block per metric of the report, in per cent."""
    blocks = [_markdown_block(block, table) for block in table.blocks[: table.shown]]
    return "\n\n".join([f"## {table.title}", *blocks, *notes(table)]) + "\n"


def markdown_rows(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of texts, the first row its header, columns as wide as their widest text."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def per_cent(value: float | None, sign: str = "") -> str:
    """A fraction in per cent with one digit, or a dash."""
    return DASH if value is None or pd.isna(value) else f"{100 * value:{sign}.1f}"


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
    lines = [f"In per cent; in brackets the 95 % interval over {over(most)}. {spread}"]
    if table.other_code:
        lines.append(
            f"{FLAGS['other_code']} computed by other code than this version's: {', '.join(table.other_code)}."
        )
    if table.fewer_seeds:
        counts = ", ".join(f"{name} ({count} of {most})" for name, count in table.fewer_seeds.items())
        lines.append(f"{FLAGS['fewer_seeds']} fewer seeds than others: {counts}.")
    if table.scored:
        files = ", ".join(f"{name} ({file})" for name, file in table.scored.items())
        lines.append(f"{FLAGS['scored']} predictions made elsewhere, scored by this code: {files}.")
    if table.incomplete:
        lines.append(f"{DASH} not completed: {', '.join(map(str, table.incomplete))}.")
    if table.changed:
        lines.append(
            f"This is the grid as it was submitted; changed or removed since: {', '.join(table.changed)}."
        )  # fmt: skip
    return lines


def _markdown_block(block: Block, table: TableData) -> str:
    rows = [[metrics[block.metric].label, "n", *block.columns]]
    for row in block.rows:
        name = table.label(row.name) + ("" if row.kind == "value" else f" − {table.label(table.baseline)}")
        marks = "".join(FLAGS[flag] for flag in row.flags)
        rows.append([f"{name} {marks}".strip(), str(row.n or DASH), *(_markdown_cell(cell, row) for cell in row.cells)])
    return markdown_rows(rows)


def _markdown_cell(cell: Cell, row: Row) -> str:
    if cell.value is None or pd.isna(cell.value):
        return DASH
    sign = "+" if row.kind == "difference" else ""
    spread = "" if cell.spread is None else f" ± {per_cent(cell.spread)}"
    return f"{per_cent(cell.value, sign)}{spread} [{per_cent(cell.low, sign)}, {per_cent(cell.high, sign)}]"


def csv_frame(table: TableData) -> pd.DataFrame:
    """Every metric that applies, one row per setting, split and metric; fractions."""
    rows = []
    for row in table.blocks[0].rows if table.blocks else ():
        if row.kind == "value":
            rows += [
                _csv_row(block, row.name, split)
                for split in block_columns(table)
                for block in table.blocks
                if (cell := block.cell(row.name, split)) is not None and cell.value is not None
            ]
    return pd.DataFrame(rows)


def block_columns(table: TableData) -> tuple[str, ...]:
    """The splits of a table."""
    return table.blocks[0].columns if table.blocks else ()


def _csv_row(block: Block, name: str, split: str) -> dict[str, object]:
    cell, difference = block.cell(name, split) or Cell(), block.cell(name, split, "difference") or Cell()
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
    }


def write_table(table: TableData, folder: Path) -> list[Path]:
    """Write table.md, table.csv (every metric) and table.json (where it comes from)."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"table.{ending}" for ending in ("md", "csv", "json")]
    files[0].write_text(markdown(table))
    csv_frame(table).to_csv(files[1], index=False, float_format="%.6f")
    files[2].write_text(json.dumps(source_document(table), indent=1) + "\n")
    return files

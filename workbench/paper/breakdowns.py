"""A grid's metric by kinds of expressions: length, words, size of the referent, others of its class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from workbench.evaluation.breakdowns import BREAKDOWNS, breakdown
from workbench.evaluation.metrics import is_no_target, metrics
from workbench.files import write_text
from workbench.paper.render import markdown_rows, per_cent
from workbench.results.folders import StoreError


def breakdown_text(frames: Mapping[str, pd.DataFrame], by: str, metric: str) -> str:
    """A Markdown table: a row per bin and split, a column per setting; the bins' sizes in expressions.

    Args:
        frames: evaluated expressions by setting; of several seeds (`run`), the mean is shown.
        by: a key of `BREAKDOWNS`.

    Raises:
        StoreError: a run was evaluated before the columns that this needs were stored.
    """
    tables = {name: _by_bin(name, frame, by) for name, frame in frames.items()}
    rows = [["split", BREAKDOWNS[by][0], "expressions", *tables]]
    every = pd.concat(tables.values())
    splits = {split: place for place, split in enumerate(dict.fromkeys(every["split"]))}
    every = every[["split", "order", "bin"]].drop_duplicates()
    every = every.sort_values(["split", "order"], key=lambda c: c.map(splits) if c.name == "split" else c)
    for split, _, name in every.itertuples(index=False):
        cells, count = [], 0
        for table in tables.values():
            part = table[(table["split"] == split) & (table["bin"] == name)]
            cells.append(per_cent(part[metric].iloc[0] if metric in part and len(part) else None))
            count = max(count, int(part["expressions"].iloc[0]) if len(part) else 0)
        rows.append([split, name, f"{count:,}", *cells])
    title = f"{metrics[metric].label} by {BREAKDOWNS[by][0]}, in per cent"
    if metrics[metric].applies_to == "target" and any(is_no_target(frame).any() for frame in frames.values()):
        title += "; expressions that refer to nothing are counted, and not in it"
    return f"{title}\n\n{markdown_rows(rows)}\n"


def write_breakdown(text: str, folder: Path, by: str) -> Path:
    """Write it as `<folder>/table-by-<by>.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"table-by-{by}.md"
    write_text(file, text)
    return file


def _by_bin(name: str, frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Metrics by split and bin, the mean over runs."""
    runs = frame["run"] if "run" in frame else pd.Series("", index=frame.index)
    try:
        parts = [
            breakdown(part, by).assign(split=str(split))
            for (split, _), part in frame.groupby(["split", runs], sort=False)
        ]
    except KeyError as error:
        raise StoreError(
            f"{name}: evaluated by an earlier version, which did not store {error}; train or evaluate it again"
        ) from None
    every = pd.concat(parts, ignore_index=True)
    means: pd.DataFrame = every.groupby(["split", "order", "bin"], sort=False).mean().reset_index()
    return means

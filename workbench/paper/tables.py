"""The table of a grid, from the store alone: each value with its interval, and with the runs it came from."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.analysis.statistics import Estimate, estimate, paired_difference
from workbench.config import run_id
from workbench.evaluation.metrics import METRIC_NAMES, applicable
from workbench.grids import Grid
from workbench.results.folders import SCORED, DamagedRecord, RunFolder, ScoredFolder, StoreError, expressions_frame
from workbench.results.provenance import code_digest

DASH = "–"


@dataclass(frozen=True)
class Table:
    """A grid's results.

    Attributes:
        cells: one row a setting, split and metric: value, low, high (shares from 0 to 1), seeds, seed_sd,
            difference from the baseline with its bounds, and the runs.
        other_code: settings trained by other code than the package as it is now.
        missing: runs that are not completed.
        scored: of the rows that are no settings but predictions of other models, the file each came from.
    """

    grid: Grid
    cells: pd.DataFrame
    other_code: Sequence[str]
    missing: Sequence[str]
    scored: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """The table as Markdown, one block a metric, in per cent."""
        blocks = [self._block(metric) for metric in self.grid.report.metrics]
        notes = [
            "In per cent; in brackets the 95 % bootstrap interval over expressions, drawn by image."
            + (" ± is the standard deviation over seeds." if len(self.grid.seeds) > 1 else " One seed.")
        ]
        if self.other_code:
            notes.append(f"† trained by other code than this version's: {', '.join(self.other_code)}.")
        if self.scored:
            files = ", ".join(f"{name} ({file})" for name, file in self.scored.items())
            notes.append(f"‡ predictions made elsewhere, scored by this code: {files}.")
        if self.missing:
            notes.append(f"{DASH} not completed: {', '.join(self.missing)}.")
        return "\n\n".join([f"## {self.grid.title}", *blocks, *notes]) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Write table.md, table.csv (every metric) and table.json (where it comes from)."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"table.{ending}" for ending in ("md", "csv", "json")]
        files[0].write_text(self.text())
        self.cells.drop(columns="runs").to_csv(files[1], index=False, float_format="%.6f")
        runs = self.cells.groupby("setting", sort=False)["runs"].first().to_dict()
        source = {
            "grid": self.grid.file.name,
            "title": self.grid.title,
            "runs": runs,
            "baseline": self.grid.baseline,
            "other_code": list(self.other_code),
            "missing": list(self.missing),
            "scored": dict(self.scored),
        }
        files[2].write_text(json.dumps(source, indent=1) + "\n")
        return files

    def _block(self, metric: str) -> str:
        rows = [[METRIC_NAMES[metric], *self.grid.splits]]
        for setting in self._rows():
            mark = " †" if setting in self.other_code else " ‡" if setting in self.scored else ""
            rows.append([setting + mark, *(self._cell(setting, split, metric) for split in self.grid.splits)])
        for setting in self._rows():
            if self.grid.baseline not in (None, setting):
                cells = [self._difference(setting, split, metric) for split in self.grid.splits]
                rows.append([f"{setting} − {self.grid.baseline}", *cells])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
        ]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join(lines)

    def _rows(self) -> list[str]:
        return [*self.grid.settings, *self.scored]

    def _find(self, setting: str, split: str, metric: str) -> pd.Series[Any] | None:
        cells = self.cells
        found = cells[(cells["setting"] == setting) & (cells["split"] == split) & (cells["metric"] == metric)]
        return None if found.empty else found.iloc[0]

    def _cell(self, setting: str, split: str, metric: str) -> str:
        row = self._find(setting, split, metric)
        if row is None:
            return DASH
        spread = f" ± {100 * row['seed_sd']:.1f}" if row["seeds"] > 1 else ""
        return f"{100 * row['value']:.1f}{spread} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"

    def _difference(self, setting: str, split: str, metric: str) -> str:
        row = self._find(setting, split, metric)
        if row is None or pd.isna(row["difference"]):
            return DASH
        bounds = f"[{100 * row['difference_low']:+.1f}, {100 * row['difference_high']:+.1f}]"
        return f"{100 * row['difference']:+.1f} {bounds}"


@dataclass(frozen=True)
class Evaluated:
    """What a table is made from.

    Attributes:
        frames: evaluated expressions by setting, and by the names in `report.models`.
        missing: runs that are not completed.
        other_code: settings trained by other code.
        scored: of each name in `report.models`, where its masks came from.
    """

    frames: dict[str, pd.DataFrame]
    missing: list[RunFolder]
    other_code: list[str]
    scored: dict[str, str]


def make_table(grid: Grid, results: Path) -> Table:
    """The table of a grid's completed runs, and of the predictions in its `report.models`.

    Raises:
        StoreError: no run is completed, or predictions were scored on other expressions.
    """
    evaluated = gather(grid, results)
    frames = evaluated.frames
    rows = []
    for setting, frame in frames.items():
        baseline = _comparable(grid, setting, frames)
        for split in grid.splits:
            here = frame[frame["split"] == split]
            there = None if baseline is None else baseline[baseline["split"] == split]
            if len(here):
                rows += [_row(setting, split, metric, here, there) for metric in applicable(here)]
    missing = [folder.name for folder in evaluated.missing]
    return Table(grid, pd.DataFrame(rows), evaluated.other_code, missing, evaluated.scored)


def gather(grid: Grid, results: Path) -> Evaluated:
    """The evaluated expressions of a grid and of its `report.models`; raises as `make_table` does."""
    frames: dict[str, pd.DataFrame] = {}
    missing: list[RunFolder] = []
    other_code: list[str] = []
    for setting, config in grid.settings.items():
        done: list[RunFolder] = []
        for seed in grid.seeds:
            folder = RunFolder(results, run_id(config, seed))
            with contextlib.suppress(DamagedRecord):  # then it counts as not completed
                folder.check(config)
            (done if folder.state() == "completed" else missing).append(folder)
        if done:
            frames[setting] = expressions_frame(done)
        if any(set(folder.record()["codes"]) != {code_digest()} for folder in done):
            other_code.append(setting)
    if not frames:
        raise StoreError(f"{grid.file}: no completed run yet; train with: workbench submit {grid.file}")
    return Evaluated(frames, missing, other_code, _scored(grid, results, frames))


def _scored(grid: Grid, results: Path, frames: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Put the frames of `report.models` to the others; where each model's masks came from."""
    sources = {}
    compared = grid.baseline if grid.baseline in frames else next(iter(frames))
    for name in grid.report.models:
        if name in grid.settings:
            raise StoreError(f"{grid.file}: report.models: {name!r} is a setting's name")
        folder = ScoredFolder(results, name)
        record, frame = folder.record(), folder.expressions()
        for split in grid.splits:
            one, other = (part[part["split"] == split] for part in (frame, frames[compared]))
            if len(one) and len(other) and not _same_truth(one, other):
                raise StoreError(
                    f"{grid.file}: report.models: {name!r} was scored on another {split} than the runs of {compared!r}"
                )
        frames[name] = frame.assign(run=f"{SCORED}/{name}")
        predictions, area = record["predictions"], record["no_target_area"]
        sources[name] = f"{predictions['file']}, SHA-256 {predictions['sha256'][:12]}, no_target_area {area}"
    return sources


def _same_truth(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two frames hold the same expressions with the same referents."""
    columns = ["image_id", "ref_id", "sent_id", "sentence"]
    columns += ["target_area"] if "target_area" in one and "target_area" in other else []
    first, second = (frame[columns].drop_duplicates().reset_index(drop=True) for frame in (one, other))
    return first.equals(second)


def _comparable(grid: Grid, setting: str, frames: dict[str, pd.DataFrame]) -> pd.DataFrame | None:
    """The baseline's expressions, if the setting was evaluated on the same data."""
    if grid.baseline is None or setting == grid.baseline or grid.baseline not in frames:
        return None
    # Predictions of another model were held against the baseline's expressions when they were read.
    baseline = grid.settings[grid.baseline].data
    same = setting not in grid.settings or grid.settings[setting].data.same_set(baseline)
    return frames[grid.baseline] if same else None


def _row(setting: str, split: str, metric: str, here: pd.DataFrame, baseline: pd.DataFrame | None) -> dict[str, Any]:
    found = estimate(here, metric)
    by_seed = [estimate_value(part, metric) for _, part in here.groupby("run")]
    difference: Estimate | None = None
    if baseline is not None:
        difference = paired_difference(here, baseline, metric)
    return {
        "setting": setting,
        "split": split,
        "metric": metric,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "seeds": len(by_seed),
        "seed_sd": float(pd.Series(by_seed).std()) if len(by_seed) > 1 else float("nan"),
        "difference": difference.value if difference else float("nan"),
        "difference_low": difference.low if difference else float("nan"),
        "difference_high": difference.high if difference else float("nan"),
        "expressions": len(here) // max(1, len(by_seed)),
        "runs": sorted(here["run"].unique().tolist()),
    }


def estimate_value(frame: pd.DataFrame, metric: str) -> float:
    """One run's metric, without an interval."""
    from workbench.evaluation.metrics import summarise

    return summarise(frame)[metric]

"""Chooses each setting's values from its trials, as soon as all of them have ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.config import RunConfig
from workbench.errors import WorkbenchError
from workbench.evaluation.metrics import metrics
from workbench.grids import Grid
from workbench.grids.tuning import Choice, Trial
from workbench.results.folders import RunFolder, StoreError
from workbench.results.record import RunRecord
from workbench.validation import DamagedFile


def choose(grid: Grid, results: Path) -> Grid:
    """The grid with the values that its trials allow to choose by now; they are kept in `tuned/` beside its file.

    A trial counts when all its seeds are completed, or one of them diverged, which loses against any score. Of equal
    scores the value that stands first in the grid is taken.

    Raises:
        WorkbenchError: all trials of a setting diverged, or were scored without the metric.
    """
    if grid.tuning is None or grid.submitted:
        return grid
    choices = {name: choice for name in grid.waiting if (choice := _choice(grid, name, results)) is not None}
    return grid.with_choices(choices) if choices else grid


def _choice(grid: Grid, setting: str, results: Path) -> Choice | None:
    """What the trials of a setting say; None before they have all ended."""
    assert grid.tuning is not None
    tune, trials, codes = grid.tuning.config, list[Trial](), set[str]()
    configs = grid.tuning.trials(setting).values()
    for values, config in zip(tune.points, configs, strict=True):
        folders = [RunFolder(results, f"{config.setting_id}/seed{seed}") for seed in tune.seeds]
        records = [_ended(folder, config) for folder in folders]
        ended = [record for record in records if record is not None]
        if len(ended) < len(records):
            return None
        codes |= {code for record in ended for code in record.codes}
        where = f"{grid.file}: tune: {setting!r} with {values}"
        score = _score(where, ended, tune.split, tune.metric)
        trials.append(Trial(values=dict(values), runs=tuple(folder.name for folder in folders), score=score))
    best = _best(trials, tune.metric)
    if best is None:
        raise WorkbenchError(f"{grid.file}: tune: every trial of {setting!r} diverged; give it other values to try")
    untuned = grid.tuning.untuned[setting].setting_id
    return Choice(untuned=untuned, values=best.values, trials=tuple(trials), codes=tuple(sorted(codes)))


def _ended(folder: RunFolder, config: RunConfig) -> RunRecord | None:
    """The record of a run that is completed or diverged; None of any other."""
    try:
        folder.check(config)
        record = folder.record()
    except (DamagedFile, StoreError):  # what a submission says of it
        return None
    return record if record.state in ("completed", "diverged") else None


def _score(where: str, records: list[RunRecord], split: str, metric: str) -> float | None:
    """The mean over a trial's runs; None where one diverged."""
    if any(record.state == "diverged" for record in records):
        return None
    values: list[Mapping[str, Any]] = [record.metrics.get(split, {}) for record in records]
    for run in values:
        if metric not in run:
            raise WorkbenchError(f"{where}: {metric} is not defined on {split}; it has {', '.join(run) or 'nothing'}")
    return sum(float(run[metric]) for run in values) / len(values)


def _best(trials: list[Trial], metric: str) -> Trial | None:
    sign = 1 if metrics[metric].direction == "higher" else -1
    scored = [(sign * trial.score, -place) for place, trial in enumerate(trials) if trial.score is not None]
    return trials[-max(scored)[1]] if scored else None

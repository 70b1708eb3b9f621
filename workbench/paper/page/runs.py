"""What the page says of each setting and its runs: configuration, provenance, learning curves, hours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.config import DataConfig, RunConfig
from workbench.evaluation.metrics import metrics
from workbench.grids.evaluated import Evaluated
from workbench.paper.page.curves import Chart, chart
from workbench.results.folders import RunFolder
from workbench.results.frames import log_frame
from workbench.results.record import RunRecord
from workbench.validation import DamagedFile

UNKNOWN = "not known"
ABSENT = "–"
"""In place of a field's value, where a configuration does not read it."""


@dataclass(frozen=True)
class RunView:
    """A run; hours include the evaluation, and CPU-hours are time × processes × threads of a run without a GPU."""

    seed: int
    run: str
    state: str
    message: str
    steps: int | None
    hours: float | None
    gpu_hours: float | None
    cpu_hours: float | None
    commit: str
    code: str
    versions: str


@dataclass(frozen=True)
class SettingView:
    """A setting and its runs.

    Attributes:
        label: what tables and figures call it; `baseline` is called so, too.
        changes: of the configuration from the baseline's: field, the baseline's value, and this one's.
        data: what identifies the data set.
        versions: of packages and device, each with the seeds that ran so.
    """

    anchor: str
    name: str
    label: str
    setting_id: str
    baseline: str | None
    changes: Sequence[tuple[str, str, str]]
    data: str
    versions: Sequence[tuple[str, str]]
    runs: Sequence[RunView]
    charts: Sequence[Chart]


def settings_of(anchor: str, stored: Evaluated, results: Path | None) -> list[SettingView]:
    """Every setting of the grid, in its order.

    Args:
        anchor: the grid's.
        results: the results folder; None: there is a summary alone, which holds no logs, commits and versions.
    """
    return [_setting(f"{anchor}-s{i}", name, stored, results) for i, name in enumerate(stored.grid.settings)]


def _setting(anchor: str, name: str, stored: Evaluated, results: Path | None) -> SettingView:
    config, baseline, labels = stored.grid.settings[name], stored.grid.baseline, stored.grid.labels
    here = stored.runs[stored.runs["setting"] == name].drop_duplicates("run")
    folders = {} if results is None else {run: RunFolder(results, run) for run in here["run"]}
    runs = [_run(row, _record(folders.get(str(row["run"])))) for _, row in here.iterrows()]
    runs += [
        RunView(run.seed or 0, run.run, run.state, run.message or "", None, None, None, None, "", "", "")
        for run in stored.incomplete
        if run.setting == name and run.seed is not None and run.run not in set(here["run"])
    ]
    return SettingView(
        anchor=anchor,
        name=name,
        label=labels.get(name, name),
        setting_id=config.setting_id,
        baseline=None if baseline in (None, name) else labels.get(str(baseline), baseline),
        changes=[] if baseline is None else _changes(stored.grid.settings[baseline], config),
        data=_data(config),
        versions=_versions(runs),
        runs=sorted(runs, key=lambda run: run.seed),
        charts=_charts(list(folders.values())),
    )


def _changes(baseline: RunConfig, config: RunConfig) -> list[tuple[str, str, str]]:
    first, second = (_flat(one.identity_document()["config"]) for one in (baseline, config))
    keys = [key for key in sorted(first.keys() | second.keys()) if first.get(key) != second.get(key)]
    return [(key, first.get(key, ABSENT), second.get(key, ABSENT)) for key in keys]


def _flat(document: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """The values of a nested document as JSON, by dotted keys."""
    flat: dict[str, str] = {}
    for key, value in document.items():
        name = f"{before}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: json.dumps(value)}
    return flat


def _data(config: RunConfig) -> str:
    return "; ".join(map(_data_set, config.data.parts))


def _data_set(data: DataConfig) -> str:
    text = f"{data.dataset}, split by {data.split_by}"
    if data.recipe is not None:
        recipe = _flat(data.recipe.model_dump(mode="json", exclude_none=True))
        return f"{text}, made from the recipe {', '.join(f'{key} {value}' for key, value in recipe.items())}"
    return f"{text}, SHA-256 {data.sha256 or UNKNOWN}"


def _record(folder: RunFolder | None) -> RunRecord:
    """A run's record; an empty one where it cannot be read, which the run's state says."""
    try:
        return RunRecord() if folder is None else folder.record()
    except DamagedFile:
        return RunRecord()


def _run(row: pd.Series[Any], record: RunRecord) -> RunView:
    origin = {} if record.provenance is None else record.provenance.digests()
    seconds, gpu_hours, processes = (_number(row[name]) for name in ("seconds", "gpu_hours", "processes"))
    hours = None if seconds is None else seconds / 3600
    on_cpu = str(origin.get("device", "")).startswith("cpu")
    known = hours is not None and record.threads is not None and on_cpu
    commit = str(origin.get("commit") or "")[:12]
    steps = _number(row["steps"])
    return RunView(
        seed=int(row["seed"]),
        run=str(row["run"]),
        state=str(row["state"]),
        message="" if pd.isna(row["message"]) else str(row["message"]),
        steps=None if steps is None else int(steps),
        hours=hours,
        gpu_hours=gpu_hours,
        cpu_hours=(hours or 0.0) * (processes or 1) * (record.threads or 1) if known else None,
        commit=f"{commit} with changes {origin['dirty']}" if commit and origin.get("dirty") else commit,
        code="" if pd.isna(row["codes"]) else str(row["codes"]),
        versions=_version_text(origin),
    )


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _version_text(origin: dict[str, Any]) -> str:
    packages = origin.get("packages")
    named = [f"{name} {version}" for name, version in packages.items()] if isinstance(packages, dict) else []
    python = [f"Python {origin['python']}"] if origin.get("python") else []
    device = [f"on {origin['device']}"] if origin.get("device") else []
    return ", ".join([*python, *named, *device])


def _versions(runs: Sequence[RunView]) -> list[tuple[str, str]]:
    """The seeds that ran with the same versions, and these."""
    seeds: dict[str, list[int]] = {}
    for run in runs:
        if run.versions:
            seeds.setdefault(run.versions, []).append(run.seed)
    return [(", ".join(map(str, sorted(of))), versions) for versions, of in seeds.items()]


def _charts(folders: Sequence[RunFolder]) -> list[Chart]:
    steps, validations = log_frame(folders), log_frame(folders, "validate")
    charts = [chart("Training loss by step", _lines(steps, "loss"))]
    if "metric" in validations:
        for metric, part in validations.groupby("metric", sort=True):
            label = metrics[str(metric)].label if metric in metrics else str(metric)
            charts.append(chart(f"{label} of the validation by step, in per cent", _lines(part, "value", 100)))
    return [one for one in charts if one is not None]


def _lines(frame: pd.DataFrame, column: str, factor: float = 1.0) -> dict[str, list[tuple[float, float]]]:
    if not {"step", column} <= set(frame.columns):
        return {}
    return {
        f"seed {seed}": [(float(x), factor * float(y)) for x, y in zip(part["step"], part[column], strict=True)]
        for seed, part in frame.groupby("seed", sort=True)
    }

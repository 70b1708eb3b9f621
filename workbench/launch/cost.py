"""What runs are expected to take, from the speed of completed runs of the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import counted
from workbench.launch.plan import PlannedRun
from workbench.results.folders import RECORD, RUNS
from workbench.results.frames import RunFolders, kind_of, runs_frame


@dataclass(frozen=True)
class Cost:
    """What runs are expected to take.

    Attributes:
        hours: of a process (a GPU where there is one), over those of a kind that was run before.
        known: how many of the runs are of such a kind.
        gpu: whether the past runs had GPUs.
    """

    hours: float
    known: int
    runs: int
    gpu: bool

    def __str__(self) -> str:
        if not self.known:
            return "cost unknown: no run of these kinds was completed before"
        what = "GPU-hours" if self.gpu else "hours of a process"
        unknown = self.runs - self.known
        rest = f", {counted(unknown, 'run')} more of kinds that were never run" if unknown else ""
        return f"about {self.hours:.2g} {what} for {counted(self.known, 'run')}, going by past ones{rest}"


def expected_cost(chosen: Sequence[PlannedRun], results: Path) -> Cost:
    """From the speed of completed runs of the same kind: same model, data, batch and precision."""
    if next((results / RUNS).glob(f"*/seed*/{RECORD}"), None) is None:  # a first submission need not load pandas
        return Cost(0.0, 0, len(chosen), False)
    frame = runs_frame(RunFolders(results), states=("completed",))
    past = frame[frame["steps"].gt(0)].drop_duplicates("run")
    if past.empty:
        return Cost(0.0, 0, len(chosen), False)
    past = past.assign(
        step_seconds=past["training_seconds"] * past["processes"] / past["steps"],
        rest=(past["seconds"].fillna(past["training_seconds"]) - past["training_seconds"]) * past["processes"],
    )
    table = past.groupby("kind")[["step_seconds", "rest", "steps", "gpu_hours"]].mean()
    means = {str(kind): row for kind, row in zip(table.index, table.to_dict(orient="records"), strict=True)}
    hours, known, gpu = 0.0, 0, False
    kinds: dict[str, str] = {}
    for planned in chosen:
        config = planned.run.config
        if planned.run.setting not in kinds:
            kinds[planned.run.setting] = kind_of(config.identity_document()["config"])
        if mean := means.get(kinds[planned.run.setting]):
            steps = config.training.steps if config.training.steps is not None else mean["steps"]
            hours += (mean["step_seconds"] * steps + mean["rest"]) / 3600
            known += 1
            gpu = gpu or mean["gpu_hours"] > 0
    return Cost(hours, known, len(chosen), gpu)

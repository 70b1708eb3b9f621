"""Submitting a grid: its stages in order, each run once, and what that is expected to cost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workbench.collect import collect, kind_of
from workbench.errors import WorkbenchError
from workbench.launch import scheduler
from workbench.launch.grid import Grid, Run
from workbench.launch.ledger import Ledger
from workbench.launch.profiles import Profile
from workbench.launch.standing import look_at_queue
from workbench.launch.submission import HandedOver, PlannedRun, hand_over, hand_over_report, plan_runs, to_train

Prepare = Callable[[Grid], None]
"""What must hold before a grid's runs are handed over: checked models, data sets in their places."""


@dataclass(frozen=True)
class Stage:
    """The runs of one grid, of those that a submission is about."""

    grid: Grid
    runs: list[Run]


@dataclass
class Submitted:
    """What became of a submission.

    Attributes:
        planned: all its runs, stage by stage, as they stood before.
        chosen: those that were handed over, or would have been.
        made: the job arrays.
        reports: jobs that make a grid's table and figures in the end.
    """

    planned: list[PlannedRun]
    chosen: list[PlannedRun]
    made: list[HandedOver] = field(default_factory=list)
    reports: list[HandedOver] = field(default_factory=list)


def stages(grid: Grid) -> list[Stage]:
    """The grid's runs, and before them those that they begin from."""
    found: list[Stage] = []

    def visit(grid: Grid, runs: list[Run]) -> None:
        below: dict[Path, tuple[Grid, list[Run]]] = {}
        for setting, need in grid.needs.items():
            wanted = grid.needed([run for run in runs if run.setting == setting])
            known = below.setdefault(need.grid.file.resolve(), (need.grid, []))[1]
            known += [run for run in wanted if run.id not in {k.id for k in known}]
        for other, wanted in below.values():
            if wanted:
                visit(other, wanted)
        seen = {run.id for stage in found for run in stage.runs}
        found.append(Stage(grid, [run for run in runs if run.id not in seen]))

    visit(grid, grid.runs())
    return found


def submit_to_slurm(
    grid: Grid, results: Path, profile: Profile, retry: Collection[str] | bool, prepare: Prepare
) -> Submitted:
    """Hand over what is to be trained, and what it needs; returns as soon as Slurm has it.

    Args:
        retry: see `to_train`.
        prepare: called for each stage that has something to hand over.

    Raises:
        SchedulerError: there is no Slurm, or it refuses.
        WorkbenchError: a run to begin from has failed.
    """
    scheduler.check_available()
    with Ledger(results).lock() as held:
        levels = stages(grid)
        planned = plan_runs([run for stage in levels for run in stage.runs], results, look_at_queue)
        outcome = Submitted(planned, to_train(planned, retry))
        by_id = {p.run.id: p for p in planned}
        chosen = {p.run.id for p in outcome.chosen}
        tasks = {p.run.id: p.standing.task.id for p in planned if p.standing.task is not None}
        for stage in levels:
            part = [by_id[run.id] for run in stage.runs if run.id in chosen]
            if not part:
                continue
            needed = [by_id[run.id] for run in stage.grid.needed([p.run for p in part])]
            _check_needed(needed, chosen)
            prepare(stage.grid)
            waits_for = [tasks[p.run.id] for p in needed if p.state != "completed"]
            for handed in hand_over(part, results, profile, stage.grid.name, held, waits_for):
                outcome.made.append(handed)
                tasks |= {run: f"{handed.array_id}_{k}" for k, run in enumerate(handed.submission.runs)}
            if stage.grid.then:
                ends = [tasks[run.id] for run in stage.runs if run.id in tasks and by_id[run.id].state != "completed"]
                outcome.reports.append(hand_over_report(stage.grid, results, profile, held, ends))
    return outcome


def _check_needed(needed: Sequence[PlannedRun], chosen: Collection[str]) -> None:
    for planned in needed:
        if planned.state not in ("completed", "queued", "running") and planned.run.id not in chosen:
            raise WorkbenchError(
                f"{planned.run.setting} seed {planned.run.seed}, which others begin from, is {planned.state}: "
                f"{planned.standing.message}; take it up again first, with workbench retry"
            )


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
        rest = "" if self.known == self.runs else f", {self.runs - self.known} runs more of kinds that were never run"
        return f"about {self.hours:.2g} {what} for {self.known} runs, going by past ones{rest}"


def expected_cost(chosen: Sequence[PlannedRun], results: Path) -> Cost:
    """From the speed of completed runs of the same kind: same model, data, batch and precision."""
    frame = collect(results)
    done = frame[(frame["state"] == "completed") & frame["steps"].gt(0)].drop_duplicates("run")
    hours, known = 0.0, 0
    if done.empty:
        return Cost(0.0, 0, len(chosen), False)
    done = done.assign(
        step_seconds=done["training_seconds"] * done["processes"] / done["steps"],
        rest=(done["seconds"].fillna(done["training_seconds"]) - done["training_seconds"]) * done["processes"],
    )
    means: dict[str, dict[str, float]] = (
        done.groupby("kind")[["step_seconds", "rest", "steps"]].mean().to_dict(orient="index")  # type: ignore[assignment]
    )
    kinds: dict[str, str] = {}
    for planned in chosen:
        config = planned.run.config
        if planned.run.setting not in kinds:
            kinds[planned.run.setting] = kind_of(config.identity_document()["config"])
        kind = kinds[planned.run.setting]
        if mean := means.get(kind):
            steps = config.training.steps if config.training.steps is not None else mean["steps"]
            hours += (mean["step_seconds"] * steps + mean["rest"]) / 3600
            known += 1
    return Cost(hours, known, len(chosen), bool((done["gpu_hours"] > 0).any()))

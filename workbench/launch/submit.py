"""Submitting a grid: its stages in order, each run once, and what that is expected to cost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.grids import Grid, Run
from workbench.launch import scheduler
from workbench.launch.plan import (
    PlannedRun,
    SubmittedArray,
    plan_runs,
    report_is_due,
    submit_arrays,
    submit_report_job,
    to_train,
)
from workbench.launch.profiles import Profile
from workbench.launch.scheduler import SchedulerError
from workbench.launch.states import look_at_queue
from workbench.launch.submissions import REPORT, Submissions
from workbench.results.index import collect, kind_of

Prepare = Callable[[Grid], None]
"""What must hold before a grid's runs are handed over: checked models, data sets in their places."""


@dataclass(frozen=True)
class Stage:
    """The runs of one grid, of those that a submission is about."""

    grid: Grid
    runs: list[Run]


@dataclass
class SubmissionOutcome:
    """What became of a submission.

    Attributes:
        planned: all its runs, stage by stage, as they stood before.
        chosen: those that were handed over, or would have been.
        made: the job arrays.
        reports: jobs that make a grid's table and figures in the end.
    """

    planned: list[PlannedRun]
    chosen: list[PlannedRun]
    made: list[SubmittedArray] = field(default_factory=list)
    reports: list[SubmittedArray] = field(default_factory=list)


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
    grid: Grid,
    results: Path,
    profile: Profile,
    retry: Collection[str] | bool,
    prepare: Prepare,
    say: Callable[[SubmissionOutcome], None] = lambda plan: None,
) -> SubmissionOutcome:
    """Hand over what is to be trained, and what it needs; returns as soon as Slurm has it.

    Args:
        retry: see `to_train`.
        prepare: called for each stage that has something to hand over.
        say: called with the plan before anything is handed over.

    Raises:
        SchedulerError: there is no Slurm, or it refuses; the message says what it had taken before.
        WorkbenchError: a run to begin from has failed.
    """
    scheduler.check_available()
    with Submissions(results).lock() as held:
        levels = stages(grid)
        planned = plan_runs([run for stage in levels for run in stage.runs], results, look_at_queue)
        outcome = SubmissionOutcome(planned, to_train(planned, retry))
        say(outcome)
        try:
            _submit_stages(levels, outcome, results, profile, held, prepare)
        except SchedulerError as error:
            taken = sum(len(made.submission.runs) for made in outcome.made)
            after = f"; {taken} runs were handed over before that, and submitting again takes the rest" if taken else ""
            raise SchedulerError(f"{error}{after}") from None
    return outcome


def _submit_stages(
    levels: Sequence[Stage], outcome: SubmissionOutcome, results: Path, profile: Profile, held: int, prepare: Prepare
) -> None:
    by_id = {p.run.id: p for p in outcome.planned}
    chosen = {p.run.id for p in outcome.chosen}
    tasks = {
        p.run.id: p.run_state.task.id
        for p in outcome.planned
        if p.run_state.task is not None and p.state in ("queued", "running")
    }
    for stage in levels:
        part = [by_id[run.id] for run in stage.runs if run.id in chosen]
        if part:
            prepare(stage.grid)
        for needed, group in _by_need(stage.grid, part).items():
            waits_for = [by_id[name] for name in needed if by_id[name].state != "completed"]
            _check_needed(waits_for, tasks)
            after = [tasks[p.run.id] for p in waits_for]
            for handed in submit_arrays(group, results, profile, stage.grid, held, after):
                outcome.made.append(handed)
                tasks |= {run: f"{handed.array_id}_{k}" for k, run in enumerate(handed.submission.runs)}
        if stage.grid.then and report_is_due(stage.grid, results):
            ends = _live_tasks(stage.grid, results)
            outcome.reports.append(submit_report_job(stage.grid, results, profile, held, ends))


def _by_need(grid: Grid, part: Sequence[PlannedRun]) -> dict[tuple[str, ...], list[PlannedRun]]:
    """Runs by what they begin from: one that failed must hold up only those that need it."""
    groups: dict[tuple[str, ...], list[PlannedRun]] = {}
    for planned in part:
        groups.setdefault(tuple(run.id for run in grid.needed([planned.run])), []).append(planned)
    return groups


def _check_needed(needed: Sequence[PlannedRun], tasks: Mapping[str, str]) -> None:
    for planned in needed:
        if planned.run.id in tasks:
            continue
        name = f"{planned.run.setting} seed {planned.run.seed}, which others begin from,"
        if planned.state == "running":
            raise WorkbenchError(f"{name} is trained outside this cluster's queue now; submit again when it has ended")
        raise WorkbenchError(
            f"{name} is {planned.state}: {planned.run_state.message}; take it up again first, with workbench retry"
        )


def _live_tasks(grid: Grid, results: Path) -> list[str]:
    """All of a grid's tasks that are not over, whichever submission they came with."""
    name = str(grid.file.resolve())
    arrays = [s for s in Submissions(results).submissions() if s.grid == name and not s.runs[0].startswith(REPORT)]
    return [task.id for task in scheduler.queue([s.job for s in arrays]) if task.live]


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
    gpu = False
    means: dict[str, dict[str, float]] = (
        done.groupby("kind")[["step_seconds", "rest", "steps", "gpu_hours"]].mean().to_dict(orient="index")  # type: ignore[assignment]
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
            gpu = gpu or mean["gpu_hours"] > 0
    return Cost(hours, known, len(chosen), gpu)

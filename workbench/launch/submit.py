"""Submitting a grid, to a cluster or to this machine: plan, then stage by stage tasks to an executor, each run once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from workbench.errors import WorkbenchError, counted, with_more
from workbench.grids import Grid
from workbench.launch import scheduler
from workbench.launch.arrays import SubmittedArray, in_groups, submit_arrays, submit_report_job
from workbench.launch.local import LocalExecutor, Progress
from workbench.launch.plan import PlannedRun, Stage, plan, plan_runs, runs_of, stages, to_train, with_waiting
from workbench.launch.profiles import Profile
from workbench.launch.reports import is_due, live_tasks
from workbench.launch.room import check_room
from workbench.launch.states import Look, forgiving, look_at_queue
from workbench.launch.submissions import Submissions, Warn
from workbench.results.curves import name_curves
from workbench.results.folders import RunFolder
from workbench.results.record import FAILED, State

if TYPE_CHECKING:
    from workbench.launch.tasks import Report

WITH_RESULTS: tuple[State, ...] = ("completed", "queued", "running")
"""States of runs that a report shows, or will show."""
Prepare = Callable[[Grid], None]
"""What must hold before a grid's runs are submitted: checked models, data sets in their places."""


@dataclass
class SubmissionOutcome:
    """What became of a submission.

    Attributes:
        planned: all its runs, stage by stage, as they stood before.
        chosen: those that were submitted, or would have been.
        profile: how.
        arrays: the job arrays, of a cluster.
        reports: jobs that make a grid's table and figures in the end, of a cluster.
        logs: folders with what jobs printed, of this machine.
        artefacts: tables and figures that were made, of this machine.
        after: the grid's own runs and trials as they stood in the end, of this machine.
    """

    planned: list[PlannedRun]
    chosen: list[PlannedRun]
    profile: Profile
    arrays: list[SubmittedArray] = field(default_factory=list)
    reports: list[SubmittedArray] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)
    artefacts: list[Path] = field(default_factory=list)
    after: list[PlannedRun] = field(default_factory=list)

    @property
    def left_alone(self) -> list[PlannedRun]:
        """Runs that failed before and were not chosen to be tried again."""
        chosen = {planned.run.id for planned in self.chosen}
        return [planned for planned in self.planned if planned.state in FAILED and planned.run.id not in chosen]


class Executor(Protocol):
    """Where tasks run."""

    def train(self, stage: Stage, chosen: Sequence[PlannedRun]) -> None:
        """Begin the chosen runs of a stage; on this machine, also wait for them."""

    def report(self, stage: Stage) -> None:
        """Arrange that a stage's table and figures are made when its runs have ended."""


@dataclass(frozen=True)
class Request:
    """How a grid is submitted.

    Attributes:
        retry: see `to_train`.
        prepare: called for each stage that has something to train.
        report: makes what a grid's `then:` names.
        say: called with the plan before anything is submitted.
        warn: called with a line for what does not stop the submission.
        progress: shows the progress of runs on this machine.
        begun: called before runs are trained on this machine, with them and the number of trainings at once.
        workers: how many trainings run at once on this machine; None: the profile's number.
    """

    results: Path
    profile: Profile
    prepare: Prepare
    report: Report
    retry: Collection[str] | bool = False
    say: Callable[[SubmissionOutcome], None] = lambda outcome: None
    warn: Warn = lambda line: None
    progress: Progress | None = None
    begun: Callable[[Sequence[PlannedRun], int], None] = lambda runs, workers: None
    workers: int | None = None


def dry_run(grid: Grid, request: Request) -> SubmissionOutcome:
    """What a submission would do; changes nothing. Damaged submissions are an error after the plan was said."""
    outcome = _planned(grid, request, forgiving(look_at_queue, request.warn))
    request.say(outcome)
    check_room([planned.run for planned in outcome.chosen], request.profile)
    Submissions(request.results).all()
    return outcome


def submit(grid: Grid, request: Request) -> SubmissionOutcome:
    """Train the runs that are to be trained and those that they start from; on a cluster, submit them and return.

    Raises:
        SchedulerError: there is no Slurm, or it refuses; the message says what it had taken before.
        DamagedFile: a submission cannot be read, so that it is not known which runs are queued or running elsewhere.
        WorkbenchError: a run to start from has failed, or a run needs more memory than the profile has.
    """
    if request.profile.backend == "local":
        outcome = dry_run(grid, request)
        executor = LocalExecutor(
            request.results,
            request.prepare,
            request.report,
            request.workers or request.profile.workers,
            request.progress,
            request.begun,
        )
        _carry_out(grid, outcome, request.results, executor)
        outcome.logs, outcome.artefacts = executor.logs, executor.artefacts
        outcome.after = plan(grid, request.results, forgiving(look_at_queue))
        return outcome
    scheduler.check_available()
    _check_folder(request.results.absolute())
    with Submissions(request.results).lock() as lock:
        outcome = _planned(grid, request, look_at_queue)
        request.say(outcome)
        check_room([planned.run for planned in outcome.chosen], request.profile)
        with _saying_what_was_taken(outcome):
            Submissions(request.results).all()
            _carry_out(grid, outcome, request.results, SlurmExecutor(outcome, request, lock))
    return outcome


def _check_folder(results: Path) -> None:
    """Slurm reads `%` and backslashes in the names of log files in its own way, and a script has one path a line."""
    if not str(results).isprintable() or "%" in str(results) or "\\" in str(results):
        raise WorkbenchError(
            f"{str(results)!r}: Slurm cannot write logs there: the path holds a percent sign, a backslash or a "
            "character that is not printed; name another folder with --results"
        )


def _planned(grid: Grid, request: Request, look: Look) -> SubmissionOutcome:
    planned = plan_runs(runs_of(grid), request.results, look, request.warn)
    chosen = to_train(planned, request.retry)
    profile = request.profile
    chosen = with_waiting(grid, planned, chosen) if profile.backend == "slurm" else chosen
    return SubmissionOutcome(planned, chosen, profile)


def _carry_out(grid: Grid, outcome: SubmissionOutcome, results: Path, executor: Executor) -> None:
    by_id = {planned.run.id: planned for planned in outcome.chosen}
    for stage in stages(grid):
        chosen = [by_id[run.id] for run in stage.runs if run.id in by_id]
        if chosen:
            curves = (run for run in stage.runs if "tensorboard" in run.config.machine.trackers)
            name_curves(results, stage.grid.name, ((run.setting, RunFolder(results, run.id)) for run in curves))
            executor.train(stage, chosen)
        executor.report(stage)


@contextmanager
def _saying_what_was_taken(outcome: SubmissionOutcome) -> Iterator[None]:
    try:
        yield
    except WorkbenchError as error:
        raise with_more(error, _what_was_taken(outcome, scheduler.is_limit(str(error)))) from None


def _what_was_taken(outcome: SubmissionOutcome, limited: bool) -> list[str]:
    """How much of a submission the cluster took before it refused, and how to go on; nothing where there is no more to
    say than the refusal does.

    Args:
        limited: whether it refused because the user has too many jobs in its queue.
    """
    taken, all_runs = sum(len(array.submission.runs) for array in outcome.arrays), len(outcome.chosen)
    if not (taken or limited):
        return []
    ids = [array.array_id for array in outcome.arrays]
    jobs = f" (job{'' if len(ids) == 1 else 's'} {', '.join(ids)})" if ids else ""
    if taken == all_runs:
        lines = [f"every run was submitted before that{jobs}; the job that makes the grid's table or figures was not"]
    else:
        lines = [
            f"{taken:,} of {counted(all_runs, 'run')} were submitted before that{jobs}, {all_runs - taken:,} were not"
        ]
    when = "when some of your jobs there have ended" if limited else "when that is put right"
    lines.append(f"to go on, {when}: the same command again, which submits what is missing and nothing twice")
    if limited and not taken:
        lines.append("if none of your jobs is there, one array is above the limit: set array_size in the profile lower")
    return lines


class SlurmExecutor:
    """A cluster as an executor: at most two job arrays a stage, one of them after the tasks that its runs begin from.

    Which of these came to a good end, each task looks up for itself: one that failed holds up only those that need it.

    Args:
        lock: the descriptor of the locked submissions.
    """

    def __init__(self, outcome: SubmissionOutcome, request: Request, lock: int) -> None:
        self._outcome, self._request, self._lock = outcome, request, lock
        self._by_id = {planned.run.id: planned for planned in outcome.planned}
        self._tasks = {
            planned.run.id: planned.run_state.task.id
            for planned in outcome.planned
            if planned.run_state.task is not None and planned.state in ("queued", "running")
        }

    def train(self, stage: Stage, chosen: Sequence[PlannedRun]) -> None:
        """Submit a stage's runs."""
        request = self._request
        request.prepare(stage.grid)
        needs = {planned.run.id: self._waits_for(stage.grid, planned) for planned in chosen}
        for group in in_groups(chosen, {run for run, tasks in needs.items() if tasks}):
            for array in submit_arrays(group, request.results, request.profile, stage.grid, self._lock, needs):
                self._outcome.arrays.append(array)
                submitted = array.submission
                self._tasks |= {run: f"{array.array_id}_{submitted.task_of(k)}" for k, run in enumerate(submitted.runs)}

    def _waits_for(self, grid: Grid, planned: PlannedRun) -> list[str]:
        """The tasks of the runs that a run begins from, as far as these are not completed."""
        needed = [self._by_id[run.id] for run in grid.needed([planned.run])]
        open_runs = [other for other in needed if other.state != "completed"]
        _check_needed(open_runs, self._tasks)
        return [self._tasks[other.run.id] for other in open_runs]

    def report(self, stage: Stage) -> None:
        """Submit a stage's report job, if one is due."""
        request, grid = self._request, stage.grid
        chosen = {planned.run.id for planned in self._outcome.chosen}
        states = (self._by_id[run.id].state for run in stage.runs)
        any_runs = any(run.id in chosen for run in stage.runs) or any(s in WITH_RESULTS for s in states)
        if grid.then and grid.runs() and is_due(grid, request.results, any_runs, request.retry):
            ends = live_tasks(grid, request.results)
            job = submit_report_job(grid, request.results, request.profile, self._lock, ends, request.report)
            self._outcome.reports.append(job)


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

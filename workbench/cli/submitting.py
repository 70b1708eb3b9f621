"""What submitting a grid prints: what will be done, what was begun, and how it ended."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cli.options import print_written
from workbench.errors import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.grids import Grid
    from workbench.launch.plan import PlannedRun
    from workbench.launch.profiles import Profile
    from workbench.launch.submit import SubmissionOutcome


def print_waiting(grid: Grid) -> None:
    """Which settings wait for their trials."""
    if names := grid.waiting:
        print(f"{counted(len(names), 'setting')} not tuned yet: {', '.join(names)}; when their trials have ended, "
              f"workbench submit {grid.argument} chooses their values and trains them")  # fmt: skip


def print_plan(grid: Grid, outcome: SubmissionOutcome, results: Path) -> None:
    """What will be done, before it is."""
    from workbench.launch.cost import expected_cost

    states = Counter(planned.state for planned in outcome.planned)
    counts = ", ".join(f"{n} {state}" for state, n in states.items())
    print(f"{grid.title}: {counted(len(outcome.planned), 'run')} ({counts})")
    if not results.is_absolute():
        print(f"results in {results.absolute()}")
    if outcome.chosen:
        print(f"{counted(len(outcome.chosen), 'run')} to train; {expected_cost(outcome.chosen, results)}")
        print_tasks(grid, outcome.planned, outcome.chosen, outcome.profile)


def print_tasks(grid: Grid, planned: Sequence[PlannedRun], chosen: Sequence[PlannedRun], profile: Profile) -> None:
    """How the chosen runs share the tasks of a cluster, where several are trained in one."""
    from workbench.launch.arrays import count_tasks

    if profile.tasks_of == 1 or not chosen:
        return
    tasks, minutes, size = count_tasks(grid, planned, chosen, profile.tasks_of), profile.time_minutes, profile.tasks_of
    print(
        f"{counted(len(chosen), 'run')} in {counted(tasks, 'array task')} ({size} a task, one after another; "
        f"time limit {size} × {minutes} = {size * minutes} min)"
    )


def print_begun(chosen: Sequence[PlannedRun], workers: int) -> None:
    """That trainings begin on this machine."""
    print(f"{counted(len(chosen), 'run')} to train, {workers} at once", flush=True)


def print_submitted(grid: Grid, outcome: SubmissionOutcome, parallel: int) -> None:
    """What the cluster took, what was left alone, and how to follow it."""
    from workbench.grids.seeds import seeds_as_text
    from workbench.launch.states import GONE

    for array in outcome.arrays:
        runs, tasks = len(array.submission.runs), array.submission.tasks
        shared = f" in {counted(tasks, 'array task')}" if array.submission.tasks_of > 1 else ""
        at_once = min(tasks, parallel)
        print(f"submitted as job {array.array_id}: {counted(runs, 'run')}{shared}, at most {at_once} at once")
    for job in outcome.reports:
        then = " and ".join(job.submission.manifest.then)
        name = Path(job.submission.grid).stem
        print(f"submitted as job {job.array_id}: {then} of {name}, when its runs have ended")
    if not outcome.arrays and not outcome.reports:
        print("nothing to submit")
    if left := outcome.left_alone:
        if gone := [f"{p.run.setting} seed {p.run.seed}" for p in left if p.run_state.message == GONE]:
            named = ", ".join(gone[:10]) + (f" and {len(gone) - 10} more" if len(gone) > 10 else "")
            print(f"were queued, and the queue no longer lists them (cancelled there, or lost): {named}")
        causes = sorted({planned.run_state.cause or planned.state for planned in left})
        are, them = ("is", "it") if len(left) == 1 else ("are", "them")
        print(f"{len(left):,} failed before and {are} left alone; to try {them} again: "
              f"workbench retry {grid.argument} --class {','.join(causes)}")  # fmt: skip
    print(f"to follow it: workbench status {grid.argument} --seeds {seeds_as_text(grid.seeds)} --watch")


def print_ended(grid: Grid, outcome: SubmissionOutcome) -> None:
    """What trainings on this machine left."""
    for folder in outcome.logs:
        print(f"logs in {folder.absolute()}")
    print_written(outcome.artefacts)
    if completed := sum(planned.state == "completed" for planned in outcome.after):
        print(f"{completed:,} of {counted(len(outcome.after), 'run')} completed; "
              f"the results: workbench table {grid.argument}")  # fmt: skip
    if elsewhere := [p for p in outcome.after if p.state in ("running", "queued")]:
        named = "1 run is" if len(elsewhere) == 1 else f"{len(elsewhere):,} runs are"
        print(f"{named} being trained by other processes; see: workbench status {grid.argument}")


def incomplete(grid: Grid, outcome: SubmissionOutcome) -> str | None:
    """A line that names the runs of this machine that did not come to their end; None where all did."""
    from workbench.results.record import FAILED

    trials = set() if grid.trials is None else {run.id for run in grid.trials.runs()}
    # A trial that diverged has ended like any other: its value is not chosen.
    after = [p for p in outcome.after if p.state != "diverged" or p.run.id not in trials]
    failed = [p for p in after if p.state not in ("completed", "running", "queued")]
    if not failed:
        return None
    lines = "; ".join(f"{p.run.setting} seed {p.run.seed} {_why(p)}" for p in failed)
    hint = "; to run them again: --retry-failed" if any(p.state in FAILED for p in failed) else ""
    how_many = f"{len(failed):,} of {counted(len(outcome.after), 'run')}"
    return f"{how_many} {'is' if len(failed) == 1 else 'are'} not completed: {lines}{hint}"


def _why(planned: PlannedRun) -> str:
    message = planned.run_state.message
    return f"{planned.state} ({message})" if message else str(planned.state)

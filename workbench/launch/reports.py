"""Jobs that make a grid's table and figures when its runs have ended: where they stand, and which are to be made."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.grids import Grid
from workbench.launch import scheduler
from workbench.launch.scheduler import SLURM_STATES, WAITING_STATES, Task
from workbench.launch.states import GONE, Look, look_at_queue
from workbench.launch.submissions import Submission, Submissions, Warn
from workbench.validation import DamagedFile

ReportState = Literal["new", "waiting", "running", "made", "failed", "cancelled", "refused"]
UNDONE: tuple[ReportState, ...] = ("new", "failed", "cancelled", "refused")
"""States of reports that the next submission makes again."""
LIVE: tuple[ReportState, ...] = ("waiting", "running")


@dataclass(frozen=True)
class ReportStatus:
    """Where the newest report job of a grid stands.

    Attributes:
        grid: the grid's file.
        then: what it makes.
        cause: a failure class, of one that was not made.
        message: why it was not made, or why it waits.
        task: at the scheduler, while that knows it.
        submission: None where none was submitted yet.
    """

    grid: str
    then: tuple[str, ...]
    state: ReportState
    cause: str | None = None
    message: str | None = None
    task: Task | None = None
    submission: Submission | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, with the keys of a run's that mean something here."""
        return {
            "run": f"report of {self.grid}",
            "setting": Path(self.grid).stem,
            "seed": None,
            "then": list(self.then),
            "state": self.state,
            "cause": self.cause,
            "error": self.message,
            "job": self.task.id if self.task is not None and self.task.array_id else None,
        }


def report_statuses(
    results: Path, grid: Grid | None = None, look: Look = look_at_queue, warn: Warn | None = None
) -> list[ReportStatus]:
    """The newest report of each grid, or of one; of a given grid also the one that is due and was not submitted."""
    submissions = Submissions(results).all(warn)
    name = None if grid is None else str(grid.file.resolve())
    newest = {s.grid: s for s in submissions if s.is_report and name in (None, s.grid)}
    if (
        grid is not None
        and grid.then
        and name is not None
        and _submitted_last(grid, submissions) > _number(newest, name)
    ):
        return [ReportStatus(name, grid.then, "new", message="its runs were submitted, and no report after them")]
    return _states(list(newest.values()), look, warn)


def _number(newest: dict[str, Submission], name: str) -> int:
    return newest[name].number if name in newest else 0


def _submitted_last(grid: Grid, submissions: Sequence[Submission]) -> int:
    """The number of the last submission that holds a run of a grid, whichever grid it was made for; 0: none."""
    name, ids = str(grid.file.resolve()), {run.id for run in grid.runs()}
    of_grid = (s.number for s in submissions if not s.is_report and (s.grid == name or not ids.isdisjoint(s.runs)))
    return max(of_grid, default=0)


def is_due(grid: Grid, results: Path, any_runs: bool, retry: Collection[str] | bool = False) -> bool:
    """Whether a grid's report is to be submitted.

    It is if runs were submitted since the last report (also by a launcher that died, or for another grid), or if the
    last report was neither made nor is queued.

    Args:
        any_runs: whether any run of the grid is completed, queued or running, so that there is something to report on.
        retry: the failure classes asked for, as in `to_train`; then nothing else that failed is taken.
    """
    submissions = Submissions(results).all()
    name = str(grid.file.resolve())
    newest = {s.grid: s for s in submissions if s.is_report}
    if _submitted_last(grid, submissions) > _number(newest, name):
        return True
    if name not in newest or not any_runs:
        return False
    (last,) = _states([newest[name]], look_at_queue, None)
    return last.state in UNDONE and (isinstance(retry, bool) or last.cause is None or last.cause in retry)


def live_tasks(grid: Grid, results: Path) -> list[str]:
    """All tasks of a grid's runs that are not over, whichever grid they were submitted for, and of its other seeds."""
    name, ids = str(grid.file.resolve()), {run.id for run in grid.runs()}
    arrays = {
        s.job: s
        for s in Submissions(results).all()
        if not s.is_report and (s.grid == name or not ids.isdisjoint(s.runs))
    }
    if not arrays:
        return []
    return [
        task.id
        for task in scheduler.queue(list(arrays))
        if task.live
        and task.job in arrays
        and (arrays[task.job].grid == name or any(run in ids for run in _trained_by(task, arrays[task.job])))
    ]


def _trained_by(task: Task, submission: Submission) -> list[str]:
    return [submission.runs[index] for index in submission.runs_of(task.index)]


def _states(newest: Sequence[Submission], look: Look, warn: Warn | None) -> list[ReportStatus]:
    """The states of reports, with at most one call to the scheduler."""
    recorded = {s.number: _recorded(s, warn) for s in newest}
    unrecorded = [s for s in newest if recorded[s.number] is None]
    queued = look(unrecorded) if unrecorded else []
    tasks = {task.job: task for task in queued or []}
    return [recorded[s.number] or _state(s, tasks.get(s.job), queued is not None) for s in newest]


def _recorded(submission: Submission, warn: Warn | None) -> ReportStatus | None:
    """What a report's own record says."""
    try:
        ended, then = submission.reported, submission.manifest.then
    except DamagedFile as damage:
        if warn is None:
            raise
        warn(str(damage))
        return ReportStatus(submission.grid, (), "failed", "damaged", str(damage), submission=submission)
    if ended is None:
        return None
    return ReportStatus(submission.grid, then, ended.state, ended.cause, ended.message or None, submission=submission)


def _state(submission: Submission, task: Task | None, answered: bool) -> ReportStatus:
    """The state of a report whose own record does not have one."""

    def status(state: ReportState, cause: str | None = None, message: str | None = None) -> ReportStatus:
        return ReportStatus(submission.grid, submission.manifest.then, state, cause, message, task, submission)

    if 0 in submission.cancelled:
        return status("cancelled", "cancelled", "cancelled with workbench cancel")
    if 0 in submission.tampered and not (task is not None and task.live):
        return status("failed", "tampered", submission.tampered[0])
    if not answered:
        return status("waiting", None, "submitted to a cluster that does not answer")
    if task is not None and task.live:
        return status("waiting", None, task.reason) if task.state in WAITING_STATES else status("running")
    ended = submission.remember({0: task.state} if task is not None and task.state in SLURM_STATES else {}, [])
    if 0 in ended:
        cause = SLURM_STATES.get(ended[0], "killed")
        state: ReportState = "cancelled" if cause == "cancelled" else "failed"
        return status(state, cause, f"ended at the scheduler ({ended[0].lower()})")
    if 0 in submission.began:
        return status("failed", "killed", "ended without recording why")
    if (refusal := submission.refusal) is not None:
        return status("refused", None, refusal)
    if submission.taken:
        return status("cancelled", "cancelled", GONE)
    return status("new", None, "it was never submitted to the cluster")

"""Where each run stands, how fast it goes, and what went wrong, grouped by cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.launch.plan import PlannedRun
from workbench.launch.states import NOTHING, Look, RunState, look_at_queue, run_states
from workbench.launch.submissions import Submissions, Warn
from workbench.results.folders import Log, RunFolder, all_runs
from workbench.results.record import RunId, RunRecord, State
from workbench.validation import DamagedFile


@dataclass(frozen=True)
class RunStatus:
    """One run's progress; what is not known is None.

    Attributes:
        cause: the failure class of what ended it.
        rate: expressions per second.
        seconds_left: of training, without the evaluation.
        error: first line of what ended it, or why it waits.
        job: the scheduler's id of the job submitted last, while it is known there.
        restarts: how often it was resumed.
        damage: lines of its log that cannot be read.
        score: the best validation so far: step, metric and value.
    """

    run: str
    setting: str
    seed: int
    state: State
    cause: str | None
    step: int | None
    steps: int | None
    loss: float | None
    rate: float | None
    seconds_left: float | None
    error: str | None
    job: str | None
    restarts: int
    damage: tuple[str, ...] = ()
    score: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Failure:
    """Runs that ended for the same reason.

    Attributes:
        cause: a failure class.
        message: its first line.
        runs: as `setting seed N`.
    """

    cause: str
    message: str
    runs: tuple[str, ...]


def statuses(planned: Sequence[PlannedRun], ended_logs: bool = True) -> list[RunStatus]:
    """Read again how far each run is; its state is as it was planned.

    Args:
        ended_logs: also read the logs of completed runs, for their last loss and their speed.
    """
    return [_status(p.run.setting, p.run.seed, p.folder, p.run_state, ended_logs) for p in planned]


def refreshed(planned: Sequence[PlannedRun]) -> list[RunStatus]:
    """The same, with the states read again from the folders alone: no scheduler is asked."""
    return [_status(p.run.setting, p.run.seed, p.folder, RunState(p.folder.state())) for p in planned]


def all_statuses(
    results: Path, look: Look = look_at_queue, warn: Warn | None = None, ended_logs: bool = True
) -> list[RunStatus]:
    """Every run of a results folder, and what was submitted but has not begun; `ended_logs` as in `statuses`."""
    names = {folder.name for folder in all_runs(results)}
    submitted = {run for submission in Submissions(results).all(warn) for run in submission.runs}
    names |= {run for run in submitted if _is_run(run)}
    folders = [RunFolder(results, name) for name in sorted(names)]
    states = run_states(folders, results, look, warn)
    return [
        _status(folder.id.setting_id, folder.id.seed, folder, run_state, ended_logs)
        for folder, run_state in zip(folders, states, strict=True)
    ]


def _is_run(name: str) -> bool:
    """Whether a task of a submission is a run, rather than a report job."""
    try:
        RunId.parse(name)
    except ValueError:
        return False
    return True


def failures(statuses: Sequence[RunStatus]) -> list[Failure]:
    """What went wrong, each cause once, the most frequent first."""
    groups: dict[tuple[str, str], list[str]] = {}
    for status in statuses:
        if status.cause is not None and status.state not in ("completed", "running", "queued"):
            groups.setdefault((status.cause, status.error or ""), []).append(f"{status.setting} seed {status.seed}")
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    return [Failure(cause, message, tuple(runs)) for (cause, message), runs in ordered]


def _status(setting: str, seed: int, folder: RunFolder, run_state: RunState, ended_logs: bool = True) -> RunStatus:
    try:
        record = run_state.record or folder.record()
    except DamagedFile:
        record = RunRecord()
    state = run_state.state
    unread = record is NOTHING or (state == "completed" and not ended_logs)
    log = Log([], []) if unread else folder.log_tail()
    last = log.last("step")
    error = run_state.message or (None if record.error is None else record.error.message)
    return RunStatus(
        run=folder.name,
        setting=setting,
        seed=seed,
        state=state,
        cause=run_state.cause,
        step=record.steps if state == "completed" else None if last is None else last.step,
        steps=record.steps,
        loss=None if last is None else last.loss,
        rate=None if last is None else last.expressions_per_second,
        seconds_left=last.seconds_left if last is not None and state == "running" else None,
        error=None if state in ("completed", "running") else error,
        job=run_state.task.id if run_state.task is not None and run_state.task.array_id else None,
        restarts=max(0, record.starts - 1),
        damage=tuple(log.damage),
        score=None if record.best is None else record.best.model_dump(),
    )

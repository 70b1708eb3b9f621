"""Where a run stands: its folder, what was submitted, and one look at the scheduler, put together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.launch import scheduler
from workbench.launch.scheduler import SLURM_STATES, WAITING_STATES, Task
from workbench.launch.submissions import Submission, Submissions, Warn, latest
from workbench.results.folders import RunFolder
from workbench.results.record import RunRecord, State
from workbench.validation import DamagedFile

NEVER_SATISFIED = "DependencyNeverSatisfied"
GONE = "it was queued, and the queue no longer lists it: it was cancelled there, or lost"
EARLY = "the next submission: its job ended before its turn"
NOTHING = RunRecord()
"""The record of a run that has not begun."""
Look = Callable[[Sequence[Submission]], list[Task] | None]


@dataclass(frozen=True)
class RunState:
    """Where one run stands.

    Attributes:
        cause: a failure class, for a run that ended before it was completed.
        message: the first line of what ended it, or why it waits.
        task: the newest job submitted for it, if the scheduler still knows it.
        record: of a completed run, what its record says of it, without its documents; of one that only waits, NOTHING.
    """

    state: State
    cause: str | None = None
    message: str | None = None
    task: Task | None = None
    record: RunRecord | None = None


def look_at_queue(submissions: Sequence[Submission]) -> list[Task]:
    """The controller's view of what was submitted."""
    return scheduler.queue([s.job for s in submissions])


def forgiving(look: Look, warn: Callable[[str], None] = lambda warning: None) -> Look:
    """Wrap `look`: where the scheduler does not answer, warn and see nothing."""

    def looked(submissions: Sequence[Submission]) -> list[Task] | None:
        try:
            scheduler.check_available()
            return look(submissions)
        except scheduler.SchedulerError as error:
            warn(f"states of runs on a cluster are taken from the run folders alone: {error}")
            return None

    return looked


def run_states(
    folders: Sequence[RunFolder],
    results: Path,
    look: Look,
    warn: Warn | None = None,
    completed: Mapping[str, RunRecord] | None = None,
    there: Collection[str] | None = None,
) -> list[RunState]:
    """The states of runs, with at most one call to the scheduler, and none if nothing was submitted.

    Where `look` cannot see (it returns None), a run that was submitted counts as queued, or running if it says so.

    Args:
        completed: records of completed runs, where they were read before; None: they are read here.
        there: the runs that had a folder a moment ago; None: all may have one.
    """
    submitted = latest(Submissions(results).all(warn))
    done = _completed(folders) if completed is None else completed
    asked = {
        submitted[f.name][0].number: submitted[f.name][0] for f in folders if f.name in submitted and f.name not in done
    }
    seen = look(list(asked.values())) if asked else []
    tasks = _with_memory(list(asked.values()), seen or [], warn)
    cancelled = {number: _cancelled(submission, warn) for number, submission in asked.items()}
    states = []
    for folder in folders:
        submission, index = submitted.get(folder.name, (None, 0))
        if folder.name in done:
            states.append(RunState("completed", record=done[folder.name]))
        elif submission is None:
            states.append(_run_state(folder, None))
        elif _was_refused(submission, index, tasks, folder):
            number = submission.task_of(index)
            message = submission.tampered[number]
            states.append(RunState("failed", "tampered", message, tasks.get((submission.job, number))))
        elif seen is None:
            states.append(_unseen(folder))
        else:
            task = tasks.get((submission.job, submission.task_of(index)))
            if submission.tasks_of > 1 and _turn_is_not_now(submission, index):
                is_new = there is not None and folder.name not in there
                states.append(
                    _out_of_turn(folder, submission, index, task, index in cancelled[submission.number], is_new)
                )
            elif task is not None and task.state == "PENDING" and there is not None and folder.name not in there:
                # The common case: it waits, and there is nothing to read.
                states.append(RunState("queued", message=task.reason, task=task, record=NOTHING))
            else:
                gone = task is None and submission.taken and index not in submission.began
                states.append(_run_state(folder, task, index in cancelled[submission.number], gone))
    return states


def _was_refused(submission: Submission, index: int, tasks: Mapping[tuple[str, int], Task], folder: RunFolder) -> bool:
    """Whether a run's job was refused because something was not what was submitted, and does not run since."""
    number = submission.task_of(index)
    task = tasks.get((submission.job, number))
    return number in submission.tampered and not (task is not None and task.live) and not folder.claimed()


def _with_memory(
    submissions: Sequence[Submission], seen: Sequence[Task], warn: Warn | None
) -> dict[tuple[str, int], Task]:
    """The tasks that the scheduler knows, and those whose end an earlier look saw."""
    tasks = {(task.job, task.index): task for task in seen}
    by_job: dict[str, list[Task]] = {}
    for task in seen:
        by_job.setdefault(task.job, []).append(task)
    for submission in submissions:
        here = by_job.get(submission.job, [])
        if here and not submission.taken:  # the launcher was killed before it could say so
            with contextlib.suppress(OSError):
                submission.note_taken(here[0].array_id)
        ended = {task.index: task.state for task in here if task.state in SLURM_STATES}
        try:
            remembered = submission.remember(ended, [task.index for task in here if task.live])
        except DamagedFile as damage:
            if warn is None:
                raise
            warn(str(damage))
            remembered = ended
        for index, state in remembered.items():
            tasks.setdefault((submission.job, index), Task(submission.job, "", index, state, None))
    return tasks


def _cancelled(submission: Submission, warn: Warn | None) -> set[int]:
    try:
        return submission.cancelled
    except DamagedFile as damage:
        if warn is None:
            raise
        warn(str(damage))
        return set()


def _unseen(folder: RunFolder) -> RunState:
    recorded = _run_state(folder, None)
    if recorded.state in ("new", "killed"):
        state: State = "queued" if recorded.state == "new" else "running"
        return RunState(state, message="submitted to a cluster that does not answer")
    return recorded


def _completed(folders: Sequence[RunFolder]) -> dict[str, RunRecord]:
    """The records of those that are completed."""
    records = {}
    for folder in folders:
        with contextlib.suppress(DamagedFile):
            record = folder.record()
            if record.state == "completed":
                records[folder.name] = record.without_documents()
    return records


def _run_state(folder: RunFolder, task: Task | None, cancelled: bool = False, gone: bool = False) -> RunState:
    """The state of one run.

    Args:
        cancelled: the user cancelled its task.
        gone: its task never began, and the scheduler, which had it, knows it no more.
    """
    try:
        record = folder.record()
    except DamagedFile as damage:
        return RunState("damaged", "damaged", str(damage), task)
    state: State = record.state
    cause, message = (None, None) if record.error is None else (record.error.cause, record.error.message)
    if state == "completed":
        return RunState("completed")
    if state != "new" and folder.claimed():
        return RunState("running", task=task)
    if task is not None and task.live:
        if task.state in WAITING_STATES:
            return RunState("queued", cause, task.reason, task)
        if task.state != "COMPLETING" or state in ("new", "running"):
            return RunState("running", task=task)
        if state == "interrupted":  # it may be on its way back into the queue
            return RunState("queued", cause, "Slurm is still cleaning up its last attempt", task)
    ended = SLURM_STATES.get(task.state) if task is not None else None
    if cancelled:
        return RunState("cancelled", "cancelled", "cancelled with workbench cancel", task)
    if gone and state in ("new", "interrupted", "running"):
        return RunState("cancelled", "cancelled", GONE)
    if state == "running":
        # It may have ended between the two looks.
        if folder.record().state != "running":
            return _run_state(folder, task, cancelled, gone)
        return _silent(ended, task, "killed")
    if state == "new" and task is not None and task.reason == NEVER_SATISFIED:
        return RunState("new", message="it waited for a run that failed")
    if state == "new" and ended is not None:
        return _silent(ended, task, "failed")
    # Where the controller crashed after scancel, it knows later only that the job failed.
    if state == "interrupted" and (ended == "cancelled" or (ended, cause) == ("killed", "cancelled")):
        return RunState("cancelled", "cancelled", message, task)
    return RunState(state, cause, message, task)


def _turn_is_not_now(submission: Submission, index: int) -> bool:
    """Whether a run that shares its task with others is not the one that this trains, or trained last."""
    return submission.turns.current.get(submission.task_of(index)) != index or index in submission.turns.over


def _out_of_turn(
    folder: RunFolder, submission: Submission, index: int, task: Task | None, cancelled: bool, is_new: bool
) -> RunState:
    """The state of a run that shares its task with others and that the task is not training now.

    Args:
        is_new: it has no folder.
    """
    recorded = RunState("new") if is_new else _run_state(folder, None)
    past = index in submission.turns.over or index in submission.began
    if recorded.state in ("completed", "running", "damaged"):
        return recorded
    if cancelled:
        return RunState("cancelled", "cancelled", "cancelled with workbench cancel", task)
    if index in submission.turns.over:
        return recorded
    if task is not None and task.live:
        # Turns come in order, and begin anew when a task does: until the first, all that are not over are to come.
        current = submission.turns.current.get(submission.task_of(index))
        if current is not None and index < current and task.state not in WAITING_STATES:
            return recorded
        waits = task.reason if task.state in WAITING_STATES else f"its turn in job {task.id}"
        return RunState("queued", recorded.cause, waits, task, NOTHING if is_new else None)
    never = task is None and submission.taken and submission.task_of(index) not in submission.turns.begun
    if not past and (never or (task is not None and SLURM_STATES.get(task.state) == "cancelled")):
        return _run_state(folder, task, gone=never)
    return RunState("new", message=EARLY + _ended(task)) if recorded.state == "new" and not past else recorded


def _ended(task: Task | None) -> str:
    return f" ({task.state.lower()})" if task is not None and task.state in SLURM_STATES else ""


def _silent(ended: str | None, task: Task | None, state: State) -> RunState:
    """A run that ended without recording why."""
    cause = ended or "killed"
    where = f" ({f'job {task.id}: ' if task.array_id else ''}{task.state.lower()})" if task is not None else ""
    message = {
        "killed": f"ended without a word{where}",
        "cancelled": f"cancelled at the scheduler{where}",
        "out_of_memory": f"killed for using more memory than it was given{where}",
    }.get(cause, f"ended by the scheduler{where}")
    if cause == "cancelled":
        state = "cancelled"
    elif cause == "out_of_memory":
        state = "failed"
    return RunState(state, cause, message, task)

"""Run by a batch script when its job failed or was stopped: says why in the run's record, and tries again where it may.

The training itself may have been killed without a word, so this looks at the exit status and at what was printed.
It is the only place that puts a run back into the queue.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.failures import FailureClass, crash, known
from workbench.files import Unreadable, open_file
from workbench.launch import scheduler
from workbench.launch.submissions import Submission, Submissions, read_submission
from workbench.launch.tasks import STOPPED, run_index, task_index, task_job
from workbench.results.folders import RunBusy, RunFolder, RunLog
from workbench.results.record import RunError

TAIL_BYTES = 32768
"""The fault handler ends with a line that names some hundred extension modules."""


COMPLETED = 100
"""The exit status that tells the batch script that the run is completed."""
TASK_ENDS = 101
"""The one that tells the batch script of several runs not to begin the next: the task is ended, or comes back."""
MOST_WITHOUT_PROGRESS = 3
REQUEUE_PAUSES = (5.0, 10.0, 20.0, 40.0)
"""Seconds; after them a refusal is final."""
AWAY_PAUSES = (*REQUEUE_PAUSES, *(30.0,) * 58)
"""While no controller answers: half an hour. Without one the job is not ended at its time limit, and nothing waits for
its node."""
ATTEMPT = "--- attempt"
"""With this each attempt begins its part of the output."""
SLURMSTEPD = re.compile(r"(?:JOB|STEP) \S+ ON \S+ CANCELLED AT \S+(?: DUE TO ([A-Z ]+[A-Z]))?")
"""What Slurm writes into the output of a job that it ends, the same for many versions."""
TOLD: dict[str | None, FailureClass] = {
    "JOB REQUEUE": "preempted",
    "PREEMPTION": "preempted",
    "TIME LIMIT": "timeout",
    "NODE FAILURE": "node_failure",
    None: "cancelled",
}
FROM_OUTSIDE = ("cancelled", "preempted", "timeout")
"""Classes of a run that was signalled to stop."""
TASK_IS_LEAVING = ("preempted", "timeout")
"""Classes of a run whose whole task was signalled to stop."""


@dataclass(frozen=True)
class End:
    """How an attempt ended.

    Attributes:
        again: whether the run is to be put back into the queue.
        comes_back: whether Slurm itself does so.
        by_slurm: whether Slurm said that it ended the job.
    """

    cause: FailureClass
    again: bool
    comes_back: bool
    by_slurm: bool


def main(folder: Path, status: int, began: float) -> int:
    """Classify, record, and requeue.

    Args:
        folder: the submission's.
        status: the exit status of the job's processes.
        began: when this attempt did, in seconds of the epoch.

    Returns:
        COMPLETED if the run is, whatever a process of it did in its last moment; TASK_ENDS if the runs after it, of a
        task of several, are not to begin now; else 0.
    """
    submission = read_submission(folder)
    index = run_index(submission.tasks_of)
    run = task_job(folder, index).folder()
    if run.record().state == "completed":
        return COMPLETED
    if Submissions(folder.parent.parent).superseded(submission.number, run.name):
        return _left_to_another(submission, index)
    printed = "".join(_since_attempt(file) for file in (*submission.task_output(index), *submission.output(index)))
    try:
        with run.claim() as log:
            end = _record_end(run, log, submission, index, printed, status, began)
    except RunBusy:
        return _left_to_another(submission, index)  # which will record its end
    if submission.tasks_of > 1:
        return _end_turn(submission, index, end)
    if end.again:
        submission.note_waiting(index)
        try:
            _requeue(submission)
        except scheduler.SchedulerError:
            submission.note_begun(index)  # it does not wait: the next submission takes it up
            raise
    return 0


def _left_to_another(submission: Submission, index: int) -> int:
    if submission.tasks_of > 1:
        submission.note_over(index)
    return 0


def _end_turn(submission: Submission, index: int, end: End) -> int:
    """Whether a task of several runs goes on with the next: 0, or TASK_ENDS, and then it may come back for the rest."""
    task = task_index()
    if not (end.again or end.comes_back):
        submission.note_over(index)
    leaving = end.cause in TASK_IS_LEAVING
    if end.again:
        submission.note_waiting(index)
        try:
            put_back(submission)
        except scheduler.SchedulerError:
            submission.note_begun(index)
            raise
    elif leaving and not end.comes_back and _rest(submission, task, index):
        put_back(submission)
    elif end.cause == "cancelled" and end.by_slurm:
        submission.note_task(task, begun=False)  # what has not begun was cancelled with it
        leaving = True
    return TASK_ENDS if end.again or end.comes_back or leaving else 0


def _rest(submission: Submission, task: int, but: int | None = None) -> list[int]:
    """The runs of a task that it has not done with, and that no user cancelled."""
    done = submission.turns.over | submission.cancelled | {but}
    return [run for run in submission.runs_of(task) if run not in done]


def put_back(submission: Submission) -> None:
    """Put a task of several runs back into the queue, for the rest of them."""
    submission.note_task(task_index(), begun=False)
    try:
        _requeue(submission)
    except scheduler.SchedulerError:
        submission.note_task(task_index(), begun=True)
        raise


def out_of_time(folder: Path) -> int:
    """Put a task back into the queue that has runs left, and no time to begin one."""
    submission = read_submission(folder)
    if _rest(submission, task_index()):
        put_back(submission)
    return 0


def _record_end(
    run: RunFolder, log: RunLog, submission: Submission, index: int, printed: str, status: int, began: float
) -> End:
    """Write why an attempt ended, and say what is to follow."""
    error, state = _ended(run, printed, status, began)
    comes_back = False
    if index in submission.cancelled and error["class"] in FROM_OUTSIDE:
        error["class"] = "cancelled"
    elif error["class"] == "cancelled":
        error["class"], comes_back = _why_ended(printed)
    state = "cancelled" if error["class"] == "cancelled" else state
    cause = error["class"]
    tries = _counted(run, submission, cause)
    allowed = submission.manifest.retries(cause)
    again = not comes_back and tries[cause] <= allowed and tries["without_progress"] <= MOST_WITHOUT_PROGRESS
    log.write("job_end", cause=cause, error=error["message"], requeued=again or comes_back)
    ended = dict(run.record().ended)
    ended[cause] = ended.get(cause, 0) + 1
    run.update(state=state, ended=ended, tries=tries, error=error)
    return End(cause, again, comes_back, SLURMSTEPD.search(printed) is not None)


def _counted(run: RunFolder, submission: Submission, cause: str) -> dict[str, Any]:
    """How often the run ended so since it was submitted, and how often in a row without having come further."""
    tries = run.record().tries
    before = tries.model_dump(mode="json", exclude_unset=True) if tries.submission == submission.number else {}
    progress = run.checkpoints.progress()
    idle = before.get("without_progress", 0) + 1 if before.get("progress") == progress else 0
    return {
        **before,
        "submission": submission.number,
        cause: before.get(cause, 0) + 1,
        "progress": progress,
        "without_progress": idle,
    }


def _requeue(submission: Submission) -> None:
    """Put this task back into the queue; a controller that is away is asked again for half an hour."""
    task = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task_index()}"
    for asked in itertools.count():
        try:
            return scheduler.requeue(task)
        except scheduler.SchedulerError as error:
            logging.warning("%s, task %s: %s", submission.name, task, error)
            pauses = AWAY_PAUSES if isinstance(error, scheduler.ControllerAway) else REQUEUE_PAUSES
            if asked >= len(pauses):
                raise
            time.sleep(pauses[asked])


def _ended(run: RunFolder, printed: str, status: int, began: float) -> tuple[dict[str, Any], str]:
    """The error and the state: the run's own words where it had time for them."""
    record = run.record()
    error = record.error
    spoke = error is not None and error.time >= began
    others = [other for other in run.take_errors() if other.time >= began]
    if others:  # the cause, of which the main process only saw the effect
        first = min([*others, *([error] if error is not None and spoke else [])], key=lambda error: error.time)
        if first is not error:
            return _document(first), "failed"
    if error is not None and spoke and record.state in ("failed", "diverged", "interrupted"):
        return _document(error), record.state
    kind, message = _from_status(status, printed)
    state = "failed" if kind in ("code_error", "out_of_memory") else "interrupted"
    return {"class": kind, "type": "JobError", "message": message, "time": time.time()}, state


def _document(error: RunError) -> dict[str, Any]:
    return error.model_dump(mode="json", by_alias=True)


def _from_status(status: int, printed: str) -> tuple[FailureClass, str]:
    words = [line.strip() for line in printed.splitlines() if line.strip() and not line.startswith("srun: ")]
    if re.search(r"(?i:oom[-_ ]kill)|Out Of Memory", printed):
        return "out_of_memory", "the node killed it for using more memory than it was given"
    number = status - 128 if status > 128 else 0
    if number == signal.SIGUSR2:
        return "timeout", "signalled to stop before its training began"
    if number == signal.SIGTERM or status == STOPPED:
        return "cancelled", "ended before its training began"
    if (failure := known(printed)) is not None:
        return failure.kind, failure.message
    if number in signal.valid_signals():
        if (crashed := crash(printed, signal.Signals(number).name)) is not None:
            return crashed
        return "killed", f"ended by {signal.Signals(number).name} from outside"
    last = words[-1] if words else "nothing was printed"
    return "code_error", f"ended with exit code {status} before its training began: {last}"


def _why_ended(printed: str) -> tuple[FailureClass, bool]:
    """A SIGTERM may mean several things, which Slurm tells in the output; and whether the job comes back by itself."""
    reasons = SLURMSTEPD.findall(printed)
    if not reasons:
        # A preemption begins with a SIGTERM and says its name only after its grace time, when this has long ended.
        return "preempted", False
    reason = reasons[-1] or None
    return TOLD.get(reason, "cancelled"), reason == "JOB REQUEUE"


def _since_attempt(file: Path) -> str:
    """The end of what was printed into a file, of the last attempt alone."""
    return _tail(file).decode(errors="replace").rpartition(ATTEMPT)[2]


def _tail(file: Path) -> bytes:
    try:
        with open_file(file) as stream:
            stream.seek(max(0, file.stat().st_size - TAIL_BYTES))
            tail: bytes = stream.read()
    except Unreadable:  # a pipe in its place says nothing
        return b""
    return tail


if __name__ == "__main__":
    try:
        if len(sys.argv) == 2:
            sys.exit(out_of_time(Path(sys.argv[1])))
        sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
    except WorkbenchError as error:
        sys.exit(f"error: {error}")

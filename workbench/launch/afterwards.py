"""Run by a batch script when its job did not end well: says why in the run's record, and tries again where it may.

The training itself may have been killed without a word, so this looks at the exit status, at what was printed last,
and once at the scheduler. It is the only place that puts a run back into the queue.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.failures import SLURM_STATES, FailureClass
from workbench.launch import scheduler
from workbench.launch.job import task_index, task_job
from workbench.launch.ledger import Submission, read_submission
from workbench.store import RunBusy, RunFolder

TAIL_BYTES = 8192


def main(folder: Path, status: int, began: float) -> None:
    """Classify, record, and requeue.

    Args:
        folder: the submission's.
        status: the exit status of the job's processes.
        began: when this attempt did, in seconds of the epoch.
    """
    submission, index = read_submission(folder), task_index()
    run = task_job(folder, index).folder()
    task = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{index}"
    if run.record().get("state") == "completed":
        return
    try:
        with run.claim() as log:
            error, state = _ended(run, submission, index, status, began)
            if error["class"] == "cancelled":
                error |= _told_by_scheduler(task)
                state = "cancelled" if error["class"] == "cancelled" else state
            cause = error["class"]
            counts = dict(run.record().get("ended", {}))
            counts[cause] = counts.get(cause, 0) + 1
            again = counts[cause] <= submission.manifest["profile"]["retries"].get(cause, 0)
            log.write("job_end", cause=cause, error=error["message"], job=task, requeued=again)
            run.update(state=state, ended=counts, error=error)
    except RunBusy:
        return  # another job trains it, and will tell
    if again:
        logging.warning("%s: %s; back into the queue", run.name, cause)
        scheduler.requeue(task)


def _ended(run: RunFolder, submission: Submission, index: int, status: int, began: float) -> tuple[dict[str, Any], str]:
    """The error and the state: the run's own words where it had time for them."""
    record = run.record()
    error = record.get("error") or {}
    if error.get("time", 0.0) >= began and record["state"] in ("failed", "diverged", "interrupted"):
        return dict(error), record["state"]
    tail = b"".join(_tail(file) for file in submission.output(index)).decode(errors="replace")
    kind, message = _from_status(status, tail)
    error = {"class": kind, "type": "JobError", "message": message, "time": time.time()}
    return error, "failed" if kind == "code_error" else "interrupted"


def _from_status(status: int, tail: str) -> tuple[FailureClass, str]:
    words = [line.strip() for line in tail.splitlines() if line.strip()]
    last = words[-1] if words else "it printed nothing"
    if "oom_kill" in tail or "oom-kill" in tail or "Out Of Memory" in tail:
        return "out_of_memory", "the node killed it for using more memory than it was given"
    number = status - 128 if status > 128 else 0
    if number == signal.SIGUSR2:
        return "preempted", "told to stop before its training began"
    if number == signal.SIGTERM:
        return "cancelled", "told to end before its training began"
    if number:
        return "killed", f"ended by {signal.Signals(number).name} from outside"
    return "code_error", f"ended with exit code {status} before its training began; last line: {last}"


def _told_by_scheduler(task: str) -> dict[str, str]:
    """A SIGTERM may mean several things, which the controller knows apart."""
    try:
        state = scheduler.state_of(task)
    except scheduler.SchedulerError:
        return {}
    if state in ("PENDING", "REQUEUED", "COMPLETING", "RUNNING"):
        # It comes back by itself, as after a preemption or scontrol requeue.
        return {"class": "preempted", "message": "stopped by the scheduler, which runs it again"}
    kind = SLURM_STATES.get(state, "cancelled")
    return {"class": kind, "message": f"ended by the scheduler ({state.lower() or 'cancelled'})"}


def _tail(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - TAIL_BYTES))
        return stream.read()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    except WorkbenchError as error:
        sys.exit(f"error: {error}")

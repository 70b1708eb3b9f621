"""Run by a batch script when its job did not end well: says why in the run's record, and tries again where it may.

The training itself may have been killed without a word, so this looks at the exit status and at what was printed.
It is the only place that puts a run back into the queue.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.failures import FailureClass
from workbench.launch import scheduler
from workbench.launch.job import task_index, task_job
from workbench.launch.ledger import read_submission
from workbench.store import RunBusy, RunFolder

TAIL_BYTES = 8192


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
    printed = b"".join(_tail(file) for file in submission.output(index)).decode(errors="replace")
    printed = printed.rpartition(ATTEMPT)[2]
    if run.record().get("state") == "completed":
        return
    try:
        with run.claim() as log:
            error, state = _ended(run, printed, status, began)
            comes_back = False
            if error["class"] == "cancelled":
                error["class"], comes_back = _why_ended(printed)
                state = "cancelled" if error["class"] == "cancelled" else state
            cause = error["class"]
            counts = dict(run.record().get("ended", {}))
            counts[cause] = counts.get(cause, 0) + 1
            again = not comes_back and counts[cause] <= submission.manifest["profile"]["retries"].get(cause, 0)
            log.write("job_end", cause=cause, error=error["message"], job=task, requeued=again or comes_back)
            run.update(state=state, ended=counts, error=error)
    except RunBusy:
        return  # another job trains it, and will tell
    if again:
        logging.warning("%s: %s; back into the queue", run.name, cause)
        scheduler.requeue(task)


def _ended(run: RunFolder, printed: str, status: int, began: float) -> tuple[dict[str, Any], str]:
    """The error and the state: the run's own words where it had time for them."""
    record = run.record()
    error = record.get("error") or {}
    if error.get("time", -1.0) >= began and record["state"] in ("failed", "diverged", "interrupted"):
        return dict(error), record["state"]
    kind, message = _from_status(status, printed)
    error = {"class": kind, "type": "JobError", "message": message, "time": time.time()}
    return error, "failed" if kind in ("code_error", "out_of_memory") else "interrupted"


def _from_status(status: int, printed: str) -> tuple[FailureClass, str]:
    words = [line.strip() for line in printed.splitlines() if line.strip() and not line.startswith("srun: ")]
    if re.search(r"oom[-_ ]kill|Out Of Memory", printed, re.I):
        return "out_of_memory", "the node killed it for using more memory than it was given"
    number = status - 128 if status > 128 else 0
    if number == signal.SIGUSR2:
        return "timeout", "told to stop before its training began"
    if number == signal.SIGTERM:
        return "cancelled", "ended before its training began"
    if number in signal.valid_signals():
        return "killed", f"ended by {signal.Signals(number).name} from outside"
    last = words[-1] if words else "nothing was printed"
    return "code_error", f"ended with exit code {status} before its training began: {last}"


def _why_ended(printed: str) -> tuple[FailureClass, bool]:
    """A SIGTERM may mean several things, which Slurm tells in the output; and whether the job comes back by itself."""
    found = SLURMSTEPD.findall(printed)
    told = found[-1] or None if found else None
    return TOLD.get(told, "cancelled"), told == "JOB REQUEUE"


def _tail(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - TAIL_BYTES))
        return stream.read()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    except WorkbenchError as error:
        sys.exit(f"error: {error}")

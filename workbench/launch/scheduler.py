"""Slurm's commands, each called as rarely as possible: one call tells where every job stands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.errors import WorkbenchError
from workbench.failures import FailureClass

CALL_SECONDS = 60.0
JOB_PREFIX = "workbench-"
"""The prefix of the names of all job arrays."""
INHERITED = re.compile(
    r"SBATCH_|SQUEUE_|SRUN_|SLURM_(?!CONF|CLUSTERS$|JWT$)|WORKBENCH_TASK_"
    r"|(RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT)$"
)
"""What a job must not inherit: a submission may come from within another job, or a shell with its own defaults."""
SUBMIT_LIMIT = re.compile(r"(QOS|Assoc)(Max|Grp)Submit\w*")
"""How Slurm calls the limits on the jobs that a user, or a group, may have in the queue and running at once."""
MAX_NAMES = 500
"""More job names than this are not spelled out in a call; all of the user's jobs are read instead."""

SLURM_STATES: dict[str, FailureClass] = {
    "BOOT_FAIL": "node_failure",
    "CANCELLED": "cancelled",
    "DEADLINE": "timeout",
    "FAILED": "killed",
    "NODE_FAIL": "node_failure",
    "OUT_OF_MEMORY": "out_of_memory",
    "PREEMPTED": "preempted",
    "REVOKED": "cancelled",
    "TIMEOUT": "timeout",
}
"""How the scheduler's final states are called here; FAILED means: it ended without a word of its own."""

ENDED_STATES = frozenset(SLURM_STATES) | {"COMPLETED"}
"""All others, also those that are not known here, are of jobs that run or can still run."""
WAITING_STATES = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})


AWAY = re.compile("contact slurm controller|backup controller in standby|Socket timed out|Zero Bytes were transmitted")
"""Slurm's words where no controller answers, of `slurm_strerror`."""


class SchedulerError(WorkbenchError):
    """Slurm is not there, or refuses."""


class ControllerAway(SchedulerError):
    """The controller does not answer: it may later."""


@dataclass(frozen=True)
class Task:
    """One task of a job array, as the scheduler sees it.

    Attributes:
        job: the name that the submission gave the array.
        state: Slurm's word, such as PENDING.
        reason: why it waits, or None.
    """

    job: str
    array_id: str
    index: int
    state: str
    reason: str | None

    @property
    def id(self) -> str:
        """As scancel wants it."""
        return f"{self.array_id}_{self.index}"

    @property
    def live(self) -> bool:
        """Whether it runs or can still run."""
        return self.state not in ENDED_STATES


def check_available() -> None:
    """SchedulerError where no Slurm is on this machine."""
    missing = [command for command in ("sbatch", "squeue", "scontrol", "scancel", "srun") if not shutil.which(command)]
    if missing:
        raise SchedulerError(
            f"this profile needs Slurm, and {missing[0]} is not found here: log in to a cluster's submit host, "
            "install slurm/dev-cluster's packages, or choose slurm/local.yaml"
        )


def queue(names: Sequence[str]) -> list[Task]:
    """The tasks of the named jobs that the controller still knows (for minutes after their end), in one call.

    Not `sacct`: the accounting hears of a job only once it may start, so one that waits for another would be missing.
    """
    command = ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%j|%T|%r"]
    return _tasks(_call(*command, *_named("--name", names)))


def _named(option: str, names: Sequence[str]) -> list[str]:
    return [f"{option}={','.join(names)}"] if len(names) <= MAX_NAMES else []


def max_array_size() -> int:
    """The cluster's MaxArraySize."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", _call("scontrol", "show", "config"), re.M)
    if match is None:
        raise SchedulerError("scontrol show config names no MaxArraySize")
    if int(match.group(1)) < 1:
        raise SchedulerError("this cluster allows no job arrays (MaxArraySize is 0)")
    return int(match.group(1))


def cancel(tasks: Sequence[Task]) -> None:
    """End tasks, one call per thousand."""
    for first in range(0, len(tasks), 1000):
        _call("scancel", *(task.id for task in tasks[first : first + 1000]))


def interrupt(tasks: Sequence[Task]) -> None:
    """Tell what runs in tasks to save and end; their batch scripts go on."""
    for first in range(0, len(tasks), 1000):
        _call("scancel", "--signal=USR2", *(task.id for task in tasks[first : first + 1000]))


def requeue(task_id: str) -> None:
    """Put a task back into the queue."""
    _call("scontrol", "requeue", task_id)


def submit(script: str, held: Sequence[int]) -> str:
    """Submit a batch script; returns what sbatch says.

    Args:
        script: its text: of a file, somebody might put another in its place.
        held: descriptors that sbatch keeps open: a lock that it inherits outlives this process if that is killed.
    """
    with tempfile.TemporaryFile() as whole:  # not a pipe: sbatch would read half of it if this process were killed
        whole.write(script.encode())
        whole.seek(0)
        return _call("sbatch", stdin=whole, pass_fds=tuple(held))


def is_limit(message: str) -> bool:
    """Whether a refusal is one of a limit on the number of jobs, which passes when some have ended."""
    return SUBMIT_LIMIT.search(message) is not None


def _call(*command: str, **options: Any) -> str:
    # The list of an array's waiting tasks is cut short otherwise.
    environment = {name: value for name, value in os.environ.items() if not INHERITED.match(name)}
    environment |= {"SLURM_BITSTR_LEN": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=CALL_SECONDS, env=environment, **options
        )
    except FileNotFoundError:
        raise SchedulerError(f"{command[0]} is not found: there is no Slurm on this machine") from None
    except subprocess.TimeoutExpired:
        raise ControllerAway(
            f"{command[0]} did not answer within {CALL_SECONDS:.0f} seconds; try again later"
        ) from None
    if "configuration source" in done.stderr:
        raise SchedulerError(
            "Slurm's commands are here, but no cluster: SLURM_CONF names none; for the one-node cluster: "
            'eval "$(slurm/dev-cluster up)"'
        )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        kind = ControllerAway if AWAY.search(done.stderr) else SchedulerError
        raise kind(f"{command[0]} says: {'; '.join(line.strip() for line in lines[:3])}")
    return str(done.stdout)


def _tasks(text: str) -> list[Task]:
    from submitit.slurm.slurm import read_job_id

    tasks = []
    for line in text.splitlines():
        job_id, _, rest = line.partition("|")
        name, *words = rest.split("|")
        if not name.startswith(JOB_PREFIX) or len(words) != 2:
            continue  # another user's, or a cluster's greeting
        state, reason = words
        plain = re.fullmatch(r"(\d+)_(\d+)", job_id)
        if plain:  # the common case, a thousand times
            spans: list[tuple[str, ...]] = [(plain.group(1), plain.group(2))]
        elif "_" in job_id:
            spans = read_job_id(job_id)
        else:
            continue  # not one of an array, so not ours
        for array_id, first, *last in spans:
            for index in range(int(first), int([first, *last][-1]) + 1):
                # "CANCELLED by 0"; a reason of None means none.
                why = reason if reason not in ("None", "") else None
                tasks.append(Task(name, array_id, index, state.split()[0], why))
    return tasks

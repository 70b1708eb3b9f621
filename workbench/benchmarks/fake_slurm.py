"""A stand-in for sbatch, squeue, sacct, scontrol, scancel and srun, which counts the calls of each.

It queues jobs and never starts them. For measurements and tests on machines without Slurm; `counted` puts the same
counters in front of a real one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "srun")

# Small and without imports that cost time: it is started as often as Slurm's commands are.
_FAKE = r"""#!{python} -IS
import json, os, re, sys
AT, NAME = {folder!r}, os.path.basename(sys.argv[0])
def append(file, line):
    with open(os.path.join(AT, file), "a") as stream:
        stream.write(line + "\n")
def lines(file):
    try:
        with open(os.path.join(AT, file)) as stream:
            return stream.read().splitlines()
    except FileNotFoundError:
        return []
def option(name):
    for i, word in enumerate(sys.argv):
        if word == name:
            return sys.argv[i + 1]
        if word.startswith(name + "="):
            return word.partition("=")[2]
append("calls", NAME)
jobs = [json.loads(line) for line in lines("jobs")]
states = dict(line.split() for line in lines("states"))
if NAME == "sbatch":
    text = sys.stdin.read()
    number = len(jobs) + 1
    script = os.path.join(AT, "script-%d.sh" % number)
    with open(script, "w") as stream:
        stream.write(text)
    count = int(re.search(r"--array=0-(\d+)", text).group(1)) + 1
    name = re.search(r"--job-name=(\S+)", text).group(1)
    append("jobs", json.dumps(dict(id=number, name=name, count=count, script=script)))
    print("Submitted batch job", number)
elif NAME in ("squeue", "sacct"):
    names = option("--name")
    for job in jobs:
        if names is None or job["name"] in names.split(","):
            for k in range(job["count"]):
                task = "%d_%d" % (job["id"], k)
                print("%s|%s|%s|None" % (task, job["name"], states.get(task, "PENDING")))
elif NAME == "scontrol" and sys.argv[1:3] == ["show", "config"]:
    print("MaxArraySize            = {max_array_size}")
elif NAME == "scancel" and option("--signal"):
    for task in sys.argv[2:]:
        append("signals", task + " " + option("--signal"))
elif NAME == "scancel":
    for task in sys.argv[1:]:
        append("states", task + " CANCELLED")
elif NAME == "scontrol" and sys.argv[1] == "requeue":
    append("requeued", sys.argv[2])
elif NAME == "srun":
    words = sys.argv[1:]
    command = words[words.index({python!r}):]
    os.execv(command[0], command)
"""

_COUNTED = """#!/bin/sh
echo {name} >> {folder}/calls
exec {real} "$@"
"""


class FakeSlurm:
    """Commands in a folder; put `bin` in front of the PATH.

    Args:
        folder: for the commands and their state.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.bin = self.folder / "bin"
        self.bin.mkdir(parents=True, exist_ok=True)

    @classmethod
    def pretending(cls, folder: Path, max_array_size: int = 1001) -> FakeSlurm:
        """A scheduler that queues and never runs."""
        slurm = cls(folder)
        text = _FAKE
        for key, value in {
            "{python}": sys.executable,
            "{python!r}": repr(sys.executable),
            "{folder!r}": repr(str(slurm.folder)),
            "{max_array_size}": str(max_array_size),
        }.items():
            text = text.replace(key, value)
        for name in COMMANDS:
            _write(slurm.bin / name, text)
        return slurm

    @classmethod
    def counted(cls, folder: Path) -> FakeSlurm:
        """The real commands, with a counter in front of each."""
        slurm = cls(folder)
        for name in COMMANDS:
            if real := shutil.which(name):
                _write(slurm.bin / name, _COUNTED.format(name=name, folder=slurm.folder, real=real))
        return slurm

    @contextlib.contextmanager
    def on_the_path(self) -> Iterator[None]:
        """This process and its children find these commands first."""
        before = os.environ["PATH"]
        os.environ["PATH"] = f"{self.bin}{os.pathsep}{before}"
        try:
            yield
        finally:
            os.environ["PATH"] = before

    def calls(self) -> Counter[str]:
        """How often each command was called."""
        with contextlib.suppress(FileNotFoundError):
            return Counter((self.folder / "calls").read_text().split())
        return Counter()

    def jobs(self) -> list[dict[str, object]]:
        """What sbatch took: id, name, count and script."""
        with contextlib.suppress(FileNotFoundError):
            return [json.loads(line) for line in (self.folder / "jobs").read_text().splitlines()]
        return []

    def signals(self) -> list[str]:
        """What scancel was asked to send, as `1_0 USR2`."""
        return self._lines("signals")

    def requeued(self) -> list[str]:
        """The tasks that scontrol put back into the queue, in order; their states stay as they were set."""
        return self._lines("requeued")

    def _lines(self, name: str) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / name).read_text().splitlines()
        return []

    def set_state(self, task: str, state: str) -> None:
        """From now on squeue and sacct report this state for a task such as `1_0`."""
        with (self.folder / "states").open("a") as stream:
            stream.write(f"{task} {state}\n")


def _write(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)

"""Packs: several short runs one after another in one array task. Which runs a task has, and what it noted of its turns.

`pack_script.py` writes what the task executes. A task of one run keeps the same notes, without those about turns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from workbench.files import open_file, read_file

_BEGAN = "began"

TASK = "t"
"""With this begins the note that a task has begun; with a minus before it, that it went back to wait or was ended."""
OVER = "="
"""With this begins the note that a run is over for its task: completed, or not to be tried again by it."""


def task_count(runs: int, tasks_of: int) -> int:
    """The number of tasks for a number of runs."""
    return -(-runs // tasks_of)


def runs_of_task(task: int, tasks_of: int, runs: int) -> range:
    """The indices of a task's runs; `runs` is the number of all."""
    return range(task * tasks_of, min((task + 1) * tasks_of, runs))


@dataclass(frozen=True)
class Turns:
    """How far the tasks of an array are, as they noted it themselves.

    Attributes:
        current: by task, the run that it began last since it last started.
        begun: tasks that have started and have not gone back into the queue since.
        over: runs that their task will not train again.
    """

    current: dict[int, int] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)
    over: set[int] = field(default_factory=set)

    @classmethod
    def read(cls, notes: Iterable[str], tasks_of: int) -> Turns:
        """From the lines that the tasks wrote, in their order; a line that was cut short says nothing."""
        turns = cls()
        for note in notes:
            number = note.lstrip("-=t")
            if not number.isdecimal():
                continue
            if note == f"{OVER}{number}":
                turns.over.add(int(number))
            elif note == f"{TASK}{number}":
                turns.begun.add(int(number))
                turns.current.pop(int(number), None)
            elif note == f"-{TASK}{number}":
                turns.begun.discard(int(number))
                turns.current.pop(int(number), None)
            elif note == number:
                turns.current[int(number) // tasks_of] = int(number)
        return turns


class TaskNotes:
    """The tasks of a job array, and what they noted in the array's folder; the base of a submission."""

    folder: Path
    runs: tuple[str, ...]
    tasks_of: int

    @property
    def tasks(self) -> int:
        """The array's size."""
        return task_count(len(self.runs), self.tasks_of)

    def task_of(self, index: int) -> int:
        """The task that trains a run."""
        return index // self.tasks_of

    def runs_of(self, task: int) -> range:
        """The indices of the runs that a task trains."""
        return runs_of_task(task, self.tasks_of, len(self.runs))

    @property
    def began_file(self) -> Path:
        """Where runs note their index when they begin, and with a minus when they go back to wait; see also `Turns`."""
        return self.folder / _BEGAN

    @cached_property
    def began(self) -> set[int]:
        """The runs that have begun, and did not go back to wait since."""
        last = {line.lstrip("-"): line for line in self._notes()}
        return {int(run) for run, line in last.items() if run.isdecimal() and not line.startswith("-")}

    @cached_property
    def turns(self) -> Turns:
        """Where the tasks of several runs are."""
        return Turns.read(self._notes(), self.tasks_of)

    def _notes(self) -> list[str]:
        try:
            return read_file(self.began_file).decode(errors="replace").split()
        except OSError:
            return []

    def note_waiting(self, run: int) -> None:
        """Remember that a run that had begun goes back into the queue."""
        self._note(f"-{run}")

    def note_begun(self, run: int) -> None:
        """Remember that a run has begun, where its batch script cannot say so."""
        self._note(str(run))

    def note_over(self, run: int) -> None:
        """Remember that a task of several runs does not take one of them up again."""
        self._note(f"{OVER}{run}")

    def note_task(self, task: int, begun: bool) -> None:
        """Remember that a task of several runs has begun, or that it runs no more: it waits, or was cancelled."""
        self._note(f"{TASK}{task}" if begun else f"-{TASK}{task}")

    def _note(self, line: str) -> None:
        with contextlib.suppress(OSError), open_file(self.began_file, "a") as stream:
            stream.write(f"{line}\n")

    def output(self, run: int) -> list[Path]:
        """The files that hold what a run printed, one per process; they go when the run is completed."""
        return sorted(self.folder.glob(f"*_{run}_*_log.out" if self.tasks_of == 1 else f"*_run{run}_*_log.out"))

    def task_output(self, run: int) -> list[Path]:
        """What Slurm itself wrote about the task of a run, of a task of several runs."""
        return [] if self.tasks_of == 1 else sorted(self.folder.glob(f"*_{self.task_of(run)}_0_log.out"))

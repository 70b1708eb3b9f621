"""What was handed over to a cluster: a folder for each job array, written before sbatch is called.

A launcher may be killed anywhere. The record comes first and gives the array its name, so whatever the scheduler holds
can be told to belong to it; what it does not hold was never handed over, or has ended. Of two submissions that name the
same run the later counts: a job looks here before it trains, and leaves the run to the later one.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.files import lock, write_atomically
from workbench.launch.scheduler import JOB_PREFIX
from workbench.results.folders import SUBMISSIONS

_RECORD = "submission.json"
_MANIFEST = "manifest.json"
_CANCELLED = "cancelled.json"
_ENDED = "ended.json"
_LOCK = ".lock"
LOCK_SECONDS = 600.0
REPORT = "report of "
"""So begins, in the place of a run's id, what a job that makes a grid's table and figures is recorded as."""


class SubmissionError(WorkbenchError):
    """Submissions cannot be read or locked."""


@dataclass(frozen=True)
class Submission:
    """One job array.

    Attributes:
        number: counts up; a later submission of a run stands over an earlier one.
        job: the array's name at the scheduler, unlike any other.
        runs: run ids, one a task, in the order of the array's indices.
    """

    folder: Path
    number: int
    job: str
    created: float
    grid: str
    runs: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def code(self) -> str:
        """The name of the snapshot that its jobs run."""
        return str(self.manifest["code"])

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the jobs read: their configurations, results folder, code and profile."""
        manifest: dict[str, Any] = _read(self.folder / _MANIFEST)
        return manifest

    @property
    def cancelled(self) -> set[int]:
        """The tasks that a user cancelled."""
        file = self.folder / _CANCELLED
        return set(_read(file)) if file.is_file() else set()

    def cancel(self, tasks: Iterable[int]) -> None:
        """Remember that these were cancelled."""
        write_atomically(self.folder / _CANCELLED, json.dumps(sorted(self.cancelled | set(tasks))).encode())

    def remember(self, states: Mapping[int, str], forget: Collection[int]) -> dict[int, str]:
        """Final states that the scheduler told, which it forgets minutes later; returns all that are known.

        Args:
            forget: tasks that run again.
        """
        file = self.folder / _ENDED
        before = {int(task): state for task, state in _read(file).items()} if file.is_file() else {}
        now = {task: state for task, state in {**before, **states}.items() if task not in forget}
        if now != before:
            with contextlib.suppress(OSError):  # somebody else's folder, or a full disk: it is only a memory
                write_atomically(file, json.dumps(now).encode())
        return now

    def output(self, task: int) -> list[Path]:
        """The files that hold what a task printed, one a process; they go when the run is completed."""
        return sorted(self.folder.glob(f"*_{task}_*_log.out"))


class Submissions:
    """The submissions of one results folder."""

    def __init__(self, results: Path) -> None:
        self.folder = results.absolute() / SUBMISSIONS

    @contextlib.contextmanager
    def lock(self) -> Iterator[int]:
        """Hold the ledger for this process; yields a descriptor that a child may inherit to hold it on.

        Raises:
            SubmissionError: somebody else holds it for minutes.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOCK).open("a+b") as stream:
            if not lock(stream, LOCK_SECONDS):
                raise SubmissionError(f"{self.folder}: another submission is under way; try again later")
            # Closing lets go of it; LOCK_UN would take it from a child that still holds it.
            yield stream.fileno()

    def submissions(self) -> list[Submission]:
        """All of them, the oldest first; a folder without a record was never handed over."""
        found = []
        for folder in sorted(self.folder.glob("[0-9]*-*")):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found.append(read_submission(folder))
        return found

    def add(self, grid: str, runs: Sequence[str], manifest: Mapping[str, Any]) -> Submission:
        """Record a submission that is about to be made; the lock must be held."""
        last = max((int(folder.name.partition("-")[0]) for folder in self.folder.glob("[0-9]*-*")), default=0)
        name = f"{last + 1:06d}-{secrets.token_hex(4)}"
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        write_atomically(folder / _MANIFEST, json.dumps(manifest).encode())
        record = {"job": f"{JOB_PREFIX}{name}", "created": time.time(), "grid": grid, "runs": list(runs)}
        write_atomically(folder / _RECORD, json.dumps(record).encode())
        return read_submission(folder)

    def superseded(self, number: int, run: str) -> str | None:
        """The name of a later submission of a run, or None."""
        for folder in sorted(self.folder.glob("[0-9]*-*"), reverse=True):
            if int(folder.name.partition("-")[0]) <= number:
                return None
            with contextlib.suppress(FileNotFoundError):
                if run in read_submission(folder).runs:
                    return folder.name
        return None


def read_submission(folder: Path) -> Submission:
    """The record of one folder; SubmissionError when it is damaged."""
    file = folder / _RECORD
    try:
        record = json.loads(file.read_bytes())
        return Submission(
            folder, int(folder.name.partition("-")[0]), record["job"], record["created"], record["grid"],
            tuple(record["runs"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise SubmissionError(
            f"{file}: damaged ({error}); if none of its jobs runs any more, remove {folder}"
        ) from None


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        folder = file.parent
        raise SubmissionError(
            f"{file}: damaged ({error}); if none of its jobs runs any more, remove {folder}"
        ) from None


def latest(submissions: Sequence[Submission]) -> dict[str, tuple[Submission, int]]:
    """For each run the newest submission that names it, and its task there."""
    found: dict[str, tuple[Submission, int]] = {}
    for submission in submissions:
        for index, run in enumerate(submission.runs):
            found[run] = submission, index
    return found

"""What was submitted to a cluster: a folder per job array, written before sbatch is called.

A launcher may be killed at any moment. The record is written first and gives the array its name, so every job that the
scheduler lists can be assigned to its record; one that it does not list was never submitted, or has ended. If two
submissions name the same run, the later one counts: a job checks this before it trains.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel

from workbench.errors import WorkbenchError, counted
from workbench.files import lock, open_file, owner_of, write_atomically
from workbench.grids import Grid, GridDocument, GridError
from workbench.launch.guarded import refusals
from workbench.launch.packing import TaskNotes
from workbench.launch.scheduler import JOB_PREFIX
from workbench.results.folders import SUBMISSIONS
from workbench.validation import DamagedFile, JsonObject, Mistake, Moment, Record, Whole, read_record

_RECORD = "submission.json"
_MANIFEST = "manifest.json"
_CANCELLED = "cancelled.json"
_ENDED = "ended.json"
_TAKEN = "taken.json"
_REFUSED = "refused.json"
_REPORT = "report.json"
_LOCK = ".lock"
SEALED = (_RECORD, _MANIFEST)
"""The files of a submission that its jobs read and nobody changes; the batch script carries their digests."""
_FOLDER = re.compile(r"(\d{1,15})-\w+")
LOCK_SECONDS = 600.0
REPORT = "report of "
"""So begins, in the place of a run's id, what a job that makes a grid's table and figures is recorded as."""
Warn = Callable[[str], None]


class SubmissionError(WorkbenchError):
    """Submissions cannot be locked, or one of them names nothing that can be run."""


class SubmissionRecord(Record):
    """The content of `submission.json`."""

    job: str
    created: Moment
    grid: str
    runs: Annotated[tuple[str, ...], Field(min_length=1)]
    tasks_of: Annotated[int, Field(ge=1)] = 1


class Manifest(Record):
    """The content of `manifest.json`: what the jobs read.

    Attributes:
        results: the results folder.
        code: the name of the snapshot that the jobs run.
        source: commit and state of the tree that submitted.
        profile: as it was.
        settings: by setting id, the configuration of its runs.
        grid: of a report job, the resolved grid.
        then: of a report job, what it makes.
    """

    results: str
    code: str
    source: JsonObject = {}
    profile: JsonObject = {}
    settings: dict[str, JsonObject] = {}
    grid: GridDocument | None = None
    then: tuple[str, ...] = ()

    def retries(self, cause: str) -> int:
        """How often a run that ended so goes back into the queue by itself."""
        retries = self.profile.get("retries")
        allowed = retries.get(cause) if isinstance(retries, dict) else None
        return allowed if isinstance(allowed, int) else 0


class Taken(Record):
    """The content of `taken.json`: the scheduler has had the array."""

    array: str


class Refused(Record):
    """The content of `refused.json`: why the scheduler did not take the array."""

    message: str


class Reported(Record):
    """The content of `report.json`: what became of a report job.

    Attributes:
        cause: the failure class.
        message: what ended it.
        files: what was written.
    """

    state: Literal["made", "failed"]
    cause: str | None = None
    message: str = ""
    files: tuple[str, ...] = ()


class _Tasks(RootModel[tuple[Whole, ...]]):
    model_config = ConfigDict(strict=True)


class _States(RootModel[dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], str]]):
    model_config = ConfigDict(strict=True)


M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Submission(TaskNotes):
    """One job array.

    Attributes:
        number: counts up; a later submission of a run overrides an earlier one.
        job: the array's name at the scheduler, unlike any other.
        grid: the grid's file.
        runs: run ids, in the order of the array's indices.
        tasks_of: how many of them each task trains one after another.
    """

    folder: Path
    number: int
    job: str
    created: float
    grid: str
    runs: tuple[str, ...]
    tasks_of: int = 1

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def is_report(self) -> bool:
        """Whether it makes a grid's table and figures."""
        return self.runs[0].startswith(REPORT)

    @cached_property
    def manifest(self) -> Manifest:
        """What the jobs read; DamagedFile where it cannot be read."""
        try:
            return _read(self.folder / _MANIFEST, Manifest)
        except FileNotFoundError:
            raise DamagedFile(self.folder / _MANIFEST, "it is missing", _remedy(self.folder)) from None

    def resolved_grid(self) -> Grid:
        """The grid as it was submitted, of a report job; DamagedFile where it cannot be read."""
        file = self.folder / _MANIFEST
        if self.manifest.grid is None:
            raise DamagedFile(file, Mistake("grid", "is required of a report job", "missing"), _remedy(self.folder))
        try:
            return Grid.from_document(self.manifest.grid)
        except GridError as error:
            raise DamagedFile(file, str(error), _remedy(self.folder)) from None

    @property
    def cancelled(self) -> set[int]:
        """The indices of runs that a user cancelled; DamagedFile where that cannot be read."""
        try:
            return set(_read(self.folder / _CANCELLED, _Tasks).root)
        except FileNotFoundError:
            return set()

    def cancel(self, runs: Iterable[int]) -> None:
        """Remember that these were cancelled."""
        write_atomically(self.folder / _CANCELLED, json.dumps(sorted(self.cancelled | set(runs))).encode())

    def remember(self, states: Mapping[int, str], forget: Collection[int]) -> dict[int, str]:
        """Store final states from the scheduler, which forgets them minutes later; returns all that are known.

        Args:
            forget: tasks that run again.

        Raises:
            DamagedFile: what was remembered before cannot be read.
        """
        file = self.folder / _ENDED
        try:
            before = {int(task): state for task, state in _read(file, _States).root.items()}
        except FileNotFoundError:
            before = {}
        now = {task: state for task, state in {**before, **states}.items() if task not in forget}
        if now != before:
            with contextlib.suppress(OSError):  # another user's folder, or a full disk: it is only a memory
                write_atomically(file, json.dumps(now).encode())
        return now

    @property
    def taken(self) -> bool:
        """Whether the scheduler has had the array: what it does not know any more has ended, or was cancelled."""
        return (self.folder / _TAKEN).is_file()

    def note_taken(self, array_id: str) -> None:
        """Remember that the scheduler has the array."""
        write_atomically(self.folder / _TAKEN, json.dumps({"array": array_id}).encode())

    @property
    def refusal(self) -> str | None:
        """Why the scheduler did not take it; DamagedFile where that cannot be read."""
        try:
            return _read(self.folder / _REFUSED, Refused).message
        except FileNotFoundError:
            return None

    def note_refused(self, message: str) -> None:
        """Remember that the scheduler did not take it."""
        write_atomically(self.folder / _REFUSED, json.dumps({"message": message}).encode())

    @cached_property
    def tampered(self) -> dict[int, str]:
        """By task, why its job was refused: something was not what was submitted. See `workbench.launch.guarded`."""
        return refusals(self.folder)

    @property
    def reported(self) -> Reported | None:
        """What became of a report job; None where it did not say; DamagedFile where that cannot be read."""
        try:
            return _read(self.folder / _REPORT, Reported)
        except FileNotFoundError:
            return None

    def note_reported(self, state: str, **fields: Any) -> None:
        """Remember what became of a report job."""
        write_atomically(self.folder / _REPORT, json.dumps({"state": state, **fields}).encode())


class Submissions:
    """The submissions of one results folder."""

    def __init__(self, results: Path) -> None:
        self.folder = results.absolute() / SUBMISSIONS

    @contextlib.contextmanager
    def lock(self) -> Iterator[int]:
        """Hold the folder for this process; yields a descriptor that a child may inherit to hold it on.

        Raises:
            SubmissionError: another process holds it for minutes, or this user may not write there.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            stream = open_file(self.folder / _LOCK, "a+b")
        except PermissionError:
            raise SubmissionError(f"you may not write {self.folder}; name another folder with --results") from None
        with stream:
            if not lock(stream, LOCK_SECONDS):
                raise SubmissionError(f"{self.folder}: another submission is under way; try again later")
            # Closing lets go of it; LOCK_UN would take it from a child that still holds it.
            yield stream.fileno()

    def folders(self) -> list[tuple[int, Path]]:
        """The number and folder of every submission, the oldest first."""
        matches = ((_FOLDER.fullmatch(folder.name), folder) for folder in self.folder.glob("*-*"))
        return sorted((int(match[1]), folder) for match, folder in matches if match is not None)

    def all(self, warn: Warn | None = None) -> list[Submission]:
        """All of them, the oldest first; a folder without a record was never submitted.

        Args:
            warn: called with a line for those that are damaged or private to another user, which are left out.

        Raises:
            DamagedFile: one is damaged, and `warn` is None.
            SubmissionError: some are private to another user, and `warn` is None.
        """
        submissions = []
        private = [self.folder] if self.folder.is_dir() and not _may_enter(self.folder) else []
        for number, folder in self.folders():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                try:
                    submissions.append(_submission(number, folder))
                except DamagedFile as damage:
                    if not _may_enter(folder):
                        private.append(folder)
                    elif warn is None:
                        raise
                    else:
                        warn(str(damage))
        if private:
            self._tell_private(private, warn)
        return submissions

    def _tell_private(self, private: Sequence[Path], warn: Warn | None) -> None:
        owners = " and ".join(sorted({owner_of(folder) for folder in private}))
        whose = f"{self.folder}: {counted(len(private), 'folder')} may be read by {owners} alone"
        if warn is None:
            raise SubmissionError(f"{whose}, so it is not known which runs wait there; name another --results")
        warn(f"{whose}, and left out: runs submitted from there are shown as their run folders record them")

    def add(self, grid: str, runs: Sequence[str], manifest: Mapping[str, Any], tasks_of: int = 1) -> Submission:
        """Record a submission that is about to be made; the lock must be held.

        What a killed launcher left of the one before, whose record was not yet written, is removed.
        """
        folders = self.folders()
        last = folders[-1][0] if folders else 0
        if folders and is_abandoned(folders[-1][1]):
            shutil.rmtree(folders[-1][1], ignore_errors=True)
        name = f"{last + 1:06d}-{secrets.token_hex(4)}"
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        write_atomically(folder / _MANIFEST, json.dumps(manifest).encode())
        record = {"job": f"{JOB_PREFIX}{name}", "created": time.time(), "grid": grid, "runs": list(runs)}
        record |= {"tasks_of": tasks_of} if tasks_of > 1 else {}
        write_atomically(folder / _RECORD, json.dumps(record).encode())
        return read_submission(folder)

    def superseded(self, number: int, run: str) -> str | None:
        """The name of a later submission of a run, or None; one that cannot be read takes over nothing."""
        for other, folder in reversed(self.folders()):
            if other <= number:
                return None
            with contextlib.suppress(FileNotFoundError, DamagedFile):
                if run in _submission(other, folder).runs:
                    return folder.name
        return None


def is_abandoned(folder: Path) -> bool:
    """Whether a submission of this user was never recorded, and so never submitted; the lock must be held."""
    if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.geteuid():
        return False
    return _may_enter(folder) and not (folder / _RECORD).exists()


def read_submission(folder: Path) -> Submission:
    """The submission of one folder; DamagedFile when its record cannot be read."""
    match = _FOLDER.fullmatch(folder.name)
    if match is None:
        raise SubmissionError(f"{folder} is not the folder of a submission, which is named <number>-<letters>")
    return _submission(int(match[1]), folder)


def latest(submissions: Sequence[Submission]) -> dict[str, tuple[Submission, int]]:
    """For each run the newest submission that names it, and its index there."""
    newest: dict[str, tuple[Submission, int]] = {}
    for submission in submissions:
        for index, run in enumerate(submission.runs):
            newest[run] = submission, index
    return newest


def _may_enter(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def _submission(number: int, folder: Path) -> Submission:
    record = _read(folder / _RECORD, SubmissionRecord)
    return Submission(folder, number, record.job, record.created, record.grid, record.runs, record.tasks_of)


def _read(file: Path, model: type[M]) -> M:
    return read_record(file, model, _remedy(file.parent))


def _remedy(folder: Path) -> str:
    return f"if none of its jobs runs any more, remove {folder}"

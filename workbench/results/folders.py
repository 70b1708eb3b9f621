"""Run folders on disk: the claim, the record, the log, the evaluated expressions and the checkpoints of a run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from workbench.config import RunConfig, difference
from workbench.errors import CheckpointError, WorkbenchError
from workbench.files import is_locked, lock, open_file, read_file, write_atomically
from workbench.results.checkpoints import Checkpoints
from workbench.results.expressions import read_expressions, write_expressions
from workbench.results.record import LogEvent, RunError, RunId, RunRecord, State
from workbench.validation import DamagedFile, Mistake, read_lines, read_record

if TYPE_CHECKING:
    import pandas as pd

REMEDY = "to go on from its checkpoint: workbench retry GRID --class damaged"
AGAIN = "evaluate the run again"
REMOVED = "its folder was removed, or files of it, while it was being trained"
"""Without the path, so that runs that were removed together are counted together."""
CLAIM_SECONDS = 1.0
RUNS = "runs"
SUBMISSIONS = "submissions"
TENSORBOARD = "tensorboard"
RECORD = "run.json"
TAIL_BYTES = 8192
_LOG = "log.jsonl"
_ERROR = ".error-of-process-"
_EXPRESSIONS = "expressions.parquet"
_CHECKPOINT = "checkpoint"


class StoreError(WorkbenchError):
    """A run folder holds another run than its name says, or lacks what is asked for."""


class RunBusy(WorkbenchError):
    """Another process is training this run."""


class RunRemoved(WorkbenchError):
    """A run's folder was removed while the run was trained."""


@dataclass(frozen=True)
class Log:
    """The readable lines of a run's log.

    Attributes:
        events: oldest first.
        damage: a line of text per line of the log that is damaged, naming file, line and field.
    """

    events: list[LogEvent]
    damage: list[str]

    def last(self, kind: str) -> LogEvent | None:
        """The newest event of a kind."""
        return next((event for event in reversed(self.events) if event.event == kind), None)


class RunFolder:
    """One run on disk.

    Args:
        results: the results folder; the run lies in `<results>/runs/<setting id>/seed<N>`.
        name: `<setting id>/seed<N>`.
    """

    def __init__(self, results: Path, name: str) -> None:
        self.results = results
        self.name = name
        self.path = results / RUNS / name

    @classmethod
    def of(cls, results: Path, config: RunConfig, seed: int) -> RunFolder:
        """The folder of a run; StoreError when what is stored there was made from another configuration."""
        folder = cls(results, str(RunId(config.setting_id, seed)))
        folder.check(config)
        return folder

    @property
    def id(self) -> RunId:
        """The setting and the seed; ValueError where the folder's name is not one of a run."""
        return RunId.parse(self.name)

    @property
    def record_file(self) -> Path:
        """`run.json`."""
        return self.path / RECORD

    @property
    def expressions_file(self) -> Path:
        """`expressions.parquet`."""
        return self.path / _EXPRESSIONS

    def check(self, config: RunConfig) -> None:
        """StoreError when what is stored here was made from another configuration."""
        self.check_identity(self.record(), config.identity_document())

    def check_identity(self, record: RunRecord, asked: dict[str, Any]) -> None:
        """StoreError when a record of this folder was made from another configuration than a document says."""
        if record.identity is None:
            return
        identity = record.identity
        # Not model_dump, which takes longer than reading the file: ten thousand times, most are the same.
        stored = {**(identity.model_extra or {}), "schema": identity.schema_version, "config": identity.config}
        if stored != asked and (lines := difference(stored, asked)):
            raise StoreError(
                f"{self.record_file}: stored under this id is another configuration (stored -> asked): {lines[0]}"
            )

    @property
    def log_file(self) -> Path:
        """`log.jsonl`; its lock is the run's claim."""
        return self.path / _LOG

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints."""
        return Checkpoints(self.path / _CHECKPOINT)

    @property
    def artefacts(self) -> Path:
        """Where analyses keep what they computed from the run; it can be made again from the checkpoint."""
        return self.path / "artefacts"

    def artefact(self, kind: str, split: str, ending: str = "") -> Path:
        """Where one analysis of a split is kept; the slash of a joint data set's split is spelled out."""
        return self.artefacts / f"{kind}_{split.replace('/', '%2F')}{ending}"

    @property
    def tracker_folder(self) -> Path:
        """Where trackers such as TensorBoard write; `workbench.results.curves` gives it a name that says what it is."""
        return self.path / TENSORBOARD

    def record(self) -> RunRecord:
        """The content of `run.json`, all defaults for a new run.

        Raises:
            DamagedFile: names the file and the first wrong field.
        """
        try:
            record = read_record(self.record_file, RunRecord, REMEDY)
        except FileNotFoundError:
            return RunRecord()
        if "state" not in record.model_fields_set:
            raise DamagedFile(self.record_file, Mistake("state", "is required", "missing"), REMEDY)
        return record

    def evaluated_weights(self) -> Path:
        """The file of the weights that a finished run was evaluated with; of an unfinished one, the newest.

        Raises:
            CheckpointError: there is none.
        """
        record = self.record()
        evaluation = record.config.get("evaluation")
        takes_best = isinstance(evaluation, dict) and evaluation.get("checkpoint") == "best"
        if takes_best and record.best is not None and record.evaluated_step == record.best.step:
            file = self.checkpoints.best(record.best.step)
            if not file.is_file():
                raise CheckpointError(f"{self.name} no longer has the weights of its best step, {file}")
            return file
        checkpoint = self.checkpoints.latest()
        if checkpoint is None:
            raise CheckpointError(f"{self.name} has no checkpoint yet (state: {self.state()})")
        return checkpoint.weights

    def set_aside_damage(self) -> None:
        """Rename an unreadable `run.json`, so that the run can go on from its checkpoint."""
        try:
            self.record()
        except DamagedFile:
            self.record_file.replace(self.path / f"{RECORD}.damaged")

    def update(self, **fields: Any) -> None:
        """Set fields of `run.json`; plain JSON values.

        Raises:
            RunRemoved: there is no record, and the fields alone would not be one.
        """
        self.record()
        try:
            fields = {**from_json(read_file(self.record_file)), **fields}
        except FileNotFoundError:
            if "state" not in fields:
                raise RunRemoved(REMOVED) from None
            self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.record_file, json.dumps(fields, indent=1, allow_nan=False).encode())

    def state(self) -> State:
        """The run's state; one that says it is running but that nobody trains was `killed`."""
        try:
            state: State = self.record().state
            if state == "running" and not self.claimed():
                # It may have ended between the two looks.
                state = self.record().state
                return "killed" if state == "running" else state
        except DamagedFile:
            return "damaged"
        return state

    def claimed(self) -> bool:
        """Whether a process is training this run now."""
        return is_locked(self.log_file)

    @contextlib.contextmanager
    def claim(self) -> Iterator[RunLog]:
        """Hold the run for this process; the kernel lets go of it however the process ends.

        Raises:
            RunBusy: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open_file(self.log_file, "a+b") as stream:
            # Somebody who only asks for the state holds it for an instant, too.
            if not lock(stream, CLAIM_SECONDS):
                raise RunBusy(f"{self.name} is being trained by another process")
            try:
                yield RunLog(stream)
            finally:
                fcntl.flock(stream, fcntl.LOCK_UN)

    def check_held(self, log: RunLog) -> None:
        """That what the run wrote when it began is still here: its log, which holds the claim, and its record.

        Raises:
            RunRemoved: not, so that whatever is written now would stand in a folder without the rest.
        """
        try:
            if os.path.samestat(os.fstat(log.fileno()), self.log_file.stat()):
                self.record_file.stat()
                return
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):  # the last where another node removed it
                raise
        raise RunRemoved(REMOVED)

    def log(self, all_lines: bool = False) -> Log:
        """The log without lines that a crash cut short, and without steps that were lost and done again.

        Args:
            all_lines: also those steps.
        """
        try:
            content = read_file(self.log_file)
        except OSError as error:
            return self._unreadable_log(error)
        return self._log_of(content, 1, all_lines)

    def log_tail(self) -> Log:
        """What the last 8 KB of the log hold."""
        try:
            with open_file(self.log_file) as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - TAIL_BYTES))
                content = stream.read()
        except OSError as error:
            return self._unreadable_log(error)
        first = content.find(b"\n") + 1 if size > TAIL_BYTES else 0
        return self._log_of(content[first:], None, True)

    def _unreadable_log(self, error: OSError) -> Log:
        """None where there is no log yet; else what stands in its place."""
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        return Log([], [] if missing else [f"{self.log_file}: {error.strerror}; what the run logged is not shown"])

    def _log_of(self, content: bytes, first_number: int | None, all_lines: bool) -> Log:
        events: list[LogEvent] = []
        damage: list[str] = []
        # What comes after the last line break is being written, or was when its process died.
        whole_lines = content[: content.rfind(b"\n") + 1]
        for number, line in read_lines(whole_lines, LogEvent):
            if isinstance(line, Mistake):
                where = f"line {number}" if first_number else f"line {number} of the last {TAIL_BYTES} bytes"
                damage.append(f"{self.log_file}: {where} is damaged ({line}) and left out")
                continue
            # A run that died before its first checkpoint starts anew: what it logged till then is lost, too.
            if line.event in ("start", "resume") and not all_lines and line.step is not None:
                resumed_at = line.step
                repeated = ("step", "validate")
                events = [e for e in events if e.event not in repeated or (e.step or 0) <= resumed_at]
            events.append(line)
        return Log(events, damage)

    def leave_error(self, process: int, error: dict[str, Any]) -> None:
        """For a process that does not hold the claim: what ended it, for the epilogue of the job."""
        write_atomically(self.path / f"{_ERROR}{process}", json.dumps(error).encode())

    def take_errors(self) -> list[RunError]:
        """What processes left, which is then gone; a damaged one says nothing."""
        errors = []
        for file in self.path.glob(f"{_ERROR}*"):
            with contextlib.suppress(DamagedFile):
                errors.append(read_record(file, RunError))
            file.unlink()
        return errors

    def write_expressions(self, frame: pd.DataFrame) -> None:
        """Store one row per evaluated expression."""
        write_expressions(self.expressions_file, frame)

    def expressions(self) -> pd.DataFrame:
        """One row per evaluated expression.

        Raises:
            StoreError: the run has none.
            DamagedFile: the file cannot be read, or a column of it is wrong.
        """
        file = self.expressions_file
        if not file.exists():
            raise StoreError(f"{self.name} has no evaluated expressions yet (state: {self.state()})")
        return read_expressions(file, AGAIN)


class RunLog:
    """The open, claimed `log.jsonl` of a run."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        size = stream.seek(0, os.SEEK_END)
        if size:
            stream.seek(size - 1)
            if stream.read(1) != b"\n":
                stream.write(b"\n")

    def fileno(self) -> int:
        """The descriptor that holds the claim; a forked process must close it, or it would hold the claim on."""
        return int(self._stream.fileno())

    def write(self, event: str, **fields: Any) -> None:
        """Append one line: the event's name, the time, and its fields."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **fields})
        self._stream.write(line.encode() + b"\n")
        self._stream.flush()


def all_runs(results: Path) -> list[RunFolder]:
    """Every run under a results folder, by name; folders with other names are none of ours."""
    return [RunFolder(results, str(run)) for run in _run_ids(results, "*")]


def begun(results: Path, setting_ids: Iterable[str]) -> set[str]:
    """The names of the settings' run folders that are there, without a look into each."""
    names = set()
    for setting_id in setting_ids:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            names |= {f"{setting_id}/{name}" for name in os.listdir(results / RUNS / setting_id)}  # noqa: PTH208
    return names


def seeds_of(results: Path, setting_id: str) -> tuple[int, ...]:
    """The seeds of a setting that have a record in the results folder."""
    return tuple(sorted(run.seed for run in _run_ids(results, glob.escape(setting_id))))


def _run_ids(results: Path, setting: str) -> list[RunId]:
    if results.exists() and not results.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(results))
    run_ids = []
    for record in sorted((results / RUNS).glob(f"{setting}/seed*/{RECORD}")):
        with contextlib.suppress(ValueError):
            run_ids.append(RunId.parse("/".join(record.parts[-3:-1])))
    return run_ids

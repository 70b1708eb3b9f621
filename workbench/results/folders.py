"""Run folders on disk, and the data frames made from them. The only module that knows the files' names."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.config import RunConfig, difference, run_id
from workbench.errors import WorkbenchError
from workbench.files import is_locked, lock, write_atomically

if TYPE_CHECKING:
    import pandas as pd

State = Literal[
    "new", "queued", "running", "completed", "failed", "diverged", "interrupted", "killed", "cancelled", "damaged"
]
"""`queued` is the scheduler's word, `killed` and `damaged` are found out; the others stand in `run.json`."""
FAILED: tuple[State, ...] = ("failed", "diverged", "cancelled", "damaged")
"""What is not tried again unless it is asked for."""

MEND = "to go on from its checkpoint: workbench retry GRID --class damaged"
CLAIM_SECONDS = 1.0
RUNS = "runs"
SUBMISSIONS = "submissions"
TENSORBOARD = "tensorboard"
RECORD = "run.json"
SCORED = "scored"
_SCORE = "score.json"
_LOG = "log.jsonl"
_ERROR = ".error-of-process-"
_EXPRESSIONS = "expressions.parquet"
_CHECKPOINT = "checkpoint"


class StoreError(WorkbenchError):
    """A run folder is damaged, or holds another run than its name says."""


class DamagedRecord(StoreError):
    """A `run.json` cannot be read."""


class RunBusy(WorkbenchError):
    """Another process is training this run."""


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
        folder = cls(results, run_id(config, seed))
        folder.check(config)
        return folder

    def check(self, config: RunConfig) -> None:
        """StoreError when what is stored here was made from another configuration."""
        stored = self.record().get("identity")
        lines = difference(stored, config.identity_document()) if stored is not None else []
        if lines:
            raise StoreError(
                f"{self.path}: stored under this id is another configuration (stored -> asked): {lines[0]}"
            )

    @property
    def log_file(self) -> Path:
        """`log.jsonl`; its lock is the run's claim."""
        return self.path / _LOG

    @property
    def checkpoints(self) -> Path:
        """The checkpoint folder."""
        return self.path / _CHECKPOINT

    @property
    def tracker_folder(self) -> Path:
        """Where trackers such as TensorBoard write."""
        return self.results / TENSORBOARD / self.name

    def record(self) -> dict[str, Any]:
        """The content of `run.json`, empty for a new run; StoreError when it cannot be read."""
        file = self.path / RECORD
        try:
            record = json.loads(file.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise DamagedRecord(f"{file}: damaged ({error}); {MEND}") from None
        if not isinstance(record, dict):
            raise DamagedRecord(f"{file}: damaged (no object); {MEND}")
        return record

    def set_aside_damage(self) -> None:
        """Rename an unreadable `run.json`, so that the run can go on from its checkpoint."""
        try:
            self.record()
        except DamagedRecord:
            (self.path / RECORD).replace(self.path / f"{RECORD}.damaged")

    def update(self, **fields: Any) -> None:
        """Set fields of `run.json`."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**self.record(), **fields}, indent=1, allow_nan=False)
        write_atomically(self.path / RECORD, text.encode())

    def state(self) -> State:
        """The run's state; one that says it is running but that nobody trains was `killed`."""
        try:
            state: State = self.record().get("state", "new")
        except DamagedRecord:
            return "damaged"
        if state == "running" and not self.claimed():
            # It may have ended between the two looks.
            state = self.record().get("state", "new")
            return "killed" if state == "running" else state
        return state

    def claimed(self) -> bool:
        """Whether a process is training this run now."""
        return is_locked(self.log_file)

    @contextlib.contextmanager
    def claim(self) -> Iterator[RunLog]:
        """Hold the run for this process; the kernel lets go of it however the process ends.

        Raises:
            RunBusy: somebody else holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("a+b") as stream:
            # Somebody who only asks for the state holds it for an instant, too.
            if not lock(stream, CLAIM_SECONDS):
                raise RunBusy(f"{self.name} is being trained by another process")
            try:
                yield RunLog(stream)
            finally:
                fcntl.flock(stream, fcntl.LOCK_UN)

    def events(self, all_lines: bool = False) -> list[dict[str, Any]]:
        """The log, oldest first, without lines that a crash cut short or steps that a resumed run did again.

        Args:
            all_lines: also the steps that were lost and done again.
        """
        found: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError):
            for line in self.log_file.read_bytes().splitlines():
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if event["event"] == "resume" and not all_lines:
                        found = [e for e in found if e["event"] != "step" or e["step"] <= event["step"]]
                    found.append(event)
        return found

    def last_event(self, kind: str) -> dict[str, Any] | None:
        """The newest event of a kind among the log's last 8 KB."""
        with contextlib.suppress(OSError), self.log_file.open("rb") as stream:
            stream.seek(max(0, self.log_file.stat().st_size - 8192))
            for line in reversed(stream.read().splitlines()):
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict) and event.get("event") == kind:
                        return event
        return None

    def progress(self) -> list[int]:
        """How far the run is as far as it is saved: the checkpoint's step, and the splits scored since."""
        place = self.latest_checkpoint()
        return [0, 0] if place is None else [int(place.name.rpartition("-")[2]), len(list(place.glob("*.parquet")))]

    def leave_error(self, process: int, error: dict[str, Any]) -> None:
        """For a process that does not hold the claim: what ended it, for whoever looks after the job."""
        write_atomically(self.path / f"{_ERROR}{process}", json.dumps(error).encode())

    def take_errors(self) -> list[dict[str, Any]]:
        """What processes left, which is then gone."""
        found = []
        for file in self.path.glob(f"{_ERROR}*"):
            found.append(json.loads(file.read_bytes()))
            file.unlink()
        return found

    def write_expressions(self, frame: pd.DataFrame) -> None:
        """Store one row an evaluated expression."""
        partial = self.path / f".{_EXPRESSIONS}"
        frame.to_parquet(partial, index=False)
        partial.replace(self.path / _EXPRESSIONS)

    def expressions(self) -> pd.DataFrame:
        """One row an evaluated expression; StoreError when the run has none."""
        import pandas as pd

        file = self.path / _EXPRESSIONS
        if not file.is_file():
            raise StoreError(f"{self.name} has no evaluated expressions yet (state: {self.state()})")
        return pd.read_parquet(file)

    @contextlib.contextmanager
    def new_checkpoint(self, step: int) -> Iterator[Path]:
        """A folder to write a checkpoint into; it becomes the newest one when the block ends, and older ones go."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoints / f".partial-{step:08d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)  # a full disk then has room for the last words
            raise
        for file in partial.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        final = self.checkpoints / f"step-{step:08d}"
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for other in self.checkpoints.iterdir():
            if other != final:
                shutil.rmtree(other, ignore_errors=True)

    def latest_checkpoint(self) -> Path | None:
        """The newest whole checkpoint, or None."""
        found = sorted(self.checkpoints.glob("step-*")) if self.checkpoints.is_dir() else []
        return found[-1] if found else None


class ScoredFolder:
    """Masks of somebody else's model, scored by this code: `<results>/scored/<name>/`.

    Args:
        results: the results folder.
        name: of the model, as tables show it.
    """

    def __init__(self, results: Path, name: str) -> None:
        self.name = name
        self.path = results / SCORED / name

    def exists(self) -> bool:
        """Whether there is a record, readable or not."""
        return (self.path / _SCORE).exists()

    def record(self) -> dict[str, Any]:
        """What was scored, on what, and the metrics; StoreError where there is nothing, or nothing readable."""
        file = self.path / _SCORE
        try:
            record = json.loads(file.read_bytes())
        except FileNotFoundError:
            raise StoreError(
                f"no scores of {self.name!r} in {self.path.parent}; make them with: "
                f"workbench evaluate --predictions FILE --name {self.name}"
            ) from None
        except ValueError as error:
            raise StoreError(f"{file}: damaged ({error}); remove its folder and score the predictions again") from None
        if not isinstance(record, dict) or not {"dataset", "predictions", "no_target_area", "metrics"} <= record.keys():
            raise StoreError(f"{file}: damaged; remove its folder and score the predictions again")
        return record

    def expressions(self) -> pd.DataFrame:
        """One row a scored expression."""
        import pandas as pd

        file = self.path / _EXPRESSIONS
        try:
            return pd.read_parquet(file)
        except (OSError, ValueError) as error:
            raise StoreError(f"{file}: not readable ({error}); score the predictions again") from None

    def write(self, record: dict[str, Any], frame: pd.DataFrame) -> None:
        """Store both; the record comes last, so that what has one is whole."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / _SCORE).unlink(missing_ok=True)
        partial = self.path / f".{_EXPRESSIONS}"
        frame.to_parquet(partial, index=False)
        partial.replace(self.path / _EXPRESSIONS)
        write_atomically(self.path / _SCORE, json.dumps(record, indent=1, allow_nan=False).encode())


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


def results_frame(folders: Iterable[RunFolder]) -> pd.DataFrame:
    """One row a run and split: run, setting_id, seed, split, the metrics, and `code`, the digest of what ran."""
    import pandas as pd

    rows = []
    for folder in folders:
        record = folder.record()
        if record.get("state") != "completed":
            continue
        setting_id, _, seed = folder.name.partition("/seed")
        shared = {"run": folder.name, "setting_id": setting_id, "seed": int(seed)}
        code = record.get("provenance", {}).get("code")
        rows += [{**shared, "split": split, **metrics, "code": code} for split, metrics in record["metrics"].items()]
    return pd.DataFrame(rows)


def expressions_frame(folders: Iterable[RunFolder]) -> pd.DataFrame:
    """The evaluated expressions of several runs, with their `run`."""
    import pandas as pd

    frames = [folder.expressions().assign(run=folder.name) for folder in folders]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def all_runs(results: Path) -> list[RunFolder]:
    """Every run under a results folder, by name."""
    records = sorted((results / RUNS).glob(f"*/seed*/{RECORD}"))
    return [RunFolder(results, "/".join(record.parts[-3:-1])) for record in records]

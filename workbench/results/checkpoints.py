"""The checkpoint folder of a run: which files are where, written whole or not at all, the newest one kept."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench.files import replacing

MODEL = "model.safetensors"
EMA = "ema.safetensors"
"""The moving average of the weights, where the training has one; it is what is evaluated."""
STATE = "state.pt"
"""Optimiser, schedule and counts, as `torch.save` writes them."""
_FINAL, _PARTIAL = "step-", ".partial-"


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint."""

    folder: Path

    @property
    def step(self) -> int:
        """The step after which it was saved."""
        return int(self.folder.name.removeprefix(_FINAL))

    @property
    def model(self) -> Path:
        """The trained weights."""
        return self.folder / MODEL

    @property
    def ema(self) -> Path:
        """Their moving average."""
        return self.folder / EMA

    @property
    def state(self) -> Path:
        """What else a training resumes from."""
        return self.folder / STATE

    @property
    def weights(self) -> Path:
        """What is evaluated: the average, or the weights of a training without one."""
        return self.ema if self.ema.is_file() else self.model

    def scored(self, split: str, code: str) -> Path:
        """Where a split's evaluated expressions are kept until the run is completed, so that it is scored once."""
        return self.folder / f"{split.replace('/', '%2F')}-{code}.parquet"


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: `<run folder>/checkpoint`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._best = folder.with_name(f"{folder.name}-best")

    @contextlib.contextmanager
    def new(self, step: int) -> Iterator[Checkpoint]:
        """A checkpoint to write; it becomes the newest one when the block ends, and older ones go."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{_PARTIAL}{step:08d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield Checkpoint(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)  # a full disk then has room for the last words
            raise
        for file in partial.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        final = self.folder / f"{_FINAL}{step:08d}"
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for other in self.folder.iterdir():
            if other != final:
                shutil.rmtree(other, ignore_errors=True)

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None."""
        folders = sorted(self.folder.glob(f"{_FINAL}*")) if self.folder.is_dir() else []
        return Checkpoint(folders[-1]) if folders else None

    @contextlib.contextmanager
    def new_best(self, step: int) -> Iterator[Path]:
        """A file for the weights of the best validated step so far; `keep_best` removes older ones.

        They must stay until a checkpoint says which is the best: a killed training goes on from one that may name an
        older step.
        """
        self._best.mkdir(parents=True, exist_ok=True)
        with replacing(self.best(step)) as partial:
            yield partial

    def best(self, step: int) -> Path:
        """The weights of the best validated step."""
        return self._best / f"{_FINAL}{step:08d}.safetensors"

    def keep_best(self, step: int) -> None:
        """Remove the weights of all other steps that were once the best."""
        for file in self._best.glob(f"{_FINAL}*"):
            if file != self.best(step):
                file.unlink()

    def progress(self) -> list[int]:
        """How far the run is as far as it is saved: the checkpoint's step, and the splits scored since."""
        latest = self.latest()
        return [0, 0] if latest is None else [latest.step, len(self.scored())]

    def scored(self) -> list[Path]:
        """The kept files of evaluated splits."""
        return list(self.folder.glob("*/*.parquet"))

    def leftovers(self) -> list[Path]:
        """Checkpoints that were never finished."""
        return list(self.folder.glob(f"{_PARTIAL}*"))

"""Which runs of a grid are to be trained, and the hand-over of them as jobs to a backend."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.config import BUILTIN, digest_of
from workbench.errors import MissingCheckpoint
from workbench.launch.grid import Grid, Run
from workbench.launch.job import TrainingJob
from workbench.store import FAILED, SUBMISSIONS, RunFolder, State


@dataclass(frozen=True)
class PlannedRun:
    """A run and what is known of it."""

    run: Run
    folder: RunFolder
    state: State


def plan(grid: Grid, results: Path) -> list[PlannedRun]:
    """Every run of a grid with its state; StoreError when a stored run contradicts its id.

    Raises:
        CheckpointError: a run was begun with other weights than the file of that name holds now.
    """
    folders = [(run, RunFolder.of(results, run.config, run.seed)) for run in grid.runs()]
    for run, folder in folders:
        _check_weights(run, folder)
    return [PlannedRun(run, folder, folder.state()) for run, folder in folders]


def _check_weights(run: Run, folder: RunFolder) -> None:
    """Shipped weights are part of the identity; others only by name, so their content is compared here."""
    config, stored = run.config, folder.record().get("provenance")
    if not stored or (config.backbone.checkpoint in (None, BUILTIN) and config.text_encoder.name == "bert_mini"):
        return
    from workbench.models.build import check_digests

    # A table can be made where the weights are not; a training checks them again.
    with contextlib.suppress(MissingCheckpoint):
        check_digests(config, stored, folder.name)


def to_train(planned: Sequence[PlannedRun], retry_failed: bool) -> list[PlannedRun]:
    """What a submission hands over: finished runs are skipped, running ones left alone, failed ones need asking for."""
    skipped: tuple[State, ...] = ("completed", "running")
    return [p for p in planned if p.state not in skipped and (retry_failed or p.state not in FAILED)]


def jobs(runs: Sequence[PlannedRun], results: Path, threads: int) -> list[TrainingJob]:
    """One job a run, with absolute paths, and with `threads` where the configuration leaves them open."""
    from workbench.training.provenance import source

    origin, made = source(), []
    for planned in runs:
        config = planned.run.config
        machine = config.machine.model_copy(
            update={
                "data_root": config.machine.data_root.absolute(),
                "checkpoint_root": config.machine.checkpoint_root.absolute(),
                "threads": config.machine.threads or threads,
            }
        )
        document = config.model_copy(update={"machine": machine}).model_dump(mode="json")
        made.append(TrainingJob(document, planned.run.seed, str(results.absolute()), origin))
    return made


def snapshot(results: Path) -> Path:
    """A copy of the package as it is now, for the jobs to run from; the same code shares one copy.

    Returns:
        The folder to put in front of PYTHONPATH.
    """
    from workbench.training.provenance import PACKAGE, code_digest

    assets = "".join(digest_of(file) for file in sorted((PACKAGE / "assets").rglob("*")) if file.is_file())
    name = f"code-{code_digest()}-{hashlib.sha256(assets.encode()).hexdigest()[:8]}"
    target = results.absolute() / SUBMISSIONS / name
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
        shutil.copytree(PACKAGE, partial / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        try:
            partial.rename(target)
        except OSError:
            shutil.rmtree(partial)
            if not target.is_dir():
                raise
    return target


def job_folder(results: Path) -> Path:
    """A new private folder for a submission's logs and pickles."""
    parent = results / SUBMISSIONS
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="jobs-", dir=parent))
    os.chmod(folder, 0o700)  # noqa: PTH101 - mkdtemp's mode already, said aloud: it holds pickles
    return folder

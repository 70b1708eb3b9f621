"""The evaluation that a training ends with: every split once, even if a run is stopped in the middle of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from workbench.data.controls import asked_words
from workbench.errors import DataError, InterruptedRun
from workbench.evaluation.metrics import summarise
from workbench.files import replacing
from workbench.models import checkpoints
from workbench.results.expressions import read_expressions
from workbench.results.folders import RunFolder
from workbench.results.provenance import code_digest
from workbench.training.checkpointing import Counts
from workbench.training.loop import agree
from workbench.training.reporting import Reporter
from workbench.training.setup import Parts, split_of
from workbench.training.validation import evaluate_together
from workbench.validation import DamagedFile


def evaluate_splits(
    folder: RunFolder,
    parts: Parts,
    counts: Counts,
    accelerator: Accelerator,
    reporter: Reporter,
    stop: Callable[[], bool],
) -> dict[str, dict[str, float]]:
    """Score every split of the configuration and store the expressions.

    Where the best checkpoint is evaluated, its weights take the place of the last ones in the model.

    Args:
        stop: asked before each split, and by a single process after each batch.

    Returns:
        The number of expressions and the metrics, by split.

    Raises:
        InterruptedRun: `stop` asked for it; splits that were scored are not scored again.
    """
    load_best(folder, parts, counts)
    frames, metrics = [], {}
    for split in parts.config.evaluation.splits:
        if agree(accelerator, stop())[0]:
            raise InterruptedRun(f"stopped before the evaluation of {split}; it resumes there")
        frame = _evaluated(split, folder, parts, accelerator, reporter, stop)
        frames.append(frame)
        metrics[split] = {"expressions": len(frame), **summarise(frame)}
    if reporter.writes:
        reporter.check_held()
        folder.write_expressions(pd.concat(frames, ignore_index=True))
    return metrics


def load_best(folder: RunFolder, parts: Parts, counts: Counts) -> None:
    """Load the best validated weights, where the configuration asks for them and the run trained at all."""
    if parts.config.evaluation.checkpoint == "best" and counts.best is not None:
        parts.evaluated.load_state_dict(checkpoints.read_state_dict(folder.checkpoints.best(counts.best.step)))


def _evaluated(
    split: str,
    folder: RunFolder,
    parts: Parts,
    accelerator: Accelerator,
    reporter: Reporter,
    stop: Callable[[], bool],
) -> pd.DataFrame:
    """A split's expressions; kept beside the checkpoint, so that a resumed run does not score a split twice."""
    checkpoint = folder.checkpoints.latest()
    stored_file = None if checkpoint is None else checkpoint.scored(split, code_digest())
    dataset = split_of(parts.data, split, parts.config)
    scored = None if stored_file is None else _stored(stored_file, len(dataset))
    # Processes may see different files on a network file system, so the main one decides.
    if broadcast_object_list([scored is not None])[0]:
        if scored is None:
            raise DataError(f"{stored_file}: another process could read it, and this one cannot")
        return scored
    began = time.monotonic()
    dataset.asked = asked_words(dataset.expressions, parts.config.evaluation.words)
    frame = evaluate_together(parts, dataset, accelerator, stop)
    rate = round(len(frame) / (time.monotonic() - began), 1)
    reporter.event("evaluate", split=split, expressions=len(frame), **summarise(frame), expressions_per_second=rate)
    if reporter.writes and stored_file is not None:
        with replacing(stored_file) as partial:
            frame.to_parquet(partial, index=False, write_page_checksum=True)
    return frame


def _stored(file: Path, expressions: int) -> pd.DataFrame | None:
    """The expressions of a split that was scored before; None where there are none, or not all, or they are damaged."""
    try:
        frame = read_expressions(file, "it is scored again")
    except DamagedFile:
        return None
    return frame if len(frame) == expressions else None

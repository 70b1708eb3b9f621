"""The evaluation that a training ends with: every split once, also where a run is stopped in the midst of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pandas as pd
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from workbench.errors import InterruptedRun
from workbench.evaluation.evaluate import evaluate
from workbench.evaluation.metrics import summarise
from workbench.evaluation.scoring import ORDER
from workbench.results.folders import RunFolder
from workbench.results.provenance import code_digest
from workbench.training.loop import agree
from workbench.training.reporting import Reporter
from workbench.training.setup import Parts, split_of


def evaluate_splits(
    folder: RunFolder, parts: Parts, accelerator: Accelerator, reporter: Reporter, stop: Callable[[], bool]
) -> dict[str, dict[str, float]]:
    """Score every split of the configuration and store the expressions.

    Args:
        stop: asked before each split, and by a single process after each batch.

    Returns:
        By split: the number of expressions, and the metrics.

    Raises:
        InterruptedRun: `stop` said so; splits that were scored are not scored again.
    """
    frames, metrics = [], {}
    for split in parts.config.evaluation.splits:
        if agree(accelerator, stop())[0]:
            raise InterruptedRun(f"stopped before the evaluation of {split}; it resumes there")
        frame = _evaluated(split, folder, parts, accelerator, reporter, stop)
        frames.append(frame)
        metrics[split] = {"expressions": len(frame), **summarise(frame)}
    if reporter.writes:
        folder.write_expressions(pd.concat(frames, ignore_index=True))
    return metrics


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
    kept = None if checkpoint is None else checkpoint.scored(split, code_digest())
    # Two looks from two processes could differ on a network file system; the main one's counts.
    if broadcast_object_list([kept is not None and kept.is_file()])[0]:
        assert kept is not None
        scored: pd.DataFrame = pd.read_parquet(kept)
        return scored
    began = time.monotonic()
    alone = accelerator.num_processes == 1
    share = evaluate(
        parts.evaluated,
        parts.tokenizer,
        split_of(parts.data, split, parts.config),
        parts.config,
        accelerator.device,
        accelerator.process_index,
        accelerator.num_processes,
        stop if alone else lambda: False,
    )
    frame: pd.DataFrame = pd.concat(gather_object([share]))
    frame = frame.sort_values(ORDER, ignore_index=True)
    rate = round(len(frame) / (time.monotonic() - began), 1)
    reporter.event("evaluate", split=split, expressions=len(frame), **summarise(frame), expressions_per_second=rate)
    if reporter.writes and kept is not None:
        partial = kept.with_suffix(".partial")
        frame.to_parquet(partial, index=False)
        partial.replace(kept)
    return frame

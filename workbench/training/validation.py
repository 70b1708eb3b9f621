"""Scoring while training: when, and what becomes of the best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pandas as pd
from accelerate import Accelerator
from accelerate.utils import gather_object

from workbench.config import ValidationConfig
from workbench.data.loading import ReferringDataset, steps_per_epoch
from workbench.errors import ConfigError
from workbench.evaluation.evaluate import evaluate
from workbench.evaluation.metrics import metrics, summarise
from workbench.evaluation.scoring import ORDER
from workbench.results.folders import RunFolder
from workbench.training.checkpointing import Best, Counts, save_best
from workbench.training.reporting import Reporter
from workbench.training.setup import Parts, split_of


class Validation:
    """Validates a training every so many steps, and after the last one."""

    def __init__(self, folder: RunFolder, parts: Parts, accelerator: Accelerator, reporter: Reporter) -> None:
        self._folder, self._parts, self._accelerator, self._reporter = folder, parts, accelerator, reporter
        self._config: ValidationConfig = parts.config.validation
        self._dataset = split_of(parts.data, self._config.split, parts.config, self._config.images)
        if not self._dataset.expressions:
            raise ConfigError("validation.images", f"leaves no expression of {self._config.split}")

    def due(self, counts: Counts) -> bool:
        """Whether the weights after the current step are still to be validated."""
        step, parts = counts.step, self._parts
        return 0 < step != counts.validated and (step == parts.steps or is_due(step, self._every()))

    def run(self, counts: Counts, stop: Callable[[], bool]) -> None:
        """Score the weights that would be evaluated now, log it, and keep them where they are the best so far.

        Args:
            stop: asked after each batch, where a single process trains.

        Raises:
            InterruptedRun: `stop` asked for it; the step then counts as not validated.
        """
        began = time.monotonic()
        frame = evaluate_together(self._parts, self._dataset, self._accelerator, stop)
        values = summarise(frame)
        counts.validated = counts.step
        self._reporter.check_held()
        metric = self._config.metric
        if metric not in values:
            known = ", ".join(name for name in ("miou", "oiou", "giou", "ciou") if name in values)
            raise ConfigError("validation.metric", f"{metric} is not defined on {self._config.split}; known: {known}")
        if counts.best is None or is_better(metric, values[metric], counts.best.value):
            counts.best = Best(counts.step, values[metric])
            if self._reporter.writes and self._parts.config.evaluation.checkpoint == "best":
                save_best(self._folder, self._parts, counts.step)
        seconds = time.monotonic() - began
        counts.validation_seconds += seconds
        self._reporter.validation(self._config.split, metric, values, counts, len(frame), seconds)

    def _every(self) -> float:
        """Steps from one validation to the next, perhaps not whole."""
        assert self._config.every is not None
        if "steps" in self._config.every:
            return self._config.every["steps"]
        config = self._parts.config
        return self._config.every["epochs"] * steps_per_epoch(
            self._parts.dataset, config.data, config.training.batch_size
        )


def is_due(step: int, every: float) -> bool:
    """Whether a multiple of `every` was passed with this step: the first step at or after each multiple."""
    return math.floor(step / every + 1e-9) > math.floor((step - 1) / every + 1e-9)


def is_better(metric: str, value: float, best: float) -> bool:
    """Whether a value is better than the best one so far, in the metric's own direction; an equal one is not."""
    return value > best if metrics[metric].direction == "higher" else value < best


def evaluate_together(
    parts: Parts, dataset: ReferringDataset, accelerator: Accelerator, stop: Callable[[], bool]
) -> pd.DataFrame:
    """Score a data set's expressions with all processes; each gets all rows, in the same order.

    Args:
        stop: asked after each batch, where there is a single process.
    """
    single_process = accelerator.num_processes == 1
    own_rows = evaluate(
        parts.evaluated,
        parts.tokenizer,
        dataset,
        parts.config,
        accelerator.device,
        accelerator.process_index,
        accelerator.num_processes,
        stop if single_process else lambda: False,
    )
    frame: pd.DataFrame = pd.concat(gather_object([own_rows]))
    return frame.sort_values(ORDER, ignore_index=True)

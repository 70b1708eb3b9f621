"""What a training reports: events to its log, values to trackers, and the record of its start and end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator

from workbench.files import digest_of
from workbench.models.attention_policy import policy_file
from workbench.models.build import weights_digests
from workbench.results.folders import RunFolder, RunLog
from workbench.results.provenance import provenance
from workbench.training.checkpointing import Counts
from workbench.training.setup import Parts

logger = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
"""Called with every event that goes to the log; a terminal's progress bar uses it."""


class Reporter:
    """Reports on a run; in a process without the log it does nothing.

    Args:
        log: the claimed log, in the main process only.
        report: see `Report`.
    """

    def __init__(self, folder: RunFolder, log: RunLog | None, accelerator: Accelerator, report: Report) -> None:
        self._folder, self._log, self._accelerator, self._report = folder, log, accelerator, report

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes."""
        return self._log is not None

    @property
    def claim(self) -> int | None:
        """The descriptor that holds the claim, which a forked process must close."""
        return None if self._log is None else self._log.fileno()

    def event(self, event: str, **fields: Any) -> None:
        """One line of the log."""
        if self._log is None:
            return
        self._log.write(event, **fields)
        self._report({"event": event, **fields})
        logger.info("%s %s", event, " ".join(f"{key}={value}" for key, value in fields.items()))

    def step(self, parts: Parts, counts: Counts, loss: float, seconds_per_step: float) -> None:
        """A logged step, to the log and to trackers."""
        fields = {
            "step": counts.step,
            "loss": round(loss, 6),
            "learning_rate": parts.schedule.get_last_lr()[0],
            "expressions_per_second": round(parts.config.training.batch_size / seconds_per_step, 2),
            "seconds_left": round((parts.steps - counts.step) * seconds_per_step, 1),
        }
        self.event("step", **fields, steps=parts.steps)
        self._accelerator.log({k: v for k, v in fields.items() if k != "step"}, step=counts.step)

    def started(self, parts: Parts, source: dict[str, Any] | None) -> None:
        """The record of a run that starts or resumes."""
        if self._log is None:
            return
        config, before = parts.config, self._folder.record()
        provenance_fields = provenance(str(self._accelerator.device), source) | weights_digests(config)
        provenance_fields["attention_policy_sha256"] = digest_of(policy_file())
        provenance_fields["start_from_run_sha256"] = parts.start_from_run_sha256
        self._folder.update(
            identity=config.identity_document(),
            machine=config.machine.model_dump(mode="json") | {"threads": torch.get_num_threads()},
            processes=self._accelerator.num_processes,
            seed=parts.seed,
            state="running",
            steps=parts.steps,
            provenance=provenance_fields,
            # Every version of the code that took part: a resumed run may have been started by another one.
            codes=sorted({*before.codes, provenance_fields["code"]}),
            started=time.time() if before.started is None else before.started,
            starts=before.starts + 1,
            error=None,
        )

    def completed(self, counts: Counts, metrics: dict[str, dict[str, float]], evaluation_seconds: float) -> None:
        """The final record; steps that were lost and repeated count once in the times."""
        if self._log is not None:
            for scored_file in self._folder.checkpoints.scored():
                scored_file.unlink()  # expressions.parquet holds them now
            gpus = self._accelerator.num_processes if self._accelerator.device.type == "cuda" else 0
            seconds = counts.seconds + evaluation_seconds
            self._folder.update(
                state="completed",
                metrics=metrics,
                finished=time.time(),
                training_seconds=round(counts.seconds, 1),
                seconds=round(seconds, 1),
                gpu_hours=round(gpus * seconds / 3600, 4),
            )
        self.event("end", state="completed", step=counts.step)

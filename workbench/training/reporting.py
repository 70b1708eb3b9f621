"""What a training reports: events to its log, values to trackers, and the record of its start and end."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

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


@dataclass(frozen=True)
class Means:
    """What a logged step says about the steps since the last one.

    Attributes:
        loss: their mean.
        norms: of the last step's gradient before it was clipped, in total and by part.
        highest_norm: the highest total norm among them.
    """

    loss: float
    norms: dict[str, float]
    highest_norm: float
    seconds_per_step: float


class Interval:
    """Gathers losses and norms on the device from one logged step to the next.

    Args:
        step: how many steps were done when it begins.
    """

    def __init__(self, step: int, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._restart(step)

    def _restart(self, step: int) -> None:
        self._first, self._began = step, time.monotonic()
        self._loss = torch.zeros((), device=self._accelerator.device)
        self._highest = torch.zeros((), device=self._accelerator.device)

    def see(self, loss: Tensor, norm: Tensor) -> None:
        """The loss and the gradient's norm of one step."""
        self._loss += loss
        self._highest = torch.maximum(self._highest, norm)

    def seconds(self) -> float:
        """Since the interval began."""
        return time.monotonic() - self._began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside takes no time of the interval."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._began += time.monotonic() - began

    def end(self, step: int, norms: dict[str, Tensor]) -> Means:
        """The means up to this step, over all processes; the next interval begins."""
        steps = step - self._first
        loss: Any = self._accelerator.reduce(self._loss / steps, "mean")
        means = Means(
            float(loss),
            {part: significant(float(norm)) for part, norm in norms.items()},
            significant(float(self._highest)),
            self.seconds() / steps,
        )
        self._restart(step)
        return means


def significant(value: float, digits: int = 4) -> float:
    """Rounded to so many significant digits."""
    return float(f"{value:.{digits}g}")


class Reporter:
    """Reports on a run; in a process without the log it does nothing.

    Args:
        log: the claimed log, in the main process only.
        report: see `Report`.

    Attributes:
        began: whether the record of the run's beginning is written.
    """

    def __init__(self, folder: RunFolder, log: RunLog | None, accelerator: Accelerator, report: Report) -> None:
        self._folder, self._log, self._accelerator, self._report = folder, log, accelerator, report
        self.began = False

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes."""
        return self._log is not None

    @property
    def claim(self) -> int | None:
        """The descriptor that holds the claim, which a forked process must close."""
        return None if self._log is None else self._log.fileno()

    def check_held(self) -> None:
        """Before something is written: RunRemoved where the run's folder was removed."""
        if self._log is not None:
            self._folder.check_held(self._log)

    def event(self, event: str, **fields: Any) -> None:
        """One line of the log; RunRemoved where the run's folder was removed."""
        if self._log is None:
            return
        self.check_held()
        self._log.write(event, **fields)
        self._report({"event": event, **fields})
        logger.info("%s %s", event, " ".join(f"{key}={value}" for key, value in fields.items()))

    def step(self, parts: Parts, counts: Counts, means: Means) -> None:
        """A logged step, to the log and to trackers."""
        groups = parts.optimizer.param_groups
        fields: dict[str, Any] = {
            "step": counts.step,
            "loss": round(means.loss, 6),
            "learning_rate": groups[0]["lr"] if len(groups) == 1 else {g["part"]: g["lr"] for g in groups},
            "gradient_norm": means.norms,
            "highest_gradient_norm": means.highest_norm,
            "expressions_per_second": round(parts.config.training.batch_size / means.seconds_per_step, 2),
            "seconds_left": round((parts.steps - counts.step) * means.seconds_per_step, 1),
        }
        self.event("step", **fields, steps=parts.steps)
        self._track({k: v for k, v in fields.items() if k != "step"}, counts.step)

    def validation(
        self, split: str, metric: str, values: dict[str, float], counts: Counts, expressions: int, seconds: float
    ) -> None:
        """A validated step, to the log and to trackers."""
        assert counts.best is not None
        self.event(
            "validate",
            step=counts.step,
            split=split,
            metric=metric,
            value=values[metric],
            best_step=counts.best.step,
            best_value=counts.best.value,
            expressions=expressions,
            **{name: value for name, value in values.items() if name != metric},
            seconds=round(seconds, 2),
        )
        if self.writes:
            self._folder.update(best={"step": counts.best.step, "metric": metric, "value": counts.best.value})
        self._track({f"validation/{name}": value for name, value in values.items()}, counts.step)

    def _track(self, fields: dict[str, Any], step: int) -> None:
        flat: dict[str, float] = {}
        for name, value in fields.items():
            flat |= {f"{name}/{part}": v for part, v in value.items()} if isinstance(value, dict) else {name: value}
        self._accelerator.log(flat, step=step)

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
        self.began = True

    def completed(
        self, parts: Parts, counts: Counts, metrics: dict[str, dict[str, float]], evaluation_seconds: float
    ) -> None:
        """The final record; steps that were lost and repeated count once in the times."""
        self.check_held()
        if self._log is not None:
            for scored_file in self._folder.checkpoints.scored():
                scored_file.unlink()  # expressions.parquet holds them now
            gpus = self._accelerator.num_processes if self._accelerator.device.type == "cuda" else 0
            seconds = counts.seconds + counts.validation_seconds + evaluation_seconds
            takes_best = counts.best is not None and parts.config.evaluation.checkpoint == "best"
            self._folder.update(
                state="completed",
                metrics=metrics,
                evaluated_step=counts.best.step if counts.best is not None and takes_best else counts.step,
                finished=time.time(),
                training_seconds=round(counts.seconds, 1),
                seconds=round(seconds, 1),
                gpu_hours=round(gpus * seconds / 3600, 4),
            )
        self.event("end", state="completed", step=counts.step)

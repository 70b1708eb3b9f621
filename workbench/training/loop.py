"""The steps of a training, from where it is to its last one.

What is random in step t depends only on (seed, t, process), so no random state has to be saved.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from workbench.config import RunConfig
from workbench.data.loading import training_loader
from workbench.data.transforms import target_of
from workbench.errors import DataError, InterruptedRun
from workbench.models.referring_sam import upsample
from workbench.models.text_encoder import Tokenizer
from workbench.training.checkpointing import Counts
from workbench.training.divergence import DivergenceWatch
from workbench.training.features import cached_features
from workbench.training.losses import mask_loss
from workbench.training.micro_batches import micro_batches
from workbench.training.multi_scale import resized_batch
from workbench.training.reporting import Interval, Reporter
from workbench.training.setup import Parts
from workbench.training.validation import Validation

FEATURE_SECONDS = 10.0
"""How often the filling of the feature store is logged."""


class Loop:
    """The training loop. Several processes share every batch; only the main one writes.

    Args:
        counts: how far the training has got; updated by the loop.
        stop: asked after every step (several processes: after every logged one).
        validation: of a run that validates.
    """

    def __init__(
        self,
        parts: Parts,
        counts: Counts,
        accelerator: Accelerator,
        reporter: Reporter,
        stop: Callable[[], bool],
        validation: Validation | None = None,
    ) -> None:
        self._parts, self._counts, self._accelerator = parts, counts, accelerator
        self._reporter, self._stop, self._validation = reporter, stop, validation

    def run(self, save_now: Callable[[], None]) -> None:
        """Train to the last step.

        Args:
            save_now: writes a checkpoint.

        Raises:
            DivergedError: the loss became non-finite or exploded.
            InterruptedRun: `stop` asked for it; a checkpoint was saved.
        """
        parts, counts = self._parts, self._counts
        if parts.config.training.cache_features:
            self._use_cached_features()
        machine = parts.config.machine
        model, optimizer = self._accelerator.prepare(parts.model, parts.optimizer)
        watch = DivergenceWatch(parts.config.training.explosion_factor, counts, self._accelerator)
        interval = Interval(counts.step, self._accelerator)
        single_process = self._accelerator.num_processes == 1
        self._validate(save_now, interval)  # a run may have been stopped before it could
        saved = time.monotonic()
        for batch in self._batches():
            # Seeded per step, so that a resumed run draws the same dropout.
            torch.manual_seed(_step_seed(parts.seed, counts.step, self._accelerator.process_index))
            loss, norm = self._step(model, optimizer, batch)
            watch.see(loss)
            interval.see(loss, norm)
            counts.step += 1
            last = counts.step == parts.steps
            logging_due = last or counts.step % machine.log_steps == 0
            if logging_due:
                watch.check()
                counts.seconds += interval.seconds()
                self._reporter.step(parts, counts, interval.end(counts.step, self._norms(norm)))
            validation_due = self._validation is not None and self._validation.due(counts)
            if not (single_process or logging_due or validation_due):
                continue  # several processes communicate only at steps that all of them know
            stopping, due = agree(
                self._accelerator, self._stop(), time.monotonic() - saved >= 60 * machine.checkpoint_minutes
            )
            if validation_due and not stopping:
                watch.check()
                self._validate(save_now, interval)
            if stopping or due or last:
                watch.check()
                save_now()
                saved = time.monotonic()
            if stopping and not last:
                raise InterruptedRun(f"stopped at step {counts.step} of {parts.steps}; it resumes from there")

    def _validate(self, save_now: Callable[[], None], interval: Interval) -> None:
        """Validate if it is due; what it takes is no training time."""
        if self._validation is None or not self._validation.due(self._counts):
            return
        with interval.paused():
            try:
                self._validation.run(self._counts, self._stop)
            except InterruptedRun:
                save_now()
                raise

    def _step(self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """One step; the loss, and the norm of the whole gradient before it was clipped."""
        parts, accelerator = self._parts, self._accelerator
        patch = parts.model.image_encoder.vit.patch_size
        model.train()
        optimizer.zero_grad(set_to_none=True)
        batch = resized_batch(batch, parts.config, patch, parts.seed, self._counts.step)
        loss = torch.zeros((), device=accelerator.device)
        for part in micro_batches(batch, parts.config.machine.micro_batch):
            # Processes add up their gradients once, with the last part.
            with contextlib.nullcontext() if part.last else accelerator.no_sync(model):
                with accelerator.autocast():
                    own = batch_loss(model, parts.tokenizer, part.batch, parts.config, accelerator.device) * part.share
                accelerator.backward(own)
            loss += own.detach()
        limit = parts.config.training.optimizer.clip_norm
        if limit is None:
            norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        else:
            norm = accelerator.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()
        parts.schedule.step()
        if parts.ema is not None:
            parts.ema.update_parameters(parts.model)
        return loss, norm

    def _norms(self, norm: Tensor) -> dict[str, Tensor]:
        """The norm of the gradient as it was before it was clipped, in total and by part."""
        limit = self._parts.config.training.optimizer.clip_norm
        scale = 1.0 if limit is None else (norm / limit).clamp(min=1.0)
        norms = {"total": norm}
        for part, parameters in self._parts.model.all_parts().items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            if gradients:
                norms[part] = torch.nn.utils.get_total_norm(gradients) * scale
        return norms

    def _batches(self) -> Iterator[dict[str, Any]]:
        parts, accelerator, config = self._parts, self._accelerator, self._parts.config
        loader = training_loader(
            parts.dataset, config.data, config.training.batch_size, parts.steps, parts.seed, self._counts.step,
            config.machine.loader_workers, accelerator.process_index, accelerator.num_processes, self._reporter.claim,
        )  # fmt: skip
        try:
            yield from loader
        except DataError as error:
            if config.machine.loader_workers:  # the loader wraps it into the worker's traceback
                raise DataError(str(error).strip().splitlines()[-1].partition(": ")[2]) from None
            raise

    def _use_cached_features(self) -> None:
        parts, stopping, last_report = self._parts, False, 0.0

        def progress(done: int, rows: int) -> bool:
            nonlocal stopping, last_report
            stopping = self._stop()
            if done == rows or time.monotonic() - last_report > FEATURE_SECONDS:
                self._reporter.event("features", done=done, rows=rows)
                last_report = time.monotonic()
            return stopping

        device = self._accelerator.device
        parts.dataset.features = cached_features(parts.model, parts.dataset, parts.config, device, progress)
        if agree(self._accelerator, stopping)[0]:  # no process trains before all have the features
            raise InterruptedRun("stopped while features were computed; it resumes there")


def agree(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """Each flag, true if it is true in any process."""
    if accelerator.num_processes == 1:
        return list(flags)
    counts = torch.tensor(flags, dtype=torch.int64, device=accelerator.device)
    return [bool(count) for count in accelerator.reduce(counts, "sum")]


def batch_loss(
    model: nn.Module, tokenizer: Tokenizer, batch: dict[str, Any], config: RunConfig, device: torch.device
) -> Tensor:
    """The loss of one of the loader's batches, from pixels or from cached features."""
    ids, attention_mask = (t.to(device) for t in tokenizer(batch["sentence"]))
    image = features = None
    if "features" in batch:
        features = batch["features"].to(device, non_blocking=True).float()
    else:
        bare: Any = getattr(model, "module", model)  # inside the wrapper for several processes
        image = bare.normalise(batch["pixels"].to(device, non_blocking=True), batch["content"])
    mask = target_of(batch["mask"].to(device, non_blocking=True))
    logits = model(image, ids, attention_mask, features)
    with torch.autocast(device.type, enabled=False):
        align_corners = config.backbone.mask_upsampling == "align_corners"
        square = upsample(logits.float(), (mask.shape[1], mask.shape[2]), align_corners)
        return mask_loss(square, mask, config.training.loss.bce, config.training.loss.dice)


def _step_seed(seed: int, step: int, process: int) -> int:
    return int(np.random.SeedSequence([seed, step, process]).generate_state(1)[0])

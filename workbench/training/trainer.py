"""The parts of one training and the order in which they run, from a built model to a finished run folder.

What is random in step t follows from (seed, t, process) alone, so no random state has to survive a restart.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors.torch import save_file
from torch import Tensor, nn

from workbench.config import RunConfig
from workbench.data.datasets import open_dataset
from workbench.data.loading import ReferringDataset, steps_per_epoch, training_loader
from workbench.data.tables import ReferData
from workbench.errors import CheckpointError, ConfigError, DataError, DivergedError, InterruptedRun
from workbench.evaluation.evaluate import evaluate
from workbench.evaluation.metrics import summarise
from workbench.evaluation.scoring import ORDER
from workbench.files import digest_of
from workbench.models import checkpoints
from workbench.models.attention_policy import policy_file
from workbench.models.build import build_model, check_digests, weights_digests
from workbench.models.fusion import variants
from workbench.models.referring_sam import ReferringSam, upsample
from workbench.models.text_encoder import Tokenizer, load_tokenizer
from workbench.results.folders import RunFolder, RunLog
from workbench.results.provenance import code_digest, provenance
from workbench.training.features import cached_features
from workbench.training.losses import mask_loss
from workbench.training.schedule import rate_factor
from workbench.training.state import averaged, build_optimizer, load_weights_of, tensors

logger = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
"""Called with every event that goes to the log; a terminal's progress bar hangs here."""


class Trainer:
    """The parts of one training and the order in which they run; see `train`.

    Several processes share every batch; the main one alone holds the log and writes.
    """

    def __init__(
        self,
        config: RunConfig,
        seed: int,
        folder: RunFolder,
        log: RunLog | None,
        accelerator: Accelerator,
        stop: Callable[[], bool],
        report: Report,
    ) -> None:
        machine, training = config.machine, config.training
        # Sums are rounded by the number of threads, so a begun run keeps the one it began with.
        begun = folder.record()
        if threads := begun.threads or machine.threads:
            torch.set_num_threads(threads)
        if training.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(training.deterministic, warn_only=True)
        self.config, self.seed, self.folder, self.accelerator = config, seed, folder, accelerator
        self._log, self._stop, self._report = log, stop, report
        check_digests(config, begun.provenance.digests() if begun.provenance else {}, folder.name)
        self.data: ReferData = open_dataset(config)
        self.dataset = self._split(config.data.train_split)
        self.steps = training_steps(config, self.dataset)
        torch.manual_seed(seed)
        self.model: ReferringSam = build_model(config)
        self._product = self._begin_from_run()
        self.tokenizer = load_tokenizer(config.text_encoder, machine.checkpoint_root)
        self.model.to(self.accelerator.device)
        self.ema = averaged(self.model, training.ema)
        if machine.compile and not training.cache_features:  # cached features leave little to compile
            _compile(self.model, self.accelerator.device)
        self.optimizer = build_optimizer(self.model, config)
        self._shown = 0.0
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, rate_factor(training.schedule, self.steps))
        self.step = 0
        self.first_loss: float | None = None
        self.seconds = 0.0
        self._first_bad = torch.full((), -1, device=self.accelerator.device, dtype=torch.int64)

    def run(self, source: dict[str, Any] | None) -> None:
        """Train what is left of it, evaluate, and write the final record."""
        self._resume()
        self._record_start(source)
        self.accelerator.init_trackers("")
        self._event("resume" if self.step else "start", step=self.step, steps=self.steps)
        if self.step < self.steps:
            if self.config.training.cache_features:
                self._use_cached_features()
            self._train()
        elif self.folder.latest_checkpoint() is None:  # nothing to train
            self._save()
        began = time.monotonic()
        metrics = self._evaluate()
        seconds = self.seconds + time.monotonic() - began
        self.accelerator.end_training()
        if self._log is not None:
            for kept in self.folder.checkpoints.glob("*/*.parquet"):
                kept.unlink()  # expressions.parquet holds them now
            self.folder.update(
                state="completed",
                metrics=metrics,
                finished=time.time(),
                training_seconds=round(self.seconds, 1),
                seconds=round(seconds, 1),
                gpu_hours=self._gpu_hours(seconds),
            )
        self._event("end", state="completed", step=self.step)

    def _begin_from_run(self) -> str | None:
        """The weights of the run that this one is a later stage of, if it is one; returns their SHA-256."""
        name = self.config.start_from.run_for(self.seed)
        if name is None:
            return None
        product = RunFolder(self.folder.results, name)
        if product.state() != "completed":
            raise CheckpointError(f"start_from.run: {name} is not completed (state: {product.state()}); train it first")
        return digest_of(load_weights_of(product, self.model))

    def _record_start(self, source: dict[str, Any] | None) -> None:
        if self._log is None:
            return
        before = self.folder.record()
        now = provenance(str(self.accelerator.device), source) | weights_digests(self.config)
        now["attention_policy_sha256"] = digest_of(policy_file())
        now["start_from_run_sha256"] = self._product
        self.folder.update(
            identity=self.config.identity_document(),
            machine=self.config.machine.model_dump(mode="json") | {"threads": torch.get_num_threads()},
            processes=self.accelerator.num_processes,
            seed=self.seed,
            state="running",
            steps=self.steps,
            provenance=now,
            # Every code that had a hand in the run: a resumed one may have been begun by another.
            codes=sorted({*before.codes, now["code"]}),
            started=time.time() if before.started is None else before.started,
            starts=before.starts + 1,
            error=None,
        )

    def _train(self) -> None:
        training, machine = self.config.training, self.config.machine
        model, optimizer = self.accelerator.prepare(self.model, self.optimizer)
        alone = self.accelerator.num_processes == 1
        saved = logged = time.monotonic()
        logged_step = self.step
        for batch in self._batches():
            # Dropout's draws belong to the step, not to the process that happens to reach it.
            torch.manual_seed(_step_seed(self.seed, self.step, self.accelerator.process_index))
            model.train()
            loss = self._loss(model, batch)
            optimizer.zero_grad(set_to_none=True)
            self.accelerator.backward(loss)
            if training.optimizer.clip_norm is not None:
                self.accelerator.clip_grad_norm_(model.parameters(), training.optimizer.clip_norm)
            optimizer.step()
            self.schedule.step()
            if self.ema is not None:
                self.ema.update_parameters(self.model)
            self._watch(loss.detach())
            self.step += 1
            now, last = time.monotonic(), self.step == self.steps
            logging_due = last or self.step % machine.log_steps == 0
            if logging_due:
                self._check_divergence()
                self._log_step(loss.item(), (now - logged) / (self.step - logged_step))
                self.seconds += now - logged
                logged, logged_step = now, self.step
            if not (alone or logging_due):
                continue  # several processes talk only where all of them know that they do
            stopping, due = self._agree(self._stop(), now - saved >= 60 * machine.checkpoint_minutes)
            if stopping or due or last:
                self._check_divergence()
                self._save()
                saved = time.monotonic()
            if stopping and not last:
                raise InterruptedRun(f"stopped at step {self.step} of {self.steps}; it resumes from there")

    def _use_cached_features(self) -> None:
        stopping = False

        def progress(done: int, rows: int) -> bool:
            nonlocal stopping
            stopping = self._stop()
            if done == rows or time.monotonic() - self._shown > 10:
                self._event("features", done=done, rows=rows)
                self._shown = time.monotonic()
            return stopping

        device = self.accelerator.device
        self.dataset.features = cached_features(self.model, self.dataset, self.config, device, progress)
        if self._agree(stopping)[0]:  # and nobody trains before all are here
            raise InterruptedRun("stopped while features were computed; it goes on there")

    def _batches(self) -> Iterator[dict[str, Any]]:
        loader = training_loader(
            self.dataset,
            self.config.data,
            self.config.training.batch_size,
            self.steps,
            self.seed,
            self.step,
            self.config.machine.loader_workers,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            None if self._log is None else self._log.fileno(),
        )
        try:
            yield from loader
        except DataError as error:
            if self.config.machine.loader_workers:  # the loader wraps it into the worker's traceback
                raise DataError(str(error).strip().splitlines()[-1].partition(": ")[2]) from None
            raise

    def _agree(self, *flags: bool) -> list[bool]:
        """Each flag, true if it is so in any process."""
        if self.accelerator.num_processes == 1:
            return list(flags)
        counts = torch.tensor(flags, dtype=torch.int64, device=self.accelerator.device)
        return [bool(count) for count in self.accelerator.reduce(counts, "sum")]

    def _loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        with self.accelerator.autocast():
            return batch_loss(model, self.tokenizer, batch, self.config, self.accelerator.device)

    def _watch(self, loss: Tensor) -> None:
        """Remember the first bad step on the device, so that a GPU is not made to wait at every step."""
        if self.first_loss is None:
            self.first_loss = loss.item()
        bad = ~torch.isfinite(loss) | (loss > self.config.training.explosion_factor * self.first_loss)
        if not math.isfinite(self.first_loss):
            bad = torch.ones_like(bad)
        self._first_bad = torch.where(bad & (self._first_bad < 0), self.step, self._first_bad)

    def _check_divergence(self) -> None:
        found = [int(step) for step in self.accelerator.gather(self._first_bad[None]) if step >= 0]
        if found:
            first_bad = min(found)
            raise DivergedError(
                first_bad,
                f"the loss became NaN or rose over {self.config.training.explosion_factor:g} times its first value "
                f"({self.first_loss:.4g}) at step {first_bad}; a lower learning rate is the place to look",
            )

    def _log_step(self, loss: float, seconds_a_step: float) -> None:
        fields = {
            "step": self.step,
            "loss": round(loss, 6),
            "learning_rate": self.schedule.get_last_lr()[0],
            "expressions_per_second": round(self.config.training.batch_size / seconds_a_step, 2),
            "seconds_left": round((self.steps - self.step) * seconds_a_step, 1),
        }
        self._event("step", **fields, steps=self.steps)
        self.accelerator.log({k: v for k, v in fields.items() if k != "step"}, step=self.step)

    def _event(self, event: str, **fields: Any) -> None:
        if self._log is None:
            return
        self._log.write(event, **fields)
        self._report({"event": event, **fields})
        logger.info("%s %s", event, " ".join(f"{key}={value}" for key, value in fields.items()))

    def _evaluate(self) -> dict[str, dict[str, float]]:
        frames, metrics = [], {}
        for split in self.config.evaluation.splits:
            if self._agree(self._stop())[0]:
                raise InterruptedRun(f"stopped before the evaluation of {split}; it resumes there")
            frame = self._evaluated(split)
            frames.append(frame)
            metrics[split] = {"expressions": len(frame), **summarise(frame)}
        if self._log is not None:
            self.folder.write_expressions(pd.concat(frames, ignore_index=True))
        return metrics

    def _evaluated(self, split: str) -> pd.DataFrame:
        """A split's expressions; kept beside the checkpoint, so that a resumed run does not score a split twice."""
        place = self.folder.latest_checkpoint()
        kept = None if place is None else place / f"{split}-{code_digest()}.parquet"
        # Two looks from two processes could differ on a network file system; the main one's counts.
        if broadcast_object_list([kept is not None and kept.is_file()])[0]:
            assert kept is not None
            scored: pd.DataFrame = pd.read_parquet(kept)
            return scored
        model: Any = self.model if self.ema is None else self.ema.module
        began = time.monotonic()
        alone = self.accelerator.num_processes == 1
        share = evaluate(
            model,
            self.tokenizer,
            self._split(split),
            self.config,
            self.accelerator.device,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            self._stop if alone else lambda: False,
        )
        frame: pd.DataFrame = pd.concat(gather_object([share]))
        frame = frame.sort_values(ORDER, ignore_index=True)
        rate = round(len(frame) / (time.monotonic() - began), 1)
        self._event("evaluate", split=split, expressions=len(frame), **summarise(frame), expressions_per_second=rate)
        if self._log is not None and kept is not None:
            partial = kept.with_suffix(".partial")
            frame.to_parquet(partial, index=False)
            partial.replace(kept)
        return frame

    def _split(self, name: str) -> ReferringDataset:
        machine = self.config.machine
        return ReferringDataset(
            self.data, name, self.config.backbone.image_size, self.config.data, cache=machine.cache_images
        )

    def _save(self) -> None:
        if self._log is None:
            return
        with self.folder.new_checkpoint(self.step) as place:
            save_file(tensors(self.model), place / "model.safetensors")
            if self.ema is not None:
                save_file(tensors(self.ema.module), place / "ema.safetensors")
            state = {
                "step": self.step,
                "first_loss": self.first_loss,
                "seconds": self.seconds,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "ema_updates": None if self.ema is None else self.ema.n_averaged,
                "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            }
            torch.save(state, place / "state.pt")
        self._event("checkpoint", step=self.step)

    def _resume(self) -> None:
        place = self.folder.latest_checkpoint()
        if place is None:
            return
        try:
            state = torch.load(place / "state.pt", map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises whatever a broken archive stumbles over
            raise CheckpointError(
                f"{place}: damaged checkpoint ({type(error).__name__}); remove it to begin anew"
            ) from None
        self.model.load_state_dict(checkpoints.read_state_dict(place / "model.safetensors"))
        if self.ema is not None:
            self.ema.module.load_state_dict(checkpoints.read_state_dict(place / "ema.safetensors"))
            self.ema.n_averaged.copy_(state["ema_updates"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.first_loss, self.seconds = state["step"], state["first_loss"], state["seconds"]

    def _gpu_hours(self, seconds: float) -> float:
        """Of what led to the result: steps that were lost and done again count once."""
        gpus = self.accelerator.num_processes if self.accelerator.device.type == "cuda" else 0
        return round(gpus * seconds / 3600, 4)


def _compile(model: ReferringSam, device: torch.device) -> None:
    """In place, so that the weights keep their names; evaluation, whose shapes vary, runs as it is."""
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise ConfigError(
            "machine.compile", "true needs a C++ compiler on the CPU, and none of g++ and clang++ is found"
        )
    model.image_encoder.compile(dynamic=False)


def training_steps(config: RunConfig, dataset: ReferringDataset) -> int:
    """How many steps a run trains."""
    training = config.training
    if training.steps is not None:
        return training.steps
    epochs = variants[config.fusion.variant].released_epochs if training.epochs == "released" else training.epochs
    assert epochs is not None
    return math.ceil(epochs * steps_per_epoch(dataset, config.data, training.batch_size))


def batch_loss(
    model: nn.Module, tokenizer: Tokenizer, batch: dict[str, Any], config: RunConfig, device: torch.device
) -> Tensor:
    """The loss of one of the loader's batches, from pixels or from cached features."""
    ids, attention_mask = (t.to(device) for t in tokenizer(batch["sentence"]))
    image = features = None
    if "features" in batch:
        features = batch["features"].to(device, non_blocking=True).float()
    else:
        bare: Any = getattr(model, "module", model)  # behind the wrapper of several processes
        image = bare.normalise(batch["pixels"].to(device, non_blocking=True), batch["content"])
    mask = batch["mask"].to(device, non_blocking=True)
    logits = model(image, ids, attention_mask, features)
    with torch.autocast(device.type, enabled=False):
        align_corners = config.backbone.mask_upsampling == "align_corners"
        square = upsample(logits.float(), (mask.shape[1], mask.shape[2]), align_corners)
        return mask_loss(square, mask, config.training.loss.bce, config.training.loss.dice)


def _step_seed(seed: int, step: int, process: int) -> int:
    return int(np.random.SeedSequence([seed, step, process]).generate_state(1)[0])

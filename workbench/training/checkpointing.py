"""What a training saves and resumes from, and the weights that others take from a finished run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn

from workbench.config import RunConfig
from workbench.errors import CheckpointError
from workbench.files import check_file
from workbench.models import checkpoints
from workbench.models.build import build_model
from workbench.models.referring_sam import ReferringSam
from workbench.results.checkpoints import Checkpoint
from workbench.results.folders import RunFolder
from workbench.training.setup import Parts

CONFIG = "workbench_config"
"""Where a file of weights says of which configuration they are."""


@dataclass(frozen=True)
class Best:
    """The best validated step so far, and its score; of equal ones the earliest."""

    step: int
    value: float


@dataclass
class Counts:
    """How far a training has got.

    Attributes:
        step: how many steps are done.
        first_loss: the loss of the first step, None before it.
        seconds: of training; steps that were lost and repeated count once.
        validation_seconds: of validations, likewise.
        validated: the step that was validated last.
        best: see `Best`; None before the first validation.
    """

    step: int = 0
    first_loss: float | None = None
    seconds: float = 0.0
    validation_seconds: float = 0.0
    validated: int = 0
    best: Best | None = None


def save(folder: RunFolder, parts: Parts, counts: Counts, accelerator: Accelerator) -> None:
    """Write a checkpoint; it replaces older ones once it is whole."""
    with folder.checkpoints.new(counts.step) as checkpoint:
        save_file(tensors(parts.model), checkpoint.model, _metadata(parts))
        if parts.ema is not None:
            save_file(tensors(parts.ema.module), checkpoint.ema, _metadata(parts))
        state = {
            "step": counts.step,
            "first_loss": counts.first_loss,
            "seconds": counts.seconds,
            "validation_seconds": counts.validation_seconds,
            "validated": counts.validated,
            "best": None if counts.best is None else (counts.best.step, counts.best.value),
            "optimizer": parts.optimizer.state_dict(),
            "schedule": parts.schedule.state_dict(),
            "ema_updates": None if parts.ema is None else parts.ema.n_averaged,
            "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
        }
        torch.save(state, checkpoint.state)
    if counts.best is not None:
        folder.checkpoints.keep_best(counts.best.step)


def _metadata(parts: Parts) -> dict[str, str]:
    return {CONFIG: json.dumps(parts.config.identity_document()["config"])}


def save_best(folder: RunFolder, parts: Parts, step: int) -> None:
    """Keep the weights that were just validated as the best ones."""
    with folder.checkpoints.new_best(step) as file:
        save_file(tensors(parts.evaluated), file, _metadata(parts))


def resume(folder: RunFolder, parts: Parts, accelerator: Accelerator) -> Counts:
    """Load the newest checkpoint into the parts; without one, all counts are zero.

    Raises:
        CheckpointError: it is damaged.
    """
    checkpoint = folder.checkpoints.latest()
    if checkpoint is None:
        return Counts()
    state = _read_state(checkpoint)
    try:
        return _load(checkpoint, state, parts, accelerator)
    except torch.OutOfMemoryError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise _damaged(checkpoint, f"it has another form: {type(error).__name__}") from None


def _load(checkpoint: Checkpoint, state: dict[str, Any], parts: Parts, accelerator: Accelerator) -> Counts:
    parts.model.load_state_dict(checkpoints.read_state_dict(checkpoint.model))
    if parts.ema is not None:
        parts.ema.module.load_state_dict(checkpoints.read_state_dict(checkpoint.ema))
        parts.ema.n_averaged.copy_(state["ema_updates"])
    parts.optimizer.load_state_dict(state["optimizer"])
    parts.schedule.load_state_dict(state["schedule"])
    if accelerator.scaler is not None and state["scaler"] is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    best = state.get("best")
    return Counts(
        state["step"],
        state["first_loss"],
        state["seconds"],
        state.get("validation_seconds", 0.0),  # a checkpoint made before there were validations has none of these
        state.get("validated", 0),
        None if best is None else Best(*best),
    )


def _damaged(checkpoint: Checkpoint, why: str) -> CheckpointError:
    return CheckpointError(f"{checkpoint.folder}: damaged checkpoint ({why}); remove it to start again")


def _read_state(checkpoint: Checkpoint) -> dict[str, Any]:
    try:
        check_file(checkpoint.state)
        state: dict[str, Any] = torch.load(checkpoint.state, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types of error for a broken archive
        raise _damaged(checkpoint, type(error).__name__) from None
    if not isinstance(state, dict):
        raise _damaged(checkpoint, f"it holds a {type(state).__name__}")
    return state


def load_trained(config: RunConfig, folder: RunFolder) -> ReferringSam:
    """A run's model as it was evaluated, in evaluation mode on the CPU; CheckpointError when there is none yet."""
    return load_weights(config, folder.evaluated_weights(), f"run {folder.name}")


def load_weights(config: RunConfig, file: Path, name: str) -> ReferringSam:
    """The model with all weights from a file, in evaluation mode. What the run was once begun with is not needed.

    Args:
        name: whose weights they are, for the message of the CheckpointError where they do not fit.
    """
    skeleton = config.model_copy(
        update={
            "backbone": config.backbone.model_copy(update={"checkpoint": None, "checkpoint_sha256": None}),
            "text_encoder": config.text_encoder.model_copy(update={"pretrained": False}),
            "start_from": type(config.start_from)(),
        }
    )
    model = build_model(skeleton)
    state = checkpoints.read_state_dict(file)
    checkpoints.check_keys(model.state_dict(), state, str(file), name)
    model.load_state_dict(state)
    return model.eval()


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """A state dict as safetensors needs it."""
    return {key: value.detach().contiguous() for key, value in model.state_dict().items()}

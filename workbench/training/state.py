"""What a training carries from step to step besides the model: optimiser and average, and the weights it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from workbench.config import EmaConfig, RunConfig
from workbench.errors import CheckpointError
from workbench.models import checkpoints
from workbench.models.build import build_model
from workbench.models.referring_sam import ReferringSam
from workbench.results.folders import RunFolder


def load_trained(config: RunConfig, folder: RunFolder) -> ReferringSam:
    """A run's model as it was evaluated, in evaluation mode on the CPU; CheckpointError when there is none yet."""
    place = folder.latest_checkpoint()
    if place is None:
        raise CheckpointError(f"{folder.name} has no checkpoint yet (state: {folder.state()})")
    file: Path = place / ("ema.safetensors" if config.training.ema.decay is not None else "model.safetensors")
    model = build_model(config)
    state = load_file(file)
    checkpoints.check_keys(model.state_dict(), state, str(file), f"run {folder.name}")
    model.load_state_dict(state)
    return model.eval()


def load_weights_of(folder: RunFolder, model: ReferringSam) -> Path:
    """Put a trained run's weights into a model of the same shape, the average where it has one.

    Returns:
        Their file.

    Raises:
        CheckpointError: there are none, or they are another model's.
    """
    place = folder.latest_checkpoint()
    if place is None:
        raise CheckpointError(f"{folder.name} has no checkpoint any more")
    file = next(file for file in (place / "ema.safetensors", place / "model.safetensors") if file.is_file())
    state = checkpoints.read_state_dict(file)
    checkpoints.check_keys(model.state_dict(), state, str(file), f"run {folder.name}")
    model.load_state_dict(state)
    return file


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """A state dict as safetensors wants it."""
    return {key: value.detach().contiguous() for key, value in model.state_dict().items()}


def averaged(model: nn.Module, config: EmaConfig) -> AveragedModel | None:
    """The moving average of a model's weights, or None where it is off."""
    if config.decay is None:
        return None
    limit = config.decay

    def average(averages: Any, weights: Any, updates: Any) -> None:
        decay = min(limit, (1 + int(updates)) / (10 + int(updates)))
        torch._foreach_lerp_(averages, weights, 1 - decay)

    return AveragedModel(model, multi_avg_fn=average)


def build_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """The run's optimiser over what is not frozen."""
    options = config.training.optimizer
    kind: Any = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[options.name]
    optimizer: torch.optim.Optimizer = kind(
        [p for p in model.parameters() if p.requires_grad],
        lr=options.learning_rate,
        betas=options.betas,
        eps=options.eps,
        weight_decay=options.weight_decay,
    )
    return optimizer

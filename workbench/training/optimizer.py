"""The optimiser of a run, and the groups of parameters that have learning rates of their own."""

from __future__ import annotations

from typing import Any

import torch

from workbench.config import RunConfig
from workbench.models.referring_sam import REST, ReferringSam


def build_optimizer(model: ReferringSam, config: RunConfig) -> torch.optim.Optimizer:
    """The run's optimiser over what is not frozen.

    Without `rates` all of it is one group, as in runs from before there were any. With them there is a group for each
    part, whose `part` is its name and whose `lr` its learning rate; the first has the learning rate itself.
    """
    options = config.training.optimizer
    kind: Any = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[options.name]
    optimizer: torch.optim.Optimizer = kind(
        _groups(model, options.learning_rate, options.rates),
        lr=options.learning_rate,
        betas=options.betas,
        eps=options.eps,
        weight_decay=options.weight_decay,
    )
    return optimizer


def _groups(model: ReferringSam, rate: float, rates: dict[str, float]) -> list[Any]:
    learning = [p for p in model.parameters() if p.requires_grad]
    if not rates:
        return learning
    part_of = {id(p): part for part, parameters in model.all_parts().items() for p in parameters}
    groups: dict[str, list[torch.nn.Parameter]] = {REST: []}
    for parameter in learning:
        groups.setdefault(part_of[id(parameter)], []).append(parameter)
    return [
        {"params": parameters, "lr": rate * rates.get(part, 1.0), "part": part} for part, parameters in groups.items()
    ]

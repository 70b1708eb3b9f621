"""Learning-rate schedules as plain functions of the step, so that a resumed run needs only its step."""

from __future__ import annotations

import math
from collections.abc import Callable

from workbench.config import ScheduleConfig


def rate_factor(config: ScheduleConfig, steps: int, epoch_steps: float) -> Callable[[int], float]:
    """The learning rate at a step (0 … steps−1) as a fraction of its peak.

    Args:
        epoch_steps: how many steps a pass over the training split has, for a warm-up that is given in passes.

    `one_cycle` rises and falls along cosines; `warmup_cosine` rises linearly, then falls along a cosine;
    `constant` stays after a linear warm-up. All begin at `start`, and fall to `end`.
    """
    warmup = round(config.warmup * steps if config.warmup_epochs is None else config.warmup_epochs * epoch_steps)

    def factor(step: int) -> float:
        if step < warmup:
            progress = step / warmup
            progress = (1 - math.cos(math.pi * progress)) / 2 if config.name == "one_cycle" else progress
            return config.start + (1 - config.start) * progress
        if config.name == "constant":
            return 1.0
        progress = (step - warmup) / max(1, steps - 1 - warmup)
        return config.end + (1 - config.end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2

    return factor

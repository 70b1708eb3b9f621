"""Learning-rate schedules as plain functions of the step, so that a resumed run needs only its step."""

from __future__ import annotations

import math
from collections.abc import Callable

from workbench.config import ScheduleConfig


def rate_factor(config: ScheduleConfig, steps: int) -> Callable[[int], float]:
    """The learning rate at a step (0 … steps−1) as a share of its peak.

    `one_cycle` rises and falls along cosines; `warmup_cosine` rises linearly, then falls along a cosine;
    `constant` stays after a linear warm-up. All begin at `start`, and fall to `end`.
    """
    warmup = round(config.warmup * steps)

    def factor(step: int) -> float:
        if step < warmup:
            share = step / warmup
            share = (1 - math.cos(math.pi * share)) / 2 if config.name == "one_cycle" else share
            return config.start + (1 - config.start) * share
        if config.name == "constant":
            return 1.0
        share = (step - warmup) / max(1, steps - 1 - warmup)
        return config.end + (1 - config.end) * (1 + math.cos(math.pi * min(1.0, share))) / 2

    return factor

"""Detects a loss that became non-finite or exploded, without waiting for the GPU at every step."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from torch import Tensor

from workbench.errors import DivergedError
from workbench.training.checkpointing import Counts


class DivergenceWatch:
    """Remembers the first bad step on the device.

    Args:
        factor: a loss of more than this many times the first one is bad.
    """

    def __init__(self, factor: float, counts: Counts, accelerator: Accelerator) -> None:
        self._factor, self._counts, self._accelerator = factor, counts, accelerator
        self._first_bad = torch.full((), -1, device=accelerator.device, dtype=torch.int64)

    def see(self, loss: Tensor) -> None:
        """The loss of the current step."""
        if self._counts.first_loss is None:
            self._counts.first_loss = loss.item()
        bad = ~torch.isfinite(loss) | (loss > self._factor * self._counts.first_loss)
        if not math.isfinite(self._counts.first_loss):
            bad = torch.ones_like(bad)
        self._first_bad = torch.where(bad & (self._first_bad < 0), self._counts.step, self._first_bad)

    def check(self) -> None:
        """DivergedError where a step was bad, in any process."""
        bad_steps = [int(step) for step in self._accelerator.gather(self._first_bad[None]) if step >= 0]
        if bad_steps:
            first_bad = min(bad_steps)
            raise DivergedError(
                first_bad,
                f"the loss became non-finite or rose above {self._factor:g} times its first value "
                f"({self._counts.first_loss:.4g}) at step {first_bad}; try a lower learning rate",
            )

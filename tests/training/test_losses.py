from __future__ import annotations

import math

import pytest
import torch

from workbench.config import ScheduleConfig
from workbench.training.losses import dice_loss, focal_loss, mask_loss
from workbench.training.schedule import rate_factor


def test_losses_are_their_formulas() -> None:
    logits, target = torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[1.0, 0.0]]])
    p = [0.5, 1 / (1 + math.exp(-2))]
    bce = (-math.log(p[0]) - math.log(1 - p[1])) / 2
    dice = 1 - (2 * p[0] + 1) / (p[0] + p[1] + 1 + 1)
    assert dice_loss(logits, target).item() == pytest.approx(dice, abs=1e-6)
    assert mask_loss(logits, target, 5.0, 1.0).item() == pytest.approx(5 * bce + dice, abs=1e-5)
    assert mask_loss(logits, target, 1.0, 0.0).item() == pytest.approx(bce, abs=1e-6)
    focal = (0.25 * 0.5**2 * -math.log(p[0]) + 0.75 * p[1] ** 2 * -math.log(1 - p[1])) / 2
    assert focal_loss(logits, target).item() == pytest.approx(focal, abs=1e-6)


def test_a_soft_target_weighs_both_sides() -> None:
    logit, target = 1.2, 0.3
    p = 1 / (1 + math.exp(-logit))
    missed = p * (1 - target) + (1 - p) * target
    cross_entropy = -target * math.log(p) - (1 - target) * math.log(1 - p)
    expected = (0.25 * target + 0.75 * (1 - target)) * missed**2 * cross_entropy
    assert focal_loss(torch.tensor([[[logit]]]), torch.tensor([[[target]]])).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["one_cycle", "warmup_cosine", "constant"])
def test_schedules_begin_peak_and_end_where_they_say(name: str) -> None:
    config = ScheduleConfig.model_validate({"name": name, "warmup": 0.25, "start": 0.1, "end": 0.02})
    factor = rate_factor(config, 101, 1.0)
    rates = [factor(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[25] == pytest.approx(1.0)
    assert rates == sorted(rates[:26]) + sorted(rates[26:], reverse=True)
    assert rates[-1] == pytest.approx(1.0 if name == "constant" else 0.02)
    assert rate_factor(ScheduleConfig(warmup=0), 1, 1.0)(0) == 1.0

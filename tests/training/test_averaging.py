from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from workbench.config import EmaConfig
from workbench.training.averaging import averaged


def torchs_own(model: nn.Module, limit: float) -> AveragedModel:
    """The average as runs had it before, whose count goes to the weights' device and back at every update."""

    def average(averages: Any, weights: Any, updates: Any) -> None:
        decay = min(limit, (1 + int(updates)) / (10 + int(updates)))
        torch._foreach_lerp_(averages, weights, 1 - decay)

    return AveragedModel(model, multi_avg_fn=average)


def test_it_is_torchs_own_average_to_the_last_bit() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))
    ours, theirs = averaged(model, EmaConfig(decay=0.6)), torchs_own(model, 0.6)
    assert ours is not None
    for _ in range(20):
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        model(torch.randn(3, 5))
        ours.update_parameters(model)
        theirs.update_parameters(model)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert ours.n_averaged == 20


def test_no_update_reads_a_value_from_the_weights_device() -> None:
    """Values on the meta device cannot be read; on a GPU, reading one waits for everything before it."""
    model = nn.Linear(5, 7, device="meta")
    average = averaged(model, EmaConfig(decay=0.6))
    assert average is not None
    for _ in range(3):
        average.update_parameters(model)
    assert (int(average.n_averaged), average.n_averaged.device.type) == (3, "cpu")


def test_without_a_decay_there_is_none() -> None:
    assert averaged(nn.Linear(1, 1), EmaConfig()) is None


def test_the_released_average_begins_from_the_weights_before_the_first_step() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = averaged(model, EmaConfig(decay=0.9997, start="initial"))
    assert average is not None
    expected = 1.0
    for update, weight in enumerate((2.0, 5.0, -1.0)):
        nn.init.constant_(model.weight, weight)
        average.update_parameters(model)
        decay = min(0.9997, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * weight
    assert abs(average.module.weight.item() - expected) < 1e-6

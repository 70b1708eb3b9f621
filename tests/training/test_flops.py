from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from workbench.config import RunConfig
from workbench.models.build import build_model
from workbench.models.catalog import cost_of
from workbench.models.referring_sam import upsample
from workbench.training.flops import step_flops
from workbench.training.losses import mask_loss

Make = Callable[..., RunConfig]
FROZEN = {"training__freeze__image_encoder": True, "training__freeze__neck": True}


@pytest.mark.parametrize("fields", [{}, {"fusion__variant": "l_dit"}, FROZEN, {"training__freeze__text_encoder": True}])
def test_the_count_is_that_of_a_real_step(make_config: Make, fields: dict[str, Any]) -> None:
    config = make_config(**fields)
    model = build_model(config).train()
    model.image_encoder.implementation = "eager"
    words = torch.ones(4, config.text_encoder.max_tokens, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        logits = model(torch.rand(4, 3, 64, 64), words, torch.ones_like(words))
        mask_loss(upsample(logits, (64, 64)), torch.rand(4, 64, 64), 1.0, 1.0).backward()
    assert step_flops(config) == counter.get_total_flops()


def test_what_is_frozen_costs_less_and_saving_memory_costs_nothing(make_config: Make) -> None:
    whole, frozen = step_flops(make_config()), step_flops(make_config(**FROZEN))
    forward = 4 * cost_of(make_config()).gflops * 1e9
    assert forward < frozen < whole
    assert whole > 2.5 * forward
    assert step_flops(make_config(machine__checkpoint_activations=True)) == whole
    cached = make_config(**FROZEN, training__cache_features=True)
    assert step_flops(cached) < frozen


@pytest.mark.exhaustive
def test_learned_tokens_cost_what_words_do(make_config: Make) -> None:
    words, learned = (make_config(fusion__variant="l_dit", fusion__text=text) for text in ("words", "learned"))
    assert step_flops(words) >= step_flops(learned) > step_flops(make_config())

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from workbench.config import RunConfig
from workbench.models.build import build_model
from workbench.models.referring_sam import upsample
from workbench.training.losses import mask_loss
from workbench.training.memory import LiveBytes, largest_part, step_memory
from workbench.training.needs import GIB

Make = Callable[..., RunConfig]


def at_full_size(name: str, **machine: Any) -> RunConfig:
    """The paper's set-up, with another backbone."""
    return RunConfig.parse({
        "backbone": {"name": name, "checkpoint": None, "image_size": 512}, "fusion": {"variant": "l_dit"},
        "text_encoder": {"name": "bert-base-uncased", "max_tokens": 20},
        "training": {"steps": 1, "batch_size": 64, "precision": "bf16", "ema": {"decay": 0.9997}}, "machine": machine,
    })  # fmt: skip


def test_live_bytes_are_those_that_live() -> None:
    before = torch.ones(1000)
    with LiveBytes() as live:
        view = before[10:]
        one = view * 2
        two = one + one
        del one, view
        three = two.view(-1, 10) + 1
        two += 1
    assert live.now == 2 * 990 * 4
    assert live.peak == 2 * 990 * 4
    del two, three
    assert live.now == 0


@pytest.mark.parametrize("fields", [{}, {"machine__checkpoint_activations": True}, {"backbone__attention": "windowed"}])
def test_a_step_that_computes_nothing_counts_what_a_real_one_takes(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    monkeypatch.setattr("workbench.training.memory.choose", lambda *kind: "eager")
    config = make_config(fusion__variant="l_dit", training__batch_size=16, **fields)
    counted = step_memory(config)
    model = build_model(config).train()
    model.image_encoder.implementation = "eager"
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    with LiveBytes() as live:
        words = torch.ones(16, 16, dtype=torch.int64)
        logits = model(torch.rand(16, 3, 64, 64), words, torch.ones_like(words))
        mask_loss(upsample(logits, (64, 64)), torch.rand(16, 64, 64), 5.0, 1.0).backward()
    assert counted.activations == pytest.approx(live.peak, rel=0.03)
    assert counted.weights == sum(p.numel() * 4 for p in model.parameters())
    assert counted.optimizer == 2 * counted.gradients
    assert counted.average == 0
    assert counted.total == counted.weights + 3 * counted.gradients + counted.activations


@pytest.mark.exhaustive
def test_what_a_run_can_save(make_config: Make) -> None:
    def memory(processes: int = 1, **fields: Any) -> Any:
        return step_memory(make_config(fusion__variant="l_dit", training__batch_size=32, **fields), processes)

    whole = memory()
    assert memory(machine__micro_batch=8).activations < 0.3 * whole.activations
    assert memory(machine__checkpoint_activations=True).activations < 0.6 * whole.activations
    assert memory(processes=4).activations < 0.3 * whole.activations
    assert memory(processes=2).gradients == 2 * whole.gradients
    frozen = memory(training__freeze={"image_encoder": True, "neck": True}, fusion__layers=[3])
    assert frozen.gradients < whole.gradients
    assert frozen.activations < 0.5 * whole.activations
    cached = memory(training__freeze={"image_encoder": True}, fusion__layers=[3], training__cache_features=True)
    assert cached.activations < 0.5 * whole.activations
    assert memory(training__ema__decay=0.9).average == whole.weights


@pytest.mark.parametrize(
    ("size", "processes", "micro_batch", "largest"), [(64, 1, None, 64), (64, 4, None, 16), (64, 4, 6, 6), (7, 1, 4, 4)]
)
def test_the_largest_part_of_a_batch(
    make_config: Make, size: int, processes: int, micro_batch: int | None, largest: int
) -> None:
    config = make_config(training__batch_size=size, machine__micro_batch=micro_batch)
    assert largest_part(config, processes) == largest


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "kept", "checkpointed"), [("vit_l", 79, 11), ("vit_h", 126, 16)])
def test_the_paper_s_sizes(name: str, kept: int, checkpointed: int) -> None:
    assert step_memory(at_full_size(name)).activations / GIB == pytest.approx(kept, rel=0.01)
    lower = step_memory(at_full_size(name, checkpoint_activations=True)).activations / GIB
    assert lower == pytest.approx(checkpointed, rel=0.03)
    assert step_memory(at_full_size(name, checkpoint_activations=True, micro_batch=8)).gib < 24

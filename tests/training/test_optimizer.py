from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from workbench.config import RunConfig
from workbench.errors import InterruptedRun
from workbench.models.build import build_model
from workbench.results.folders import RunFolder
from workbench.training.optimizer import build_optimizer
from workbench.training.train import train

Make = Callable[..., RunConfig]
RATES = {"text_encoder": 0.1, "fusion": 5.0}


def test_without_rates_there_is_one_group_as_older_checkpoints_have_it(make_config: Make) -> None:
    config = make_config(fusion__variant="l_dit", training__freeze__neck=True)
    model = build_model(config)
    (group,) = build_optimizer(model, config).param_groups
    plain = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    assert group.keys() == plain.param_groups[0].keys()
    assert [id(p) for p in group["params"]] == [id(p) for p in plain.param_groups[0]["params"]]


def test_each_part_has_its_own_rate(make_config: Make) -> None:
    config = make_config(
        fusion__variant="l_dit",
        training__freeze__neck=True,
        training__optimizer={"learning_rate": 0.01, "rates": RATES},
    )
    model = build_model(config)
    optimizer = build_optimizer(model, config)
    rates = {group["part"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx(
        {"rest": 0.01, "image_encoder": 0.01, "text_encoder": 0.001, "mask_decoder": 0.01, "fusion": 0.05}
    )
    assert next(iter(rates)) == "rest", "the first is what is logged as the learning rate"
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}
    of_text = next(group["params"] for group in optimizer.param_groups if group["part"] == "text_encoder")
    assert model.text_encoder is not None
    assert {id(p) for p in of_text} == {id(p) for p in model.text_encoder.parameters()}


def trained(folder: RunFolder) -> dict[str, torch.Tensor]:
    checkpoint = folder.checkpoints.latest()
    assert checkpoint is not None
    return load_file(checkpoint.model)


def test_a_run_with_rates_resumes_and_a_slow_part_moves_less(tmp_path: Path, make_config: Make) -> None:
    constant = {"name": "constant", "warmup": 0.0}
    config = make_config(
        fusion__variant="l_dit", training__optimizer__rates={"text_encoder": 0.01}, training__schedule=constant
    )
    whole, stopped = (RunFolder.of(tmp_path / name, config, 0) for name in ("whole", "stopped"))
    train(config, 0, whole)
    asked = iter([False, False, True])
    with pytest.raises(InterruptedRun):
        train(config, 0, stopped, stop=lambda: next(asked))
    train(config, 0, stopped)
    assert all(torch.equal(value, trained(stopped)[name]) for name, value in trained(whole).items())
    rates = [event.details()["learning_rate"] for event in whole.log().events if event.event == "step"]
    assert {rate["rest"] for rate in rates} == {1e-3}
    assert {rate["text_encoder"] for rate in rates} == {1e-5}
    torch.manual_seed(0)
    before = build_model(config).state_dict()
    moved = {name: (value - before[name]).abs().max().item() for name, value in trained(whole).items()}
    of_text = max(size for name, size in moved.items() if name.startswith("text_encoder"))
    of_decoder = max(size for name, size in moved.items() if name.startswith("mask_decoder"))
    assert 0 < of_text < 0.05 * of_decoder

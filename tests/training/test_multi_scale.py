from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.training.test_train import identical, run, weights
from workbench.config import RunConfig
from workbench.errors import ConfigError
from workbench.training.multi_scale import RELEASED, batch_scales, resized_batch

Make = Callable[..., RunConfig]


def batch(side: int) -> dict[str, torch.Tensor]:
    pixels = torch.arange(side * side, dtype=torch.int64).remainder(251).to(torch.uint8).view(1, 1, side, side)
    return {
        "pixels": pixels.repeat(2, 3, 1, 1),
        "mask": (pixels[:, 0] > 100).to(torch.uint8).repeat(2, 1, 1),
        "content": torch.tensor([[0, 0, side, side // 2]] * 2),
    }


def test_images_and_masks_take_the_nearest_pixel(make_config: Make) -> None:
    config = make_config(data__augmentation__batch_scales=[0.5])
    whole = batch(64)
    half = resized_batch(whole, config, 8, 0, 0)
    assert torch.equal(half["pixels"], whole["pixels"][:, :, ::2, ::2])
    assert torch.equal(half["mask"], whole["mask"][:, ::2, ::2])
    assert half["content"].tolist() == [[0, 0, 32, 16]] * 2
    assert half["pixels"].dtype == half["mask"].dtype == torch.uint8


def test_a_size_is_drawn_per_step_and_has_whole_patches(make_config: Make) -> None:
    config = make_config(data__augmentation__batch_scales="released", fusion__variant="l_dit_cross_attention")
    sides = [resized_batch(batch(512), config, 16, 3, step)["mask"].shape[-1] for step in range(200)]
    assert set(sides) == set(range(224, 513, 32))
    assert sides == [resized_batch(batch(512), config, 16, 3, step)["mask"].shape[-1] for step in range(200)]
    small = {resized_batch(batch(64), config, 8, 3, step)["mask"].shape[-1] for step in range(200)}
    assert small == {32, 40, 48, 56, 64}


def test_the_released_scales_are_for_cross_attention_alone(make_config: Make) -> None:
    for variant in ("default", "e_dit", "l_dit"):
        config = make_config(data__augmentation__batch_scales="released", fusion__variant=variant)
        assert batch_scales(config) is None
        assert resized_batch(one := batch(64), config, 8, 0, 0) is one
    ffn = make_config(data__augmentation__batch_scales="released", fusion__variant="l_dit_cross_attention_ffn")
    assert batch_scales(ffn) == RELEASED


def test_a_training_with_it_repeats(tmp_path: Path, make_config: Make) -> None:
    config = make_config(fusion__variant="l_dit_cross_attention", data__augmentation__batch_scales="released")
    assert identical(weights(run(tmp_path / "a", config)), weights(run(tmp_path / "b", config)))


def test_it_cannot_go_with_cached_features(make_config: Make) -> None:
    with pytest.raises(ConfigError, match="cache_features"):
        make_config(
            data__augmentation__batch_scales=[0.5, 1],
            training__cache_features=True,
            training__freeze={"image_encoder": True, "neck": True},
        )

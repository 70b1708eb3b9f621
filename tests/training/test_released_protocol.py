"""The released code's training, config by config, with the numbers that its files give for RefCOCO on 64 per batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench.config import RunConfig
from workbench.data.loading import batches
from workbench.grids.loading import load_grid
from workbench.training.multi_scale import batch_scales
from workbench.training.schedule import rate_factor
from workbench.training.setup import training_steps

REFERENTS, BATCH = 42404, 64
SETTINGS: dict[str, tuple[str, int]] = {
    # released name: (our setting, epochs)
    "e2e": ("{fusion.variant: e_dit_reprojected}", 40),
    "e2e_token": ("{fusion.variant: e_dit_tokens}", 40),
    "layer_wise": ("{fusion.variant: l_dit}", 40),
    "token_layer_wise": ("{fusion.variant: l_dit_tokens}", 40),
    "layer_wise_freeze": ("{fusion.variant: l_dit, training.freeze: {image_encoder: true, neck: true}}", 25),
    "layer_wise_vith": (
        "{fusion.variant: l_dit, backbone.name: vit_h, backbone.checkpoint: sam_vit_h_4b8939.pth, "
        "fusion.text_projection: true}",
        25,
    ),
    "default_sam": ("{fusion.variant: default}", 25),
    "default_sam_add_2": ("{fusion.variant: default, backbone.decoder_depth: 4}", 25),
    "default_sam_add_4": ("{fusion.variant: default, backbone.decoder_depth: 6}", 25),
    "cross_attention": ("{fusion.variant: l_dit_cross_attention}", 25),
    "cross_attention_FFN": ("{fusion.variant: l_dit_cross_attention_ffn}", 25),
}


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunConfig]:
    file: Path = tmp_path_factory.mktemp("released") / "grid.yaml"
    settings = "".join(f"  {name}: {values}\n" for name, (values, _) in SETTINGS.items())
    presets = Path(__file__).parents[2] / "ablations" / "presets"
    (file.parent / "presets").symlink_to(presets)
    file.write_text(
        f"title: released\nbase:\n  preset: [refcoco-vitb, as_released]\nsettings:\n{settings}"
        "seeds: [0]\nbaseline: default_sam\n"
    )
    return dict(load_grid(file).settings)


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_and_rates(name: str, configs: dict[str, RunConfig]) -> None:
    config, epochs = configs[name], SETTINGS[name][1]
    per_epoch = batches(REFERENTS, BATCH, config.data.drop_last)
    steps = training_steps(config, per_epoch)
    assert (config.training.batch_size, config.data.epoch, per_epoch) == (BATCH, "referents", 662)
    assert steps == {40: 26_480, 25: 16_550}[epochs]
    factor, peak = rate_factor(config.training.schedule, steps, per_epoch), config.training.optimizer.learning_rate
    rates = {step: peak * factor(step) for step in (0, 993, 1986, steps - 1)}
    assert rates == pytest.approx({0: 1e-7, 993: (1e-7 + 1e-4) / 2, 1986: 1e-4, steps - 1: 1e-6}, rel=1e-9)
    middle = 1986 + (steps - 1 - 1986) / 2
    if middle == int(middle):
        assert peak * factor(int(middle)) == pytest.approx((1e-4 + 1e-6) / 2, rel=1e-9)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_rest_of_the_training(name: str, configs: dict[str, RunConfig]) -> None:
    config = configs[name]
    training, optimizer = config.training, config.training.optimizer
    expected: dict[str, Any] = {
        "optimizer": ("adam", (0.9, 0.98), 1e-9, 0.0, 0.15),
        "precision": "fp32",
        "average": (0.9997, "initial"),
        "loss": (1.0, 0.0),
        "validated": ({"epochs": 1.0}, "val", None, "miou", "best"),
        "text": (1, False, 20),
        "masks": ("dilated", 0.35, "align_corners", "centred"),
        "attention": "global",
    }
    v = config.validation
    assert expected == {
        "optimizer": (
            optimizer.name, optimizer.betas, optimizer.eps, optimizer.weight_decay, optimizer.clip_norm,
        ),
        "precision": training.precision,
        "average": (training.ema.decay, training.ema.start),
        "loss": (training.loss.bce, training.loss.dice),
        "validated": (v.every, v.split, v.images, v.metric, config.evaluation.checkpoint),
        "text": (config.text_encoder.layer, config.text_encoder.mask_padding, config.text_encoder.max_tokens),
        "masks": (
            config.evaluation.masks, config.evaluation.threshold, config.backbone.mask_upsampling, config.data.padding,
        ),
        "attention": config.backbone.attention,
    }  # fmt: skip
    sizes = [512 * scale for scale in batch_scales(config) or (1.0,)]
    assert sizes == (list(range(224, 513, 32)) if name.startswith("cross_attention") else [512])

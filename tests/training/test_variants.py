"""Every fusion variant and projector, trained for ten steps through the whole path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from workbench.config import RunConfig
from workbench.data.datasets import open_dataset
from workbench.data.loading import ReferringDataset
from workbench.evaluation.evaluate import evaluate
from workbench.models.build import build_model
from workbench.models.fusion import variants
from workbench.models.text_encoder import load_tokenizer
from workbench.results.folders import RunFolder
from workbench.training.checkpointing import load_trained
from workbench.training.train import train

SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"fusion__variant": name} for name in variants},
    "cross attention as released": {
        "fusion__variant": "l_dit_cross_attention",
        "fusion__cross_attention__keys": "text",
        "fusion__projector__init": "released",
    },
    "tokens as released": {"fusion__variant": "e_dit_tokens", "fusion__projector__init": "released"},
    "one fused layer": {"fusion__variant": "e_dit_tokens", "fusion__layers": {"last": 1}},
    **{
        kind: {"fusion__variant": "l_dit", "fusion__projector__type": kind, "fusion__text_projection": True}
        for kind in ("mlp", "bottleneck", "shared", "identity", "gated")
    },
    "windowed": {"fusion__variant": "l_dit_cross_attention_ffn", "backbone__attention": "windowed"},
    "normal": {"fusion__variant": "e_dit", "fusion__projector__init": "normal"},
}


@pytest.mark.parametrize(
    "name", [name if name in variants else pytest.param(name, marks=pytest.mark.exhaustive) for name in SETTINGS]
)
def test_ten_steps_move_the_fusion_and_leave_what_is_frozen(
    name: str, tmp_path: Path, make_config: Callable[..., RunConfig]
) -> None:
    config = make_config(
        training__steps=10,
        training__freeze={"image_encoder": True, "neck": True, "text_encoder": True, "mask_decoder": True},
        **SETTINGS[name],
    )
    torch.manual_seed(0)
    before = {key: value.clone() for key, value in build_model(config).state_dict().items()}
    folder = RunFolder.of(tmp_path, config, 0)
    train(config, 0, folder)
    assert folder.state() == "completed"
    losses = [event.loss for event in folder.log().events if event.event == "step"]
    assert len(losses) == 10
    assert all(0 < loss < 100 for loss in losses)
    place = folder.checkpoints.latest()
    assert place is not None
    after = load_file(place.model)
    assert after.keys() == before.keys()
    still = {key for key in before if torch.equal(before[key], after[key])}
    may_move = ("image_encoder.fusion.", "text_proj.", "prompt_encoder.no_mask_embed.")
    assert {key for key in before if not key.startswith(may_move)} <= still, "what is frozen has moved"
    moved = {key for key in before if key.startswith(may_move)} - still
    # A key's bias shifts all logits of a softmax alike, and no table behind a single fused block has rows.
    stays = {key for key in before if key.startswith(may_move) and not before[key].numel()}
    stays |= {key for key in still if "fusion" in key and key.endswith("k_proj.bias")}
    assert moved | stays == {key for key in before if key.startswith(may_move)}
    model = load_trained(config, folder)
    dataset = ReferringDataset(open_dataset(config), "val", config.backbone.image_size, config.data)
    again = evaluate(model, load_tokenizer(config.text_encoder, Path()), dataset, config, torch.device("cpu"))
    pd.testing.assert_frame_equal(again, folder.expressions())

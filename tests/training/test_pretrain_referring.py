from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Outcome
from workbench.config import REFERRING_MINI, SHIPPED_STARTS, RunConfig
from workbench.errors import CheckpointError, ConfigError
from workbench.files import digest_of
from workbench.models.build import build_model
from workbench.models.fusion import variants
from workbench.training import pretrain_referring as recipe

BUILTIN = {"start_from__file": "builtin", "text_encoder__name": "bert_mini2", "text_encoder__max_tokens": 18}


def test_the_recipe_makes_weights_that_a_run_can_begin_from(
    tmp_path: Path, workbench: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, make_config: Callable[..., Any]
) -> None:
    whole = recipe.referring_config

    def small(data_root: Path, steps: int) -> RunConfig:
        document = whole(data_root, steps).model_dump()
        document["data"]["recipe"] |= {"train_images": 8, "eval_images": 4}
        return RunConfig.model_validate(document)

    monkeypatch.setattr(recipe, "referring_config", small)
    made = workbench("pretrain", "referring_mini", "--out", tmp_path, "--root", tmp_path / "data", "--steps", "2")
    assert made.code == 0, made.err
    file, report = tmp_path / "referring_mini.safetensors", json.loads((tmp_path / "referring_mini.json").read_text())
    assert load_file(file).keys() == load_file(REFERRING_MINI).keys()
    assert report["miou"].keys() == {"val", "testA", "testB", "testC"}
    assert report["config"]["training"]["freeze"]["image_encoder"] is True
    begun = {**BUILTIN, "start_from__file": str(file), "start_from__sha256": digest_of(file)}
    build_model(make_config(**begun, fusion__variant="l_dit"))


@pytest.mark.parametrize("variant", list(variants))
@pytest.mark.parametrize("start", list(SHIPPED_STARTS))
def test_shipped_weights_of_default_sam_start_every_variant(
    start: str, variant: str, make_config: Callable[..., Any]
) -> None:
    config = make_config(**{**BUILTIN, "start_from__file": start}, fusion__variant=variant)
    model, shipped = build_model(config).state_dict(), load_file(SHIPPED_STARTS[start])
    assert config.start_from.sha256 == digest_of(SHIPPED_STARTS[start])
    assert all(torch.equal(model[key], value) for key, value in shipped.items())
    assert {key.split(".")[1] for key in model.keys() - shipped.keys()} <= {"fusion"}


def test_weights_with_some_of_a_fusion_start_no_other_one(tmp_path: Path, make_config: Callable[..., Any]) -> None:
    from safetensors.torch import save_file

    state = build_model(make_config(**BUILTIN, fusion__variant="e_dit")).state_dict()
    file = tmp_path / "e_dit.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, file)
    begun = {**BUILTIN, "start_from__file": str(file), "start_from__sha256": digest_of(file)}
    with pytest.raises(CheckpointError, match="not weights of vit_mini with variant l_dit"):
        build_model(make_config(**begun, fusion__variant="l_dit"))


def test_another_digest_than_the_shipped_file_has_is_refused(make_config: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"shipped referring_mini\.safetensors has SHA-256"):
        make_config(**BUILTIN, start_from__sha256="0" * 64)

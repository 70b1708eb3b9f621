from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Outcome
from workbench.config import REFERRING_MINI, RefshapesRecipe
from workbench.data.queries import parse
from workbench.files import digest_of
from workbench.models.build import build_model
from workbench.training import pretrain_relations as relations

SMALL = RefshapesRecipe(seed=3, train_images=60, eval_images=1, version=2)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> relations.PairedExamples:
    return relations.PairedExamples(tmp_path_factory.mktemp("data"), SMALL)


def centre(mask: torch.Tensor) -> tuple[float, float]:
    rows, columns = torch.nonzero(mask, as_tuple=True)
    return float(columns.float().mean()), float(rows.float().mean())


def test_masks_and_words_of_sides_agree_also_where_they_are_mirrored(examples: relations.PairedExamples) -> None:
    batch = examples.batch(np.random.default_rng(0), 200, easy=False)
    seen = set()
    for sentence, referent, anchors in zip(batch.sentences, batch.referents, batch.anchors, strict=True):
        query = parse(sentence)
        assert bool(anchors.any()) == (query.relation is not None)
        if query.relation in ("left", "right"):
            seen.add(query.relation)
            assert (centre(referent)[0] > centre(anchors)[0]) == (query.relation == "right")
    assert seen == {"left", "right"}


def test_the_masks_lie_on_one_colour_of_their_picture(examples: relations.PairedExamples) -> None:
    batch = examples.batch(np.random.default_rng(1), 8, easy=False)
    for image, referent in zip(batch.image_of, batch.referents, strict=True):
        assert len(torch.unique(batch.pixels[image][:, referent > 0], dim=1).T) == 1


def test_easy_ones_are_nearest_to_one_anchor(examples: relations.PairedExamples) -> None:
    batch = examples.batch(np.random.default_rng(2), 8, easy=True)
    assert {parse(sentence).relation for sentence in batch.sentences} == {"nearest"}
    assert len(batch.sentences) == len(batch.anchors) == len(batch.image_of)


@pytest.mark.exhaustive
def test_the_recipe_makes_weights_that_a_run_can_begin_from(
    tmp_path: Path, workbench: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, make_config: Callable[..., Any]
) -> None:
    monkeypatch.setattr(relations, "RECIPE", replace(relations.RECIPE, train_images=40, images=2, early=2))
    made = workbench("pretrain", relations.NAME, "--out", tmp_path, "--root", tmp_path / "data", "--steps", "4")
    assert made.code == 0, made.err
    file, report = tmp_path / "relating_mini.safetensors", json.loads((tmp_path / "relating_mini.json").read_text())
    before, after = load_file(REFERRING_MINI), load_file(file)
    assert after.keys() == before.keys()
    assert report["miou"].keys() == {"relating_mini", "relating_mini_early"}
    assert all(scores.keys() == {"val", "testA", "testB", "testC"} for scores in report["miou"].values())
    early = load_file(tmp_path / "relating_mini_early.safetensors")
    assert any(not torch.equal(after[key], early[key]) for key in after)
    assert report["recipe"]["steps"] == 4
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert any(key.startswith("image_encoder.vit.blocks.0") for key in changed)
    assert any(key.startswith("mask_decoder.output_hypernetworks_mlps.1") for key in changed)
    begun = {"text_encoder__name": "bert_mini2", "text_encoder__max_tokens": 18, "fusion__variant": "e_dit"}
    build_model(make_config(**begun, start_from__file=str(file), start_from__sha256=digest_of(file)))

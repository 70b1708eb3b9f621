from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from segment_anything.modeling import Sam

from workbench.data.scenes import WORDS
from workbench.models.backbones import backbones
from workbench.training.pretrain import PretrainRecipe, build_tokenizer, pretrain_bert, pretrain_sam

RECIPE = PretrainRecipe(steps=100, batch_size=16, train_images=100)


@pytest.mark.exhaustive
def test_vit_mini_learns_and_its_file_is_an_official_state_dict(tmp_path: Path) -> None:
    losses: list[float] = []
    report = pretrain_sam(tmp_path, tmp_path, RECIPE, lambda done, total, values: losses.append(values["loss"]))
    assert len(losses) == 2
    assert losses[1] < losses[0]
    state = load_file(tmp_path / "vit_mini.safetensors")
    sam: Sam = backbones["vit_mini"].build()
    assert state.keys() == sam.state_dict().keys()
    assert json.loads((tmp_path / "vit_mini.json").read_text()) == report
    assert 0 <= report["val_miou"]["click"] <= 1


@pytest.mark.exhaustive
def test_bert_mini_learns_and_its_folder_is_a_transformers_model(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    report = pretrain_bert(tmp_path, tmp_path, RECIPE, lambda done, total, values: None)
    assert report["val_masked_accuracy"] > 2 / len(build_tokenizer(WORDS))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bert_mini")
    model = AutoModel.from_pretrained(tmp_path / "bert_mini", add_pooling_layer=False)
    with torch.inference_mode():
        out = model(**tokenizer(["the red circle"], return_tensors="pt")).last_hidden_state
    assert out.shape == (1, 5, 64)


def test_every_word_of_the_language_is_known() -> None:
    from workbench.data.scenes import WORDS

    tokenizer = build_tokenizer(WORDS)
    assert all("[UNK]" not in tokenizer.tokenize(word) and len(tokenizer.tokenize(word)) <= 2 for word in WORDS)

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Outcome
from workbench.config import SHIPPED_BERTS, RunConfig, TextEncoderConfig
from workbench.errors import CheckpointError
from workbench.models.build import check_config
from workbench.models.encoder_files import check_folder
from workbench.models.text_encoder import check_text_encoder, load_text_encoder


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    folder = tmp_path / "bert"
    shutil.copytree(SHIPPED_BERTS["bert_mini"], folder)
    return folder


def change(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("hidden_dropout_prob", 1e30, "hidden_dropout_prob: 1e+30 is not valid: input should be less than 1"),
        ("attention_probs_dropout_prob", -0.1, "attention_probs_dropout_prob: -0.1 is not valid"),
        ("hidden_size", "128", "hidden_size: '128' is not valid: input should be a valid integer"),
        ("hidden_size", -128, "hidden_size: -128 is not valid: input should be greater than or equal to 1"),
        ("hidden_size", 10**12, "hidden_size: 1000000000000 is not valid: input should be less than or equal to 65536"),
        ("num_hidden_layers", 10**9, "num_hidden_layers: 1000000000 is not valid"),
        ("vocab_size", None, "vocab_size: None is not valid"),
        ("num_attention_heads", 7, "hidden_size: "),
        ("hidden_act", "gelu_neww", "hidden_act: unknown activation 'gelu_neww'"),
        ("pad_token_id", 10**6, "pad_token_id: 1000000 is past the vocabulary of"),
        ("layer_norm_eps", 0, "layer_norm_eps: 0 is not valid"),
    ],
)
def test_a_wrong_field_is_named_with_its_file_wherever_the_encoder_is_used(
    encoder: Path, make_config: Callable[..., RunConfig], field: str, value: Any, said: str
) -> None:
    change(encoder, **{field: value})
    config = TextEncoderConfig(name=str(encoder))
    for use in (
        lambda: check_folder(encoder),
        lambda: load_text_encoder(config, Path()),
        lambda: check_text_encoder(config, Path()),
        lambda: check_config(make_config(text_encoder__name=str(encoder))),
    ):
        with pytest.raises(CheckpointError) as refused:
            use()
        assert str(encoder / "config.json") in str(refused.value)
        assert said in str(refused.value)


def test_sound_encoders_pass_and_unknown_fields_do_not_matter(encoder: Path) -> None:
    change(encoder, hidden_dropout_prob=0, classifier_dropout=None, something=[1, {"a": "b"}])
    (encoder / "gone.bin").symlink_to("nowhere")
    for folder in (encoder, *SHIPPED_BERTS.values()):
        check_folder(folder)
    assert load_text_encoder(TextEncoderConfig(name=str(encoder)), Path()).width == 64


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "vocab.txt"])
def test_a_pipe_among_its_files_does_not_make_a_plan_wait(
    encoder: Path, name: str, workbench: Callable[..., Outcome], grid_file: Callable[[str], Path], tmp_path: Path
) -> None:
    (encoder / name).unlink(missing_ok=True)
    os.mkfifo(encoder / name)
    grid = grid_file(f"  text_encoder: {{name: '{encoder}'}}\nsettings: {{a: {{}}}}\n")
    done = workbench("submit", grid, "--results", tmp_path / "results", "--dry-run")
    assert done.code == 2
    assert done.err == f"error: {grid}: setting 'a': {encoder / name}: not a file but a pipe\n"

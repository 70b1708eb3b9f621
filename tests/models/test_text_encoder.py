from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from workbench.config import TextEncoderConfig
from workbench.data.scenes import WORDS
from workbench.errors import CheckpointError
from workbench.models.text_encoder import check_text_encoder, load_text_encoder, load_tokenizer
from workbench.training.pretrain import build_tokenizer


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT directory in Hugging Face's form, three layers deep."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert") / "bert-tiny"
    tokenizer = build_tokenizer(WORDS)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
                        intermediate_size=64)  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_each_layer_s_output_is_transformers_own(bert: Path) -> None:
    tokenizer = load_tokenizer(TextEncoderConfig(name=str(bert), max_tokens=9), Path())
    ids, mask = tokenizer(["the red circle", "leftmost small thing"])
    reference = BertModel.from_pretrained(bert, add_pooling_layer=False).eval()
    with torch.inference_mode():
        states = reference(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        for layer, expected in ((1, states[1]), (2, states[2]), (3, states[3]), (None, states[3])):
            model = load_text_encoder(TextEncoderConfig(name=str(bert), layer=layer), Path()).eval()
            torch.testing.assert_close(model(ids, mask), expected, rtol=1e-5, atol=1e-5)


def test_a_directory_is_found_under_the_checkpoint_root(bert: Path) -> None:
    assert load_text_encoder(TextEncoderConfig(name=bert.name), bert.parent).width == 32


def test_sentences_become_pieces_padded_and_cut() -> None:
    tokenizer = load_tokenizer(TextEncoderConfig(max_tokens=7), Path())
    ids, mask = tokenizer(["the leftmost cross", "zebra " * 10])
    assert tokenizer.pieces(ids[0].tolist()) == ["[CLS]", "the", "left", "##most", "cross", "[SEP]", "[PAD]"]
    assert mask.tolist() == [[1, 1, 1, 1, 1, 1, 0], [1] * 7]
    assert tokenizer.pieces(ids[1].tolist())[-1] == "[SEP]"


def test_missing_and_broken_encoders_are_named(tmp_path: Path, bert: Path) -> None:
    with pytest.raises(CheckpointError, match="missing text encoder: no directory /no/such/bert"):
        load_text_encoder(TextEncoderConfig(name="/no/such/bert"), Path())
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty: not a readable text encoder"):
        check_text_encoder(TextEncoderConfig(name=str(tmp_path / "empty")), Path())
    (tmp_path / "half").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "half" / name).write_bytes((bert / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"half holds neither model\.safetensors nor"):
        check_text_encoder(TextEncoderConfig(name=str(tmp_path / "half")), Path())
    weights = (bert / "model.safetensors").read_bytes()
    (tmp_path / "half" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match=r"half.*: (not a readable|truncated)"):
        load_text_encoder(TextEncoderConfig(name=str(tmp_path / "half")), Path())


def test_a_directory_without_a_vocabulary_is_refused(tmp_path: Path, bert: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((bert / name).read_bytes())
    with pytest.raises(CheckpointError, match="tokenizer"):
        check_text_encoder(TextEncoderConfig(name=str(tmp_path)), Path())


def test_a_pin_is_checked_and_so_are_positions_and_kind(bert: Path, tmp_path: Path) -> None:
    from transformers import DistilBertConfig

    from workbench.errors import ConfigError
    from workbench.models.text_encoder import build_from_shape

    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: its SHA-256 is [0-9a-f]{64}, the configuration pins 00"
    ):
        check_text_encoder(TextEncoderConfig(name=str(bert), sha256="0" * 64), Path())
    with pytest.raises(ConfigError, match=r"text_encoder\.max_tokens: 65 is more than the encoder's 64 positions"):
        build_from_shape(TextEncoderConfig(max_tokens=65), Path())
    DistilBertConfig(dim=16, n_heads=2, n_layers=1, hidden_dim=16).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"text_encoder\.name: distilbert is not built like BERT"):
        build_from_shape(TextEncoderConfig(name=str(tmp_path)), Path())


def test_weights_of_another_model_are_refused(tmp_path: Path, bert: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(bert / "model.safetensors")
    first = next(key for key in state if "layer.0" in key)
    save_file({k: v for k, v in state.items() if k != first}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 key missing, the first .*layer\.0"):
        load_text_encoder(TextEncoderConfig(name=str(tmp_path)), Path())

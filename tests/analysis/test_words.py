from __future__ import annotations

from pathlib import Path

import pytest
import torch

from workbench.analysis.words import grouped, groups_of, spelt, words_of
from workbench.config import TextEncoderConfig
from workbench.models.text_encoder import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(TextEncoderConfig(), Path())


def test_a_word_is_all_of_its_pieces(tokenizer: Tokenizer) -> None:
    words = words_of("the leftmost  red, circle", tokenizer)
    assert [word.text for word in words] == ["the", "leftmost", "red,", "circle"]
    ids = tokenizer(["the leftmost  red, circle"])[0][0].tolist()
    for word in words:
        assert tokenizer.pieces([ids[token] for token in word.tokens]) == list(word.pieces)
        assert "".join(piece.removeprefix("##") for piece in word.pieces).replace("[UNK]", ",") == word.text
    places = [token for word in words for token in word.tokens]
    assert places == list(range(1, len(places) + 1)), "all but [CLS], [SEP] and padding, in order"


def test_what_the_model_does_not_read_is_said(tokenizer: Tokenizer) -> None:
    words = words_of("red 🙂 \u200b שלום 红圆", tokenizer)
    assert [(word.text, word.read) for word in words] == [
        ("red", "read"), ("🙂", "unknown"), ("\u200b", "skipped"), ("שלום", "unknown"), ("红", "unknown"),
        ("圆", "unknown"),
    ]  # fmt: skip
    long = words_of(" ".join(["red"] * 60), tokenizer)
    assert [word.read for word in long].count("read") == tokenizer.max_tokens - 2
    assert all(word.read == "cut" and not word.tokens for word in long[tokenizer.max_tokens - 2 :])
    assert [word.read for word in words_of("red", tokenizer)] == ["read"]


def test_words_that_are_only_spelt_are_named(tokenizer: Tokenizer) -> None:
    assert spelt(words_of("the red zebra on a x, qqq", tokenizer)) == "zebra qqq"
    assert spelt(words_of("the leftmost red circle", tokenizer)) == ""


def test_tokens_fall_into_groups_each_into_one() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    groups = {name: group.int().tolist() for name, group in groups_of(mask).items()}
    assert groups == {
        "words": [[0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 0]],
        "cls": [[1, 0, 0, 0, 0]] * 3,
        "sep": [[0, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]],
        "padding": [[0, 0, 0, 0, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]],
    }


def test_maps_of_groups_are_means_and_of_no_token_there_is_none() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    maps = torch.arange(2 * 3 * 5 * 4.0).view(2, 3, 5, 2, 2)
    means = grouped(maps, mask)
    torch.testing.assert_close(means["words"][0], maps[0, :, 1:3].mean(dim=1))
    torch.testing.assert_close(means["cls"], maps[:, :, 0])
    torch.testing.assert_close(means["sep"], torch.stack([maps[0, :, 3], maps[1, :, 1]]))
    torch.testing.assert_close(means["padding"][1], maps[1, :, 2:].mean(dim=1))
    assert means["words"][1].isnan().all(), "a sentence of [CLS] and [SEP] alone"

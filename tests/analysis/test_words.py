from __future__ import annotations

from pathlib import Path

import pytest

from workbench.analysis.words import words_of
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

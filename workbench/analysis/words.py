"""The words of a sentence, the tokens that each of them becomes, and the groups that tokens fall into."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from workbench.errors import DataError
from workbench.models.text_encoder import Tokenizer

_WORD = re.compile("[\u3400-\u9fff\uf900-\ufaff]|[^\\s\u3400-\u9fff\uf900-\ufaff]+")
"""What stands between blanks; a Chinese character is a word of its own, as it is to BERT's tokenizer."""


_WHY = {
    "unknown": "unknown to the tokenizer",
    "cut": "past the longest sentence",
    "skipped": "left out by the tokenizer",
}
JOINS = "#Ġ▁"
"""What tokenizers put before a piece to say whether it goes on with a word or begins one."""
MOST_NAMED = 5
"""Words that are named in a message."""


@dataclass(frozen=True)
class Word:
    """One word of a sentence.

    Attributes:
        tokens: the places of its word pieces in the sequence of tokens.
        pieces: its word pieces.
        read: whether the model reads it all: `cut` words lie at least in part past the longest sentence, of `skipped`
            ones the tokenizer keeps nothing, and of `unknown` ones no more than that something stands there.
    """

    text: str
    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    read: Literal["read", "unknown", "cut", "skipped"]


def shortened(text: str, most: int = 24) -> str:
    """The text in at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def check_sentence(sentence: str, tokenizer: Tokenizer) -> None:
    """DataError where a sentence is empty, no valid text, or the tokenizer keeps nothing of it."""
    if not sentence.strip():
        raise DataError("a sentence is empty")
    try:
        sentence.encode()
    except UnicodeEncodeError:
        raise DataError(f"{sentence!r}: not valid text; sentences are read as UTF-8") from None
    length, of_nothing = tokenizer.lengths([sentence, ""])
    if length <= of_nothing:
        raise DataError(f"{sentence!r}: the tokenizer keeps nothing of it, so there is no word to read")


def unread(words: Sequence[Word]) -> str:
    """Which words a model does not read as they stand, and why, in one line; empty where it reads all."""
    reasons = ((why, [word.text for word in words if word.read == read]) for read, why in _WHY.items())
    return "; ".join(f"{why}: {_first(texts)}" for why, texts in reasons if texts)


def spelt(words: Sequence[Word]) -> str:
    """Which words the tokenizer knows by their letters alone, so that a model hardly knows what they mean."""
    return _first(
        [
            word.text
            for word in words
            if word.read == "read" and len(word.pieces) > 1 and all(len(p.lstrip(JOINS)) == 1 for p in word.pieces)
        ]
    )


def _first(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - MOST_NAMED} more" if len(texts) > MOST_NAMED else ""
    return " ".join(map(shortened, texts[:MOST_NAMED])) + more


def words_of(sentence: str, tokenizer: Tokenizer) -> tuple[Word, ...]:
    """The words of a sentence, in order; errors as of `check_sentence`."""
    check_sentence(sentence, tokenizer)
    spans = tokenizer.spans(sentence)
    ids = tokenizer([sentence])[0][0].tolist()
    is_cut = tokenizer.lengths([sentence])[0] > tokenizer.max_tokens
    end = max((stop for _, stop in spans), default=0)
    unknown = tokenizer.special_id("unk")
    words = []
    for match in _WORD.finditer(sentence):
        tokens = tuple(i for i, (start, stop) in enumerate(spans) if match.start() <= start < stop <= match.end())
        read: Literal["read", "unknown", "cut", "skipped"] = "read"
        if is_cut and match.end() > end:
            read = "cut"
        elif not tokens:
            read = "skipped"
        elif all(ids[token] == unknown for token in tokens):
            read = "unknown"
        words.append(Word(match[0], tokens, tuple(tokenizer.pieces([ids[token] for token in tokens])), read))
    return tuple(words)


GROUPS = ("words", "cls", "sep", "padding")


def groups_of(mask: Tensor) -> dict[str, Tensor]:
    """Which tokens are the sentence's own words, its first one [CLS], its last one [SEP], and padding: each B×L, bool.

    Args:
        mask: B×L, not 0 at the tokens of each sentence, which come first.
    """
    place, length = torch.arange(mask.shape[1], device=mask.device)[None], (mask != 0).sum(dim=1, keepdim=True)
    first, last = place == 0, (place == length - 1) & (place > 0)
    inside = place < length
    return {"words": inside & ~first & ~last, "cls": first & inside, "sep": last, "padding": ~inside}


def grouped(maps: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Maps B×h×L×… of each token as means over the groups of `groups_of`, B×h×…; NaN where a group has no token."""
    means = {}
    for name, group in groups_of(mask).items():
        share = group.to(maps) / group.sum(dim=1, keepdim=True)
        total = torch.einsum("bhl...,bl->bh...", maps, share.nan_to_num(0.0))
        empty = ~group.any(dim=1)
        means[name] = total.masked_fill(empty.view(-1, *[1] * (total.dim() - 1)), float("nan"))
    return means

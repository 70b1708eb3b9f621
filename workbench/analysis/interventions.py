"""Changing what a model attends to while it runs, and what that does to its masks: where language acts, causally."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from workbench.errors import WorkbenchError
from workbench.models.attention import AttentionInput, attention
from workbench.models.referring_sam import ReferringSam
from workbench.models.watching import Call, Watcher, watch

Kind = Literal["hide_words", "mean_words", "swap_words", "heads_off", "heads_mean"]


class InterventionError(WorkbenchError):
    """An intervention that the model has no place for, or that changed nothing where it acts."""


@dataclass(frozen=True)
class Intervention:
    """One change at some blocks of the image encoder.

    Attributes:
        kind: hide_words: no query of these blocks (of these heads) attends to words. mean_words: all words of a block
            become their mean. swap_words: a block gets the words of another sentence, see `intervene`. heads_off,
            heads_mean: the output of these heads becomes zero, or its mean over the image's tokens.
        layers: of the encoder.
        heads: None for all of them; only hide_words and the two of heads take some.
    """

    kind: Kind
    layers: tuple[int, ...]
    heads: tuple[int, ...] | None = None

    def __str__(self) -> str:
        heads = "" if self.heads is None else f", heads {','.join(map(str, self.heads))}"
        return f"{self.kind} at layers {','.join(map(str, self.layers))}{heads}"


@dataclass(frozen=True)
class Words:
    """The words that a block got from a sentence: tokens B×L×C, and which are no padding, B×L."""

    tokens: Tensor
    mask: Tensor | None


@contextlib.contextmanager
def intervene(
    model: ReferringSam, intervention: Intervention, words: Mapping[int, Words] | None = None
) -> Iterator[None]:
    """Change every forward pass inside of the block.

    Args:
        words: by layer, of the other sentences, for swap_words; `words_of` records them.

    Raises:
        InterventionError: the model has no such block or head, no forward pass came, or some block was left unchanged.
    """
    _check(model, intervention)
    watchers: dict[int, _Changer] = {}
    with contextlib.ExitStack() as ends:
        for layer in intervention.layers:
            changer = _Changer(intervention, layer, None if words is None else words.get(layer))
            watchers[layer] = changer
            ends.callback(watch(_attention_of(model, layer), changer))
            ends.callback(watch(model.fusion, changer))
        yield
        for layer, changer in watchers.items():
            if changer.change is None:
                raise InterventionError(f"{intervention}: no forward pass came to block {layer}")
            if not changer.change > 0:
                raise InterventionError(f"{intervention}: it changed nothing at block {layer}")


@contextlib.contextmanager
def words_of(model: ReferringSam) -> Iterator[dict[int, Words]]:
    """The words that each fused block gets in a forward pass inside of the block, by layer."""
    kept: dict[int, Words] = {}
    with contextlib.ExitStack() as ends:
        for layer in model.fusion.layers:
            keeper = _Keeper(layer, kept)
            ends.callback(watch(model.fusion, keeper))
            ends.callback(watch(_attention_of(model, layer), keeper))
        yield kept


def _attention_of(model: ReferringSam, layer: int) -> nn.Module:
    module = model.image_encoder.vit.attention_of(layer)
    if module is None:
        raise InterventionError(f"block {layer}: this backbone does not let its attention be changed")
    return module


def _check(model: ReferringSam, intervention: Intervention) -> None:
    of_words = intervention.kind in ("hide_words", "mean_words", "swap_words")
    known = model.fusion.layers if of_words else tuple(range(model.image_encoder.depth))
    absent = [layer for layer in intervention.layers if layer not in known]
    if absent or not intervention.layers:
        what = "read words" if of_words else "exist"
        which = ", ".join(map(str, known)) or "none"
        raise InterventionError(f"{intervention}: the blocks that {what} in this model: {which}")
    if intervention.kind in ("mean_words", "swap_words") and intervention.heads is not None:
        raise InterventionError(f"{intervention}: words are changed for all heads; leave heads out")


class _Keeper(Watcher):
    """Keeps one block's words."""

    def __init__(self, layer: int, kept: dict[int, Words]) -> None:
        self.layer, self.kept = layer, kept

    def tokens(self, place: int, tokens: Tensor) -> Tensor:
        if place == self.layer:
            self.kept[place] = Words(tokens.detach(), None)
        return tokens

    def before(self, call: Call) -> Call:
        windows = call.windows.count if call.windows else 1
        mask = call.inputs.text_mask
        if self.layer in self.kept and mask is not None:
            self.kept[self.layer] = replace(self.kept[self.layer], mask=mask[::windows])
        return call


class _Changer(Watcher):
    """One block's part of an intervention; `change` is the largest that it has made, None before any call."""

    def __init__(self, intervention: Intervention, layer: int, words: Words | None) -> None:
        self.intervention, self.layer, self.words = intervention, layer, words
        self.change: float | None = None

    def tokens(self, place: int, tokens: Tensor) -> Tensor:
        """The block's words, changed."""
        if place != self.layer or self.intervention.kind not in ("mean_words", "swap_words"):
            return tokens
        if self.intervention.kind == "mean_words":
            return self._noted(tokens, tokens.mean(dim=1, keepdim=True).expand_as(tokens))
        if self.words is None or self.words.tokens.shape != tokens.shape:
            raise InterventionError(f"{self.intervention}: the words of {len(tokens)} other sentences are needed")
        return self._noted(tokens, self.words.tokens)

    def before(self, call: Call) -> Call:
        """With another sentence's words, its padding."""
        mask = None if self.words is None else self.words.mask
        if self.intervention.kind != "swap_words" or mask is None:
            return call
        windows = call.windows.count if call.windows else 1
        return replace(call, inputs=replace(call.inputs, text_mask=mask.repeat_interleave(windows, dim=0)))

    def after(self, call: Call, out: Tensor) -> Tensor:
        """The output with some heads changed."""
        kind, count = self.intervention.kind, out.shape[1]
        if kind in ("mean_words", "swap_words"):
            return out
        heads = list(range(count) if self.intervention.heads is None else self.intervention.heads)
        if any(not 0 <= head < count for head in heads):
            raise InterventionError(f"{self.intervention}: block {self.layer} has heads 0 to {count - 1}")
        changed = out.clone()
        if kind == "heads_off":
            changed[:, heads] = 0
        elif kind == "heads_mean":
            changed[:, heads] = out[:, heads].mean(dim=2, keepdim=True)
        else:
            changed[:, heads] = attention(_without_words(call.inputs, heads))
        return self._noted(out, changed)

    def _noted(self, before: Tensor, after: Tensor) -> Tensor:
        self.change = max(self.change or 0.0, float((after.detach() - before.detach()).abs().max()))
        return after


def _without_words(inputs: AttentionInput, heads: Sequence[int]) -> AttentionInput:
    """Some heads of an attention, with every word hidden."""
    hidden = torch.zeros(len(inputs.k), inputs.text_length, dtype=torch.bool, device=inputs.k.device)
    q, k, v = (x[:, list(heads)] for x in (inputs.q, inputs.k, inputs.v))
    return replace(inputs, q=q, k=k, v=v, text_mask=hidden, see=None)

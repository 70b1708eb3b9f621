"""Changing what a model attends to while it runs, and what that does to its masks: where language acts, causally."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from workbench.analysis.kept_maps import DECODER
from workbench.errors import WorkbenchError
from workbench.models.attention import AttentionInput, attention
from workbench.models.referring_sam import ReferringSam
from workbench.models.watching import Call, Watcher, watch

Kind = Literal["hide_words", "mean_words", "swap_words", "heads_off", "heads_mean"]
OF_WORDS: tuple[Kind, ...] = ("hide_words", "mean_words", "swap_words")
OF_HEADS: tuple[Kind, ...] = ("hide_words", "heads_off", "heads_mean")
OF_TOKENS: tuple[Kind, ...] = ("mean_words", "swap_words")
"""Those that change what blocks read of the words, those that some heads alone can be changed by, and those that change
the words themselves."""
ROUNDING = {torch.float16: 1, torch.bfloat16: 1}
"""In units of a number format's precision (8 for others), the relative change that two kernels may differ by."""


class InterventionError(WorkbenchError):
    """An intervention that the model has no place for, or that changed nothing where it acts."""


@dataclass(frozen=True)
class Intervention:
    """One change at some blocks of the image encoder.

    Attributes:
        kind: hide_words: no query of these blocks (of these heads) attends to words. mean_words: all words of a block
            become their mean. swap_words: a block gets the words of another sentence, see `intervene`. heads_off,
            heads_mean: the output of these heads becomes zero, or its mean over the image's tokens. Where words evolve
            from block to block, what a block made of changed words goes on to the blocks after it.
        layers: of the encoder; or DECODER alone, which `causal_map` takes, and `intervene` does not.
        heads: None for all of them; only hide_words and the two of heads take some.
    """

    kind: Kind
    layers: tuple[int, ...]
    heads: tuple[int, ...] | None = None

    def __str__(self) -> str:
        if self.layers == (DECODER,):
            return f"{self.kind} in the mask decoder"
        heads = "" if self.heads is None else f", heads {','.join(map(str, self.heads))}"
        return f"{self.kind} at layers {','.join(map(str, self.layers))}{heads}"


@dataclass(frozen=True)
class Words:
    """The words that a block got from a sentence: tokens B×L×C, and which are no padding, B×L."""

    tokens: Tensor
    mask: Tensor | None


class Effects:
    """How much an intervention changed where it acts.

    Attributes:
        by_layer: the largest change of any number there, as a fraction of the largest number; 0 for what rounding
            explains, None before any forward pass. Where words evolve, those that were changed before arrive changed:
            a block has at least the change of those before it.
    """

    def __init__(self, intervention: Intervention) -> None:
        self.intervention = intervention
        self.by_layer: dict[int, float | None] = dict.fromkeys(intervention.layers)

    def note(self, layer: int, before: Tensor, after: Tensor, evolved: bool = False) -> None:
        """Take in one more change; `evolved`: of words that come from the blocks before."""
        size = float(torch.maximum(before.detach().abs().max(), after.detach().abs().max()))
        change = float((after.detach() - before.detach()).abs().max()) / (size or 1.0)
        noise = ROUNDING.get(before.dtype, 8) * torch.finfo(before.dtype).eps
        earlier = [one or 0.0 for other, one in self.by_layer.items() if other < layer] if evolved else []
        self.by_layer[layer] = max(self.by_layer[layer] or 0.0, change if change > noise else 0.0, *earlier)

    def check(self) -> None:
        """InterventionError where no forward pass came to a block, or the block was left unchanged."""
        for layer, change in self.by_layer.items():
            where = "there" if layer == DECODER else f"at block {layer}"
            if change is None:
                raise InterventionError(f"{self.intervention}: no forward pass came {where.replace('at', 'to')}")
            if change == 0:
                raise InterventionError(f"{self.intervention}: it changed nothing {where}")


@contextlib.contextmanager
def intervene(
    model: ReferringSam,
    intervention: Intervention,
    words: Mapping[int, Words] | None = None,
    text_mask: Tensor | None = None,
    effects: Effects | None = None,
) -> Iterator[Effects]:
    """Change every forward pass inside of the block.

    Args:
        words: by layer, of the other sentences, for swap_words; `words_of` records them.
        text_mask: B×L, True at words, for mean_words: padding has no part in their mean. None: all tokens have.
        effects: of several such blocks together, which the caller then checks; None: this block alone, checked at its
            end.

    Raises:
        InterventionError: the model has no such block or head, no forward pass came, or some block was left unchanged.
    """
    check(model, intervention)
    noted = Effects(intervention) if effects is None else effects
    with contextlib.ExitStack() as ends:
        for layer in intervention.layers:
            swapped = None if words is None else words.get(layer)
            changer = _Changer(intervention, layer, swapped, text_mask, noted, model.fusion.evolves)
            ends.callback(watch(_attention_of(model, layer), changer))
            ends.callback(watch(model.fusion, changer))
        for layer, before in _evolving(model, intervention, words).items():
            ends.callback(watch(_attention_of(model, layer), _PaddingOf(before)))
        yield noted
        if effects is None:
            noted.check()


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


def _evolving(model: ReferringSam, intervention: Intervention, words: Mapping[int, Words] | None) -> dict[int, Words]:
    """The blocks to which words that were swapped before go on, with these words: their padding is at other places."""
    if intervention.kind != "swap_words" or words is None or not model.fusion.evolves:
        return {}
    by_layer: dict[int, Words] = {}
    for layer in model.fusion.layers:
        before = [swapped for swapped in intervention.layers if swapped < layer and swapped in words]
        if before and layer not in intervention.layers:
            by_layer[layer] = words[max(before)]
    return by_layer


def check(model: ReferringSam, intervention: Intervention) -> None:
    """InterventionError where a model has no place for an intervention; names the blocks that have one."""
    of_words = intervention.kind in OF_WORDS
    known = model.fusion.layers if of_words else tuple(range(model.image_encoder.depth))
    absent = [layer for layer in intervention.layers if layer not in known]
    if absent or not intervention.layers:
        what = "read words" if of_words else "exist"
        which = ", ".join(map(str, known)) or "none"
        raise InterventionError(f"{intervention}: the blocks that {what} in this model: {which}")
    if intervention.kind not in OF_HEADS and intervention.heads is not None:
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


class _PaddingOf(Watcher):
    """Hides the padding of another sentence in place of the own one's."""

    def __init__(self, words: Words | None) -> None:
        self.mask = None if words is None else words.mask

    def before(self, call: Call) -> Call:
        """The call with the other sentence's mask."""
        if self.mask is None:
            return call
        windows = call.windows.count if call.windows else 1
        return replace(call, inputs=replace(call.inputs, text_mask=self.mask.repeat_interleave(windows, dim=0)))


class _Changer(_PaddingOf):
    """One block's part of an intervention."""

    def __init__(
        self,
        intervention: Intervention,
        layer: int,
        words: Words | None,
        text_mask: Tensor | None,
        effects: Effects,
        evolves: bool,
    ) -> None:
        super().__init__(words if intervention.kind == "swap_words" else None)
        self.intervention, self.layer, self.words = intervention, layer, words
        self.text_mask, self.effects, self.evolves = text_mask, effects, evolves

    def tokens(self, place: int, tokens: Tensor) -> Tensor:
        """The block's words, changed."""
        if place != self.layer or self.intervention.kind not in OF_TOKENS:
            return tokens
        if self.intervention.kind == "mean_words":
            return self._noted(tokens, mean_of_words(tokens, self.text_mask))
        if self.words is None or self.words.tokens.shape != tokens.shape:
            raise InterventionError(f"{self.intervention}: the words of {len(tokens)} other sentences are needed")
        return self._noted(tokens, self.words.tokens)

    def after(self, call: Call, out: Tensor) -> Tensor:
        """The output with some heads changed."""
        kind, count = self.intervention.kind, out.shape[1]
        if kind in OF_TOKENS:
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
        self.effects.note(self.layer, before, after, self.evolves and self.intervention.kind in OF_TOKENS)
        return after


def mean_of_words(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """All tokens B×L×C as their mean over those that are no padding."""
    if mask is None:
        return tokens.mean(dim=1, keepdim=True).expand_as(tokens)
    share = mask[..., None].to(tokens.dtype)
    return ((tokens * share).sum(dim=1, keepdim=True) / share.sum(dim=1, keepdim=True)).expand_as(tokens)


def _without_words(inputs: AttentionInput, heads: Sequence[int]) -> AttentionInput:
    """Some heads of an attention, with every word hidden."""
    hidden = torch.zeros(len(inputs.k), inputs.text_length, dtype=torch.bool, device=inputs.k.device)
    q, k, v = (x[:, list(heads)] for x in (inputs.q, inputs.k, inputs.v))
    return replace(inputs, q=q, k=k, v=v, text_mask=hidden, see=None)

"""Attention over `[text | image]` with SAM's decomposed relative positions on the image–image part.

One function, several exact implementations of the same logits, all equal to `eager`; `attention_policy` says which
runs where.
Shape suffixes: B batch, h heads, L text tokens, N = H·W image tokens, d head width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.models.attention_policy import choose
from workbench.models.chunked_attention import Grid, See, chunked_attention
from workbench.models.determinism import must_be_deterministic
from workbench.registry import Registry


@dataclass(frozen=True)
class AttentionInput:
    """Everything one attention needs.

    Queries, keys and values are ordered text first; `q` may lack the text rows (when their output is not used).

    Attributes:
        q: B×h×Q×d, Q = N, or L + N. Not yet scaled.
        k, v: B×h×(L+N)×d.
        grid: (H, W) of the image tokens.
        relative_h: H×H×d table row R_h[i−i'] of every pair of rows, or None for no relative positions.
        relative_w: W×W×d, the same for columns.
        text_mask: B×L, True at words and False at padding; None attends to all of the text.
        see: called with the attention weights, part by part, by implementations that make them (`SHOWS_WEIGHTS`).
    """

    q: Tensor
    k: Tensor
    v: Tensor
    grid: Grid
    relative_h: Tensor | None = None
    relative_w: Tensor | None = None
    text_mask: Tensor | None = None
    see: See | None = None

    @property
    def scale(self) -> float:
        """1/√d."""
        return float(self.q.shape[-1] ** -0.5)

    @property
    def text_length(self) -> int:
        """L: keys that are not image tokens."""
        return self.k.shape[2] - self.grid[0] * self.grid[1]

    @property
    def text_queries(self) -> int:
        """Text rows among the queries: L or 0."""
        return self.q.shape[2] - self.grid[0] * self.grid[1]


Implementation = Callable[[AttentionInput], Tensor]
implementations: Registry[Implementation] = Registry("attention implementation", "attention")
FORWARD_ONLY_ON_CPU = frozenset({"flex"})
"""Implementations without a backward pass on the CPU."""
UNORDERED_ON_GPU = frozenset({"flex", "sdpa"})
"""Implementations whose gradients of the bias a GPU sums in no fixed order."""
SHOWS_WEIGHTS = frozenset({"eager", "chunked"})
"""Implementations that make the attention weights, and show them to `AttentionInput.see`."""


def attention(inputs: AttentionInput, implementation: str | None = None) -> Tensor:
    """softmax(q·kᵀ/√d + relative positions) · v, B×h×Q×d.

    Args:
        implementation: one of `implementations`; None: as the policy says (`attention_policy.choose`).
    """
    if inputs.relative_h is not None and inputs.relative_h.dtype != inputs.q.dtype:  # under autocast
        assert inputs.relative_w is not None
        tables = (inputs.relative_h.to(inputs.q.dtype), inputs.relative_w.to(inputs.q.dtype))
        inputs = replace(inputs, relative_h=tables[0], relative_w=tables[1])
    return implementations[implementation or _chosen(inputs)](inputs)


def _chosen(inputs: AttentionInput) -> str:
    if inputs.relative_h is None and inputs.text_mask is None:
        return "sdpa"
    q = inputs.q
    gradient = torch.is_grad_enabled() and (q.requires_grad or inputs.k.requires_grad or inputs.v.requires_grad)
    name: str = _constant_choice(q.device.type, str(q.dtype).removeprefix("torch."), gradient, inputs.k.shape[2])
    if gradient and name in UNORDERED_ON_GPU and must_be_deterministic(q.device):
        return "augmented"
    return name


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _constant_choice(device: str, dtype: str, gradient: bool, tokens: int) -> str:
    """`choose`, which reads a file, so torch.compile must not trace it."""
    return choose(device, dtype, gradient, tokens)


def relative_position_terms(inputs: AttentionInput, grid_rows: slice | None = None) -> tuple[Tensor, Tensor]:
    """q·R_h and q·R_w of the image queries in some rows of the grid (None: all): B×h×rows×W×H and B×h×rows×W×W."""
    assert inputs.relative_h is not None
    assert inputs.relative_w is not None
    height, width = inputs.grid
    batch, heads, _, depth = inputs.q.shape
    rows = slice(0, height) if grid_rows is None else grid_rows
    text = inputs.text_queries
    q = inputs.q[:, :, text + rows.start * width : text + rows.stop * width]
    q = q.reshape(batch, heads, rows.stop - rows.start, width, depth)
    terms_h = torch.einsum("bnhwd,hkd->bnhwk", q, inputs.relative_h[rows])
    terms_w = torch.einsum("bnhwd,wkd->bnhwk", q, inputs.relative_w)
    return terms_h, terms_w


def additive_mask(inputs: AttentionInput, queries: slice | None = None) -> Tensor | None:
    """Everything that is added to the scaled logits of some queries (None: of all), made for those alone.

    Returns:
        Broadcastable to B×h×queries×(L+N); None when nothing is added.
    """
    bias: Tensor | None = None
    if inputs.relative_h is not None:
        bias = _relative_bias(inputs, queries or slice(0, inputs.q.shape[2]))
    if inputs.text_mask is not None:
        tokens = inputs.k.shape[2]
        blocked = torch.zeros(len(inputs.text_mask), 1, 1, tokens, dtype=inputs.q.dtype, device=inputs.q.device)
        blocked[..., : inputs.text_length].masked_fill_(~inputs.text_mask[:, None, None], float("-inf"))
        bias = blocked if bias is None else bias + blocked
    return bias


def _relative_bias(inputs: AttentionInput, queries: slice) -> Tensor:
    """The relative positions' part of the bias, B×h×queries×(L+N), zero where a query or key is text."""
    width, text = inputs.grid[1], inputs.text_queries
    start, stop = max(0, queries.start - text), max(0, queries.stop - text)
    rows = slice(start // width, -(-stop // width))
    terms_h, terms_w = relative_position_terms(inputs, rows)
    bias = (terms_h[..., :, None] + terms_w[..., None, :]).flatten(4, 5).flatten(2, 3)
    bias = bias[:, :, start - rows.start * width : stop - rows.start * width]
    return F.pad(bias, (inputs.text_length, 0, max(0, min(text, queries.stop) - queries.start), 0))


def weights(inputs: AttentionInput, queries: slice | None = None) -> Tensor:
    """The attention weights of some queries (None: of all), B×h×queries×(L+N); nothing larger is made."""
    q = inputs.q if queries is None else inputs.q[:, :, queries]
    logits = (q * inputs.scale) @ inputs.k.transpose(-2, -1)
    bias = additive_mask(inputs, queries)
    return (logits if bias is None else logits + bias).softmax(dim=-1)


@implementations.register("eager")
def eager(inputs: AttentionInput) -> Tensor:
    """The reference: the whole matrix of logits, the bias added to it."""
    attention_weights = weights(inputs)
    if inputs.see is not None:
        seen = attention_weights.detach().flatten(0, 1)
        inputs.see(slice(0, len(seen)), slice(0, seen.shape[1]), seen)
    return attention_weights @ inputs.v


@implementations.register("sdpa")
def sdpa(inputs: AttentionInput) -> Tensor:
    """PyTorch's fused attention with the bias as its mask."""
    return F.scaled_dot_product_attention(
        inputs.q, inputs.k, inputs.v, attn_mask=additive_mask(inputs), scale=inputs.scale
    )


@implementations.register("augmented")
def augmented(inputs: AttentionInput) -> Tensor:
    """The bias as extra dimensions of q and k, so that a fused kernel without a mask computes everything.

    q' = [q/√d, q·R_h, q·R_w] and k' = [k, onehot(row), onehot(column)] have the logits as their product. A softmax
    ignores what is added to a whole row, so the last row's and the last column's term is taken from every key: two
    dimensions are saved, and with text one is added for the difference at the words. One more hides padding.
    At 32×32 tokens with heads of 64 that is 128, the most that some fused backward passes take.
    """
    extra_q, extra_k = _extra_dimensions(inputs)
    q, k, v = torch.cat([inputs.q * inputs.scale, *extra_q], -1), torch.cat([inputs.k, *extra_k], -1), inputs.v
    # The fused kernels want equal widths of q, k and v, in multiples of 8.
    aligned = -(-q.shape[-1] // 8) * 8
    q, k, v = (x if x.shape[-1] == aligned else F.pad(x, (0, aligned - x.shape[-1])) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., : inputs.v.shape[-1]]


def _extra_dimensions(inputs: AttentionInput) -> tuple[list[Tensor], list[Tensor]]:
    k, words, (height, width) = inputs.k, inputs.text_length, inputs.grid
    extra_q: list[Tensor] = []
    extra_k: list[Tensor] = []
    if inputs.relative_h is not None:
        terms_h, terms_w = (t.flatten(2, 3) for t in relative_position_terms(inputs))
        last_h, last_w = terms_h[..., -1:], terms_w[..., -1:]
        parts = [terms_h[..., :-1] - last_h, terms_w[..., :-1] - last_w]
        rows = torch.eye(height, dtype=k.dtype, device=k.device)[:, :-1].repeat_interleave(width, dim=0)
        columns = torch.eye(width, dtype=k.dtype, device=k.device)[:, :-1].repeat(height, 1)
        places = F.pad(torch.cat([rows, columns], dim=1), (0, 0, words, 0))
        if words:
            parts.append(-(last_h + last_w))
            is_word = torch.arange(len(places), device=k.device)[:, None] < words
            places = torch.cat([places, is_word.to(k.dtype)], dim=1)
        extra_q.append(F.pad(torch.cat(parts, dim=-1), (0, 0, inputs.text_queries, 0)))
        extra_k.append(places.expand(*k.shape[:2], -1, -1))
    if inputs.text_mask is not None:
        # A finite number: -inf times zero would be NaN. exp(-30000) is 0 in every floating type.
        hidden = torch.where(inputs.text_mask, 0.0, -30000.0).to(k.dtype)
        column = F.pad(hidden, (0, height * width))[:, None, :, None]
        extra_k.append(column.expand(-1, k.shape[1], -1, -1))
        extra_q.append(torch.ones_like(inputs.q[..., :1]))
    return extra_q, extra_k


@implementations.register("chunked")
@torch.compiler.disable  # type: ignore[untyped-decorator]
def chunked(inputs: AttentionInput) -> Tensor:
    """A few heads and grid rows of queries at a time, so that a chunk's logits stay in the processor's cache.

    The backward pass computes each chunk again from q and k, so memory grows with N, not with N².
    """
    return chunked_attention(
        inputs.q, inputs.k, inputs.v, inputs.relative_h, inputs.relative_w, inputs.grid, inputs.text_mask, inputs.see
    )


@implementations.register("flex")
def flex(inputs: AttentionInput) -> Tensor:
    """PyTorch's FlexAttention with the bias as its score function; compiled on a GPU, forward only on the CPU."""
    from torch.nn.attention.flex_attention import flex_attention

    if not torch.is_grad_enabled():  # flex_attention checks each tensor, not the grad mode
        tensors: Any = {name: value.detach() for name, value in vars(inputs).items() if isinstance(value, Tensor)}
        inputs = replace(inputs, **tensors)
    terms = None if inputs.relative_h is None else tuple(t.flatten(2, 3) for t in relative_position_terms(inputs))
    words, text_queries, mask, width = inputs.text_length, inputs.text_queries, inputs.text_mask, inputs.grid[1]

    def score(logit: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        place, seen = query - text_queries, key - words
        if terms is not None:
            of, at = place.clamp(min=0), seen.clamp(min=0)
            bias = terms[0][b, h, of, at // width] + terms[1][b, h, of, at % width]
            logit = torch.where((place >= 0) & (seen >= 0), logit + bias, logit)
        if mask is not None:
            hidden = (seen < 0) & ~mask[b, key.clamp(max=words - 1)]
            logit = torch.where(hidden, -float("inf"), logit)
        return logit

    run: Any = _compiled_flex() if inputs.q.device.type == "cuda" else flex_attention
    out: Tensor = run(inputs.q, inputs.k, inputs.v, score_mod=score, scale=inputs.scale)
    return out


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)

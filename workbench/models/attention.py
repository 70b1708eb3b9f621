"""Attention over `[text | image]` with SAM's decomposed relative positions on the image–image part.

One function, several exact implementations of the same logits, all equal to `eager`; `choose` says which runs where.
Shape suffixes: B batch, h heads, L text tokens, N = H·W image tokens, d head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.registry import Registry

Grid = tuple[int, int]


@dataclass(frozen=True)
class AttentionInput:
    """Everything one attention needs.

    Queries, keys and values are ordered text first; `q` may lack the text rows (when nobody reads their output).

    Attributes:
        q: B×h×Q×d, Q = N, or L + N. Not yet scaled.
        k, v: B×h×(L+N)×d.
        grid: (H, W) of the image tokens.
        relative_h: H×H×d table row R_h[i−i'] of every pair of rows, or None for no relative positions.
        relative_w: W×W×d, the same for columns.
        text_mask: B×L, True at words and False at padding; None attends to all of the text.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    grid: Grid
    relative_h: Tensor | None = None
    relative_w: Tensor | None = None
    text_mask: Tensor | None = None

    @property
    def scale(self) -> float:
        """1/√d."""
        return float(self.q.shape[-1] ** -0.5)

    @property
    def text_length(self) -> int:
        """L: keys that are no image tokens."""
        return self.k.shape[2] - self.grid[0] * self.grid[1]

    @property
    def text_queries(self) -> int:
        """Text rows among the queries: L or 0."""
        return self.q.shape[2] - self.grid[0] * self.grid[1]


Implementation = Callable[[AttentionInput], Tensor]
implementations: Registry[Implementation] = Registry("attention implementation", "attention")


def attention(inputs: AttentionInput, implementation: str | None = None) -> Tensor:
    """softmax(q·kᵀ/√d + relative positions) · v, B×h×Q×d.

    Args:
        implementation: one of `implementations`; None takes what `choose` says.
    """
    return implementations[implementation or choose(inputs)](inputs)


def choose(inputs: AttentionInput) -> str:
    """The implementation to use; a function of shape and device alone, so a run never changes it half-way."""
    tokens = inputs.k.shape[2]
    if inputs.relative_h is None and inputs.text_mask is None:
        return "sdpa"
    return "eager" if tokens <= 256 and inputs.q.device.type == "cpu" else "augmented"


def relative_position_terms(inputs: AttentionInput) -> tuple[Tensor, Tensor]:
    """q·R_h and q·R_w of the image queries: B×h×H×W×H and B×h×H×W×W."""
    assert inputs.relative_h is not None
    assert inputs.relative_w is not None
    height, width = inputs.grid
    batch, heads, _, depth = inputs.q.shape
    q = inputs.q[:, :, inputs.text_queries :].reshape(batch, heads, height, width, depth)
    terms_h = torch.einsum("bnhwd,hkd->bnhwk", q, inputs.relative_h)
    terms_w = torch.einsum("bnhwd,wkd->bnhwk", q, inputs.relative_w)
    return terms_h, terms_w


def additive_mask(inputs: AttentionInput) -> Tensor | None:
    """All that is added to the scaled logits, broadcastable to B×h×Q×(L+N); None when nothing is."""
    bias: Tensor | None = None
    if inputs.relative_h is not None:
        terms_h, terms_w = relative_position_terms(inputs)
        image_bias = (terms_h[..., :, None] + terms_w[..., None, :]).flatten(4, 5).flatten(2, 3)
        bias = F.pad(image_bias, (inputs.text_length, 0, inputs.text_queries, 0))
    if inputs.text_mask is not None:
        tokens = inputs.k.shape[2]
        blocked = torch.zeros(len(inputs.text_mask), 1, 1, tokens, dtype=inputs.q.dtype, device=inputs.q.device)
        blocked[..., : inputs.text_length].masked_fill_(~inputs.text_mask[:, None, None], float("-inf"))
        bias = blocked if bias is None else bias + blocked
    return bias


@implementations.register("eager")
def eager(inputs: AttentionInput) -> Tensor:
    """The reference: the whole matrix of logits, the bias added to it."""
    logits = (inputs.q * inputs.scale) @ inputs.k.transpose(-2, -1)
    bias = additive_mask(inputs)
    return (logits if bias is None else logits + bias).softmax(dim=-1) @ inputs.v


@implementations.register("sdpa")
def sdpa(inputs: AttentionInput) -> Tensor:
    """PyTorch's fused attention with the bias as its mask."""
    return F.scaled_dot_product_attention(
        inputs.q, inputs.k, inputs.v, attn_mask=additive_mask(inputs), scale=inputs.scale
    )


@implementations.register("augmented")
def augmented(inputs: AttentionInput) -> Tensor:
    """The bias as extra dimensions of q and k, so that no N×N matrix is ever made.

    q' = [q/√d, q·R_h, q·R_w, 1] and k' = [k, onehot(row), onehot(column), mask]: the same logits from one product.
    """
    q, k, v, height, width = inputs.q * inputs.scale, inputs.k, inputs.v, *inputs.grid
    extra_q, extra_k = [], []
    if inputs.relative_h is not None:
        terms = [t.flatten(2, 3) for t in relative_position_terms(inputs)]
        extra_q += [F.pad(t, (0, 0, inputs.text_queries, 0)) for t in terms]
        rows = torch.eye(height, dtype=k.dtype, device=k.device).repeat_interleave(width, dim=0)
        columns = torch.eye(width, dtype=k.dtype, device=k.device).repeat(height, 1)
        places = F.pad(torch.cat([rows, columns], dim=1), (0, 0, inputs.text_length, 0))
        extra_k.append(places.expand(*k.shape[:2], -1, -1))
    if inputs.text_mask is not None:
        # A finite number: -inf times zero would be NaN. exp(-30000) is 0 in every floating type.
        blocked = torch.where(inputs.text_mask, 0.0, -30000.0).to(k.dtype)
        column = F.pad(blocked, (0, height * width))[:, None, :, None]
        extra_k.append(column.expand(-1, k.shape[1], -1, -1))
        extra_q.append(torch.ones_like(q[..., :1]))
    q, k = torch.cat([q, *extra_q], dim=-1), torch.cat([k, *extra_k], dim=-1)
    # The fused kernels want equal widths of q, k and v, in multiples of 8.
    aligned = -(-q.shape[-1] // 8) * 8
    q, k = F.pad(q, (0, aligned - q.shape[-1])), F.pad(k, (0, aligned - k.shape[-1]))
    v_padded = F.pad(v, (0, aligned - v.shape[-1]))
    return F.scaled_dot_product_attention(q, k, v_padded, scale=1.0)[..., : v.shape[-1]]

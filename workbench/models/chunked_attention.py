"""Attention whose logits never leave the processor's cache; `attention` says when it runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Grid = tuple[int, int]
Tables = tuple[Tensor, Tensor] | None

CHUNK_ELEMENTS = 250_000
"""Logits per chunk and thread: 1 MB in fp32, half of a core's own cache."""
CHUNK_QUERIES = 512
"""Queries per chunk; with fewer, the matrix product would pack the keys too often."""


def chunked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    relative_h: Tensor | None,
    relative_w: Tensor | None,
    grid: Grid,
    text_mask: Tensor | None,
) -> Tensor:
    """softmax(q·kᵀ/√d + relative positions) · v, B×h×Q×d, a few heads and grid rows of queries at a time.

    Args:
        q, k, v, relative_h, relative_w, grid, text_mask: see `attention.AttentionInput`.
    """
    with torch.autocast(q.device.type, enabled=False):
        out: Tensor = _Chunked.apply(q, k, v, relative_h, relative_w, grid, text_mask)
    return out


class _Chunked(torch.autograd.Function):
    """See `chunked_attention`. All tensors have images and heads in one dimension here: G = B·h."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        relative_h: Tensor | None,
        relative_w: Tensor | None,
        grid: Grid,
        text_mask: Tensor | None,
    ) -> Tensor:
        heads = _Heads(q, k, v, _tables(relative_h, relative_w), grid, text_mask)
        out = torch.empty_like(heads.q, memory_format=torch.contiguous_format)
        for part in heads.parts():
            for chunk in part.chunks():
                out[part.heads, chunk.queries] = part.weights(chunk) @ part.v
        out = out.view(q.shape)
        ctx.save_for_backward(q, k, v, relative_h, relative_w, text_mask, out)
        ctx.grid = grid
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, relative_h, relative_w, text_mask, out = ctx.saved_tensors
        heads = _Heads(q, k, v, _tables(relative_h, relative_w), ctx.grid, text_mask)
        row_sums = (d_out * out).sum(dim=-1, keepdim=True, dtype=_accumulator(q)).flatten(0, 1)
        d_out = d_out.flatten(0, 1).contiguous()
        d_q, d_k, d_v = (
            torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (heads.q, heads.k, heads.v)
        )
        d_tables = [torch.zeros_like(t, dtype=_accumulator(q)) for t in heads.tables or ()]
        for part in heads.parts():
            d_terms = None if part.terms is None else tuple(torch.empty_like(t) for t in part.terms)
            for chunk in part.chunks():
                weights, d_chunk = part.weights(chunk), d_out[part.heads, chunk.queries]
                d_v[part.heads] += weights.transpose(-2, -1) @ d_chunk
                d_logits = (d_chunk @ part.v.transpose(-2, -1)).to(row_sums.dtype)
                d_logits = d_logits.sub_(row_sums[part.heads, chunk.queries]).mul_(weights)
                narrow = d_logits.to(q.dtype)
                d_q[part.heads, chunk.queries] = narrow @ part.k
                d_k[part.heads] += narrow.transpose(-2, -1) @ part.q[:, chunk.queries]
                if d_terms is not None and chunk.rows is not None:
                    places = part.image_block(d_logits, chunk)
                    d_terms[0][:, chunk.rows] = places.sum(dim=-1)
                    d_terms[1][:, chunk.rows] = places.sum(dim=-2)
            d_q[part.heads] *= heads.scale
            d_k[part.heads] *= heads.scale
            if d_terms is not None:
                d_image, *d_both = part.terms_backward(d_terms)
                d_q[part.heads, heads.text_queries :] += d_image
                for total, new in zip(d_tables, d_both, strict=True):
                    total += new
        d_q, d_k, d_v = (d.unflatten(0, q.shape[:2]) for d in (d_q, d_k, d_v))
        d_h, d_w = (d.to(q.dtype) for d in d_tables) if d_tables else (None, None)
        return d_q, d_k, d_v, d_h, d_w, None, None


def _tables(relative_h: Tensor | None, relative_w: Tensor | None) -> Tables:
    return None if relative_h is None or relative_w is None else (relative_h, relative_w)


@dataclass(frozen=True)
class _Chunk:
    """Some queries: all of the text's (`rows` is None), or those of some rows of the grid."""

    queries: slice
    rows: slice | None


class _Heads:
    """An attention's images and heads in one dimension, to be cut into parts."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, tables: Tables, grid: Grid, text_mask: Tensor | None) -> None:
        self.scale = q.shape[-1] ** -0.5
        self.q, self.k, self.v = (x.flatten(0, 1) for x in (q, k, v))
        self.grid, self.tables = grid, tables
        self.words = k.shape[2] - grid[0] * grid[1]
        self.text_queries = q.shape[2] - grid[0] * grid[1]
        self.hidden = None if text_mask is None else ~text_mask.repeat_interleave(q.shape[1], dim=0)[:, None]
        width = grid[1]
        self.rows = min(grid[0], -(-CHUNK_QUERIES // width))
        self.elements = CHUNK_ELEMENTS * torch.get_num_threads()
        self._room = self.q.new_empty(0, dtype=_accumulator(self.q))

    def parts(self) -> Iterator[_Part]:
        """As many heads at a time as fit the cache with one chunk of rows."""
        step = max(1, self.elements // (self.rows * self.grid[1] * self.k.shape[1]))
        for start in range(0, len(self.q), step):
            yield _Part(self, slice(start, min(start + step, len(self.q))))

    def room(self, heads: int, queries: int) -> Tensor:
        """Space for a chunk's logits; the same at every call, so that it stays in the cache."""
        size = (heads, queries, self.k.shape[1])
        if self._room.numel() < math.prod(size):
            self._room = self.q.new_empty(math.prod(size), dtype=_accumulator(self.q))
        room: Tensor = self._room[: math.prod(size)]
        return room.view(size)


class _Part:
    """Some heads, and what their chunks share."""

    def __init__(self, whole: _Heads, heads: slice) -> None:
        self.whole, self.heads = whole, heads
        self.q, self.k, self.v = whole.q[heads], whole.k[heads], whole.v[heads]
        self.hidden = None if whole.hidden is None else whole.hidden[heads]
        self.terms: tuple[Tensor, Tensor] | None = None
        if whole.tables is not None:
            image_q = self.q[:, whole.text_queries :].unflatten(1, whole.grid)
            table_h, table_w = whole.tables
            self.terms = (
                torch.einsum("ghwd,hkd->ghwk", image_q, table_h),
                torch.einsum("ghwd,wkd->ghwk", image_q, table_w),
            )

    def chunks(self) -> Iterator[_Chunk]:
        """All queries, a few rows of the grid at a time."""
        (height, width), text = self.whole.grid, self.whole.text_queries
        if text:
            yield _Chunk(slice(0, text), None)
        for start in range(0, height, self.whole.rows):
            stop = min(start + self.whole.rows, height)
            yield _Chunk(slice(text + start * width, text + stop * width), slice(start, stop))

    def weights(self, chunk: _Chunk) -> Tensor:
        """Attention of a chunk's queries, g×queries×(L+N), valid until the next call.

        The softmax is taken in fp32 at least.
        """
        q, k = self.q[:, chunk.queries], self.k.transpose(-2, -1)
        logits = self.whole.room(len(q), q.shape[1])
        if self.terms is None or chunk.rows is None:
            logits.zero_()
        else:
            logits[..., : self.whole.words] = 0
            places, rows = self.image_block(logits, chunk), chunk.rows
            torch.add(self.terms[0][:, rows, :, :, None], self.terms[1][:, rows, :, None, :], out=places)
        # The product is added to the bias, which saves one pass over the chunk.
        if logits.dtype == q.dtype:
            logits.baddbmm_(q, k, alpha=self.whole.scale)
        else:
            logits.add_(q @ k, alpha=self.whole.scale)
        if self.hidden is not None:
            logits[..., : self.whole.words].masked_fill_(self.hidden, float("-inf"))
        return torch.softmax(logits, dim=-1, out=logits).to(self.q.dtype)

    def image_block(self, matrix: Tensor, chunk: _Chunk) -> Tensor:
        """The image's columns of a chunk's rows, g×rows×W×H×W, a view."""
        assert chunk.rows is not None
        height, width = self.whole.grid
        images = matrix[..., self.whole.words :]
        places: Tensor = images.unflatten(1, (chunk.rows.stop - chunk.rows.start, width))
        block: Tensor = places.unflatten(3, (height, width))
        return block

    def terms_backward(self, d_terms: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the image queries g×N×d and of both tables, from those of the terms."""
        assert self.whole.tables is not None
        d_h, d_w = (d.to(self.q.dtype) for d in d_terms)
        table_h, table_w = self.whole.tables
        image_q = self.q[:, self.whole.text_queries :].unflatten(1, self.whole.grid)
        d_q = torch.einsum("ghwk,hkd->ghwd", d_h, table_h) + torch.einsum("ghwk,wkd->ghwd", d_w, table_w)
        return (
            d_q.flatten(1, 2),
            torch.einsum("ghwk,ghwd->hkd", d_h, image_q),
            torch.einsum("ghwk,ghwd->wkd", d_w, image_q),
        )


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32

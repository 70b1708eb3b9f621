"""Attention whose logits never leave a core's cache; `attention` says when it runs."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.models.sharing import InOrder, for_each

Grid = tuple[int, int]
Tables = tuple[Tensor, Tensor] | None
See = Callable[[slice, slice, Tensor], None]
"""Called with (images × heads, queries, their weights g×queries×(L+N)), which are valid until it returns; on the CPU by
several threads at once, each with other weights."""

CHUNK_ELEMENTS = 250_000
"""Logits per chunk: 1 MB in fp32, a core's own cache."""
CHUNK_QUERIES = 256
"""Queries per chunk; with fewer, the matrix product would pack the keys too often."""
LEAST_CHUNKS = 8
"""Images and heads are not taken together where that would leave cores without work."""


def chunked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    relative_h: Tensor | None,
    relative_w: Tensor | None,
    grid: Grid,
    text_mask: Tensor | None,
    see: See | None = None,
) -> Tensor:
    """softmax(q·kᵀ/√d + relative positions) · v, B×h×Q×d, a few heads and grid rows of queries at a time.

    On the CPU every thread computes whole chunks by itself (`sharing`). The chunks depend on nothing but sizes, and
    what they contribute is added in their order, so neither the machine's load nor the number of threads changes a
    bit.

    Args:
        q, k, v, relative_h, relative_w, grid, text_mask, see: see `attention.AttentionInput`.
    """
    with torch.autocast(q.device.type, enabled=False):
        out: Tensor = _Chunked.apply(q, k, v, relative_h, relative_w, grid, text_mask, see)
    return out


class _Chunked(torch.autograd.Function):
    """See `chunked_attention`."""

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
        see: See | None,
    ) -> Tensor:
        whole = _Whole(q, k, v, _tables(relative_h, relative_w), grid, text_mask)
        out = torch.empty_like(whole.q, memory_format=torch.contiguous_format)

        def work(chunk: _Chunk) -> None:
            weights = whole.weights(chunk)
            if see is not None:
                see(chunk.heads, chunk.queries, weights)
            torch.bmm(weights, whole.v[chunk.heads], out=out[chunk.heads, chunk.queries])

        whole.for_each_chunk(work)
        out = out.view(q.shape)
        ctx.save_for_backward(q, k, v, relative_h, relative_w, text_mask, out)
        ctx.grid = grid
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, relative_h, relative_w, text_mask, out = ctx.saved_tensors
        whole = _Whole(q, k, v, _tables(relative_h, relative_w), ctx.grid, text_mask)
        gradients = _Gradients(whole, out.flatten(0, 1), d_out.flatten(0, 1))
        whole.for_each_chunk(gradients.work)
        d_q, d_k, d_v = (d.unflatten(0, q.shape[:2]) for d in (gradients.q, gradients.k, gradients.v))
        d_h, d_w = (d.to(q.dtype) for d in gradients.tables) if gradients.tables else (None, None)
        return d_q, d_k, d_v, d_h, d_w, None, None, None


def _tables(relative_h: Tensor | None, relative_w: Tensor | None) -> Tables:
    return None if relative_h is None or relative_w is None else (relative_h, relative_w)


@dataclass(frozen=True)
class _Chunk:
    """Some heads' queries: those of some rows of the grid, and the text's with those of the first rows."""

    index: int
    heads: slice
    queries: slice
    rows: slice
    text: int
    """Text queries among them, the first ones."""


class _Whole:
    """One attention, its images and heads in one dimension: G = B·h."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, tables: Tables, grid: Grid, text_mask: Tensor | None) -> None:
        self.scale = q.shape[-1] ** -0.5
        self.q, self.k, self.v = (x.flatten(0, 1) for x in (q, k, v))
        self.grid, self.tables = grid, tables
        self.words = k.shape[2] - grid[0] * grid[1]
        self.text_queries = q.shape[2] - grid[0] * grid[1]
        self.hidden = None if text_mask is None else ~text_mask.repeat_interleave(q.shape[1], dim=0)[:, None]
        self.accumulator = torch.float64 if q.dtype == torch.float64 else torch.float32
        self._rooms = threading.local()

    def for_each_chunk(self, work: Callable[[_Chunk], None]) -> None:
        """Do the work for all chunks: on the CPU several at a time, on a GPU in this thread, whose stream it uses."""
        if self.q.device.type == "cpu":
            for_each(self.chunks(), work)
            return
        for chunk in self.chunks():
            work(chunk)

    def chunks(self) -> list[_Chunk]:
        """All heads and queries: as many heads at a time as fit the cache with one chunk of rows."""
        (height, width), text = self.grid, self.text_queries
        step = min(height, -(-CHUNK_QUERIES // width))
        together = min(CHUNK_ELEMENTS // (step * width * self.k.shape[1]), len(self.q) // LEAST_CHUNKS)
        chunks: list[_Chunk] = []
        for first in range(0, len(self.q), max(1, together)):
            heads = slice(first, min(first + max(1, together), len(self.q)))
            for start in range(0, height, step):
                stop = min(start + step, height)
                queries = slice(text + start * width if start else 0, text + stop * width)
                chunks.append(_Chunk(len(chunks), heads, queries, slice(start, stop), 0 if start else text))
        return chunks

    def room(self, purpose: str, *size: int) -> Tensor:
        """Space for a matrix of a chunk; the same at every call of a thread, so that it stays in its cache."""
        rooms = vars(self._rooms)
        if purpose not in rooms or rooms[purpose].numel() < math.prod(size):
            rooms[purpose] = self.q.new_empty(math.prod(size), dtype=self.accumulator)
        room: Tensor = rooms[purpose][: math.prod(size)]
        return room.view(size)

    def image_queries(self, chunk: _Chunk) -> Tensor:
        """A chunk's image queries, g×rows×W×d."""
        return self.image_rows(self.q[chunk.heads, chunk.queries], chunk)

    def image_rows(self, matrix: Tensor, chunk: _Chunk) -> Tensor:
        """What g×queries×any holds of a chunk's image queries, g×rows×W×any, a view."""
        rows: Tensor = matrix[:, chunk.text :].unflatten(1, (chunk.rows.stop - chunk.rows.start, self.grid[1]))
        return rows

    def image_block(self, matrix: Tensor, chunk: _Chunk) -> Tensor:
        """What g×queries×(L+N) holds of image queries and image keys, g×rows×W×H×W, a view."""
        block: Tensor = self.image_rows(matrix, chunk)[..., self.words :].unflatten(3, self.grid)
        return block

    def weights(self, chunk: _Chunk) -> Tensor:
        """Attention of a chunk's queries, g×queries×(L+N), valid until the thread's next call.

        The softmax is taken in fp32 at least.
        """
        q, k = self.q[chunk.heads, chunk.queries], self.k[chunk.heads].transpose(-2, -1)
        logits = self.room("weights", len(q), q.shape[1], k.shape[2])
        self._put_bias(logits, chunk)
        # The product is added to the bias, which saves one pass over the chunk.
        if logits.dtype == q.dtype:
            logits.baddbmm_(q, k, alpha=self.scale)
        else:
            logits.add_(q @ k, alpha=self.scale)
        if self.hidden is not None:
            logits[..., : self.words].masked_fill_(self.hidden[chunk.heads], float("-inf"))
        return torch.softmax(logits, dim=-1, out=logits).to(self.q.dtype)

    def _put_bias(self, logits: Tensor, chunk: _Chunk) -> None:
        if self.tables is None:
            logits.zero_()
            return
        table_h, table_w = self.tables
        image_q = self.image_queries(chunk)
        terms_h = torch.einsum("grwd,rkd->grwk", image_q, table_h[chunk.rows])
        terms_w = torch.einsum("grwd,wkd->grwk", image_q, table_w)
        logits[:, : chunk.text] = 0
        logits[..., : self.words] = 0
        torch.add(terms_h[..., :, None], terms_w[..., None, :], out=self.image_block(logits, chunk))


class _Gradients:
    """Gradients of one attention, with respect to its queries, keys, values and tables."""

    def __init__(self, whole: _Whole, out: Tensor, d_out: Tensor) -> None:
        self.whole, self.out, self.d_out = whole, out, d_out
        self.q = torch.empty_like(whole.q, memory_format=torch.contiguous_format)
        self.k, self.v = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (whole.k, whole.v))
        self.tables = [torch.zeros_like(t, dtype=whole.accumulator) for t in whole.tables or ()]
        self._sums = InOrder(self._add)

    def work(self, chunk: _Chunk) -> None:
        """All that a chunk's queries contribute. Their weights are computed again."""
        whole, dtype = self.whole, self.q.dtype
        weights, d_out = whole.weights(chunk), self.d_out[chunk.heads, chunk.queries]
        d_v = weights.transpose(-2, -1) @ d_out
        d_logits = self._d_logits(chunk, d_out, weights)
        narrow = d_logits.to(dtype)
        d_q = (narrow @ whole.k[chunk.heads]).mul_(whole.scale)
        d_k = (narrow.transpose(-2, -1) @ whole.q[chunk.heads, chunk.queries]).mul_(whole.scale)
        d_tables: tuple[Tensor, ...] = ()
        if whole.tables is not None:
            block, image_q = whole.image_block(d_logits, chunk), whole.image_queries(chunk)
            (table_h, table_w), rows = whole.tables, chunk.rows
            d_h, d_w = block.sum(dim=-1).to(dtype), block.sum(dim=-2).to(dtype)
            d_image = torch.einsum("grwk,rkd->grwd", d_h, table_h[rows]) + torch.einsum("grwk,wkd->grwd", d_w, table_w)
            whole.image_rows(d_q, chunk).add_(d_image)
            d_tables = (
                torch.einsum("grwk,grwd->rkd", d_h, image_q),
                torch.einsum("grwk,grwd->wkd", d_w, image_q),
            )
        self.q[chunk.heads, chunk.queries] = d_q
        self._sums.put(chunk.index, chunk, d_k, d_v, *d_tables)

    def _d_logits(self, chunk: _Chunk, d_out: Tensor, weights: Tensor) -> Tensor:
        """weights · (dO·vᵀ − the row's sum of dO·O), g×queries×(L+N), valid until the thread's next call."""
        dtype = self.whole.accumulator
        row_sums = (d_out * self.out[chunk.heads, chunk.queries]).sum(dim=-1, keepdim=True, dtype=dtype)
        d_logits, v = self.whole.room("d_logits", *weights.shape), self.whole.v[chunk.heads].transpose(-2, -1)
        if d_logits.dtype == d_out.dtype:
            torch.bmm(d_out, v, out=d_logits)
        else:
            d_logits.copy_(d_out @ v)
        return d_logits.sub_(row_sums).mul_(weights)

    def _add(self, chunk: _Chunk, d_k: Tensor, d_v: Tensor, *d_tables: Tensor) -> None:
        self.k[chunk.heads] += d_k
        self.v[chunk.heads] += d_v
        if d_tables:
            self.tables[0][chunk.rows] += d_tables[0]
            self.tables[1] += d_tables[1]

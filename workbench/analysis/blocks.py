"""Parts of one attention's weights, gathered chunk by chunk as they are made, and put back into the image's shape.

Shape suffixes: B images, w windows of each, h heads, L words, H×W the image's tokens, s the side of a window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor

from workbench.analysis.points import MASK_TOKEN, Point, TraceError
from workbench.models.attention import AttentionInput, weights
from workbench.models.watching import Call

CHUNK_ELEMENTS = 2_000_000
"""Weights of a chunk where they are computed beside the kernel: 8 MB in fp32."""


class Sink(Protocol):
    """Takes the weights of an attention, in any order and from several threads; each weight once."""

    rows: slice
    """The queries it wants to see."""

    def see(self, groups: slice, queries: slice, seen: Tensor) -> None:
        """Weights g×queries×keys of some (image, window and head)s and some queries."""


@dataclass(frozen=True)
class Spans:
    """Where the rows and columns of a point are in an attention's matrix; `has_rows`: whether the model makes them."""

    rows: slice
    columns: slice
    has_rows: bool = True


def spans_of(point: Point, inputs: AttentionInput) -> Spans:
    """The rows and columns of a point."""
    queries, keys = inputs.q.shape[2], inputs.k.shape[2]
    if point.place != "encoder":
        skip = point.own_tokens
        rows = {"image_to_word": slice(0, queries), "mask_to_image": slice(MASK_TOKEN, MASK_TOKEN + 1)}
        words_are_keys = point.part in ("image_to_word", "word_to_word")
        return Spans(rows.get(point.part, slice(skip, queries)), slice(skip if words_are_keys else 0, keys))
    words, text_queries = inputs.text_length, inputs.text_queries
    first, _, second = point.part.partition("_to_")
    rows_of = {"word": slice(0, words), "image": slice(text_queries, queries)}
    columns_of = {"word": slice(0, words), "image": slice(words, keys)}
    return Spans(rows_of[first], columns_of[second], first == "image" or text_queries > 0)


class Block:
    """A sink that keeps one point's rows and columns."""

    def __init__(self, point: Point, call: Call) -> None:
        inputs = call.inputs
        self.point, self.call, self.spans = point, call, spans_of(point, inputs)
        self.rows = self.spans.rows
        self._wanted = self._chosen_rows()
        dtype = inputs.q.dtype if inputs.q.dtype == torch.float64 else torch.float32
        count = self.rows.stop - self.rows.start if self._wanted is None else len(self._wanted)
        batch, heads = inputs.q.shape[:2]
        columns = self.spans.columns.stop - self.spans.columns.start
        self.values = torch.empty(batch, heads, count, columns, dtype=dtype, device=inputs.q.device)

    def _chosen_rows(self) -> Tensor | None:
        """The named rows as indices into the queries; in windows all are kept until they are put together."""
        rows = self.point.rows
        if rows is None:
            return None
        assert self.call.grid is not None
        count = self.call.grid[0] * self.call.grid[1]
        chosen = torch.arange(rows.start, rows.stop) if isinstance(rows, slice) else torch.tensor(rows)
        if int(chosen[-1]) >= count:
            raise TraceError(f"{self.point.name}: row {int(chosen[-1])} is past the {count} image tokens of this model")
        return None if self.call.windows else chosen + self.rows.start

    def see(self, groups: slice, queries: slice, seen: Tensor) -> None:
        """Keep what belongs to the point."""
        values, columns = self.values.flatten(0, 1)[groups], seen[..., self.spans.columns]
        if self._wanted is not None:
            inside = (self._wanted >= queries.start) & (self._wanted < queries.stop)
            if inside.any():
                values[:, inside.to(values.device)] = columns[:, self._wanted[inside] - queries.start].to(values.dtype)
            return
        start, stop = max(queries.start, self.rows.start), min(queries.stop, self.rows.stop)
        if start < stop:
            values[:, start - self.rows.start : stop - self.rows.start] = columns[
                :, start - queries.start : stop - queries.start
            ]

    def whole(self, values: Tensor) -> Tensor:
        """Values as gathered, put into the image's shape: see `Recording.values`."""
        part, call = self.point.part, self.call
        if part == "word_to_word" or (part == "cross" and call.grid is None):
            by_window: Tensor = values.unflatten(0, (-1, call.windows.count if call.windows else 1))
            return by_window.mean(dim=1)
        assert call.grid is not None
        if part == "image_to_word":
            values = values.transpose(2, 3)
        if call.windows is None:
            return apart(values, 3, call.grid)
        if part == "image_to_image":
            return self._rows_in_windows(values)
        return apart(merged(values.flatten(1, 2), call), 1, (values.shape[1], values.shape[2]))

    def _rows_in_windows(self, values: Tensor) -> Tensor:
        """Image rows Bw×h×s²×s² over the whole image, B×h×rows×H×W: zero outside of the row's window."""
        windows, rows = self.call.windows, self.point.rows
        assert windows is not None
        (height, width), side, across = windows.grid, windows.side, windows.padded[1] // windows.side
        every = range(height * width)
        chosen = every if rows is None else every[rows] if isinstance(rows, slice) else rows
        values = values.unflatten(0, (-1, windows.count)).unflatten(-1, (side, side))
        out = values.new_zeros(values.shape[0], values.shape[2], len(chosen), *windows.padded)
        for number, row in enumerate(chosen):
            y, x = divmod(row, width)
            top, left = y // side, x // side
            out[:, :, number, top * side : (top + 1) * side, left * side : (left + 1) * side] = values[
                :, top * across + left, :, (y % side) * side + x % side
            ]
        return out[..., :height, :width]

    def gradient(self, d_out: Tensor) -> Tensor:
        """The gradient by the point's weights, of that by the attention's output: dP = dO·Vᵀ, its rows and columns."""
        rows: Any = self.rows if self._wanted is None else self._wanted
        values = self.call.inputs.v.detach()[:, :, self.spans.columns]
        return self.whole(d_out[:, :, rows] @ values.transpose(-2, -1))


def apart(values: Tensor, dimension: int, sizes: tuple[int, int]) -> Tensor:
    """One dimension as two."""
    separate: Tensor = values.unflatten(dimension, sizes)
    return separate


def merged(values: Tensor, call: Call) -> Tensor:
    """Values of windows Bw×C×s², or of the whole image B×C×N, as B×C×H×W; padding is left out."""
    assert call.grid is not None
    if call.windows is None:
        return apart(values, 2, call.grid)
    side = call.windows.side
    tiles = values.unflatten(2, (side, side)).permute(0, 2, 3, 1)
    whole: Tensor = window_unpartition(tiles, side, call.windows.padded, call.grid)
    return whole.permute(0, 3, 1, 2)


def split(values: Tensor, call: Call) -> Tensor:
    """The reverse of `merged`: B×C×H×W as Bw×C×s² or B×C×N, zero at padding."""
    if call.windows is None:
        return values.flatten(2)
    tiles, _ = window_partition(values.permute(0, 2, 3, 1), call.windows.side)
    channels_first: Tensor = tiles.permute(0, 3, 1, 2)
    return channels_first.flatten(2)


def words_call(call: Call) -> Call:
    """The words' rows alone, as a call of their own: for display where the model does not compute them."""
    assert call.word_queries is not None
    # Relative positions are added to no row of a word.
    inputs = replace(call.inputs, q=call.word_queries(), relative_h=None, relative_w=None, see=None)
    return replace(call, inputs=inputs)


@torch.no_grad()
def show(inputs: AttentionInput, sinks: list[Any]) -> None:
    """Compute weights beside the kernel, a few rows at a time, and show each sink those that it wants."""
    queries, width = inputs.q.shape[2], max(1, inputs.grid[1])
    text = inputs.text_queries if inputs.relative_h is not None else 0
    step = max(1, CHUNK_ELEMENTS // (inputs.q.shape[1] * inputs.k.shape[2] * width)) * width
    starts = [0, *range(text, queries, step)] if text else list(range(0, queries, step))
    heads = inputs.q.shape[1]
    with torch.autocast(inputs.q.device.type, enabled=False):
        for image in range(len(inputs.q)):
            one = in_full(inputs, slice(image, image + 1))
            for start, stop in zip(starts, [*starts[1:], queries], strict=True):
                wanting = [sink for sink in sinks if sink.rows.start < stop and start < sink.rows.stop]
                if wanting:
                    seen = weights(one, slice(start, stop))[0]
                    for sink in wanting:
                        sink.see(slice(image * heads, (image + 1) * heads), slice(start, stop), seen)


def in_full(inputs: AttentionInput, images: slice = slice(None)) -> AttentionInput:
    """The same attention of some images, in fp32 at least and without gradients."""

    def full(x: Tensor | None, cut: slice = slice(None)) -> Tensor | None:
        return None if x is None else x.detach()[cut].to(torch.promote_types(x.dtype, torch.float32))

    mask = inputs.text_mask
    tensors: Any = {name: full(getattr(inputs, name), images) for name in ("q", "k", "v")}
    tables: Any = {name: full(getattr(inputs, name)) for name in ("relative_h", "relative_w")}
    return replace(inputs, **tensors, **tables, text_mask=None if mask is None else mask[images], see=None)

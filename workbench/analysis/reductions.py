"""Numbers of whole attention maps, taken from chunks of rows as they are made, so that no map is ever there as a whole.

Each is of one image, head and query (or key), in fp32 at least.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.analysis.blocks import merged, split
from workbench.analysis.points import TraceError
from workbench.models.attention import AttentionInput
from workbench.models.watching import Call

REDUCTIONS = ("row_sum", "column_sum", "entropy", "maximum_logit", "text_mass", "mask_mass", "distance")
"""What `trace` can reduce to.

row_sum: over all keys, 1 but for rounding. column_sum: what a key receives from all image tokens.
entropy: in nats. maximum_logit: the largest logit of a row, bias included.
text_mass, mask_mass: the weight on words, and on the image tokens inside of a given mask.
distance: mean distance to the image tokens attended to, in tokens, by their weights (in windows: padding included).
"""


class Reducer:
    """A sink that keeps `names` of all rows of a call.

    Args:
        mask: B×H×W, from 0 to 1; needed for mask_mass.
    """

    def __init__(self, names: Sequence[str], call: Call, mask: Tensor | None) -> None:
        unknown = [name for name in names if name not in REDUCTIONS]
        if unknown:
            raise TraceError(f"unknown reduction {unknown[0]!r}; known: {', '.join(REDUCTIONS)}")
        inputs = call.inputs
        self.names, self.call, self.heads = tuple(names), call, inputs.q.shape[1]
        self.rows = slice(0, inputs.q.shape[2])
        self._dtype = torch.promote_types(inputs.q.dtype, torch.float32)
        self._by_row = {
            name: torch.empty(len(inputs.q) * self.heads, inputs.q.shape[2], dtype=self._dtype, device=inputs.q.device)
            for name in names
            if name != "column_sum"
        }
        self._columns: dict[tuple[int, int], tuple[slice, Tensor]] = {}
        self._mask = self._keys_inside(mask) if "mask_mass" in names else None
        self._valid = self._real_queries() if "column_sum" in names else None
        self._places = _places(inputs) if "distance" in names else None

    def _keys_inside(self, mask: Tensor | None) -> Tensor:
        if mask is None:
            raise TraceError("mask_mass needs a mask B×H×W")
        assert self.call.grid is not None
        if tuple(mask.shape[1:]) != self.call.grid:
            raise TraceError(f"the mask is {tuple(mask.shape[1:])}, the image tokens are {self.call.grid}")
        inside = split(mask[:, None].to(self._dtype), self.call)[:, 0]
        return torch.nn.functional.pad(inside, (self.call.inputs.text_length, 0)).repeat_interleave(self.heads, dim=0)

    def _real_queries(self) -> Tensor:
        """1 at image tokens that are no padding of windows, 0 at others; G×Q."""
        inputs = self.call.inputs
        images = len(inputs.q) // (self.call.windows.count if self.call.windows else 1)
        assert self.call.grid is not None
        ones = torch.ones(images, 1, *self.call.grid, dtype=self._dtype, device=inputs.q.device)
        real = torch.nn.functional.pad(split(ones, self.call)[:, 0], (inputs.text_queries, 0))
        return real.repeat_interleave(self.heads, dim=0)

    def see(self, groups: slice, queries: slice, seen: Tensor) -> None:
        """Reduce a chunk."""
        seen, words = seen.to(self._dtype), self.call.inputs.text_length
        here = (groups, queries)
        for name, out in self._by_row.items():
            if name == "row_sum":
                out[here] = seen.sum(dim=-1)
            elif name == "text_mass":
                out[here] = seen[..., :words].sum(dim=-1)
            elif name == "mask_mass":
                assert self._mask is not None
                out[here] = (seen @ self._mask[groups, :, None])[..., 0]
            elif name == "entropy":
                out[here] = torch.special.entr(seen).sum(dim=-1)
            elif name == "distance":
                out[here] = self._distance(seen[..., words:], queries)
            else:
                out[here] = self._maximum_logit(seen.argmax(dim=-1), groups, queries)
        if self._valid is not None:
            total = (self._valid[groups, None, queries] @ seen)[:, 0]
            self._columns[groups.start, queries.start] = (groups, total)

    def _distance(self, seen: Tensor, queries: slice) -> Tensor:
        """Of image queries; NaN for words, which are nowhere."""
        assert self._places is not None
        text = self.call.inputs.text_queries
        out = seen.new_full(seen.shape[:2], float("nan"))
        skip = max(0, min(text, queries.stop) - queries.start)
        rows = self._places[max(0, queries.start - text) : queries.stop - text if queries.stop > text else 0]
        if len(rows):
            image = seen[:, skip:]
            apart = torch.cdist(rows, self._places, compute_mode="donot_use_mm_for_euclid_dist")
            out[:, skip:] = torch.einsum("gqk,qk->gq", image, apart) / image.sum(dim=-1)
        return out

    def _maximum_logit(self, key: Tensor, groups: slice, queries: slice) -> Tensor:
        """The logit of each row's heaviest key, from its q, k and relative positions alone."""
        inputs = self.call.inputs
        q, k = (x.detach().flatten(0, 1)[groups].to(self._dtype) for x in (inputs.q, inputs.k))
        q = q[:, queries]
        logit = (q * k.gather(1, key[..., None].expand(-1, -1, k.shape[2]))).sum(dim=-1) * inputs.scale
        if inputs.relative_h is None or inputs.relative_w is None:
            return logit
        width = inputs.grid[1]
        query = torch.arange(queries.start, queries.stop, device=key.device) - inputs.text_queries
        both = (query >= 0) & (key >= inputs.text_length)
        query, key = query.clamp(min=0), (key - inputs.text_length).clamp(min=0)
        row = inputs.relative_h.detach().to(self._dtype)[query // width, key // width]
        column = inputs.relative_w.detach().to(self._dtype)[query % width, key % width]
        return logit + torch.where(both, (q * (row + column)).sum(dim=-1), 0.0)

    def result(self) -> dict[str, Tensor]:
        """By name `<reduction>` of image queries (of column_sum: image keys), B×h×H×W, and `<reduction>_of_words`,
        B×h×L, where words are queries (keys), in windows their mean over windows (their sum)."""
        text = self.call.inputs.text_queries
        reduced: dict[str, Tensor] = {}
        for name, rows in self._by_row.items():
            reduced |= self._apart(name, rows.unflatten(0, (-1, self.heads)), text)
        if "column_sum" in self.names:
            total = torch.zeros(
                len(self.call.inputs.q) * self.heads, self.call.inputs.k.shape[2], dtype=self._dtype,
                device=self.call.inputs.q.device,
            )  # fmt: skip
            for _, (groups, part) in sorted(self._columns.items(), key=lambda item: item[0]):
                total[groups] += part
            reduced |= self._apart("column_sum", total.unflatten(0, (-1, self.heads)), self.call.inputs.text_length)
        return reduced

    def _apart(self, name: str, values: Tensor, words: int) -> dict[str, Tensor]:
        reduced = {name: merged(values[..., words:], self.call)}
        if words:
            of_words = values[..., :words]
            if self.call.windows:
                by_window = of_words.unflatten(0, (-1, self.call.windows.count))
                of_words = by_window.sum(dim=1) if name == "column_sum" else by_window.mean(dim=1)
            reduced[f"{name}_of_words"] = of_words
        return reduced


def _places(inputs: AttentionInput) -> Tensor:
    """(row, column) of every image token, N×2."""
    height, width = inputs.grid
    index = torch.arange(height * width, device=inputs.q.device)
    return torch.stack([index // width, index % width], dim=1).to(torch.promote_types(inputs.q.dtype, torch.float32))

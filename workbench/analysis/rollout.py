"""Where words look through all layers at once: attention rollout, and its gradient-weighted form.

A layer's matrix is never made as a whole: only the words' rows are carried backwards through the layers, r ← r·M.

Rollout is of Abnar & Zuidema (2020), M = (A + 1)/2 with A the mean over heads. The weighted form is of Chefer et al.
(2021), M = 1 + A with A the mean over heads of the positive part of gradient × weight. In windows the words stand in
each window and their output is averaged, as in the model; weights on padding lead nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workbench.analysis.blocks import in_full, merged, split
from workbench.analysis.points import TraceError, reads_words
from workbench.analysis.trace import Recording, Trace
from workbench.models.attention import weights
from workbench.models.referring_sam import ReferringSam
from workbench.models.watching import Call

CHUNK = 256
"""Rows of a layer's matrix that are there at once."""


@dataclass(frozen=True)
class Carried:
    """The words' rows after all layers.

    Attributes:
        image: B×L×H×W, over the image tokens that enter the first block.
        words: B×L×L, over the words that entered the encoder (in all fused blocks that take fresh ones).
    """

    image: Tensor
    words: Tensor


def rollout(model: ReferringSam, traced: Trace, weighted: bool = False) -> Carried:
    """Carry the words' rows from the last fused block back to the first block.

    Args:
        traced: with `encoder.blocks[*].attn` recorded; for `weighted` also with `gradient=True` and a backward pass.

    Raises:
        TraceError: no block reads words, or a block was not recorded.
    """
    fusion = model.fusion
    if not reads_words(model):
        raise TraceError(
            "no block of this model's image encoder reads words; the mask decoder's rows are there instead"
        )
    last = fusion.layers[-1]
    recordings = {layer: traced[f"encoder.blocks[{layer}].attn"] for layer in range(last + 1)}
    image, words = _first_rows(recordings[last], weighted)
    arrived = torch.zeros_like(words)
    for layer in range(last - 1, -1, -1):
        fused = layer in fusion.layers
        if fused and not fusion.reads_output(layer):  # the words of later blocks are fresh ones
            arrived, words = arrived + words, torch.zeros_like(words)
        image, words = _step(recordings[layer], image, words, fused, weighted)
    return Carried(image, arrived + words)


def _first_rows(recording: Recording, weighted: bool) -> tuple[Tensor, Tensor]:
    """The words' rows of the last fused block; rows that nothing reads have no gradient and are taken unweighted."""
    call = recording.call
    assert call is not None
    length = call.inputs.text_length
    images = len(call.inputs.q) // (call.windows.count if call.windows else 1)
    assert call.grid is not None
    image = torch.zeros(images, length, *call.grid, dtype=torch.promote_types(call.inputs.q.dtype, torch.float32))
    words = torch.eye(length, dtype=image.dtype).expand(images, -1, -1)
    image, words = image.to(call.inputs.q.device), words.to(call.inputs.q.device)
    if call.inputs.text_queries == 0:
        assert call.word_queries is not None
        inputs = call.inputs
        q = torch.cat([call.word_queries(), inputs.q], dim=2)
        recording = replace(recording, call=replace(call, inputs=replace(inputs, q=q), word_queries=None), d_out=None)
        weighted = False
    return _step(recording, image, words, True, weighted)


def _step(recording: Recording, image: Tensor, words: Tensor, fused: bool, weighted: bool) -> tuple[Tensor, Tensor]:
    """Rows over a block's output, B×L×H×W and B×L×L, as rows over its input."""
    call = recording.call
    assert call is not None
    count = call.windows.count if call.windows else 1
    length, text = call.inputs.text_length, call.inputs.text_queries
    rows = split(image, call)
    if text:
        share = words.repeat_interleave(count, dim=0) / count
        rows = torch.cat([share, rows], dim=2)
    through = _product(rows, call, recording.d_out if weighted else None, weighted)
    of_image = merged(through[..., length:], call)
    of_words = through[..., :length].unflatten(0, (-1, count)).sum(dim=1) if fused else torch.zeros_like(words)
    half = 1.0 if weighted else 0.5
    kept_words = words if text or not fused else torch.zeros_like(words)
    if not fused:
        return half * (image + of_image), words
    return half * (image + of_image), half * (kept_words + of_words)


@torch.no_grad()
def _product(rows: Tensor, call: Call, d_out: Tensor | None, weighted: bool) -> Tensor:
    """rows·A, Bw×L×keys, with a few rows of A at a time."""
    if weighted and d_out is None:
        raise TraceError("gradient-weighted rollout needs trace(..., gradient=True) and a backward pass inside of it")
    inputs, out = in_full(call.inputs), rows.new_zeros(*rows.shape[:2], call.inputs.k.shape[2])
    for start in range(0, inputs.q.shape[2], CHUNK):
        stop = min(start + CHUNK, inputs.q.shape[2])
        part = weights(inputs, slice(start, stop))
        if d_out is not None:
            part = (part * (d_out[:, :, start:stop].to(part.dtype) @ inputs.v.transpose(-2, -1))).clamp(min=0)
        out += rows[..., start:stop] @ part.mean(dim=1)
    return out

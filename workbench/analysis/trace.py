"""Attention of words and image tokens, recomputed from each block's input: the forward pass keeps its kernels.

Only the rows and columns asked for are ever made, so nothing of size N×N is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor

from workbench.models.attention import AttentionInput, additive_mask
from workbench.models.backbones import BlockRecord
from workbench.models.backbones.vit import project, relative_tables
from workbench.models.referring_sam import ReferringSam

CHUNK = 128
OWN_TOKENS = 5
"""The mask decoder's own tokens (one of quality, four of masks), which stand before the words."""


@dataclass(frozen=True)
class LayerAttention:
    """Both text blocks of one layer's attention, averaged over heads.

    Attributes:
        layer: index of the block.
        word_to_image: L×H×W, row of each word over the image; its sum is the word's mass on the image, at most 1 (in
            windows, at most their number).
        image_to_word: L×H×W, how much each place attends to each word.
        keys: how many keys the softmax ran over, masked padding left out, so 1/keys is uniform attention.
    """

    layer: int
    word_to_image: Tensor
    image_to_word: Tensor
    keys: int


@dataclass(frozen=True)
class Trace:
    """What `trace` found for one image and one expression; `encoder` is empty for a variant without text."""

    encoder: list[LayerAttention]
    decoder: list[LayerAttention]
    logits: Tensor


@torch.inference_mode()
def trace(model: ReferringSam, image: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Trace:
    """Run one image 1×3×H×W and one expression 1×L through a model in evaluation mode, looking at every layer.

    Returns:
        Attention of the image encoder's fused blocks and of the mask decoder's layers (there, `image_to_word` is
        not recorded and is zero), and the low-resolution mask logits h×w.
    """
    encoder: list[LayerAttention] = []
    decoder: list[LayerAttention] = []

    def see_block(record: BlockRecord) -> None:
        if record.text is not None:
            encoder.append(_of_block(record))

    text, text_mask = model.encode_text(input_ids, attention_mask)
    embedding = model.encode_image(image, text, text_mask, see_block)
    grid = embedding.shape[-2:]

    def see_decoder(layer: int, logits: Tensor) -> None:
        rows = logits[0].softmax(dim=-1).mean(dim=0)[OWN_TOKENS:].unflatten(1, grid)
        decoder.append(LayerAttention(layer, rows, torch.zeros_like(rows), grid[0] * grid[1]))

    logits = model.decode(embedding, text, text_mask, see_decoder)
    return Trace(encoder, decoder, logits[0, 0])


def _of_block(record: BlockRecord) -> LayerAttention:
    assert record.text is not None
    image, text, mask = record.image, record.text, record.text_mask
    height, width = image.shape[1:3]
    padded = (height, width)
    if record.window_size:
        image, padded = window_partition(image, record.window_size)
        text = text.expand(len(image), -1, -1)
        mask = None if mask is None else mask.expand(len(image), -1)
    grid = (image.shape[1], image.shape[2])
    q, k, v = project(record.attention, image.flatten(1, 2), text, text_queries=True)
    inputs = AttentionInput(q, k, v, grid, *relative_tables(record.attention, grid), mask)
    words = text.shape[1]
    rows = _probabilities(inputs, 0, words)[..., words:].mean(dim=1)
    columns = torch.cat(
        [
            _probabilities(inputs, start, min(start + CHUNK, q.shape[2]))[..., :words].mean(dim=1)
            for start in range(words, q.shape[2], CHUNK)
        ],
        dim=1,
    ).transpose(1, 2)

    def whole(maps: Tensor) -> Tensor:
        """Windows put back together, L×H×W."""
        maps = maps.unflatten(2, grid).permute(0, 2, 3, 1)
        if record.window_size:
            maps = window_unpartition(maps, record.window_size, padded, (height, width))
        return maps[0].permute(2, 0, 1)

    seen_words = words if mask is None else int(mask[0].sum())
    return LayerAttention(record.layer, whole(rows), whole(columns), grid[0] * grid[1] + seen_words)


def _probabilities(inputs: AttentionInput, start: int, stop: int) -> Tensor:
    """Rows `start` to `stop` of the attention, B×h×rows×(L+N)."""
    logits = (inputs.q[:, :, start:stop] * inputs.scale) @ inputs.k.transpose(-2, -1)
    bias = additive_mask(inputs)
    if bias is not None:
        logits = logits + (bias[:, :, start:stop] if bias.shape[2] > 1 else bias)
    return logits.softmax(dim=-1)

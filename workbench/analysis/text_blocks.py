"""One image and one expression: both text blocks of every layer's attention, averaged over heads or head by head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.analysis.points import points_of
from workbench.analysis.trace import Trace, trace
from workbench.models.referring_sam import ReferringSam


@dataclass(frozen=True)
class LayerAttention:
    """Both text blocks of one layer's attention, averaged over heads, or with a dimension of heads in front.

    Attributes:
        layer: index of the block.
        word_to_image: L×H×W, row of each word over the image; its sum is the word's mass on the image, at most 1 (in
            windows, at most their number).
        image_to_word: L×H×W, how much each place attends to each word.
        keys: how many keys the softmax of the words ran over, masked padding left out, so 1/keys is uniform attention.
    """

    layer: int
    word_to_image: Tensor
    image_to_word: Tensor
    keys: int


@dataclass(frozen=True)
class TextBlocks:
    """All layers of one image and one expression; `encoder` is empty for a variant without text."""

    encoder: list[LayerAttention]
    decoder: list[LayerAttention]
    logits: Tensor


@torch.inference_mode()
def text_blocks(
    model: ReferringSam, image: Tensor, input_ids: Tensor, attention_mask: Tensor, keep_heads: bool = False
) -> TextBlocks:
    """Run one image 1×3×H×W and one expression 1×L through a model in evaluation mode, looking at every layer.

    Args:
        keep_heads: do not average over heads.

    Returns:
        Attention of the image encoder's fused blocks and of the mask decoder's layers, and the low-resolution mask
        logits h×w.
    """
    names = [name.removesuffix(".word_to_image") for name in points_of(model) if name.endswith(".word_to_image")]
    layers = {part: [name for name in names if name.startswith(part)] for part in ("encoder", "decoder.layers")}
    wanted = [f"{name}.{block}" for part in layers.values() for name in part for block in BLOCKS]
    with trace(model, wanted) as seen:
        logits = model(image, input_ids, attention_mask)
    encoder, decoder = ([_layer(seen, name, keep_heads) for name in part] for part in layers.values())
    return TextBlocks(encoder, decoder, logits[0])


BLOCKS = ("word_to_image", "image_to_word")


def _layer(seen: Trace, name: str, keep_heads: bool) -> LayerAttention:
    rows, columns = (seen[f"{name}.{block}"] for block in BLOCKS)
    number = int(name.partition("[")[2].partition("]")[0])
    both = [one.weights[0] if keep_heads else one.weights[0].mean(dim=0) for one in (rows, columns)]
    return LayerAttention(number, both[0], both[1], int(rows.keys[0]))

"""SAM's mask decoder for a batch where every image has its own prompt, and where padding words can be masked.

`segment_anything`'s modules and weights; only the calls are rewritten (theirs pair one image with many prompts).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor
from torch.nn import functional as F

from workbench.models.chunked_attention import Grid
from workbench.models.watching import watched_attend


def decode(
    decoder: MaskDecoder,
    image_embedding: Tensor,
    image_pe: Tensor,
    prompts: Tensor,
    dense_prompt: Tensor,
    prompt_mask: Tensor | None = None,
    masks: Sequence[int] = (0,),
) -> tuple[Tensor, Tensor]:
    """Mask logits and SAM's predictions of mask quality.

    Args:
        image_embedding: B×C×H×W.
        image_pe: positional encoding, 1×C×H×W.
        prompts: sparse prompt embeddings, B×L×C.
        dense_prompt: broadcastable to B×C×H×W.
        prompt_mask: B×L, False at padding, which is not attended to.
        masks: which of SAM's four masks to make.

    Returns:
        Logits B×len(masks)×4H×4W, and predicted IoUs B×4.
    """
    batch, _, height, width = image_embedding.shape
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight], dim=0)
    tokens = torch.cat([own.expand(batch, -1, -1), prompts], dim=1)
    token_mask: Tensor | None = None
    if prompt_mask is not None:
        token_mask = F.pad(prompt_mask, (len(own), 0), value=True)
    queries, keys = _two_way(decoder.transformer, image_embedding + dense_prompt, image_pe, tokens, token_mask)
    features = decoder.output_upscaling(keys.transpose(1, 2).unflatten(2, (height, width)))
    weights = torch.stack([decoder.output_hypernetworks_mlps[i](queries[:, 1 + i]) for i in masks], dim=1)
    logits = (weights @ features.flatten(2)).unflatten(2, features.shape[2:])
    return logits, decoder.iou_prediction_head(queries[:, 0])


def _two_way(
    transformer: Any,
    image: Tensor,
    image_pe: Tensor,
    tokens: Tensor,
    token_mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """SAM's two-way transformer: tokens B×T×C and image B×C×H×W to tokens B×T×C and image tokens B×N×C."""
    grid = (image.shape[2], image.shape[3])
    keys, key_pe = image.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2)
    queries = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = _attend(layer.self_attn, queries, queries, queries, token_mask)
        else:
            q = queries + tokens
            queries = queries + _attend(layer.self_attn, q, q, queries, token_mask)
        queries = layer.norm1(queries)
        q, k = queries + tokens, keys + key_pe
        queries = layer.norm2(queries + _attend(layer.cross_attn_token_to_image, q, k, keys, grid=grid))
        queries = layer.norm3(queries + layer.mlp(queries))
        q = queries + tokens
        keys = layer.norm4(keys + _attend(layer.cross_attn_image_to_token, k, q, queries, token_mask, grid))
    q, k = queries + tokens, keys + key_pe
    queries = queries + _attend(transformer.final_attn_token_to_image, q, k, keys, grid=grid)
    return transformer.norm_final_attn(queries), keys


def _heads(module: Any, x: Tensor) -> Tensor:
    separate: Tensor = x.unflatten(-1, (module.num_heads, -1))
    return separate.transpose(1, 2)


def _attend(
    module: Any, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, grid: Grid | None = None
) -> Tensor:
    """SAM's decoder attention; `key_mask` B×K is False at keys that must not be attended to."""
    queries, keys, values = (_heads(module, x) for x in (module.q_proj(q), module.k_proj(k), module.v_proj(v)))
    out = watched_attend(module, queries, keys, values, key_mask, grid=grid)
    projected: Tensor = module.out_proj(out.transpose(1, 2).flatten(2))
    return projected

"""The released formulation of the fused encoder, as the reference for measurements: the whole N×N matrix of logits,
the bias added to it, every token through every block, rel-pos tables interpolated in every call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workbench.models.attention import AttentionInput, relative_position_terms
from workbench.models.backbones.vit import project, relative_tables, resized_positions
from workbench.models.fusion import BlockInput
from workbench.models.image_encoder import FusedImageEncoder


def released_attention(inputs: AttentionInput) -> Tensor:
    """Attention as the released code formulates it, B×h×(L+N)×d; all tokens are queries."""
    text, (height, width) = inputs.text_length, inputs.grid
    tokens = height * width
    logits = inputs.q @ inputs.k.transpose(-2, -1) * inputs.scale
    terms_h, terms_w = relative_position_terms(inputs)
    image = logits[:, :, text:, text:].unflatten(2, (height, width)).unflatten(4, (height, width))
    image = image + terms_h[..., :, None] + terms_w[..., None, :]
    logits[:, :, text:, text:] = image.flatten(4).flatten(2, 3)
    assert logits.shape[-1] == text + tokens
    return logits.softmax(dim=-1) @ inputs.v


def released_encoder(encoder: FusedImageEncoder, image: Tensor, text: Tensor) -> Tensor:
    """The fused encoder with global attention, in the released formulation; the same function of the same weights."""
    vit: Any = encoder.vit
    tokens = vit.patch_embed(image)
    tokens = tokens + resized_positions(vit.pos_embed, (tokens.shape[1], tokens.shape[2]))
    grid, length = (tokens.shape[1], tokens.shape[2]), text.shape[1]
    text = encoder.fusion.text_projection(text)
    sequence, words = tokens.flatten(1, 2), None
    for layer, block in enumerate(vit.blocks):
        words = encoder.fusion.tokens(BlockInput(layer, text, None, words, sequence.unflatten(1, grid)))
        sequence = torch.cat([words, sequence], dim=1)
        q, k, v = project(block.attn, block.norm1(sequence), None, True)
        attended = released_attention(AttentionInput(q, k, v, grid, *relative_tables(block.attn, grid)))
        sequence = sequence + block.attn.proj(attended.transpose(1, 2).flatten(2))
        sequence = sequence + block.mlp(block.norm2(sequence))
        sequence, words = sequence[:, length:], sequence[:, :length]
        words = words if encoder.fusion.evolves else None
    embedding: Tensor = vit.neck(sequence.unflatten(1, grid).permute(0, 3, 1, 2))
    return embedding

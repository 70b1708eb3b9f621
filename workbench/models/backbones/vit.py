"""SAM's own image encoder, a plain ViT, in its sizes: `segment_anything`'s modules, run block by block."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, Sam
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.models.attention import AttentionInput, attention
from workbench.models.backbones.base import (
    SAM_DECODER_DEPTH,
    Backbone,
    BlockOptions,
    DecoderShape,
    backbones,
    sam_around,
)
from workbench.models.determinism import resize
from workbench.models.watching import Call, Windows, watched


class SamViT(ImageEncoderViT, Backbone):  # type: ignore[misc]
    """`ImageEncoderViT`, its weights and key names untouched, with text tokens beside the image tokens."""

    patch_embed: Any
    pos_embed: Tensor | None
    blocks: Any

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.patch_embed.proj.kernel_size[0])

    @property
    def widths(self) -> tuple[int, ...]:
        """The same width for all blocks."""
        return (self.patch_embed.proj.out_channels,) * len(self.blocks)

    def embed(self, image: Tensor) -> Tensor:
        """Patches with their absolute positions."""
        tokens: Tensor = self.patch_embed(image)
        return tokens + resized_positions(self.pos_embed, (tokens.shape[1], tokens.shape[2]))

    def run_block(
        self,
        layer: int,
        image: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
        keep_text: bool,
        options: BlockOptions,
    ) -> tuple[Tensor, Tensor | None]:
        """One of SAM's blocks; see `Backbone.run_block`."""
        block = self.blocks[layer]
        window = block.window_size if options.windowed else 0
        image_in = block.norm1(image)
        text_in = None if text is None else block.norm1(text)
        image_out, text_out = attend(
            block.attn, image_in, text_in, text_mask, window, keep_text, options.implementation
        )
        image = image + image_out
        image = image + block.mlp(block.norm2(image))
        if text is None or text_out is None:
            return image, None
        text = text + text_out
        return image, text + block.mlp(block.norm2(text))

    def attention_of(self, layer: int) -> nn.Module:
        """SAM's `Attention` of a block."""
        attention_module: nn.Module = self.blocks[layer].attn
        return attention_module

    def embedding(self, tokens: Tensor) -> Tensor:
        """SAM's neck."""
        embedding: Tensor = self.neck(tokens.permute(0, 3, 1, 2))
        return embedding


@dataclass(frozen=True)
class ViTShape:
    """Every number of a SAM. Sizes in pixels are `image_size` and `patch_size`, in tokens `window_size`."""

    width: int
    depth: int
    heads: int
    global_layers: tuple[int, ...]
    image_size: int = 1024
    patch_size: int = 16
    window_size: int = 14
    mlp_ratio: float = 4.0
    decoder_width: int = 256
    decoder_heads: int = 8
    decoder_mlp_width: int = 2048
    iou_head_width: int = 256
    mask_channels: int = 16

    def build(self, decoder_depth: int = SAM_DECODER_DEPTH) -> Sam:
        """A SAM with random weights; its state dict has the official key names."""
        encoder = SamViT(
            img_size=self.image_size,
            patch_size=self.patch_size,
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            out_chans=self.decoder_width,
            qkv_bias=True,
            norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=self.window_size,
            global_attn_indexes=self.global_layers,
        )
        decoder = DecoderShape(
            self.decoder_width, self.decoder_heads, self.decoder_mlp_width, self.iou_head_width, self.mask_channels
        )
        return sam_around(encoder, self.image_size, decoder, decoder_depth)


backbones.register("vit_mini")(
    ViTShape(
        64, 4, 2, (1, 3), image_size=64, patch_size=8, window_size=4, decoder_width=64, decoder_heads=4,
        decoder_mlp_width=128, iou_head_width=32, mask_channels=8,
    )
)  # fmt: skip
backbones.register("vit_b")(ViTShape(768, 12, 12, (2, 5, 8, 11)))
backbones.register("vit_l")(ViTShape(1024, 24, 16, (5, 11, 17, 23)))
backbones.register("vit_h")(ViTShape(1280, 32, 16, (7, 15, 23, 31)))


def attend(
    module: Any,
    image: Tensor,
    text: Tensor | None,
    text_mask: Tensor | None,
    window: int,
    keep_text: bool,
    implementation: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """SAM's attention over [text | image], in windows if asked: text is repeated per window, its outputs averaged.

    Args:
        module: SAM's `Attention`.
        image: B×H×W×C.
        text: B×L×C or None.
        text_mask: B×L or None.
        window: side of a window in tokens; 0 attends globally.
        keep_text: whether the text's own output is wanted.
        implementation: see `attention`.

    Returns:
        The image's output B×H×W×C, and the text's B×L×C or None.
    """
    batch, height, width = image.shape[:3]
    padded = (height, width)
    if window:
        image, padded = window_partition(image, window)
        windows = len(image) // batch
        if text is not None:
            text = text.repeat_interleave(windows, dim=0)
            text_mask = None if text_mask is None else text_mask.repeat_interleave(windows, dim=0)
    grid = (image.shape[1], image.shape[2])
    queries, keys, values = project(module, image.flatten(1, 2), text, keep_text)
    inputs = AttentionInput(queries, keys, values, grid, *relative_tables(module, grid), text_mask)
    call = Call(
        inputs,
        Windows(window, padded, (height, width)) if window else None,
        (height, width),
        None if text is None or keep_text else functools.partial(word_queries, module, text),
    )
    out = watched(module, call, functools.partial(attention, implementation=implementation))
    out = module.proj(out.transpose(1, 2).flatten(2))
    text_rows = text.shape[1] if text is not None and keep_text else 0
    image_out = out[:, text_rows:].unflatten(1, grid)
    text_out = out[:, :text_rows] if text_rows else None
    if window:
        image_out = window_unpartition(image_out, window, padded, (height, width))
        if text_out is not None:
            text_out = text_out.unflatten(0, (batch, -1)).mean(dim=1)
    return image_out, text_out


def project(module: Any, image: Tensor, text: Tensor | None, text_queries: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of SAM's `Attention`, B×h×tokens×d; text first, its queries only if asked for."""
    heads = module.num_heads
    qkv: nn.Linear = module.qkv

    def split(projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        separate: Tensor = projected.unflatten(-1, (parts, heads, -1))
        return separate.permute(2, 0, 3, 1, 4).unbind(0)

    if text is None:
        q, k, v = split(qkv(image), 3)
        return q, k, v
    if text_queries:
        q, k, v = split(qkv(torch.cat([text, image], dim=1)), 3)
        return q, k, v
    width = image.shape[-1]
    q, k, v = split(qkv(image), 3)
    bias = None if qkv.bias is None else qkv.bias[width:]
    text_k, text_v = split(F.linear(text, qkv.weight[width:], bias), 2)
    return q, torch.cat([text_k, k], dim=2), torch.cat([text_v, v], dim=2)


def word_queries(module: Any, text: Tensor) -> Tensor:
    """The queries that `project` leaves out where nothing reads the words' output, B×h×L×d."""
    width = text.shape[-1]
    bias = None if module.qkv.bias is None else module.qkv.bias[:width]
    queries: Tensor = F.linear(text, module.qkv.weight[:width], bias).unflatten(-1, (module.num_heads, -1))
    return queries.transpose(1, 2)


def resized_positions(positions: Tensor | None, grid: tuple[int, int]) -> Tensor | float:
    """SAM's absolute positions 1×H×W×C at another grid, bicubic as in the released DIT code."""
    if positions is None or tuple(positions.shape[1:3]) == grid:
        return 0.0 if positions is None else positions
    return resize(positions.permute(0, 3, 1, 2), grid, "cubic").permute(0, 2, 3, 1)


def relative_tables(module: Any, grid: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
    """R_h (H×H×d) and R_w (W×W×d) for a grid, tables of another length interpolated linearly as SAM does."""
    if not module.use_rel_pos:
        return None, None
    return _relative(module.rel_pos_h, grid[0]), _relative(module.rel_pos_w, grid[1])


def _relative(table: Tensor, size: int) -> Tensor:
    rows = 2 * size - 1
    if len(table) != rows:
        table = resize(table.t()[None], (rows,), "linear")[0].t()
    places = torch.arange(size, device=table.device)
    return table[places[:, None] - places[None, :] + size - 1]

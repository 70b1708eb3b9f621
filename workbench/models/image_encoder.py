"""SAM's image encoder with text tokens beside the image tokens: `segment_anything`'s modules, run block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.errors import ConfigError
from workbench.models.attention import AttentionInput, attention
from workbench.models.fusion import BlockInput, Fusion


@dataclass(frozen=True)
class BlockRecord:
    """What an observer is handed of one block: enough to recompute any row of its attention.

    Attributes:
        layer: the block's index.
        attention: SAM's attention module of the block.
        image: its normalised image input, B×H×W×C (before windows are cut).
        text: its normalised text input, B×L×C, or None.
        text_mask: B×L or None.
        window_size: side of the windows, 0 for global attention.
    """

    layer: int
    attention: nn.Module
    image: Tensor
    text: Tensor | None
    text_mask: Tensor | None
    window_size: int


Observer = Callable[[BlockRecord], None]


class FusedImageEncoder(nn.Module):
    """SAM's ViT and a fusion variant. Without text it equals `ImageEncoderViT`, at any size in whole patches.

    Args:
        vit: the encoder, its weights and key names untouched.
        fusion: hands each fused block its text tokens.
        windowed: True keeps SAM's windows, False lets every block attend globally.
        implementation: of the attention, in place of what the policy chooses.
    """

    def __init__(self, vit: ImageEncoderViT, fusion: Fusion, windowed: bool, implementation: str | None = None) -> None:
        super().__init__()
        self.vit = vit
        self.fusion = fusion
        self.windowed = windowed
        self.implementation = implementation

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.vit.patch_embed.proj.kernel_size[0])

    @property
    def first_fused(self) -> int:
        """Index of the first block that reads text; the depth when none does."""
        return self.fusion.layers[0] if self.fusion.layers else len(self.vit.blocks)

    def forward(
        self,
        image: Tensor,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        observer: Observer | None = None,
    ) -> Tensor:
        """Image embedding B×C×H×W.

        Args:
            image: normalised pixels, B×3×(H·patch)×(W·patch).
            text: B×L×text_width, or None for SAM's own encoder.
            text_mask: B×L, True at words; None lets padding be attended to.
            observer: called once a block, in order.
        """
        return self.with_text(self.before_text(image, observer), text, text_mask, observer)

    def before_text(self, image: Tensor, observer: Observer | None = None) -> Tensor:
        """All that does not depend on text: the tokens entering the first fused block, B×H×W×C."""
        height, width = image.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ConfigError(
                "backbone.image_size",
                f"{height}×{width} is not a multiple of the patch size, {self.patch_size}",
            )
        tokens: Tensor = self.vit.patch_embed(image)
        tokens = tokens + resized_positions(self.vit.pos_embed, (tokens.shape[1], tokens.shape[2]))
        for layer in range(self.first_fused):
            tokens, _ = self._block(layer, tokens, None, None, False, observer)
        return tokens

    def with_text(
        self,
        tokens: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None = None,
        observer: Observer | None = None,
    ) -> Tensor:
        """From `before_text`'s tokens, one row an expression, to the image embedding B×C×H×W."""
        words: Tensor | None = None
        if text is not None:
            text = self.fusion.text_projection(text)
        for layer in range(self.first_fused, len(self.vit.blocks)):
            if text is not None and layer in self.fusion.layers:
                words = self.fusion.tokens(BlockInput(layer, text, text_mask, words, tokens))
                keep = self.fusion.reads_output(layer)
                tokens, evolved = self._block(layer, tokens, words, text_mask, keep, observer)
                words = evolved if self.fusion.evolves else None
            else:
                tokens, _ = self._block(layer, tokens, None, None, False, observer)
        embedding: Tensor = self.vit.neck(tokens.permute(0, 3, 1, 2))
        return embedding

    def _block(
        self,
        layer: int,
        image: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
        keep_text: bool,
        observer: Observer | None,
    ) -> tuple[Tensor, Tensor | None]:
        """One of SAM's blocks over [text | image]; the text output only where somebody reads it."""
        block = self.vit.blocks[layer]
        window = block.window_size if self.windowed else 0
        image_in = block.norm1(image)
        text_in = None if text is None else block.norm1(text)
        if observer is not None:
            observer(BlockRecord(layer, block.attn, image_in, text_in, text_mask, window))
        image_out, text_out = attend(block.attn, image_in, text_in, text_mask, window, keep_text, self.implementation)
        image = image + image_out
        image = image + block.mlp(block.norm2(image))
        if text is None or text_out is None:
            return image, None
        text = text + text_out
        return image, text + block.mlp(block.norm2(text))


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
    out = module.proj(attention(inputs, implementation).transpose(1, 2).flatten(2))
    kept = text.shape[1] if text is not None and keep_text else 0
    image_out = out[:, kept:].unflatten(1, grid)
    text_out = out[:, :kept] if kept else None
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


def resized_positions(positions: Tensor | None, grid: tuple[int, int]) -> Tensor | float:
    """SAM's absolute positions 1×H×W×C at another grid, bicubic as in the released DIT code."""
    if positions is None or tuple(positions.shape[1:3]) == grid:
        return 0.0 if positions is None else positions
    resized = F.interpolate(positions.permute(0, 3, 1, 2), size=grid, mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1)


def relative_tables(module: Any, grid: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
    """R_h (H×H×d) and R_w (W×W×d) for a grid, tables of another length interpolated linearly as SAM does."""
    if not module.use_rel_pos:
        return None, None
    return _relative(module.rel_pos_h, grid[0]), _relative(module.rel_pos_w, grid[1])


def _relative(table: Tensor, size: int) -> Tensor:
    rows = 2 * size - 1
    if len(table) != rows:
        table = F.interpolate(table.t()[None], size=rows, mode="linear")[0].t()
    places = torch.arange(size, device=table.device)
    return table[places[:, None] - places[None, :] + size - 1]

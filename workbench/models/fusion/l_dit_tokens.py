"""L-DIT without projectors: every fused block gets the words plus a learned table of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workbench.config import FusionConfig
from workbench.models.fusion.base import BlockInput, Fusion, Sizes, variants


@variants.register("l_dit_tokens")
class TokensLDIT(Fusion):
    """t = y + table[i] at every fused block i; the tables hold `max_tokens` places."""

    rule = "every fused block i: t = y + token[i], no projector, no dropout"
    source = "token_layer_wise"
    reads = frozenset()

    def __init__(self, config: FusionConfig, layers: tuple[int, ...], sizes: Sizes) -> None:
        super().__init__(config, layers, sizes)
        width = self.needs_equal_widths("l_dit_tokens adds its tokens to the text features")
        self.table = nn.Parameter(torch.randn(len(layers), sizes.max_tokens, width))

    def tokens(self, block: BlockInput) -> Tensor:
        """The words plus this block's table."""
        return block.text + self.table[self.layers.index(block.layer), : block.text.shape[1]]

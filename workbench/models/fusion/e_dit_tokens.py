"""E-DIT with learned tokens: each further fused block adds a table of its own to the text tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workbench.config import FusionConfig
from workbench.models.fusion.base import BlockInput, Fusion, Sizes, variants
from workbench.models.projectors import build_projector


@variants.register("e_dit_tokens")
class TokensEDIT(Fusion):
    """t = drop(P y), then t + table[i−1] at the i-th further fused block; the tables hold `max_tokens` places."""

    rule = "first fused block: t = drop(P y); block i: t = t + token[i−1]"
    source = "e2e_token"
    evolves = True
    released_init = "default"

    def __init__(self, config: FusionConfig, layers: tuple[int, ...], sizes: Sizes) -> None:
        super().__init__(config, layers, sizes)
        self.words_must_fit(sizes)
        width = self.one_width("e_dit_tokens keeps the tokens of all blocks in one table")
        self.projector = build_projector(config.projector, self.text_width, width, self.released_init)
        self.table: nn.Parameter | None = None
        if len(layers) > 1:
            self.table = nn.Parameter(torch.empty(len(layers) - 1, sizes.max_tokens, width))
            nn.init.xavier_uniform_(self.table)

    def tokens(self, block: BlockInput) -> Tensor:
        """The projected words at the first fused block, later the block before's text output plus a table."""
        if block.previous is None:
            first: Tensor = self.dropout(self.projector(block.text))
            return first
        assert self.table is not None
        number = self.layers.index(block.layer) - 1
        return block.previous + self.table[number, : block.previous.shape[1]]

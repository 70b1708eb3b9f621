"""E-DIT: the words enter once, before the first fused block, and evolve with the image from there on."""

from __future__ import annotations

from torch import Tensor

from workbench.config import FusionConfig
from workbench.models.fusion.base import BlockInput, Fusion, Sizes, variants
from workbench.models.projectors import build_projector


@variants.register("e_dit")
class EDIT(Fusion):
    """t = drop(P y) at the first fused block; a block outside the subset leaves t as it is."""

    rule = "t = drop(P y) before the first fused block, then evolves through the others"
    source = "image_encoder_prompt_v2"
    evolves = True

    def __init__(self, config: FusionConfig, layers: tuple[int, ...], sizes: Sizes) -> None:
        super().__init__(config, layers, sizes)
        self.words_must_fit(sizes)
        width = self.widths[layers[0]]
        self.projector = build_projector(config.projector, self.text_width, width, self.released_init)

    def tokens(self, block: BlockInput) -> Tensor:
        """The projected words at the first fused block, later what the blocks made of them."""
        if block.previous is not None:
            return block.previous
        tokens: Tensor = self.dropout(self.projector(block.text))
        return tokens

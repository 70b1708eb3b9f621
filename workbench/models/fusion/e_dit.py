"""E-DIT: the words enter once, before the first fused block, and evolve with the image from there on."""

from __future__ import annotations

from torch import Tensor

from workbench.config import FusionConfig
from workbench.models.fusion.base import Fusion, variants
from workbench.models.projectors import build_projector


@variants.register("e_dit")
class EDIT(Fusion):
    """t = drop(P y) at the first fused block; a block outside the subset leaves t as it is."""

    rule = "t = drop(P y) before the first fused block, then evolves through the others"
    evolves = True

    def __init__(self, config: FusionConfig, layers: tuple[int, ...], text_width: int, width: int) -> None:
        super().__init__(config, layers, text_width, width)
        self.projector = build_projector(config.projector, text_width, width)

    def tokens(self, layer: int, text: Tensor, previous: Tensor | None) -> Tensor:
        """The projected words at the first fused block, later what the blocks made of them."""
        if previous is not None:
            return previous
        tokens: Tensor = self.dropout(self.projector(text))
        return tokens

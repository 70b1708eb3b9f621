"""L-DIT: every fused block gets the words afresh through a projector of its own."""

from __future__ import annotations

from torch import Tensor, nn

from workbench.config import FusionConfig
from workbench.models.fusion.base import Fusion, variants
from workbench.models.projectors import build_projector


@variants.register("l_dit")
class LDIT(Fusion):
    """t = drop(P_i y) at every fused block i, in place of the last block's text output."""

    rule = "every fused block i: t = drop(P_i y), in place of the last block's text output"

    def __init__(self, config: FusionConfig, layers: tuple[int, ...], text_width: int, width: int) -> None:
        super().__init__(config, layers, text_width, width)
        self.projectors = nn.ModuleDict(
            {str(layer): build_projector(config.projector, text_width, width) for layer in layers}
        )

    def tokens(self, layer: int, text: Tensor, previous: Tensor | None) -> Tensor:
        """The words as this block's projector sees them."""
        tokens: Tensor = self.dropout(self.projectors[str(layer)](text))
        return tokens

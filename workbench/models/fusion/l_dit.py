"""L-DIT: every fused block gets the text features through a projector of its own."""

from __future__ import annotations

from torch import Tensor

from workbench.config import FusionConfig
from workbench.models.fusion.base import BlockInput, Fusion, Sizes, variants
from workbench.models.projectors import LayerProjectors


@variants.register("l_dit")
class LDIT(Fusion):
    """t = drop(P_i y) at every fused block i, in place of the last block's text output."""

    rule = "every fused block i: t = drop(P_i y), in place of the last block's text output"
    source = "layer_wise (ViT-H with a text projection: layer_wise_vith)"

    def __init__(self, config: FusionConfig, layers: tuple[int, ...], sizes: Sizes) -> None:
        super().__init__(config, layers, sizes)
        in_widths = dict.fromkeys(layers, self.text_width)
        self.projectors = LayerProjectors(config.projector, in_widths, self.widths, self.released_init)

    def tokens(self, block: BlockInput) -> Tensor:
        """The words as this block's projector sees them."""
        tokens: Tensor = self.dropout(self.projectors.of(block.layer)(block.text))
        return tokens

"""E-DIT with a projector before every fused block: the text output of the last one is projected again."""

from __future__ import annotations

from torch import Tensor

from workbench.config import FusionConfig
from workbench.models.fusion.base import BlockInput, Fusion, Sizes, variants
from workbench.models.projectors import LayerProjectors


@variants.register("e_dit_reprojected")
class ReprojectedEDIT(Fusion):
    """t = drop(P_0 y), then t = drop(P_i t) in place of t at every further fused block, without a residual."""

    rule = "first fused block: t = drop(P_0 y); block i: t = drop(P_i t), no residual"
    source = "e2e"
    evolves = True

    def __init__(self, config: FusionConfig, layers: tuple[int, ...], sizes: Sizes) -> None:
        super().__init__(config, layers, sizes)
        in_widths = {layers[0]: self.text_width, **self.previous_widths(sizes)}
        self.projectors = LayerProjectors(config.projector, in_widths, self.widths, self.released_init)

    def tokens(self, block: BlockInput) -> Tensor:
        """The words, or the last fused block's text output, as this block's projector sees them."""
        source = block.text if block.previous is None else block.previous
        tokens: Tensor = self.dropout(self.projectors.of(block.layer)(source))
        return tokens

"""SAM as it is: no text in the image encoder, so text meets the image only in the mask decoder."""

from __future__ import annotations

from torch import Tensor

from workbench.config import FusionConfig
from workbench.models.fusion.base import BlockInput, Fusion, Sizes, variants


@variants.register("default")
class Default(Fusion):
    """No fused block; the other fields of the fusion section are not read."""

    rule = "no text in the image encoder"
    source = "default_sam (and default_sam_add_2 / add_4 with decoder_depth 4 / 6)"
    reads = frozenset()
    released_epochs = 25

    def __init__(self, config: FusionConfig, layers: tuple[int, ...], sizes: Sizes) -> None:
        super().__init__(config, (), sizes)

    def tokens(self, block: BlockInput) -> Tensor:
        """Never called: there is no fused block."""
        raise AssertionError("the default variant has no fused block")

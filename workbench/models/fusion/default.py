"""SAM as it is: no text in the image encoder, so words meet the image in the mask decoder alone."""

from __future__ import annotations

from torch import Tensor

from workbench.config import FusionConfig
from workbench.models.fusion.base import Fusion, variants


@variants.register("default")
class Default(Fusion):
    """No fused block; `layers` and `projector` mean nothing here."""

    rule = "no text in the image encoder"

    def __init__(self, config: FusionConfig, layers: tuple[int, ...], text_width: int, width: int) -> None:
        super().__init__(config, (), text_width, width)

    def tokens(self, layer: int, text: Tensor, previous: Tensor | None) -> Tensor:
        """Never asked for: there is no fused block."""
        raise AssertionError("the default variant has no fused block")

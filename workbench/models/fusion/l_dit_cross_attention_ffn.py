"""L-DIT through a transformer layer: the words attend to the image and pass an MLP before every fused block."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from workbench.config import FusionConfig
from workbench.models.cross_attention import CrossAttentionLayer, SampleLayerNorm
from workbench.models.fusion.base import BlockInput, Fusion, Sizes, variants


@variants.register("l_dit_cross_attention_ffn")
class CrossAttentionFFNLDIT(Fusion):
    """t = LN(y + drop(MHA_FFN(q = y, k = v = image tokens))) at every fused block."""

    rule = "every fused block: t = LN(y + drop(MHA_FFN(q = y, k = v = image tokens)))"
    source = "cross_attention_FFN"
    reads = frozenset({"cross_attention", "dropout"})
    released_epochs = 25

    def __init__(self, config: FusionConfig, layers: tuple[int, ...], sizes: Sizes) -> None:
        super().__init__(config, layers, sizes)
        width = self.needs_equal_widths(
            "l_dit_cross_attention_ffn adds the output of its attention to the text features"
        )
        of = config.cross_attention
        self.attentions = nn.ModuleDict(
            {
                str(layer): CrossAttentionLayer(width, of.width, of.heads, of.mlp_width, config.dropout)
                for layer in layers
            }
        )
        self.norms = nn.ModuleDict({str(layer): SampleLayerNorm(width) for layer in layers})

    def tokens(self, block: BlockInput) -> Tensor:
        """The words and the output of their cross-attention."""
        name = str(block.layer)
        attended = self.attentions[name](block.text, block.image)
        tokens: Tensor = self.norms[name](block.text + self.dropout(attended))
        return tokens

    def cross_attention_of(self, layer: int) -> nn.Module | None:
        """That of the block's transformer layer."""
        attending: Any = self.attentions[str(layer)]
        attention: nn.Module = attending.attention
        return attention

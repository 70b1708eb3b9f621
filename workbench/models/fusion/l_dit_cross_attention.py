"""L-DIT with cross-attention: the words attend to the image, as intended, or to the last block's words, as released."""

from __future__ import annotations

from torch import Tensor, nn

from workbench.config import FusionConfig
from workbench.models.cross_attention import CrossAttention, SampleLayerNorm
from workbench.models.fusion.base import BlockInput, Fusion, Sizes, variants
from workbench.models.projectors import LayerProjectors


@variants.register("l_dit_cross_attention")
class CrossAttentionLDIT(Fusion):
    """With `keys: image` every fused block gets LN(P_i y + drop(MHA(q = P_i y, k = v = image tokens))).

    With `keys: text` the first gets P_0 y and the others LN(P_i y + drop(MHA(q = y, k = v = t))), t the text output of
    the block before: what the released code computes; the former is only a comment in it.
    """

    rule = "t = LN(P_i y + drop(MHA)) attending to the image tokens (keys: image) or, as released, to the last t"
    source = "cross_attention (keys: text)"
    reads = frozenset({"projector", "cross_attention", "dropout"})
    released_init = "ones"
    released_epochs = 25

    def __init__(self, config: FusionConfig, layers: tuple[int, ...], sizes: Sizes) -> None:
        super().__init__(config, layers, sizes)
        sizes_of = config.cross_attention
        self.evolves = sizes_of.keys == "text"
        if self.evolves:
            self.words_must_fit(sizes)
        self.projectors = LayerProjectors(
            config.projector, dict.fromkeys(layers, self.text_width), self.widths, self.released_init
        )
        attending = layers[1:] if self.evolves else layers

        def attention(width: int) -> CrossAttention:
            query_width = self.text_width if self.evolves else width
            return CrossAttention(query_width, width, sizes_of.width, sizes_of.heads, config.dropout)

        self.attentions = nn.ModuleDict({str(layer): attention(self.widths[layer]) for layer in attending})
        self.norms = nn.ModuleDict({str(layer): SampleLayerNorm(self.widths[layer]) for layer in attending})

    def tokens(self, block: BlockInput) -> Tensor:
        """The projected words and the output of their cross-attention."""
        projected: Tensor = self.projectors.of(block.layer)(block.text)
        name = str(block.layer)
        if name not in self.attentions:
            return projected
        if self.evolves:
            assert block.previous is not None
            attended = self.attentions[name](block.text, block.previous, block.text_mask)
        else:
            attended = self.attentions[name](projected, block.image)
        tokens: Tensor = self.norms[name](projected + self.dropout(attended))
        return tokens

    def cross_attention_of(self, layer: int) -> nn.Module | None:
        """Of every fused block, or with `keys: text` of all but the first."""
        return dict(self.attentions.items()).get(str(layer))

"""A backbone with text tokens beside its image tokens: what runs before the text, and how it passes the blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from workbench.errors import ConfigError
from workbench.models.backbones import Backbone, BlockOptions
from workbench.models.fusion import BlockInput, Fusion
from workbench.models.watching import changed, is_watched


class FusedImageEncoder(nn.Module):
    """A backbone and a fusion variant. Without text it equals the backbone, at any size in whole patches.

    Args:
        backbone: its weights and key names stay untouched. It is kept as `vit`, which stored weights' keys begin with,
            whatever architecture it is of.
        fusion: gives each fused block its text tokens.
        windowed: True keeps the backbone's windows, False lets every block attend globally.
        implementation: of the attention, instead of the one that the policy chooses.
        checkpointed: in training, keep only what enters each block, and run it again for its gradients.
    """

    def __init__(
        self,
        backbone: Backbone,
        fusion: Fusion,
        windowed: bool,
        implementation: str | None = None,
        checkpointed: bool = False,
    ) -> None:
        super().__init__()
        self.vit = backbone
        self.fusion = fusion
        self.windowed = windowed
        self.implementation = implementation
        self.checkpointed = checkpointed

    @property
    def patch_size(self) -> int:
        """See `Backbone.patch_size`."""
        return self.vit.patch_size

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.vit.widths)

    @property
    def first_fused(self) -> int:
        """Index of the first block that reads text; the depth when none does."""
        return self.fusion.layers[0] if self.fusion.layers else self.depth

    def forward(
        self,
        image: Tensor,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
    ) -> Tensor:
        """Image embedding B×C×H×W.

        Args:
            image: normalised pixels, B×3×(H·patch)×(W·patch).
            text: B×L×text_width, or None for SAM's own encoder.
            text_mask: B×L, True at words; None lets padding be attended to.
        """
        return self.with_text(self.before_text(image), text, text_mask)

    def before_text(self, image: Tensor) -> Tensor:
        """Everything that does not depend on text: the tokens entering the first fused block, B×H×W×C."""
        height, width = image.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ConfigError(
                "backbone.image_size",
                f"{height}×{width} is not a multiple of the patch size, {self.patch_size}",
            )
        tokens = self.vit.embed(image)
        options = self._options()
        for layer in range(self.first_fused):
            tokens, _ = self._run(layer, tokens, None, None, None, options)
        return tokens

    def with_text(
        self,
        tokens: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None = None,
    ) -> Tensor:
        """From `before_text`'s tokens, one row per expression, to the image embedding B×C×H×W."""
        words: Tensor | None = None
        options = self._options()
        if text is not None:
            text, text_mask = self.fusion.given(text, text_mask)
            text = self.fusion.text_projection(text)
        for layer in range(self.first_fused, self.depth):
            tokens, words = self._run(layer, tokens, text, text_mask, words, options)
        return self.vit.embedding(tokens)

    def _run(
        self,
        layer: int,
        tokens: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
        words: Tensor | None,
        options: BlockOptions,
    ) -> tuple[Tensor, Tensor | None]:
        """`_block`, or the same with its activations dropped until the backward pass."""
        inputs = (layer, tokens, text, text_mask, words, options)
        again_later = self.checkpointed and self.training and torch.is_grad_enabled()
        if not again_later or is_watched(self):  # who watches is to see each block once
            return self._block(*inputs)
        # It restores the random state and autocast, so that dropout draws the same when the block runs again.
        again: tuple[Tensor, Tensor | None] = checkpoint(self._block, *inputs, use_reentrant=False)
        return again

    def _block(
        self,
        layer: int,
        tokens: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
        words: Tensor | None,
        options: BlockOptions,
    ) -> tuple[Tensor, Tensor | None]:
        """A block and, where it is fused, the making of its text tokens.

        Args:
            words: the text output of the last fused block, B×L×C, or None.

        Returns:
            Image tokens B×H×W×C, and `words` for the blocks after it.
        """
        if text is None or layer not in self.fusion.layers:
            return self.vit.run_block(layer, tokens, None, None, False, options)[0], words
        made = changed(self.fusion, layer, self.fusion.tokens(BlockInput(layer, text, text_mask, words, tokens)))
        keep = self.fusion.reads_output(layer)
        tokens, evolved = self.vit.run_block(layer, tokens, made, text_mask, keep, options)
        return tokens, evolved if self.fusion.evolves else None

    def _options(self) -> BlockOptions:
        return BlockOptions(self.windowed, self.implementation)

"""The interface of backbones: an image encoder that is run block by block, and a SAM around it, known by a name.

Shape suffixes: B batch, L text tokens, H×W image tokens (a block may merge some), C their width, which may differ from
block to block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from workbench.registry import Registry

SAM_DECODER_DEPTH = 2


@dataclass(frozen=True)
class BlockOptions:
    """How blocks are run, the same for all of them.

    Attributes:
        windowed: True keeps the backbone's windows, False lets every block attend globally.
        implementation: of the attention, instead of the one that the policy chooses.
    """

    windowed: bool = True
    implementation: str | None = None


class Backbone(nn.Module, ABC):
    """An image encoder that takes text tokens beside its image tokens, block by block.

    Attributes:
        neck: the last part, from the last block's tokens to the image embedding; frozen and trained on its own.
    """

    neck: nn.Module

    @property
    @abstractmethod
    def patch_size(self) -> int:
        """Side in pixels of the area behind one position of the image embedding; sides of images are multiples."""

    @property
    @abstractmethod
    def widths(self) -> tuple[int, ...]:
        """Width of the tokens that enter each block, in order; so its length is the number of blocks."""

    @abstractmethod
    def embed(self, image: Tensor) -> Tensor:
        """Tokens that enter the first block, B×H×W×C, positions included, of normalised pixels B×3×height×width."""

    @abstractmethod
    def run_block(
        self,
        layer: int,
        image: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
        keep_text: bool,
        options: BlockOptions,
    ) -> tuple[Tensor, Tensor | None]:
        """One block over [text | image]; it must also work without text.

        Args:
            image: B×H×W×C, C the block's own of `widths`.
            text: B×L×C or None.
            text_mask: B×L, True at words; None lets padding be attended to.
            keep_text: whether the text's own output is wanted.

        Returns:
            Image tokens and, where it is wanted, the text's output, both of the width that the next block takes.
        """

    def attention_of(self, layer: int) -> nn.Module | None:
        """The module under which a block's attention passes through `watching.watched`; None: it does not.

        Only what passes there can be traced and intervened in.
        """
        return None

    @abstractmethod
    def embedding(self, tokens: Tensor) -> Tensor:
        """Image embedding B×C×H×W, through the neck, of the last block's tokens B×H×W×C."""


@dataclass(frozen=True)
class DecoderShape:
    """The numbers of SAM's prompt encoder and mask decoder; `width` is the image embedding's."""

    width: int = 256
    heads: int = 8
    mlp_width: int = 2048
    iou_head_width: int = 256
    mask_channels: int = 16


class SamBuilder(Protocol):
    """What is registered under a backbone's name."""

    def build(self, decoder_depth: int = SAM_DECODER_DEPTH) -> Sam:
        """A SAM with random weights whose `image_encoder` is a `Backbone`."""


backbones: Registry[SamBuilder] = Registry("backbone", "backbone.name")


def sam_around(encoder: Backbone, image_size: int, shape: DecoderShape, decoder_depth: int) -> Sam:
    """A SAM with random weights around an image encoder; its state dict has the official key names.

    Args:
        image_size: side in pixels of the square that prompts are given in.
        decoder_depth: layers of the mask decoder's two-way transformer.
    """
    grid = image_size // encoder.patch_size
    return Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=shape.width,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=shape.mask_channels,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=decoder_depth,
                embedding_dim=shape.width,
                num_heads=shape.heads,
                mlp_dim=shape.mlp_width,
            ),
            transformer_dim=shape.width,
            iou_head_depth=3,
            iou_head_hidden_dim=shape.iou_head_width,
        ),
    )

"""The base class of fusion variants: modules that give each fused block its text tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from workbench.config import FusionConfig
from workbench.errors import ConfigError, counted
from workbench.registry import Registry


@dataclass(frozen=True)
class Sizes:
    """What a variant must fit.

    Attributes:
        text_width: of the text features.
        widths: of the image tokens that enter each block of the image encoder.
        max_tokens: the most tokens that a text has.
    """

    text_width: int
    widths: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True)
class BlockInput:
    """The inputs from which a variant may make a fused block's text tokens.

    Attributes:
        layer: the block's index.
        text: text features, B×L×C; C is the width of the first fused block after a text projection, else that of the
            text encoder.
        text_mask: B×L, True at words and False at padding, or None where padding counts as words.
        previous: text output of the last fused block, B×L×(the width that the block after it takes); None at the
            first, and where not `evolves`.
        image: the image tokens entering the block, B×H×W×(the block's width).
    """

    layer: int
    text: Tensor
    text_mask: Tensor | None
    previous: Tensor | None
    image: Tensor


class Fusion(nn.Module, ABC):
    """Makes the text tokens of the image encoder's blocks.

    Args:
        config: the fusion section of a run.
        layers: sorted indices of the fused blocks.
        sizes: what it must fit.

    Attributes:
        widths: of the tokens that each fused block takes, by its index.
        text_width: of the text features, after the text projection if there is one.
        rule: the variant in one line, for tables.
        source: its name in the released code, or "ours".
        evolves: whether a fused block's text output is the next fused block's input. Where it is not, the output
            is never computed.
        reads: the optional fields of the fusion section that the variant reads; setting another one is an error.
        released_init: the projectors' initialisation in the released code.
        released_epochs: how many epochs the released code trains it.
    """

    rule: ClassVar[str]
    source: ClassVar[str] = "ours"
    evolves: bool = False
    reads: ClassVar[frozenset[str]] = frozenset({"projector", "dropout"})
    released_init: ClassVar[str] = "zero"
    released_epochs: ClassVar[int] = 40

    def __init__(self, config: FusionConfig, layers: tuple[int, ...], sizes: Sizes) -> None:
        super().__init__()
        self.layers = layers
        self.text_projection: nn.Module = nn.Identity()
        self.text_width = sizes.text_width
        self.widths = {layer: sizes.widths[layer] for layer in layers}
        if config.text_projection and layers:
            self.text_width = self.widths[layers[0]]
            self.text_projection = nn.Linear(sizes.text_width, self.text_width)
        self.dropout = nn.Dropout(config.dropout)
        self.learned = config.text == "learned"
        codes = np.random.default_rng(0).standard_normal((sizes.max_tokens, sizes.text_width), dtype=np.float32)
        self.codes = codes if self.learned else None

    def given(self, text: Tensor, text_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the blocks read in place of text features B×L×text_width and their mask: the same, or, as a control, one
        set of vectors for all sentences, none of them hidden.

        The vectors are fixed and linearly independent where the text is as wide as it is long, so that the weights that
        project them can make any tokens of them: these learn, and no weight is added.
        """
        if self.codes is None:
            return text, text_mask
        codes = torch.from_numpy(self.codes).to(device=text.device, dtype=text.dtype)
        return codes.expand(len(text), -1, -1), None

    @abstractmethod
    def tokens(self, block: BlockInput) -> Tensor:
        """Text tokens that enter a fused block, B×L×(the block's width)."""

    def cross_attention_of(self, layer: int) -> nn.Module | None:
        """The `CrossAttention` that makes a fused block's text tokens; None where the variant has none there."""
        return None

    def reads_output(self, layer: int) -> bool:
        """Whether the text output of this fused block is read."""
        return self.evolves and layer != self.layers[-1]

    def one_width(self, why: str) -> int:
        """The width of all fused blocks; ConfigError where they differ."""
        widths = sorted(set(self.widths.values()))
        if len(widths) > 1:
            raise ConfigError(
                "fusion.layers",
                f"{why}, but the fused blocks' widths are {' and '.join(map(str, widths))}; fuse blocks of one width",
            )
        return widths[0]

    def needs_equal_widths(self, why: str) -> int:
        """The width of text features and all fused blocks; ConfigError where they differ."""
        width = self.one_width(why)
        if self.text_width != width:
            raise ConfigError(
                "fusion.variant",
                f"{why}, but the text's width is {self.text_width} and the image encoder's {width}; "
                "set fusion.text_projection: true",
            )
        return width

    def previous_widths(self, sizes: Sizes) -> dict[int, int]:
        """For each fused block but the first, the width of the text output of the fused block before it."""
        return {layer: sizes.widths[before + 1] for before, layer in pairwise(self.layers)}

    def words_must_fit(self, sizes: Sizes) -> None:
        """ConfigError where a fused block's text output has another width than the next fused block takes."""
        for layer, width in self.previous_widths(sizes).items():
            if width != self.widths[layer]:
                raise ConfigError(
                    "fusion.layers",
                    f"the text tokens reach block {layer}, of width {self.widths[layer]}, with width {width}; fuse the "
                    "blocks between as well, or choose a variant that projects the text before every fused block",
                )


variants: Registry[type[Fusion]] = Registry("fusion variant", "fusion.variant")
OPTIONAL = {
    "projector": ("projector.type", "projector.rank"),
    "cross_attention": ("cross_attention.width", "cross_attention.heads", "cross_attention.mlp_width"),
    "dropout": ("dropout",),
}
"""Fields that may only be set for a variant that reads them; a protocol may set the others for all variants."""


def resolve_layers(
    rule: Literal["all"] | dict[Literal["first", "last", "every"], int] | tuple[int, ...], depth: int
) -> tuple[int, ...]:
    """Indices of the fused blocks of an encoder with `depth` blocks; ConfigError when the rule asks for others."""
    if rule == "all":
        return tuple(range(depth))
    if isinstance(rule, dict):
        ((name, count),) = rule.items()
        if count > depth:
            raise ConfigError(f"fusion.layers.{name}", f"{count} is more than the encoder's {counted(depth, 'layer')}")
        if name == "first":
            return tuple(range(count))
        return tuple(range(depth - count, depth)) if name == "last" else tuple(range(0, depth, count))
    wrong = [layer for layer in rule if not 0 <= layer < depth]
    if wrong:
        raise ConfigError("fusion.layers", f"no layer {wrong[0]}; the encoder's layers are 0 to {depth - 1}")
    assert not isinstance(rule, str)
    return rule


def build_fusion(config: FusionConfig, sizes: Sizes) -> Fusion:
    """The fusion module that a configuration names, for an image encoder with these widths.

    Raises:
        ConfigError: an unknown variant, layers that the encoder lacks, widths that do not fit, or a field that is set
            although the variant does not read it (settings that differ only in that field would be the same).
    """
    kind = variants[config.variant]
    fusion = kind(config, resolve_layers(config.layers, len(sizes.widths)), sizes)
    if config.text == "learned" and not fusion.layers:
        raise ConfigError(
            "fusion.text", f"the variant {config.variant} has no fused block that learned tokens could enter"
        )
    if config.text == "learned" and "projector" in kind.reads and config.projector.type == "identity":
        raise ConfigError("fusion.text", "learned tokens need weights to learn; choose a projector that has some")
    unread = [key for name, keys in OPTIONAL.items() if name not in kind.reads for key in keys]
    for key in unread if fusion.layers else ():
        field = attrgetter(key)
        if field(config) != field(FusionConfig()):
            raise ConfigError(f"fusion.{key}", f"the variant {config.variant} does not read it; leave it out")
    return fusion

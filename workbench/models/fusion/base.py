"""What every fusion variant is: a module that hands each fused block its text tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar, Literal

from torch import Tensor, nn

from workbench.config import FusionConfig
from workbench.errors import ConfigError
from workbench.registry import Registry


@dataclass(frozen=True)
class Sizes:
    """What a variant must fit: widths of the text features and of the image encoder, and the most tokens a text has."""

    text_width: int
    width: int
    max_tokens: int


@dataclass(frozen=True)
class BlockInput:
    """What a variant may make a fused block's text tokens from.

    Attributes:
        layer: the block's index.
        text: text features, B×L×C; C is the image encoder's width behind a text projection, else the text's own.
        text_mask: B×L, True at words and False at padding, or None where padding counts as words.
        previous: text output of the last fused block, B×L×width; None at the first, and where not `evolves`.
        image: the image tokens entering the block, B×H×W×width.
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
        rule: the variant in one line, for tables.
        source: its name in the released code, or "ours".
        evolves: whether a fused block's text output is the next fused block's input. Where it is not, the output
            is never computed.
        reads: the optional fields of the fusion section that mean something here; setting another one is an error.
        released_init: the projectors' initialisation in the released code.
        released_epochs: how long the released code trains it.
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
        if config.text_projection and layers:
            self.text_projection = nn.Linear(sizes.text_width, sizes.width)
            self.text_width = sizes.width
        self.width = sizes.width
        self.dropout = nn.Dropout(config.dropout)

    @abstractmethod
    def tokens(self, block: BlockInput) -> Tensor:
        """Text tokens that enter a fused block, B×L×width."""

    def reads_output(self, layer: int) -> bool:
        """Whether anyone reads the text output of this fused block."""
        return self.evolves and layer != self.layers[-1]

    def needs_equal_widths(self, why: str) -> None:
        """ConfigError where text features and image tokens differ in width."""
        if self.text_width != self.width:
            raise ConfigError(
                "fusion.variant",
                f"{why}, but the text's width is {self.text_width} and the image encoder's {self.width}; "
                "set fusion.text_projection: true",
            )


variants: Registry[type[Fusion]] = Registry("fusion variant", "fusion.variant")
OPTIONAL = {
    "projector": ("projector.type", "projector.rank"),
    "cross_attention": ("cross_attention.width", "cross_attention.heads", "cross_attention.mlp_width"),
    "dropout": ("dropout",),
}
"""Fields that a variant must read to be given; a protocol may set the others for all variants alike."""


def resolve_layers(
    rule: Literal["all"] | dict[Literal["first", "last", "every"], int] | tuple[int, ...], depth: int
) -> tuple[int, ...]:
    """Indices of the fused blocks of an encoder with `depth` blocks; ConfigError when the rule asks for others."""
    if rule == "all":
        return tuple(range(depth))
    if isinstance(rule, dict):
        ((name, count),) = rule.items()
        if count > depth:
            raise ConfigError(f"fusion.layers.{name}", f"{count} is more than the encoder's {depth} layers")
        if name == "first":
            return tuple(range(count))
        return tuple(range(depth - count, depth)) if name == "last" else tuple(range(0, depth, count))
    wrong = [layer for layer in rule if not 0 <= layer < depth]
    if wrong:
        raise ConfigError("fusion.layers", f"no layer {wrong[0]}; the encoder's layers are 0 to {depth - 1}")
    assert not isinstance(rule, str)
    return rule


def build_fusion(config: FusionConfig, depth: int, sizes: Sizes) -> Fusion:
    """The fusion module that a configuration names.

    Raises:
        ConfigError: an unknown variant, layers that the encoder lacks, widths that do not fit, or a field that is set
            although the variant does not read it (two settings that differ in it alone would be the same).
    """
    kind = variants[config.variant]
    fusion = kind(config, resolve_layers(config.layers, depth), sizes)
    unread = [key for name, keys in OPTIONAL.items() if name not in kind.reads for key in keys]
    for key in unread if fusion.layers else ():
        field = attrgetter(key)
        if field(config) != field(FusionConfig()):
            raise ConfigError(f"fusion.{key}", f"means nothing to the variant {config.variant}; leave it out")
    return fusion

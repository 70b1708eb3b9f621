"""What every fusion variant is: a module that hands each fused block its text tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from workbench.config import FusionConfig
from workbench.errors import ConfigError
from workbench.registry import Registry


class Fusion(nn.Module, ABC):
    """Makes the text tokens of the image encoder's blocks.

    Args:
        config: the fusion section of a run.
        layers: sorted indices of the fused blocks.
        text_width: width of the text features.
        width: width of the image encoder.

    Attributes:
        rule: the variant in one line, for tables.
        evolves: whether a fused block's text output is the next fused block's input. Where it is not, the output
            is never computed.
    """

    rule: ClassVar[str]
    evolves: ClassVar[bool] = False

    def __init__(self, config: FusionConfig, layers: tuple[int, ...], text_width: int, width: int) -> None:
        super().__init__()
        self.layers = layers
        self.text_width = text_width
        self.width = width
        self.dropout = nn.Dropout(config.dropout)

    @abstractmethod
    def tokens(self, layer: int, text: Tensor, previous: Tensor | None) -> Tensor:
        """Text tokens that enter a fused block, B×L×width.

        Args:
            layer: the block's index.
            text: the text encoder's features, B×L×text_width.
            previous: text output of the last fused block, B×L×width; None at the first one and where not `evolves`.
        """

    def reads_output(self, layer: int) -> bool:
        """Whether anyone reads the text output of this fused block."""
        return self.evolves and layer != self.layers[-1]


variants: Registry[type[Fusion]] = Registry("fusion variant", "fusion.variant")


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


def build_fusion(config: FusionConfig, depth: int, text_width: int, width: int) -> Fusion:
    """The fusion module that a configuration names."""
    return variants[config.variant](config, resolve_layers(config.layers, depth), text_width, width)

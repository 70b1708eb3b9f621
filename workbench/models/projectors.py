"""Projectors: from the text encoder's width to the image encoder's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from workbench.config import ProjectorConfig
from workbench.errors import ConfigError
from workbench.registry import Registry

ProjectorMaker = Callable[[int, int, ProjectorConfig], nn.Module]
projectors: Registry[ProjectorMaker] = Registry("projector type", "fusion.projector.type")
SHARED = "shared"


@projectors.register("linear")
def linear(text_width: int, width: int, config: ProjectorConfig) -> nn.Module:
    """One affine map, as released."""
    return nn.Linear(text_width, width)


@projectors.register("mlp")
def mlp(text_width: int, width: int, config: ProjectorConfig) -> nn.Module:
    """Two affine maps with a GELU between."""
    return nn.Sequential(nn.Linear(text_width, width), nn.GELU(), nn.Linear(width, width))


@projectors.register("bottleneck")
def bottleneck(text_width: int, width: int, config: ProjectorConfig) -> nn.Module:
    """A map of low rank: down to `rank`, and up again."""
    assert config.rank is not None
    if config.rank > min(text_width, width):
        raise ConfigError(
            "fusion.projector.rank",
            f"{config.rank} is not a bottleneck from {text_width} to {width}; at most {min(text_width, width)}",
        )
    return nn.Sequential(nn.Linear(text_width, config.rank, bias=False), nn.Linear(config.rank, width))


@projectors.register(SHARED)
def shared(text_width: int, width: int, config: ProjectorConfig) -> nn.Module:
    """One affine map that all layers use; see `LayerProjectors`."""
    return nn.Linear(text_width, width)


@projectors.register("identity")
def identity(text_width: int, width: int, config: ProjectorConfig) -> nn.Module:
    """The text features as they are."""
    if text_width != width:
        raise ConfigError(
            "fusion.projector.type",
            f"identity needs equal widths; the text's is {text_width}, the image encoder's {width}; "
            "fusion.text_projection: true would make them equal",
        )
    return nn.Identity()


class Gated(nn.Module):
    """tanh(g)·(W y + b) with one gate g, zero at first, so that training starts from SAM's own text-free tokens."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(text_width, width)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, text: Tensor) -> Tensor:
        """Tokens B×L×width of text features B×L×text_width."""
        tokens: Tensor = self.gate.tanh() * self.linear(text)
        return tokens


@projectors.register("gated")
def gated(text_width: int, width: int, config: ProjectorConfig) -> nn.Module:
    """A normally initialised affine map behind a gate that starts closed."""
    return Gated(text_width, width)


def build_projector(config: ProjectorConfig, text_width: int, width: int, released_init: str = "zero") -> nn.Module:
    """A projector, its last affine map initialised as the configuration says.

    Args:
        released_init: the meaning of `init: released`; a gated one keeps torch's own, because its gate starts closed.

    Raises:
        ConfigError: an unknown type, or one that does not fit the widths.
    """
    projector = projectors[config.type](text_width, width, config)
    init = config.init
    if init == "released":
        init = "default" if config.type == "gated" else released_init  # type: ignore[assignment]
    affine = [module for module in projector.modules() if isinstance(module, nn.Linear)]
    if affine and init != "default":
        _initialisers[init](affine[-1].weight)
        nn.init.zeros_(affine[-1].bias)
    return projector


_initialisers: Mapping[str, Callable[[Tensor], Tensor]] = {
    "zero": nn.init.zeros_,
    "ones": nn.init.ones_,
    "normal": lambda weight: nn.init.normal_(weight, std=0.02),
}


class LayerProjectors(nn.ModuleDict):
    """A projector per fused layer, or one for all of them where the type is `shared`."""

    def __init__(
        self, config: ProjectorConfig, in_widths: Mapping[int, int], widths: Mapping[int, int], released_init: str
    ) -> None:
        """`in_widths` holds the input width of each fused layer's projector, `widths` its output width."""
        self._shared = config.type == SHARED
        sizes = {str(layer): (in_width, widths[layer]) for layer, in_width in in_widths.items()}
        if self._shared:
            if len(set(in_widths.values())) > 1:
                raise ConfigError(
                    "fusion.projector.type",
                    f"shared needs one width for all layers, not {sorted(set(in_widths.values()))}; "
                    "fusion.text_projection: true would make them equal",
                )
            if len(set(sizes.values())) > 1:
                raise ConfigError(
                    "fusion.projector.type",
                    f"shared needs fused layers of one width, not {sorted({width for _, width in sizes.values()})}",
                )
            sizes = {SHARED: next(iter(sizes.values()))}
        super().__init__({name: build_projector(config, *size, released_init) for name, size in sizes.items()})

    def of(self, layer: int) -> nn.Module:
        """The projector of a fused layer."""
        return self[SHARED if self._shared else str(layer)]

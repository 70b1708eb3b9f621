"""Projectors: from the text encoder's width to the image encoder's."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from workbench.config import ProjectorConfig
from workbench.registry import Registry

ProjectorMaker = Callable[[int, int], nn.Module]
projectors: Registry[ProjectorMaker] = Registry("projector type", "fusion.projector.type")


@projectors.register("linear")
def linear(text_width: int, width: int) -> nn.Module:
    """One affine map, as released."""
    return nn.Linear(text_width, width)


@projectors.register("mlp")
def mlp(text_width: int, width: int) -> nn.Module:
    """Two affine maps with a GELU between."""
    return nn.Sequential(nn.Linear(text_width, width), nn.GELU(), nn.Linear(width, width))


def build_projector(config: ProjectorConfig, text_width: int, width: int) -> nn.Module:
    """A projector; `init: zero` zeroes its last affine map, so that training starts from SAM's own encoder."""
    projector = projectors[config.type](text_width, width)
    if config.init == "zero":
        last = [module for module in projector.modules() if isinstance(module, nn.Linear)][-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return projector

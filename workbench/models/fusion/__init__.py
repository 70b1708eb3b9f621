"""The fusion variants: how words enter SAM's image encoder. One file and one registration per variant."""

import importlib
import pkgutil

from workbench.models.fusion.base import BlockInput, Fusion, Sizes, build_fusion, resolve_layers, variants

# Every file here registers its variant when it is imported, so a new one needs no line anywhere else.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["BlockInput", "Fusion", "Sizes", "build_fusion", "resolve_layers", "variants"]

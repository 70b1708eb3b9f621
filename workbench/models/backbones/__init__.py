"""The backbones: SAMs by name. One file per architecture of the image encoder, which registers its SAMs."""

import importlib
import pkgutil

from workbench.models.backbones.base import (
    SAM_DECODER_DEPTH,
    Backbone,
    BlockOptions,
    DecoderShape,
    SamBuilder,
    backbones,
    sam_around,
)

# Every file here registers its backbones when it is imported, so a new one needs no line anywhere else.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "SAM_DECODER_DEPTH",
    "Backbone",
    "BlockOptions",
    "DecoderShape",
    "SamBuilder",
    "backbones",
    "sam_around",
]

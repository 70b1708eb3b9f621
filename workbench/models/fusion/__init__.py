"""The fusion variants: how words enter SAM's image encoder. One file and one registration a variant."""

from workbench.models.fusion.base import Fusion, build_fusion, resolve_layers, variants
from workbench.models.fusion.default import Default
from workbench.models.fusion.e_dit import EDIT
from workbench.models.fusion.l_dit import LDIT

__all__ = ["EDIT", "LDIT", "Default", "Fusion", "build_fusion", "resolve_layers", "variants"]

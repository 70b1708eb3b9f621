"""Batches that are resized as a whole, as the released code does for its variants with cross-attention."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from workbench.config import RunConfig

RELEASED = tuple(sixteenths / 16 for sixteenths in range(7, 17))
"""Of 512 px: 224 to 512 in steps of 32."""
RELEASED_VARIANTS = ("l_dit_cross_attention", "l_dit_cross_attention_ffn")


def batch_scales(config: RunConfig) -> tuple[float, ...] | None:
    """The scales that a run draws from; None where it leaves batches as they are."""
    scales = config.data.augmentation.batch_scales
    if scales == "released":
        return RELEASED if config.fusion.variant in RELEASED_VARIANTS else None
    return scales


def resized_batch(batch: dict[str, Any], config: RunConfig, patch: int, seed: int, step: int) -> dict[str, Any]:
    """The loader's batch at a size drawn for this step, the same in all processes.

    Images and masks take the nearest pixel.

    Args:
        patch: side of a patch in pixels; images have whole numbers of them.
    """
    scales = batch_scales(config)
    if scales is None:
        return batch
    scale = scales[np.random.default_rng([seed, step, 7]).integers(len(scales))]
    full = batch["pixels"].shape[-1]
    side = max(patch, round(scale * full / patch) * patch)
    if side == full:
        return batch
    content = (batch["content"].float() * side / full).round().long()
    pixels, mask = _nearest(batch["pixels"], side), _nearest(batch["mask"][:, None], side)[:, 0]
    return {**batch, "pixels": pixels, "mask": mask, "content": content}


def _nearest(images: Tensor, side: int) -> Tensor:
    return F.interpolate(images.float(), size=(side, side), mode="nearest").to(images.dtype)

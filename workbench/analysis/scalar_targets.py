"""The number that is attributed: a scalar made of a run's mask logits, fixed before anything is perturbed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from workbench.config import RunConfig
from workbench.data.transforms import Placement, restore_logits
from workbench.errors import DataError

DEFINITIONS = {
    "mask_logit": "mean logit inside the mask that the run predicts for the unperturbed picture and sentence, at the "
    "picture's own size",
    "picture_logit": "mean logit over the whole picture, at its own size",
    "soft_iou": "soft IoU with the referent, Σpg / Σ(p + g − pg), of the probabilities p and the referent's mask g on "
    "the mask decoder's grid",
}
"""The targets by name."""


@dataclass(frozen=True)
class ScalarTarget:
    """A number to attribute.

    Attributes:
        of: from logits B×h×w to B numbers, differentiable.
        unit: of the number.
    """

    name: str
    of: Callable[[Tensor], Tensor]
    unit: str

    @property
    def definition(self) -> str:
        """What it is, in words."""
        return DEFINITIONS[self.name]


def mean_logit(
    name: str, region: NDArray[np.bool_], logits: Tensor, placement: Placement, config: RunConfig
) -> ScalarTarget:
    """The mean logit of a region height×width of the picture; `logits`, h×w, say only of which size they are.

    Enlarging logits is linear, so the mean is a weighted sum of the low-resolution ones: the picture's size costs
    nothing but once, here.
    """
    align_corners, (height, width) = config.backbone.mask_upsampling == "align_corners", region.shape
    with torch.enable_grad():
        grid = torch.zeros_like(logits, requires_grad=True)
        large = restore_logits(grid, placement, config.backbone.image_size, height, width, align_corners)
        mean = large[torch.from_numpy(region).to(logits.device)].mean()
        (weights,) = torch.autograd.grad(mean, grid)
    return ScalarTarget(name, lambda values: (values * weights).sum(dim=(-2, -1)), "logit")


def soft_iou(referent: NDArray[np.bool_], logits: Tensor, placement: Placement, side: int) -> ScalarTarget:
    """The soft IoU with a referent's mask height×width, which covers parts of the cells of the logits' grid h×w."""

    def on_grid(region: NDArray[np.bool_]) -> Tensor:
        content = F.interpolate(
            torch.from_numpy(region)[None, None].float(), (placement.height, placement.width), mode="area"
        )
        square = torch.zeros(1, 1, side, side)
        rows = slice(placement.top, placement.top + placement.height)
        square[..., rows, placement.left : placement.left + placement.width] = content
        return F.interpolate(square, logits.shape[-2:], mode="area")[0, 0].to(logits.device)

    truth, picture = on_grid(referent), on_grid(np.ones_like(referent))

    def of(values: Tensor) -> Tensor:
        probability = values.sigmoid()
        intersection = (probability * truth).sum(dim=(-2, -1))
        return intersection / ((probability * picture).sum(dim=(-2, -1)) + truth.sum() - intersection)

    return ScalarTarget("soft_iou", of, "IoU")


def target_of(
    name: str,
    mask: NDArray[np.bool_],
    logits: Tensor,
    placement: Placement,
    config: RunConfig,
    referent: NDArray[np.bool_] | None = None,
) -> ScalarTarget:
    """A target by its name.

    Args:
        mask: the prediction, height×width.
        logits: of the unperturbed picture and sentence, h×w.
        referent: the true mask, for `soft_iou`.

    Raises:
        DataError: there is no such target, or what it needs is missing, empty or of another size.
    """
    if name not in DEFINITIONS:
        raise DataError(f"no target {name!r}; there are {', '.join(DEFINITIONS)}")
    if name == "soft_iou":
        if referent is None:
            raise DataError("the target soft_iou needs the referent's mask")
        if referent.shape != mask.shape:
            sizes = [f"{height}×{width}" for height, width in (referent.shape, mask.shape)]
            raise DataError(f"the referent's mask is {sizes[0]}, the picture {sizes[1]}")
        if not referent.any():
            raise DataError("the referent's mask is empty, so there is no IoU with it; take the target picture_logit")
        return soft_iou(referent, logits, placement, config.backbone.image_size)
    if name == "mask_logit" and not mask.any():
        raise DataError("the predicted mask is empty, so it has no mean logit; take the target picture_logit")
    return mean_logit(name, mask if name == "mask_logit" else np.ones_like(mask), logits, placement, config)

"""Losses on mask logits."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 − Dice of the probabilities, one value per mask, with SAM's smoothing of 1.

    Args:
        logits, target: N×H×W; the target may be soft.

    Returns:
        N losses.
    """
    probabilities, target = logits.sigmoid().flatten(1), target.flatten(1)
    overlap = 2 * (probabilities * target).sum(dim=1)
    return 1 - (overlap + 1) / (probabilities.sum(dim=1) + target.sum(dim=1) + 1)


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., 2017), averaged over pixels; N×H×W to N losses."""
    per_pixel: Tensor = sigmoid_focal_loss(logits, target, alpha, gamma)
    return per_pixel.flatten(1).mean(dim=1)


def mask_loss(logits: Tensor, target: Tensor, bce: float, dice: float) -> Tensor:
    """bce × mean cross-entropy + dice × mean Dice loss, over a batch of N×H×W logits; a scalar."""
    loss = bce * F.binary_cross_entropy_with_logits(logits, target)
    return loss + dice * dice_loss(logits, target).mean() if dice else loss

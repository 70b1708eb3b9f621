"""Images into the model's square and predictions back out of it; the truth that a metric reads is never resized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Placement:
    """Where an image's content lies in the model's square, in pixels."""

    top: int
    left: int
    height: int
    width: int


def place(height: int, width: int, side: int, padding: Literal["bottom_right", "centred"]) -> Placement:
    """Fit height×width into a square of `side`, longer side filling it, as SAM's ResizeLongestSide rounds."""
    scale = side / max(height, width)
    new_height, new_width = int(height * scale + 0.5), int(width * scale + 0.5)
    if padding == "bottom_right":
        return Placement(0, 0, new_height, new_width)
    return Placement((side - new_height) // 2, (side - new_width) // 2, new_height, new_width)


def resize_image(image: NDArray[np.uint8], placement: Placement, side: int) -> NDArray[np.uint8]:
    """The image height×width×3 in its place in a side×side×3 square of zeros; bilinear with antialiasing."""
    size = (placement.width, placement.height)
    if image.shape[1::-1] != size:
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    square = np.zeros((side, side, 3), dtype=np.uint8)
    square[placement.top : placement.top + placement.height, placement.left : placement.left + placement.width] = image
    return square


def place_mask(mask: NDArray[np.uint8], placement: Placement, side: int) -> Tensor:
    """A training target: the mask resized bilinearly (so soft at its rim) into the square, side×side float."""
    size = (placement.height, placement.width)
    resized = torch.from_numpy(mask).float()
    if mask.shape != size:
        resized = F.interpolate(resized[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    square = torch.zeros(side, side)
    square[placement.top : placement.top + placement.height, placement.left : placement.left + placement.width] = (
        resized
    )
    return square


def restore_logits(
    logits: Tensor, placement: Placement, side: int, height: int, width: int, align_corners: bool = False
) -> Tensor:
    """Low-resolution logits h×w of the whole square, at the image's original height×width, bilinear throughout.

    Args:
        align_corners: of the enlargement to the square.
    """
    return _original(_square(logits, side, align_corners), placement, height, width)


def dilated_mask(
    logits: Tensor, placement: Placement, side: int, height: int, width: int, cut: float, align_corners: bool = False
) -> Tensor:
    """The released code's way to a mask height×width: cut in the square, enlarged as a picture, and cut again at > 0.

    A pixel counts as soon as the enlarged mask touches it, so masks grow by up to a pixel of the square all around.
    """
    binary = (_square(logits, side, align_corners) > cut).float()
    return _original(binary, placement, height, width) > 0


def _square(logits: Tensor, side: int, align_corners: bool) -> Tensor:
    if logits.shape == (side, side):
        return logits
    return F.interpolate(logits[None, None], size=(side, side), mode="bilinear", align_corners=align_corners)[0, 0]


def _original(square: Tensor, placement: Placement, height: int, width: int) -> Tensor:
    content = square[
        placement.top : placement.top + placement.height, placement.left : placement.left + placement.width
    ]
    if content.shape != (height, width):
        content = F.interpolate(content[None, None], size=(height, width), mode="bilinear")[0, 0]
    return content

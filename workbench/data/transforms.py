"""Images into the model's square and predictions back out of it; the truth that a metric reads is never resized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Placement:
    """Where an image's content lies in the model's square, in pixels.

    `window`, if there is one, is the part of the original that is shown: its top, left, height and width.
    """

    top: int
    left: int
    height: int
    width: int
    window: tuple[int, int, int, int] | None = None


def fitted(height: int, width: int, longest: float) -> tuple[int, int]:
    """Height and width when the longer one becomes `longest`, as SAM's ResizeLongestSide rounds."""
    scale = longest / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def place(
    height: int, width: int, side: int, padding: Literal["bottom_right", "centred"], longest: float | None = None
) -> Placement:
    """Fit height×width into a square of `side`, the longer side filling it, or `longest` of it."""
    new_height, new_width = fitted(height, width, side if longest is None else longest)
    if padding == "bottom_right":
        return Placement(0, 0, new_height, new_width)
    return Placement((side - new_height) // 2, (side - new_width) // 2, new_height, new_width)


def resize_image(pixels: Tensor, placement: Placement) -> Tensor:
    """The content as it will lie in the square, 3×height×width uint8; bilinear with antialiasing."""
    pixels = _window(pixels, placement)
    size = (placement.height, placement.width)
    if pixels.shape[1:] != size:
        pixels = F.interpolate(pixels[None], size=size, mode="bilinear", antialias=True)[0]
    return pixels


def place_image(content: Tensor, placement: Placement, side: int) -> Tensor:
    """The content in its place in a 3×side×side square of zeros."""
    square = content.new_zeros(3, side, side)
    square[:, placement.top : placement.top + placement.height, placement.left : placement.left + placement.width] = (
        content
    )
    return square


def place_mask(mask: Tensor, placement: Placement, side: int) -> Tensor:
    """A training target: the mask height×width resized bilinearly (so soft at its rim) into the square of floats."""
    size = (placement.height, placement.width)
    resized = _window(mask, placement).float()
    if resized.shape != size:
        resized = F.interpolate(resized[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    square = torch.zeros(side, side)
    square[placement.top : placement.top + placement.height, placement.left : placement.left + placement.width] = (
        resized
    )
    return square


def _window(pixels: Tensor, placement: Placement) -> Tensor:
    if placement.window is None:
        return pixels
    top, left, height, width = placement.window
    return pixels[..., top : top + height, left : left + width]


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

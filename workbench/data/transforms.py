"""Images into the model's square and predictions back out of it; the ground truth of the metrics is never resized."""

from __future__ import annotations

import math
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
    """Where an image's content is in the model's square, in pixels.

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
    """The content as placed in the square, 3×height×width uint8; bilinear with antialiasing."""
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


def place_mask(
    mask: NDArray[np.uint8], placement: Placement, side: int, box: tuple[int, int, int, int] | None = None
) -> Tensor:
    """A training target: the mask height×width resized bilinearly (so soft at its edges) into the square.

    Done by Pillow with 8 bits, as in the released code; so uint8 from 0 to 255, of which `target_of` makes floats.

    Args:
        box: top, left, height and width of what is not zero; only that is resized.
    """
    top, left, height, width = placement.window or (0, 0, *mask.shape)
    square = torch.zeros(side, side, dtype=torch.uint8)
    content = square[
        placement.top : placement.top + placement.height, placement.left : placement.left + placement.width
    ]
    shown = mask[top : top + height, left : left + width]
    if shown.shape == content.shape:
        content.copy_(torch.from_numpy(shown)).mul_(255)
        return square
    down, across = height / placement.height, width / placement.width
    top, left, box_height, box_width = (0, 0, height, width) if box is None else (box[0] - top, box[1] - left, *box[2:])
    rows, read_rows = _touched(top, box_height, down, placement.height, height)
    columns, read_columns = _touched(left, box_width, across, placement.width, width)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return square
    picture = Image.fromarray(np.ascontiguousarray(shown[read_rows, read_columns]) * np.uint8(255))
    edges = (
        columns.start * across - read_columns.start,
        rows.start * down - read_rows.start,
        min(columns.stop * across - read_columns.start, picture.width),
        min(rows.stop * down - read_rows.start, picture.height),
    )
    size = (columns.stop - columns.start, rows.stop - rows.start)
    part = picture.resize(size, Image.Resampling.BILINEAR, edges)
    content[rows, columns] = torch.from_numpy(np.array(part))
    return square


def target_of(mask: Tensor) -> Tensor:
    """Floats from 0 to 1 of masks in 8 bits, of any shape, on their device; the same to the last bit on each."""
    # A GPU would multiply by the rounded reciprocal of a plain number.
    return mask.float() / torch.full((), 255.0, device=mask.device)


def _touched(start: int, length: int, scale: float, size: int, whole: int) -> tuple[slice, slice]:
    """The resized rows (or columns) that depend on an extent of the original, and the original ones they are made from.

    Args:
        scale: original rows per resized row.
        size, whole: how many resized and original rows there are.
    """
    reach = math.ceil(max(1.0, 1 / scale)) + 1
    first = min(max(math.floor(start / scale) - reach, 0), size)
    last = min(max(math.ceil((start + length) / scale) + reach, 0), size)
    support = math.ceil(max(1.0, scale)) + 1
    read_first, read_last = math.floor(first * scale) - support, math.ceil(last * scale) + support
    return slice(first, last), slice(max(read_first, 0), min(read_last, whole))


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
    """The released code's way to a mask height×width: threshold in the square, enlarge as an image, threshold at 0.

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

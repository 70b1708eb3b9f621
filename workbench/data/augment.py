"""What is random about a training example, drawn from one seed, and the change of colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workbench.config.data import DataConfig
from workbench.data.transforms import Placement, fitted, place

GREY = (0.299, 0.587, 0.114)
"""Of red, green and blue in a pixel's luma (ITU-R 601), as Pillow's ImageEnhance has it."""
Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""


@dataclass(frozen=True)
class Augmentation:
    """One example's draws.

    Attributes:
        colours: changes in the order in which they are made: 0 brightness, 1 contrast, 2 saturation, with a factor.
    """

    flipped: bool
    placement: Placement
    colours: tuple[tuple[int, float], ...] = ()


def draw(config: DataConfig, seed: int, height: int, width: int, side: int, box: Box) -> Augmentation:
    """The draws for an image of height×width and a square of `side`.

    Args:
        box: of the referent, which a window must show; without an area it does not limit the window.
    """
    rng = np.random.default_rng(seed)
    flipped = bool(rng.random() < config.horizontal_flip)
    options = config.augmentation
    if not options.changes_pixels:
        return Augmentation(flipped, place(height, width, side, config.padding))
    scale = 1.0
    if options.scales is not None:
        scale = options.scales[rng.integers(len(options.scales))]
    elif options.large_scale_jitter is not None:
        scale = float(rng.uniform(*options.large_scale_jitter))
    placement = place(height, width, side, config.padding, scale * side)
    if scale > 1:
        placement = _window(rng, height, width, side, scale * side, box, config)
    colours: tuple[tuple[int, float], ...] = ()
    if options.color_jitter and rng.random() < options.color_jitter_probability:
        strength = options.color_jitter
        colours = tuple((int(kind), float(rng.uniform(1 - strength, 1 + strength))) for kind in rng.permutation(3))
    return Augmentation(flipped, placement, colours)


def _window(
    rng: np.random.Generator, height: int, width: int, side: int, longest: float, box: Box, config: DataConfig
) -> Placement:
    """A window of an image that is larger than the square: all of the referent's box if it fits, else its middle."""
    new_height, new_width = fitted(height, width, longest)
    shown = min(new_height, side), min(new_width, side)
    scale = longest / max(height, width)
    size = [min(whole, max(1, round(part / scale))) for whole, part in zip((height, width), shown, strict=True)]
    top, left = (
        _offset(rng, whole, part, start, length)
        for whole, part, start, length in zip((height, width), size, box[:2], box[2:], strict=True)
    )
    corner = (0, 0) if config.padding == "bottom_right" else ((side - shown[0]) // 2, (side - shown[1]) // 2)
    return Placement(*corner, *shown, window=(top, left, size[0], size[1]))


def _offset(rng: np.random.Generator, whole: int, part: int, start: int, length: int) -> int:
    first, last = 0, whole - part
    if 0 < length <= part:
        first, last = max(first, start + length - part), min(last, start)
    elif length > part:
        middle = start + length // 2
        first, last = max(first, middle - part + 1), min(last, middle)
    return int(rng.integers(first, last + 1))


def change_colours(pixels: Tensor, colours: tuple[tuple[int, float], ...]) -> Tensor:
    """Pixels 3×h×w uint8 with the changes made, each as Pillow's ImageEnhance does, but rounded once at the end."""
    if not colours:
        return pixels
    grey = torch.tensor(GREY)
    changed = pixels.reshape(3, -1).float()
    for kind, factor in colours:
        if kind == 0:
            changed.mul_(factor)
        elif kind == 1:
            torch.add((grey @ changed.mean(dim=1)) * (1 - factor), changed, alpha=factor, out=changed)
        else:
            torch.add((grey @ changed).mul_(1 - factor), changed, alpha=factor, out=changed)
        changed.clamp_(0, 255)
    return changed.add_(0.5).to(torch.uint8).view_as(pixels)

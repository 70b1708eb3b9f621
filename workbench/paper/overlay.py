"""A picture with what was segmented in it, at its original size."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from scipy import ndimage

from workbench.paper.style import PREDICTION

TINT = 0.45
LINES = 300
"""The outline is one pixel wide for each so many of the picture's shorter side."""


def overlay(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The image height×width×3 with the mask height×width tinted and outlined, white on black."""
    shown = image.astype(np.float64)
    shown[mask] = (1 - TINT) * shown[mask] + TINT * 255 * np.array(to_rgb(PREDICTION))
    width = max(1, round(min(mask.shape) / LINES))
    near = ndimage.binary_dilation(mask, iterations=width)
    far = ndimage.binary_dilation(near, iterations=width)
    shown[far & ~near], shown[near & ~mask] = 0, 255
    return shown.round().astype(np.uint8)

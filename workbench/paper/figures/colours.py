"""Colours of attention over a picture: a table of two axes, attention and the picture's brightness.

The map is never mixed with the picture's own colours, and the whole table is drawn as the figure's scale, so every
colour of a panel stands on the scale. Two values a quarter of the scale apart can be told apart whatever the picture's
brightness is there, also by readers with deuteranopia; `tests/paper/figures/test_colours.py` measures it.
"""

from __future__ import annotations

import functools

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

MAP, BEGIN = "inferno", 0.35
"""A perceptually uniform map, without the dark part that could be taken for the picture."""
DARKEST, BRIGHTEST = 0.05, 0.42
"""Grey of the picture's black and white where there is no attention."""
STEPS = 256


@functools.cache
def table() -> NDArray[np.float64]:
    """Colours by attention (from none to the scale's end) and by brightness (from black to white): 256×256×3."""
    steps = np.linspace(0, 1, STEPS)
    attention, brightness = np.meshgrid(steps, steps, indexing="ij")
    colour = mpl.colormaps[MAP](BEGIN + (1 - BEGIN) * attention)[..., :3]
    grey = (DARKEST + (BRIGHTEST - DARKEST) * brightness)[..., None]
    share = np.sqrt(attention)[..., None]
    return np.asarray((1 - share) * grey + share * colour)


def coloured(attention: NDArray[np.floating], brightness: NDArray[np.floating]) -> NDArray[np.float64]:
    """Colours of a map over a picture.

    Args:
        attention: height×width, from 0 to 1, the scale's end; cut there.
        brightness: height×width, from 0 to 1.
    """
    row, column = ((np.clip(values, 0, 1) * (STEPS - 1)).round().astype(int) for values in (attention, brightness))
    return np.asarray(table()[row, column])


def brightness_of(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The luma of ITU-R BT.601 of an image height×width×3, from 0 to 1."""
    return np.asarray(image @ np.array([0.299, 0.587, 0.114]) / 255)

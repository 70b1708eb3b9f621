"""Colours of attention maps, measured: whether values can be told apart, also by readers with deuteranopia."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from workbench.paper.figures.colours import STEPS, coloured, table

DEUTERANOPIA = np.array([
    [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
])  # fmt: skip
"""Of linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.0."""
XYZ = np.array([
    [0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041],
])  # fmt: skip
"""Of linear sRGB, D65 (IEC 61966-2-1)."""


def linear(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def lab(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of linear sRGB."""
    x, y, z = np.moveaxis(colours @ XYZ.T / np.array([0.95047, 1.0, 1.08883]), -1, 0)
    f, g, h = (np.where(v > 216 / 24389, np.cbrt(v), (24389 / 27 * v + 16) / 116) for v in (x, y, z))
    return np.stack([116 * g - 16, 500 * (f - g), 200 * (g - h)], axis=-1)


@pytest.mark.parametrize(("seen", "least"), [("as it is", 20.0), ("deuteranopia", 8.0)])
def test_values_a_quarter_of_the_scale_apart_differ_on_any_picture(seen: str, least: float) -> None:
    """2.3 is a just noticeable difference in CIELAB (Mahy et al. 1994)."""
    steps = np.linspace(0, 1, 13)
    attention, brightness = np.meshgrid(steps, steps, indexing="ij")
    colours = linear(coloured(attention, brightness))
    if seen == "deuteranopia":
        colours = np.clip(colours @ DEUTERANOPIA.T, 0, 1)
    points, values = lab(colours).reshape(-1, 3), attention.ravel()
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    apart = np.abs(values[:, None] - values[None]) >= 0.25 - 1e-9
    assert distance[apart].min() >= least


def test_every_colour_of_a_map_stands_on_the_scale() -> None:
    draw = np.random.default_rng(0)
    shown = coloured(draw.uniform(-0.2, 1.4, (9, 9)), draw.uniform(0, 1, (9, 9))).reshape(-1, 3)
    scale = table().reshape(-1, 3)
    assert all((np.abs(scale - colour).sum(axis=1) == 0).any() for colour in shown)


def test_the_picture_shows_where_there_is_no_attention_and_hides_nothing_where_there_is_most() -> None:
    picture = np.array([[0.0, 1.0]])
    dark, bright = coloured(np.zeros((1, 2)), picture)[0]
    assert np.ptp(dark) == 0
    assert bright[0] - dark[0] > 0.3
    first, last = coloured(np.ones((1, 2)), picture)[0]
    assert np.abs(first - last).max() < 1 / STEPS

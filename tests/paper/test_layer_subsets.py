"""Which blocks read words, as they are drawn."""

from __future__ import annotations

import pytest
from matplotlib.colors import to_hex

from tests.conftest import ROOT
from workbench.grids import Grid, load_grid
from workbench.paper.layer_subsets import FUSED, draw_layers, fused_layers

EXPECTED = {
    "default": (), "all": (0, 1, 2, 3), "first 1": (0,), "first 2": (0, 1), "first 3": (0, 1, 2), "last 1": (3,),
    "last 2": (2, 3), "last 3": (1, 2, 3), "every 2": (0, 2),
}  # fmt: skip
"""Of the miniature's four blocks."""


@pytest.fixture(scope="module")
def grid() -> Grid:
    return load_grid(ROOT / "ablations" / "layer_subsets.yaml", preset="refshapes-mini")


def test_the_miniature_is_the_same_grid(grid: Grid) -> None:
    assert {name: fused_layers(config) for name, config in grid.settings.items()} == EXPECTED
    assert {config.backbone.name for config in grid.settings.values()} == {"vit_mini"}


def test_the_picture_colours_the_fused_blocks(grid: Grid) -> None:
    axes = draw_layers(grid).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    drawn: dict[str, list[int]] = {name: [] for name in names}
    for square in axes.patches:
        if to_hex(square.get_facecolor()) == FUSED.lower():
            middle = square.get_x() + square.get_width() / 2, square.get_y() + square.get_height() / 2
            drawn[names[round(middle[1])]].append(round(middle[0]))
    assert {name: tuple(blocks) for name, blocks in drawn.items()} == EXPECTED

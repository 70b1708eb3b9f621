"""Which blocks read words, and the metric over their number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.colors import to_hex

from tests import stored
from tests.conftest import ROOT
from workbench.grids import Grid, load_grid
from workbench.grids.evaluated import evaluated
from workbench.paper.layer_subsets import FUSED, draw_layers, draw_scores, fused_layers, rule_of
from workbench.results.folders import StoreError
from workbench.results.frames import RunFolders

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
    assert rule_of(grid.settings["last 2"]) == "last"


def test_the_picture_colours_the_fused_blocks(grid: Grid) -> None:
    axes = draw_layers(grid).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    drawn: dict[str, list[int]] = {name: [] for name in names}
    for square in axes.patches:
        if to_hex(square.get_facecolor()) == FUSED.lower():
            middle = square.get_x() + square.get_width() / 2, square.get_y() + square.get_height() / 2
            drawn[names[round(middle[1])]].append(round(middle[0]))
    assert {name: tuple(blocks) for name, blocks in drawn.items()} == EXPECTED


def test_scores_stand_over_the_number_of_blocks(tmp_path: Path, grid_file: Callable[..., Path]) -> None:
    text = "settings: {all: {fusion.variant: l_dit}, first: {fusion: {variant: l_dit, layers: {first: 1}}}}\n"
    small = load_grid(grid_file(text + "seeds: [0, 1]\nreport: {metrics: [miou]}\n"))
    for number, config in enumerate(small.settings.values()):
        for seed in (0, 1):
            stored.complete(tmp_path, config, seed, draw=100 * number + seed)
    with_both = evaluated(small, RunFolders(tmp_path))
    panel = draw_scores(with_both).axes[0]
    dots = {
        (float(x), round(float(y), 6)) for line in panel.lines if line.get_marker() == "o" for x, y in line.get_xydata()
    }
    expected = set()
    for name, blocks in (("all", 4.0), ("first", 1.0)):
        frame = with_both.expressions[name]
        means = frame[frame["split"] == "val"].groupby("run")["iou"].mean()
        expected |= {(blocks, round(100 * float(mean), 6)) for mean in means}
    assert dots == expected
    with pytest.raises(StoreError, match="do not differ in the number of fused blocks"):
        draw_scores(evaluated(small.narrowed("all", None), RunFolders(tmp_path)))

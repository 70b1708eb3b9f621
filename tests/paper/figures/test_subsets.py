"""Lines over the number of fused layers: nothing else changes along one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import stored
from tests.conftest import ROOT
from workbench.grids import Grid, load_grid
from workbench.grids.evaluated import evaluated
from workbench.paper.artefacts import obstacle
from workbench.paper.figures import subsets
from workbench.paper.style import styled
from workbench.results.frames import RunFolders

RATES = (0.0001, 0.001)
AXES = f"axes: {{fusion.layers: [all, {{first: 2}}, {{first: 1}}], training.optimizer.learning_rate: {list(RATES)}}}\n"


@pytest.fixture
def grid(grid_file: Callable[[str], Path], tmp_path: Path) -> Grid:
    grid = load_grid(grid_file("settings: {l: {fusion.variant: l_dit}}\n" + AXES + "report: {splits: [val]}\n"))
    for number, config in enumerate(grid.settings.values()):
        for seed in (0, 1):
            stored.complete(tmp_path / "r", config, seed, draw=100 * number + seed)
    return grid


def test_the_layers_grid_makes_one_line_for_its_variant() -> None:
    settings = load_grid(ROOT / "ablations" / "layer_subsets.yaml").settings
    assert {line for name, line in subsets.lines_of(settings).items() if name != "default"} == {"l_dit"}


def test_a_line_joins_no_settings_that_differ_in_more(grid: Grid, tmp_path: Path) -> None:
    shown = evaluated(grid, RunFolders(tmp_path / "r"))
    made = subsets.data(shown, tmp_path / "r")
    points = made.document["points"]
    rates = {name: config.training.optimizer.learning_rate for name, config in grid.settings.items()}
    assert {(point["line"], rates[point["setting"]]) for point in points} == {
        (f"l_dit, learning_rate={rate}", rate) for rate in RATES
    }

    @styled
    def drawn() -> list[list[float]]:
        (figure,) = subsets.draw(made)
        return [list(line.get_ydata()) for line in figure.axes[0].lines if line.get_linestyle() == "--"]

    values = {(rates[point["setting"]], point["layers"]): 100 * point["value"] for point in points}
    assert drawn() == [[values[rate, layers] for layers in (1, 2, 4)] for rate in RATES]


def test_more_lines_than_colours_are_refused(grid_file: Callable[[str], Path], tmp_path: Path) -> None:
    rates = [0.1**k for k in range(1, 7)]
    axes = f"axes: {{fusion.layers: [all, {{first: 2}}], training.optimizer.learning_rate: {rates}}}\n"
    grid = load_grid(grid_file("settings: {l: {fusion.variant: l_dit}}\n" + axes))
    for config in grid.settings.values():
        stored.complete(tmp_path / "r", config, 0, draw=1)
    shown = evaluated(grid, RunFolders(tmp_path / "r"))
    reason = "its settings make 6 lines, and 5 can be told apart; --settings chooses"
    assert obstacle("subsets", shown, tmp_path / "r") == reason

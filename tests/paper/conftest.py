from __future__ import annotations

from pathlib import Path

import pytest

from tests import stored
from workbench.grids import Grid, load_grid
from workbench.results.folders import RunFolder
from workbench.training.train import train

GRID = (
    "title: Tiny grid\nbase:\n"
    "  data: {{recipe: {{seed: 3, train_images: 40, eval_images: 6}}}}\n"
    "  training: {{steps: 6, batch_size: 4}}\n"
    "  evaluation: {{splits: [val, testA]}}\n"
    "  machine: {{data_root: '{root}', trackers: [], threads: 1}}\n"
    "settings: {{default: {{}}, l_dit: {{fusion.variant: l_dit}}, e_dit: {{fusion.variant: e_dit}}}}\n"
    "seeds: [0]\nbaseline: default\nreport: {{metrics: [miou, p@0.5], examples: 3}}\n"
)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> tuple[Grid, Path]:
    """A grid of three settings, two of them trained for six steps with two seeds."""
    folder = tmp_path_factory.mktemp("paper")
    grid = _grid(folder, data_root)
    for setting in ("default", "l_dit"):
        for seed in (0, 1):
            config = grid.settings[setting]
            train(config, seed, RunFolder.of(folder, config, seed))
    return grid, folder


@pytest.fixture
def made_up(tmp_path: Path, data_root: Path) -> tuple[Grid, Path]:
    """The same grid, with made-up results of five seeds of default and three of l_dit; a sixth failed."""
    grid = _grid(tmp_path, data_root)
    for seed in range(5):
        stored.complete(tmp_path, grid.settings["default"], seed)
    for seed in (0, 1, 2):
        stored.complete(tmp_path, grid.settings["l_dit"], seed, draw=3000 + seed)
    stored.fail(tmp_path, grid.settings["default"], 5)
    return grid, tmp_path


def _grid(folder: Path, data_root: Path) -> Grid:
    file = folder / "tiny.yaml"
    file.write_text(GRID.format(root=data_root))
    return load_grid(file)

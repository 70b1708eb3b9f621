from __future__ import annotations

from pathlib import Path

import pytest

from workbench.grids import Grid, load_grid
from workbench.results.folders import RunFolder
from workbench.training.train import train


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> tuple[Grid, Path]:
    """A grid of two settings and two seeds, trained for six steps; one run is left out."""
    folder = tmp_path_factory.mktemp("paper")
    file = folder / "tiny.yaml"
    file.write_text(
        "title: Tiny grid\nbase:\n"
        "  data: {recipe: {seed: 3, train_images: 40, eval_images: 6}}\n"
        "  training: {steps: 6, batch_size: 4}\n"
        "  evaluation: {splits: [val, testA]}\n"
        f"  machine: {{data_root: '{data_root}', trackers: [], threads: 1}}\n"
        "settings: {default: {}, l_dit: {fusion.variant: l_dit}, e_dit: {fusion.variant: e_dit}}\n"
        "seeds: [0, 1]\nbaseline: default\nreport: {metrics: [miou, p@0.5], examples: 3}\n"
    )
    grid = load_grid(file)
    for run in grid.runs():
        if (run.setting, run.seed) not in {("e_dit", 0), ("e_dit", 1)}:
            train(run.config, run.seed, RunFolder.of(folder, run.config, run.seed))
    return grid, folder

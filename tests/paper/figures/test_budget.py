"""Ranking against budget: order, costs, and what has no such figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy import stats

from tests import stored
from workbench.grids import Grid, load_grid
from workbench.grids.evaluated import evaluated
from workbench.paper.artefacts import draw_figure, obstacle
from workbench.paper.budget import budgets
from workbench.results.frames import RunFolders

SETTINGS = {
    "default": "{}", "longer": "{training.steps: 12}", "l_dit": "{fusion.variant: l_dit, label: L-DIT}",
    "frozen": "{training.freeze.text_encoder: true}",
}  # fmt: skip


@pytest.fixture
def grid(grid_file: Callable[[str], Path], tmp_path: Path) -> Grid:
    settings = "\n".join(f"  {name}: {fields}" for name, fields in SETTINGS.items())
    grid = load_grid(grid_file(f"settings:\n{settings}\nbaseline: default\nreport: {{figure_split: testA}}\n"))
    for number, config in enumerate(grid.settings.values()):
        for seed in (0, 1):
            steps = config.training.steps
            stored.complete(tmp_path / "r", config, seed, draw=100 * number + seed, steps=steps)
    return grid


def test_settings_stand_by_score_beside_what_they_cost(grid: Grid, tmp_path: Path) -> None:
    kept = evaluated(grid, RunFolders(tmp_path / "r"))
    (document,) = [file for file in draw_figure("budget", kept, tmp_path / "r") if file.suffix == ".json"]
    drawn = json.loads(document.read_text())
    scores = {
        name: sum(stored.mean_iou(stored.expressions(["val", "testA"], 100 * i + seed), "testA") for seed in (0, 1)) / 2
        for i, name in enumerate(SETTINGS)
    }
    assert [row["setting"] for row in drawn["ranking"]] == sorted(scores, key=lambda name: -scores[name])
    assert {row["setting"]: row["value"] for row in drawn["ranking"]} == pytest.approx(scores)
    assert drawn["fields"] == ["seen", "trainable", "gflops"]
    costs = budgets(kept)
    for row in drawn["ranking"]:
        own = costs[row["setting"]]
        assert row["budget"] == {"seen": own.seen, "trainable": own.trainable, "gflops": own.gflops}
    assert costs["longer"].seen == 2 * (costs["default"].seen or 0)
    seen = [costs[name].seen for name in SETTINGS]
    assert drawn["tau"]["seen"] == pytest.approx(stats.kendalltau(list(scores.values()), seen).statistic, abs=1e-6)
    assert drawn["labels"]["l_dit"] == "L-DIT"


def test_where_all_cost_the_same_there_is_none(grid: Grid, tmp_path: Path) -> None:
    alone = evaluated(grid.narrowed("default", None), RunFolders(tmp_path / "r"))
    assert obstacle("budget", alone, tmp_path / "r") == "its settings have the same budget"

"""Ranking against budget: order, costs, and what has no such figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy import stats

from tests import stored
from tests.paper.figures.boxes import mistakes
from workbench import receipts
from workbench.config import RunConfig
from workbench.grids import Grid, load_grid
from workbench.grids.evaluated import evaluated
from workbench.models import catalog
from workbench.paper.artefacts import draw_figure, obstacle
from workbench.paper.budget import budgets
from workbench.paper.figures.budget import draw
from workbench.paper.figures.data import FigureData
from workbench.paper.style import PAGE, styled
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


def test_what_models_cost_is_counted_once_for_those_that_are_the_same(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(receipts.VARIABLE, str(tmp_path / "cache"))
    counted, honest = [], catalog.cost_of

    def seen(config: RunConfig) -> catalog.Cost:
        counted.append((config.fusion.variant, config.training.freeze.text_encoder))
        return honest(config)

    monkeypatch.setattr(catalog, "cost_of", seen)
    costs = budgets(evaluated(grid, RunFolders(tmp_path / "r")))
    assert counted == [("default", False), ("l_dit", False), ("default", True)]
    for name, config in grid.settings.items():
        cost = honest(config)
        assert (costs[name].trainable, costs[name].gflops) == (cost.trainable, cost.gflops)


def test_where_all_cost_the_same_there_is_none(grid: Grid, tmp_path: Path) -> None:
    alone = evaluated(grid.narrowed("default", None), RunFolders(tmp_path / "r"))
    assert obstacle("budget", alone, tmp_path / "r") == "its settings have the same budget"


@pytest.mark.parametrize("columns", [1, 2])
def test_many_long_names_go_on_to_further_pages(columns: int) -> None:
    names = [f"{number} " + "a long name of a setting with an axis=of,many=values " * 2 for number in range(40)]
    rows = [
        {"setting": name, "budget": {"gflops": 2.0 + number}, "value": 0.9 - number / 100, "low": 0.4, "high": 0.95,
         "seed_values": [0.5, 0.6]}
        for number, name in enumerate(names)
    ]  # fmt: skip
    document = {
        "metric": "miou", "title": "t", "split": "val", "labels": {}, "baseline": names[0], "fields": ["gflops"],
        "tau": {"gflops": 0.5}, "ranking": rows, "columns_of_page": columns,
    }  # fmt: skip
    pages = styled(draw)(FigureData(document))
    assert len(pages) > 1
    assert all(page.get_figheight() <= PAGE for page in pages)
    shown = [label.get_text().replace("\n", " ") for page in pages for label in page.axes[0].get_yticklabels()]
    assert [label.partition(".")[0] for label in shown] == [str(rank) for rank in range(1, 41)]
    for page in pages:
        assert mistakes(page) == []

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import stored
from tests.conftest import Outcome
from workbench.errors import WorkbenchError
from workbench.grids import Grid, load_grid
from workbench.launch.local import LocalExecutor
from workbench.launch.plan import PlannedRun, Stage
from workbench.launch.tuning import choose
from workbench.results.folders import RunFolder

Write = Callable[..., Path]
RATE = "training.optimizer.learning_rate"
GRID = (
    "settings: {{default: {{}}, l_dit: {{fusion.variant: l_dit}}}}\nseeds: [0]\nbaseline: default\n"
    f"tune: {{{{field: {RATE}, values: [1.0e-3, 2.0e-3, 4.0e-3], seeds: [7, 8]}}}}\n"
    "report: {{metrics: [miou], {more}}}\n"
)
SCORES = {"default": (0.5, 0.7, 0.6), "l_dit": (0.8, 0.7, 0.8)}
"""Means over two seeds, by value; the best of l_dit stands twice."""


def score(results: Path, run: Any, scores: dict[str, tuple[float, ...]]) -> RunFolder:
    """A completed trial that scored so on val."""
    setting, rate = run.setting.partition(" · ")[0], run.config.training.optimizer.learning_rate
    value = scores[setting][[1e-3, 2e-3, 4e-3].index(rate)] + (0.05 if run.seed == 7 else -0.05)
    return stored.complete(results, run.config, run.seed, metrics={"val": {"expressions": 15, "miou": value}})


def trials_of(grid: Grid) -> list[Any]:
    assert grid.trials is not None
    return grid.trials.runs()


@pytest.fixture
def grid(grid_file: Write) -> Grid:
    return load_grid(grid_file(GRID.format(more="")))


def test_the_best_mean_over_seeds_is_chosen_and_of_equals_the_first(grid: Grid, tmp_path: Path) -> None:
    for run in trials_of(grid):
        score(tmp_path, run, SCORES)
    tuned = choose(grid, tmp_path)
    assert tuned.waiting == []
    assert tuned.tuning is not None
    chosen = {name: choice.values for name, choice in tuned.tuning.choices.items()}
    assert chosen == {"default": {RATE: 2e-3}, "l_dit": {RATE: 1e-3}}
    trials = tuned.tuning.choices["default"].trials
    assert [trial.score for trial in trials] == [pytest.approx(value) for value in SCORES["default"]]
    assert trials[0].runs == tuple(run.id for run in trials_of(grid) if run.setting == "default · learning_rate=0.001")
    assert len(tuned.tuning.choices["default"].codes) == 1
    assert load_grid(grid.file).settings == tuned.settings
    assert choose(tuned, tmp_path) is tuned


def test_a_setting_waits_until_all_of_its_trials_have_ended(grid: Grid, tmp_path: Path) -> None:
    *runs, last = [run for run in trials_of(grid) if run.setting.startswith("default")]
    for run in runs:
        score(tmp_path, run, SCORES)
    assert choose(grid, tmp_path) is grid
    stored.fail(tmp_path, last.config, last.seed)
    assert choose(grid, tmp_path).waiting == ["default", "l_dit"]
    assert not (grid.file.parent / "tuned").exists()
    score(tmp_path, last, SCORES)
    assert choose(grid, tmp_path).waiting == ["l_dit"]


def diverge(results: Path, run: Any) -> None:
    stored.fail(results, run.config, run.seed).update(state="diverged")


def test_a_trial_that_diverged_loses_and_where_all_did_it_is_an_error(grid: Grid, tmp_path: Path) -> None:
    for run in trials_of(grid):
        if run.setting.startswith("default") and run.config.training.optimizer.learning_rate == 2e-3 and run.seed == 8:
            diverge(tmp_path, run)
        else:
            score(tmp_path, run, SCORES)
    tuned = choose(grid, tmp_path)
    assert tuned.tuning is not None
    assert tuned.tuning.choices["default"].values == {RATE: 4e-3}
    assert [trial.score is None for trial in tuned.tuning.choices["default"].trials] == [False, True, False]
    (grid.file.parent / "tuned" / "grid.json").unlink()
    for run in trials_of(grid):
        if run.setting.startswith("l_dit"):
            diverge(tmp_path, run)
    with pytest.raises(
        WorkbenchError, match=r"grid\.yaml: tune: every trial of 'l_dit' diverged; give it other values"
    ):
        choose(grid, tmp_path)


def test_a_metric_that_the_split_lacks_is_named(grid: Grid, tmp_path: Path) -> None:
    for run in trials_of(grid):
        stored.complete(tmp_path, run.config, run.seed, metrics={"val": {"expressions": 15, "oiou": 0.5}})
    with pytest.raises(
        WorkbenchError, match=r"'default' with .*: miou is not defined on val; it has expressions, oiou"
    ):
        choose(grid, tmp_path)


def test_submit_tries_chooses_and_trains_and_the_table_says_so(
    grid_file: Write, tmp_path: Path, workbench: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, results = grid_file(GRID.format(more="splits: [val, testA]")), tmp_path / "results"
    begun: list[str] = []

    def train(self: LocalExecutor, stage: Stage, chosen: Sequence[PlannedRun]) -> None:
        for planned in chosen:
            begun.append(planned.run.setting)
            if "·" not in planned.run.setting:
                stored.complete(results, planned.run.config, planned.run.seed)
            elif planned.run.setting == "default · learning_rate=0.004":
                diverge(results, planned.run)
            else:
                score(results, planned.run, SCORES)

    monkeypatch.setattr(LocalExecutor, "train", train)
    planned = workbench("plan", file, "--results", results)
    assert planned.out.count(" new ") == 12
    assert "2 settings not tuned yet: default, l_dit; when their trials have ended" in planned.out
    assert workbench("submit", file, "--results", results, "--dry-run").code == 0
    done = workbench("submit", file, "--results", results)
    assert done.code == 0, done.err
    assert begun[12:] == ["default", "l_dit"]
    assert all("·" in setting for setting in begun[:12])
    assert workbench("submit", file, "--results", results).code == 0
    assert len(begun) == 14
    table = workbench("table", file, "--results", results)
    assert table.code == 0, table.err
    assert (
        "Tuned by mIoU on val alone, 3 trials for each setting (learning_rate 0.001, 0.002, 0.004; seeds 7, 8)."
    ) in table.out
    assert (
        "Chosen, with the scores of all trials in their order: default learning_rate=0.002 (50.0, 70.0, diverged); "
        "l_dit learning_rate=0.001 (80.0, 70.0, 80.0)."
    ) in table.out
    assert "| default · " not in table.out
    explained = workbench("table", file, "--results", results, "--explain", "default", "val", "miou")
    assert "learning_rate=0.002, of 3 trials" in explained.out
    assert "70.0  learning_rate=0.002  refshapes-vit_mini-default-" in explained.out
    assert "diverged  learning_rate=0.004" in explained.out

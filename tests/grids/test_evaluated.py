"""Which runs of a grid count: every seed that exists, by setting; what is missing or damaged is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests import stored
from workbench.grids import Grid, load_grid
from workbench.grids.evaluated import evaluated
from workbench.results.expressions import write_expressions
from workbench.results.folders import RunFolder, StoreError
from workbench.results.frames import RunFolders
from workbench.results.scored import PredictionFile, ScoredFolder, ScoreRecord
from workbench.results.summary import Summary

GRID = "settings: {a: {}, b: {fusion.variant: l_dit}}\nbaseline: a\n"


@pytest.fixture
def grid(grid_file: Callable[[str], Path]) -> Grid:
    return load_grid(grid_file(GRID))


def folder_of(grid: Grid, results: Path, setting: str, seed: int) -> RunFolder:
    return RunFolder(results, f"{grid.settings[setting].setting_id}/seed{seed}")


@pytest.fixture
def results(tmp_path: Path, grid: Grid) -> Path:
    """A grid that names one seed, and five seeds of a, three of b."""
    for seed in range(5):
        stored.complete(tmp_path, grid.settings["a"], seed)
    for seed in range(3):
        stored.complete(tmp_path, grid.settings["b"], seed, draw=2000 + seed)
    return tmp_path


def test_every_seed_that_exists_counts_and_fewer_are_said(grid: Grid, results: Path) -> None:
    assert grid.seeds == (0,)
    runs = evaluated(grid, RunFolders(results))
    assert runs.seeds("a") == (0, 1, 2, 3, 4)
    assert runs.seeds("b") == (0, 1, 2)
    assert runs.fewer_seeds == {"b": 3}
    assert runs.incomplete == []
    assert evaluated(grid, RunFolders(results), seeds=[1, 2]).fewer_seeds == {}


def test_a_failed_seed_is_named_and_a_deleted_folder_changes_exactly_that(grid: Grid, results: Path) -> None:
    stored.fail(results, grid.settings["a"], 5, "no luck")
    runs = evaluated(grid, RunFolders(results))
    assert [str(run) for run in runs.incomplete] == ["a seed 5 (failed)"]
    assert runs.seeds("a") == (0, 1, 2, 3, 4)
    before = {name: frame.copy() for name, frame in runs.expressions.items()}
    shutil.rmtree(folder_of(grid, results, "a", 3).path)
    after = evaluated(grid, RunFolders(results))
    assert after.seeds("a") == (0, 1, 2, 4)
    left = before["a"][before["a"]["seed"] != 3].reset_index(drop=True)
    pd.testing.assert_frame_equal(after.expressions["a"], left)
    pd.testing.assert_frame_equal(after.expressions["b"], before["b"])
    assert [str(run) for run in after.incomplete] == ["a seed 5 (failed)"]
    shutil.rmtree(folder_of(grid, results, "a", 0).path)  # the grid's own seed is expected all the same
    assert [str(run) for run in evaluated(grid, RunFolders(results)).incomplete] == [
        "a seed 0 (not begun)",
        "a seed 5 (failed)",
    ]


def test_seeds_narrow_what_is_expected_and_shown(grid: Grid, results: Path) -> None:
    stored.fail(results, grid.settings["a"], 5)
    runs = evaluated(grid, RunFolders(results), seeds=[1, 4])
    assert (runs.seeds("a"), runs.seeds("b")) == ((1, 4), (1,))
    assert [str(run) for run in runs.incomplete] == ["b seed 4 (not begun)"]


def test_a_damaged_run_is_named_and_the_sound_ones_are_shown(grid: Grid, results: Path) -> None:
    record = folder_of(grid, results, "a", 1).record_file
    record.write_text(json.dumps(json.loads(record.read_text()) | {"steps": "many"}))
    parquet = folder_of(grid, results, "b", 2).expressions_file
    parquet.write_bytes(parquet.read_bytes()[:300])
    runs = evaluated(grid, RunFolders(results))
    assert (runs.seeds("a"), runs.seeds("b")) == ((0, 2, 3, 4), (0, 1))
    first, second = map(str, runs.incomplete)
    assert first.startswith(f"a seed 1 (damaged: {record}: damaged (steps: 'many' is not valid")
    assert second.startswith(f"b seed 2 (damaged: {parquet}: damaged (")


def test_a_run_that_was_evaluated_on_other_expressions_is_damaged(grid: Grid, results: Path) -> None:
    folder = folder_of(grid, results, "a", 2)
    frame = folder.expressions()
    folder.write_expressions(frame.assign(image_id=frame["image_id"] + 1))
    runs = evaluated(grid, RunFolders(results))
    assert runs.seeds("a") == (0, 1, 3, 4)
    assert "was evaluated on other expressions of val than other runs" in str(runs.incomplete[0])


@pytest.mark.parametrize("kept", [False, True])
def test_a_number_that_is_not_the_stored_one_is_not_shown(
    grid: Grid, results: Path, tmp_path: Path, kept: bool
) -> None:
    folder = folder_of(grid, results, "a", 2)
    file, source = folder.expressions_file, RunFolders(results)
    if kept:
        evaluated(grid, source).write_summary(tmp_path / "kept")
        source = Summary(tmp_path / "kept")
        file = source.expressions_file(folder.name)
    frame = pd.read_parquet(file)
    moved = np.minimum(frame["intersection"].to_numpy()[::-1], frame["union"].to_numpy())
    write_expressions(file, frame.assign(intersection=moved))
    runs = evaluated(grid, source)
    assert runs.seeds("a") == (0, 1, 3, 4)
    (told,) = runs.incomplete
    assert str(told).startswith(f"a seed 2 (damaged: {file}: damaged (intersection: ")
    assert " of val is " in str(told)
    assert f"but {source.record_file(folder.name)} says " in str(told)
    assert list(runs.runs.loc[runs.runs["run"] == folder.name, "state"]) == ["damaged"]


@pytest.mark.parametrize("kept", [False, True])
def test_a_metric_that_scored_masks_do_not_have_is_said_with_both_files(
    grid_file: Callable[[str], Path], results: Path, tmp_path: Path, kept: bool
) -> None:
    grid = load_grid(grid_file(GRID + "report: {models: [other]}\n"))
    frame = stored.expressions(["val", "testA"], 5000)
    record = ScoreRecord(
        name="other", dataset={"name": "refshapes"}, predictions=PredictionFile(file="masks.json", sha256="0" * 64),
        no_target_area=0, metrics={split: {"miou": stored.mean_iou(frame, split)} for split in ("val", "testA")},
    )  # fmt: skip
    ScoredFolder(results, "other").write(record, frame)
    source: RunFolders | Summary = RunFolders(results)
    assert "other" in evaluated(grid, source).sources
    if kept:
        evaluated(grid, source).write_summary(tmp_path / "kept")
        source = Summary(tmp_path / "kept")
    folder = source.scored("other")
    document = json.loads(folder.record_file.read_text())
    document["metrics"]["testA"]["miou"] = -7
    folder.record_file.write_text(json.dumps(document))
    runs = evaluated(grid, source)
    assert "other" not in runs.sources
    (told,) = [str(one) for one in runs.incomplete]
    assert told.startswith(f"other (damaged: {folder.expressions_file}: damaged (intersection: mIoU of testA is 0.")
    assert told.endswith(f", but {folder.record_file} says -7.000000); remove its folder and score the predictions "
                         "again)")  # fmt: skip


@pytest.mark.parametrize("column", ["sentence", "target_area", "no_target"])
def test_a_run_with_another_ground_truth_is_damaged(grid: Grid, results: Path, column: str) -> None:
    folder = folder_of(grid, results, "a", 2)
    frame = folder.expressions()
    folder.write_expressions(frame.assign(**{column: {"sentence": "x", "target_area": 1, "no_target": True}[column]}))
    runs = evaluated(grid, RunFolders(results))
    assert runs.seeds("a") == (0, 1, 3, 4)
    assert "was evaluated on other expressions" in str(runs.incomplete[0])


def test_a_run_without_a_column_that_came_later_damages_no_other(grid: Grid, results: Path) -> None:
    folder = folder_of(grid, results, "a", 2)
    folder.write_expressions(folder.expressions().drop(columns="target_area"))
    runs = evaluated(grid, RunFolders(results))
    assert runs.seeds("a") == (0, 1, 2, 3, 4)
    assert not runs.incomplete


def test_a_folder_of_another_configuration_is_damaged(grid: Grid, results: Path) -> None:
    record = folder_of(grid, results, "a", 1).record_file
    document = json.loads(record.read_text())
    document["identity"]["config"]["training"]["steps"] = 7
    record.write_text(json.dumps(document))
    runs = evaluated(grid, RunFolders(results))
    assert runs.seeds("a") == (0, 2, 3, 4)
    assert "stored under this id is another configuration" in str(runs.incomplete[0])
    assert "config.training.steps: 7 -> 6" in str(runs.incomplete[0])


def test_nothing_completed_is_said_with_what_went_wrong(grid: Grid, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no completed run yet; train with: workbench submit"):
        evaluated(grid, RunFolders(tmp_path))
    stored.fail(tmp_path, grid.settings["a"], 0)
    with pytest.raises(StoreError, match=r"no completed run yet \(a seed 0 \(failed\)\)"):
        evaluated(grid, RunFolders(tmp_path))


def test_runs_of_other_code_are_named(grid: Grid, results: Path) -> None:
    assert evaluated(grid, RunFolders(results)).other_code == []
    stored.complete(results, grid.settings["b"], 1, draw=2001, codes=["0123456789ab"])
    assert evaluated(grid, RunFolders(results)).other_code == ["b"]


def test_a_summary_holds_all_that_was_evaluated(grid: Grid, results: Path, tmp_path: Path) -> None:
    stored.fail(results, grid.settings["b"], 7)
    parquet = folder_of(grid, results, "a", 4).expressions_file
    parquet.write_bytes(parquet.read_bytes()[:-9])
    runs = evaluated(grid, RunFolders(results))
    runs.write_summary(tmp_path / "kept")
    shutil.rmtree(results / "runs")
    kept = evaluated(grid, Summary(tmp_path / "kept"))
    pd.testing.assert_frame_equal(kept.runs, runs.runs)
    assert kept.expressions.keys() == runs.expressions.keys()
    for name, frame in runs.expressions.items():
        pd.testing.assert_frame_equal(kept.expressions[name], frame)
    assert list(map(str, kept.incomplete)) == list(map(str, runs.incomplete))

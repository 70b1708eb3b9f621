from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from workbench.config import RunConfig
from workbench.grids import load_grid
from workbench.launch.plan import plan
from workbench.launch.submit import expected_cost
from workbench.results.folders import RunFolder
from workbench.results.index import INDEX, collect

METRICS = {"val": {"expressions": 3, "miou": 0.5}, "testA": {"expressions": 4, "miou": 0.25}}


def finish(folder: RunFolder, config: RunConfig, **more: object) -> None:
    known = {"steps": 100, "training_seconds": 30.0, "seconds": 40.0, "gpu_hours": 0.0, "processes": 2}
    record = {"identity": config.identity_document(), "provenance": {"code": "abc"}, "metrics": METRICS}
    folder.update(state="completed", **{**known, **record, **more})


@pytest.fixture
def runs(tmp_path: Path, make_config: Callable[..., RunConfig]) -> list[RunFolder]:
    made = [RunFolder.of(tmp_path, make_config(), seed) for seed in range(3)]
    for folder in made[:2]:
        finish(folder, make_config())
    made[2].update(state="running")
    return made


def test_completed_runs_have_a_row_a_split_and_others_one(runs: list[RunFolder], tmp_path: Path) -> None:
    frame = collect(tmp_path)
    assert list(frame["run"]) == [runs[0].name] * 2 + [runs[1].name] * 2 + [runs[2].name]
    assert list(frame["state"]) == ["completed"] * 4 + ["running"]
    assert list(frame["miou"][:4]) == [0.5, 0.25, 0.5, 0.25]
    assert frame["seed"].tolist() == [0, 0, 1, 1, 2]
    assert pd.isna(frame["split"].iloc[4])


def test_the_index_is_followed_only_where_nothing_changed(
    runs: list[RunFolder], tmp_path: Path, make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = collect(tmp_path)
    read: list[str] = []
    import workbench.results.index as module

    rows = module._rows
    monkeypatch.setattr(module, "_rows", lambda folder, run, stamp: read.append(run) or rows(folder, run, stamp))
    pd.testing.assert_frame_equal(collect(tmp_path), first)
    assert read == []
    finish(runs[2], make_config(), metrics={"val": {"expressions": 3, "miou": 1.0}})
    (runs[0].path / "run.json").unlink()
    second = collect(tmp_path)
    assert read == [runs[2].name]
    assert set(second["run"]) == {runs[1].name, runs[2].name}
    assert second["miou"].max() == 1.0
    (tmp_path / INDEX).write_bytes(b"not a parquet file")
    pd.testing.assert_frame_equal(collect(tmp_path), second, check_dtype=False)
    assert sorted(read[1:]) == [runs[1].name, runs[2].name]


def test_a_record_that_cannot_be_read_is_named_and_no_results_are_no_error(
    runs: list[RunFolder], tmp_path: Path
) -> None:
    (runs[1].path / "run.json").write_bytes(b"{")
    frame = collect(tmp_path)
    assert frame.set_index("run")["state"][runs[1].name] == "damaged"
    assert collect(tmp_path / "nothing").empty


def test_the_cost_goes_by_past_runs_of_the_same_kind(grid_file: Callable[[str], Path], tmp_path: Path) -> None:
    grid = load_grid(grid_file("settings: {a: {training.steps: 200}, b: {fusion.variant: l_dit}}\nseeds: [0, 1]\n"))
    planned = plan(grid, tmp_path)
    assert str(expected_cost(planned, tmp_path)).startswith("cost unknown")
    finish(planned[0].folder, planned[0].run.config)
    cost = expected_cost(planned[1:], tmp_path)
    # 200 steps at 0.3 s and 10 s of evaluation, of two processes, for the one run of the known kind.
    assert cost.hours == pytest.approx((200 * 0.3 + 10) * 2 / 3600)
    assert (cost.known, cost.runs) == (1, 3)
    assert str(cost).endswith("2 runs more of kinds that were never run")

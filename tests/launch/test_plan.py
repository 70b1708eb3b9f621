from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.grids import load_grid
from workbench.launch.plan import jobs, plan, snapshot, to_train
from workbench.results.record import State


@pytest.mark.parametrize(
    ("state", "plain", "retried"),
    [
        ("completed", False, False),
        ("failed", False, True),
        ("diverged", False, True),
        ("interrupted", True, True),
        ("running", True, True),  # it says so, but nobody holds it: killed
    ],
)
def test_what_is_trained_again(
    grid_file: Callable[[str], Path], tmp_path: Path, state: State, plain: bool, retried: bool
) -> None:
    grid = load_grid(grid_file("settings: {a: {}}\n"))
    plan(grid, tmp_path)[0].folder.update(state=state)
    assert bool(to_train(plan(grid, tmp_path), retry=False)) == plain
    assert bool(to_train(plan(grid, tmp_path), retry=True)) == retried


def test_a_run_that_another_process_trains_is_left_alone(grid_file: Callable[[str], Path], tmp_path: Path) -> None:
    grid = load_grid(grid_file("settings: {a: {}}\n"))
    folder = plan(grid, tmp_path)[0].folder
    with folder.claim():
        folder.update(state="running")
        assert to_train(plan(grid, tmp_path), retry=True) == []


def test_jobs_hold_absolute_paths_and_fill_in_threads(
    grid_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = load_grid(
        grid_file("settings: {a: {machine.data_root: here, machine.threads: 1}, b: {fusion.variant: l_dit}}\n")
    )
    planned = plan(grid, tmp_path)
    made = jobs(planned, Path("results"), threads=7)
    assert [job.config["machine"]["threads"] for job in made] == [1, 7]
    assert made[0].config["machine"]["data_root"] == str(tmp_path / "here")
    assert made[0].results == str(tmp_path / "results")


def test_a_snapshot_is_the_package_and_is_shared(tmp_path: Path) -> None:
    first = snapshot(tmp_path)
    assert snapshot(tmp_path) == first
    assert (first / "workbench" / "assets" / "vit_mini.safetensors").is_file()
    assert not list(first.rglob("__pycache__"))

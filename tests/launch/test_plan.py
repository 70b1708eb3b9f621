from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.grids import load_grid
from workbench.launch.plan import plan, to_train
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

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import stored
from workbench.grids import load_grid
from workbench.launch.cost import expected_cost
from workbench.launch.plan import plan


def test_the_cost_goes_by_past_runs_of_the_same_kind(grid_file: Callable[[str], Path], tmp_path: Path) -> None:
    grid = load_grid(grid_file("settings: {a: {training.steps: 200}, b: {fusion.variant: l_dit}}\nseeds: [0, 1]\n"))
    planned = plan(grid, tmp_path)
    assert str(expected_cost(planned, tmp_path)).startswith("cost unknown")
    stored.complete(tmp_path, planned[0].run.config, 0, steps=100, training_seconds=30.0, seconds=40.0, processes=2)
    cost = expected_cost(planned[1:], tmp_path)
    # 200 steps at 0.3 s and 10 s of evaluation, of two processes, for the one run of the known kind.
    assert cost.hours == pytest.approx((200 * 0.3 + 10) * 2 / 3600)
    assert (cost.known, cost.runs) == (1, 3)
    assert str(cost).endswith("2 runs more of kinds that were never run")

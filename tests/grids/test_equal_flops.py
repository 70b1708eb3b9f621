from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import stored
from tests.conftest import Outcome
from workbench.grids import Grid, GridError, load_grid
from workbench.grids.evaluated import evaluated
from workbench.paper.layout import lay_out
from workbench.paper.render import notes
from workbench.results.frames import RunFolders
from workbench.training.flops import step_flops

Write = Callable[..., Path]
GRID = (
    "settings:\n  default: {}\n  l_dit: {fusion.variant: l_dit, training.steps: 1000}\n"
    "  longer: {budget: {same_flops_as: l_dit}}\n  half: {training.batch_size: 2, budget: {same_flops_as: l_dit}}\n"
    "seeds: [0]\nbaseline: default\nreport: {metrics: [miou]}\n"
)


@pytest.mark.exhaustive
def test_steps_are_the_whole_number_that_comes_nearest_to_the_others_flops(grid_file: Write) -> None:
    grid = load_grid(grid_file(GRID))
    flops = {name: step_flops(config) for name, config in grid.settings.items()}
    total = 1000 * flops["l_dit"]
    assert flops["longer"] == flops["default"] < flops["l_dit"]
    for name in ("longer", "half"):
        steps = grid.settings[name].training.steps
        assert steps is not None
        assert 2 * abs(steps * flops[name] - total) <= flops[name]
        made = grid.equal_flops[name]
        assert (made.setting, made.steps, made.own_steps, made.reference_steps) == ("l_dit", steps, 6, 1000)
        assert (made.flops, made.reference_flops) == (flops[name], flops["l_dit"])
    assert grid.settings["half"].training.steps in [
        2 * (grid.settings["longer"].training.steps or 0) + k for k in (-1, 0, 1)
    ]
    # What is resolved is an ordinary number of steps of the run, and part of its identity.
    steps = grid.settings["longer"].training.steps
    plain = load_grid(grid_file(f"settings: {{a: {{training.steps: {steps}}}}}\n", name="plain"))
    assert plain.settings["a"].setting_id == grid.settings["longer"].setting_id
    assert Grid.from_document(grid.document()).equal_flops == grid.equal_flops


@pytest.mark.exhaustive
def test_the_table_says_how_many_steps_that_is(
    grid_file: Write, tmp_path: Path, workbench: Callable[..., Outcome]
) -> None:
    file = grid_file(GRID)
    grid = load_grid(file)
    for config in grid.settings.values():
        stored.complete(tmp_path, config, 0)
    made = grid.equal_flops["longer"]
    text = (
        f"longer {made.steps:,} steps instead of 6, for the FLOPs of l_dit's 1,000 steps "
        f"({made.reference_flops / 1e9:,.4g} GFLOPs against {made.flops / 1e9:,.4g} a step)"
    )
    assert f"Steps set by training FLOPs: {text}; half " in "\n".join(
        notes(lay_out(evaluated(grid, RunFolders(tmp_path))))
    )
    explained = workbench("table", file, "--results", tmp_path, "--explain", "longer", "val", "miou")
    assert f"  {text.removeprefix('longer ')}" in explained.out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{a: {budget: {same_flops_as: b}}}", "settings.a.budget.same_flops_as: unknown setting 'b'"),
        ("{a: {budget: {same_flops_as: a}}}", "settings.a.budget.same_flops_as: unknown setting 'a'"),
        ("{a: {budget: 3}}", "settings.a.budget: {same_flops_as: SETTING} is expected, not 3"),
        ("{a: {budget: {flops: b}}, b: {}}", "settings.a.budget: {same_flops_as: SETTING} is expected"),
        (
            "{a: {budget: {same_flops_as: b}}, b: {training: {steps: null, epochs: 1}}}",
            "settings.a.budget: it and b must say training.steps",
        ),
        (
            "{a: {budget: {same_flops_as: b}}, b: {budget: {same_flops_as: a}}}",
            "settings.a.budget.same_flops_as: 'b' has a budget itself",
        ),
        ("{a: {budget: {same_flops_as: b}}, b: {}}", "settings 'a' and 'b' are the same configuration"),
    ],
)
def test_a_wrong_budget_says_what_is_wrong(grid_file: Write, settings: str, message: str) -> None:
    with pytest.raises(GridError) as raised:
        load_grid(grid_file(f"settings: {settings}\n"))
    assert message in str(raised.value)

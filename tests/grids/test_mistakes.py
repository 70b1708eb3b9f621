"""All that is wrong with a grid, in one message with a line for each mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.errors import ConfigError, lines_of, with_more
from workbench.grids import GridError
from workbench.grids.mistakes import Mistakes

Write = Callable[..., Path]


def test_a_mistake_of_many_settings_is_one_line() -> None:
    wrong = Mistakes(Path("g.yaml"), 6)
    wrong.raise_any()
    for name in ("a", "b", "c", "d", "e"):
        wrong.add(name, GridError(f"g.yaml: setting {name!r}: x: bad"))
    for name in ("a", "b"):
        wrong.add(name, with_more(ConfigError("y", "worse"), ["z: worst"]))
    wrong.add("f", GridError("g.yaml: base.preset: none"))
    wrong.add("e", GridError("g.yaml: base.preset: none"))
    try:
        wrong.raise_any()
    except GridError as error:
        lines = lines_of(error)
    assert lines == [
        "g.yaml: settings 'a', 'b', 'c' and 2 more: x: bad",
        "g.yaml: settings 'a', 'b': y: worse",
        "g.yaml: settings 'a', 'b': z: worst",
        "g.yaml: base.preset: none",
    ]


def test_all_mistakes_of_a_grid_are_named_at_once(workbench: Any, grid_file: Write, tmp_path: Path) -> None:
    grid = grid_file(
        "  fusion: {layer: all}\n"
        "settings:\n"
        "  a: {training.stepz: 3, training.batch_size: none, fusion.dropout: 2}\n"
        "  b: {fusion.variant: 7}\n"
        "  c: {}\n"
        "baseline: d\n"
    )
    refused = workbench("plan", grid)
    assert refused.code == 2
    lines = refused.err.splitlines()
    assert all(line.startswith(f"error: {grid}: ") for line in lines)
    found = [line.removeprefix(f"error: {grid}: ") for line in lines]
    assert sum(line.startswith("setting 'a': ") for line in found) == 3
    for start in (
        "all 3 settings: fusion.layer: unknown key 'layer' (did you mean 'layers'?)",
        "setting 'a': training.stepz: unknown key",
        "setting 'a': training.batch_size: 'none' is not valid",
        "setting 'a': fusion.dropout: 2 is not valid",
        "setting 'b': fusion.variant: 7 is not valid",
        "baseline: unknown setting 'd'",
    ):
        assert sum(line.startswith(start) for line in found) == 1, start
    assert len(found) == 6
    top = grid_file("settings: {a: {}}\nsetings: {}\nseeds: [-1]\nreport: {metrics: [iou], columns: 3}\n", "top")
    assert len(workbench("plan", top).err.splitlines()) == 4
    shown = grid_file("settings: {a: {}}\nreport: {splits: [Val, testB], figure_split: tesA}\n", "shown")
    splits = workbench("plan", shown).err
    assert splits.count("error: ") == 3
    assert "'Val' is not evaluated by setting 'a' (did you mean 'val'?)" in splits


def test_what_shows_when_models_are_built_is_named_for_every_setting(workbench: Any, grid_file: Write) -> None:
    grid = grid_file(
        "settings:\n"
        "  a: {fusion.variant: l_dit, fusion.layers: {last: 5}}\n"
        "  b: {fusion.variant: l_dit, fusion.layers: {last: 5}, training.steps: 7}\n"
        "  c: {fusion.variant: l_dti}\n"
        "  d: {}\n"
    )
    lines = workbench("plan", grid).err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"error: {grid}: settings 'a', 'b': fusion.layers.last: 5 is more than")
    assert lines[1].startswith(f"error: {grid}: setting 'c': fusion.variant: unknown fusion variant 'l_dti'")

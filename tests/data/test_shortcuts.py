from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from workbench.analysis.probe import baseline_table
from workbench.config import DataConfig, RefshapesRecipe
from workbench.data.datasets import open_data
from workbench.data.queries import Query, Scene, fitting, parse
from workbench.data.scenes import Shape
from workbench.data.shortcuts import FULL, HEAD, NO_ANCHOR, PARTS, READERS, SHORTCUTS, probability, replaced

SIZE = (64, 64)
SCENE = Scene(
    [
        Shape("circle", "red", "small", 10, 10, 5),
        Shape("circle", "red", "large", 50, 12, 10),
        Shape("circle", "blue", "small", 30, 48, 5),
        Shape("square", "green", "small", 33, 31, 5),
    ]
)


@pytest.mark.parametrize(
    ("solver", "sentence", "target", "expected"),
    [
        ("random object", "red circle", 0, 1 / 4),
        ("largest object", "red circle", 1, 1.0),
        ("most central object", "red circle", 3, 1.0),
        ("colour word only", "small red circle", 0, 1 / 2),
        ("colour word only", "small circle", 0, 1 / 4),
        ("shape word only", "small red circle", 0, 1 / 3),
        ("size word only", "small red circle", 0, 1 / 3),
        ("direction word only", "lowest red circle", 1, 0.0),
        ("direction word only", "leftmost circle", 0, 1.0),
        ("any held-out combination", "red circle", 0, 1 / 4),
    ],
)
def test_shortcuts_ignore_the_rest(solver: str, sentence: str, target: int, expected: float) -> None:
    assert probability(SHORTCUTS[solver], SCENE, parse(sentence), target, SIZE) == pytest.approx(expected)


def test_a_solver_without_the_anchor_takes_the_furthest_on_the_side() -> None:
    assert probability(READERS[HEAD], SCENE, parse("leftmost red thing"), 0, SIZE) == pytest.approx(1 / 2)
    above = parse("circle right of the green square")
    assert probability(READERS[NO_ANCHOR], SCENE, above, 1, SIZE) == 1.0
    nearest = parse("circle nearest to the green square")
    assert probability(READERS[NO_ANCHOR], SCENE, nearest, 2, SIZE) == pytest.approx(1 / 3)
    assert probability(READERS[FULL], SCENE, nearest, 2, SIZE) == 1.0


def test_what_is_replaced_is_one_part_and_the_text_says_so() -> None:
    query = parse("circle nearest to the green square")
    for part in PARTS:
        new = replaced(np.random.default_rng(0), SCENE, query, part)
        if part == "direction":
            assert new is None  # it names no side
            continue
        assert new is not None
        changed, text = new
        assert parse(text) == changed
        assert (changed.head != query.head) is (part == "attribute")
        assert (changed.anchors != query.anchors) is (part == "anchor")
    side = replaced(np.random.default_rng(0), SCENE, parse("leftmost circle"), "direction")
    assert side is not None
    assert side[0].direction in ("right", "top", "bottom")
    assert fitting(SCENE, Query(("circle",), side[0].direction)) == fitting(SCENE, side[0])


@pytest.mark.slow
@pytest.mark.exhaustive
def test_no_shortcut_solves_half_of_a_split_of_the_second_version(tmp_path: Path) -> None:
    recipe = RefshapesRecipe(seed=0, train_images=1, eval_images=150, version=2)
    data = open_data(DataConfig(recipe=recipe), tmp_path)
    table = baseline_table(data, recipe, ["val", "testA", "testB", "testC"])
    assert (table.loc[FULL] == 1.0).all()
    assert table.loc[NO_ANCHOR, "testB"] <= 0.5
    ignoring = [name for name in table.index if name not in READERS]
    assert (table.loc[ignoring] <= 0.5).all(axis=None)

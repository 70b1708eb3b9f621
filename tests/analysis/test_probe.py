from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pycocotools import mask as coco_mask

from tests.conftest import Outcome
from workbench.analysis.probe import asked_of, baseline_table, over_seeds, run_table
from workbench.config import DataConfig, RefshapesRecipe, RunConfig
from workbench.data.datasets import open_data
from workbench.data.loading import Expressions
from workbench.data.refshapes import ensure
from workbench.data.tables import ReferData
from workbench.evaluation.scoring import score
from workbench.results.folders import RunFolder
from workbench.training.train import train

RECIPE = RefshapesRecipe(seed=3, train_images=12, eval_images=8, version=2)
SPLITS = ["val", "testA", "testB", "testC"]


@pytest.fixture(scope="module")
def data(data_root: Path) -> ReferData:
    return open_data(DataConfig(recipe=RECIPE), data_root)


def test_solvers_that_read_nothing_are_scored_with_the_masks(data: ReferData) -> None:
    table = baseline_table(data, None, SPLITS)
    assert list(table.index) == ["random object", "largest object", "most central object", "all objects"]
    objects = data.objects.to_pandas()
    largest, everything = [], []
    for expression in Expressions(data, "val"):
        size = [expression.height, expression.width]
        here = objects[objects["image_id"] == expression.image_id]
        masks = [coco_mask.decode({"size": size, "counts": rle}).astype(bool) for rle in here["rle"]]
        target = coco_mask.decode({"size": size, "counts": expression.rle}).astype(bool)
        widest = masks[int(np.argmax([m.sum() for m in masks]))]
        largest.append((widest & target).sum() / (widest | target).sum())
        everything.append(target.sum() / np.any(masks, axis=0).sum())
    assert table.loc["largest object", "val"] == pytest.approx(np.mean(largest))
    assert table.loc["all objects", "val"] == pytest.approx(np.mean(everything))


def test_scenes_and_expressions_belong_together(data: ReferData) -> None:
    for split in SPLITS:
        expressions = Expressions(data, split)
        for expression, asked in zip(expressions, asked_of(data, RECIPE, split), strict=True):
            assert asked.scene.shapes[asked.target].shape == expression.category
    table = baseline_table(data, RECIPE, SPLITS)
    assert (table.loc["all that is written"] == 1).all()


def test_a_run_is_asked_changed_sentences(
    data: ReferData, data_root: Path, tmp_path: Path, make_config: Callable[..., RunConfig], monkeypatch: Any
) -> None:
    config = make_config(data__recipe=RECIPE.model_dump(), evaluation__splits=["val", "testB"], training__steps=1)
    folder = RunFolder.of(tmp_path, config, 0)
    train(config, 0, folder)
    asked: list[str] = []

    def perfect(model: Any, tokenizer: Any, dataset: Any, *arguments: Any) -> pd.DataFrame:
        """Answers every sentence with its referent's mask, so that only the sentences matter."""
        asked.extend(e.sentence for e in dataset.expressions)
        return pd.DataFrame([score(e, e.rle, 0) for e in dataset.expressions])

    monkeypatch.setattr("workbench.evaluation.evaluate.evaluate", perfect)
    table = run_table(config, folder, data, ["testB"])
    written = [e.sentence for e in Expressions(data, "testB")]
    assert list(table["part"]) == ["words", "anchor", "attribute", "direction"][: len(table)]
    assert asked[: len(written)] == written
    assert sorted(asked[len(written) : 2 * len(written)]) == sorted(written)  # shuffled
    anchors = asked[2 * len(written) : 3 * len(written)]
    changed = [new for new, old in zip(anchors, written, strict=True) if new != old]
    assert len(changed) == table.set_index("part").loc["anchor", "expressions"] > len(written) / 2
    assert (table["as_written"] == 1).all()
    assert table.set_index("part").loc["anchor", "honest"] < 0.5
    assert [e.sentence for e in Expressions(data, "testB")] == written  # the data set itself stays


@pytest.mark.exhaustive
def test_the_command_shows_both_tables(
    tmp_path: Path, data_root: Path, workbench: Callable[..., Outcome], grid_file: Callable[[str], Path]
) -> None:
    folder = ensure(data_root, RECIPE)
    shown = workbench("data", "probe", folder.name, "--root", data_root)
    assert shown.code == 0, shown.err
    assert [line.split("  ")[0] for line in shown.out.splitlines()][-1] == "all that is written"
    assert shown.out.splitlines()[-1].split()[-4:] == ["100.0"] * 4
    grid = grid_file("settings: {only: {fusion.variant: default}}\nseeds: [0]\nbaseline: only\n")
    assert workbench("submit", grid, "--results", tmp_path / "results").code == 0
    probed = workbench("data", "probe", "--grid", grid, "--results", tmp_path / "results", "--json")
    assert probed.code == 0, probed.err
    runs = json.loads(probed.out)["runs"]
    assert {(row["setting"], row["seed"]) for row in runs} == {("only", 0)}
    assert {row["part"] for row in runs} >= {"words", "attribute"}
    refused = workbench("data", "probe")
    assert refused.code != 0
    assert "name either a data set or, with --grid, a grid" in refused.err


def test_seeds_of_a_setting_are_one_row_with_their_spread() -> None:
    def row(seed: int, split: str, as_written: float, replaced: float) -> dict[str, Any]:
        return {"setting": "a", "seed": seed, "part": "anchor", "split": split, "expressions": 7,
                "as_written": as_written, "replaced": replaced, "honest": 0.25}  # fmt: skip

    rows = [row(1, "val", 0.5, 0.4), row(2, "val", 0.7, 0.3), row(1, "testB", 0.2, 0.2)]
    found = over_seeds(rows).set_index("split")
    assert list(found.index) == ["val", "testB"]
    assert found.loc["val", ["seeds", "expressions", "reader_fall"]].tolist() == [2, 7, 0.75]
    np.testing.assert_allclose(found.loc["val", ["as_written", "replaced", "fall"]].astype(float), [0.6, 0.35, 0.25])
    np.testing.assert_allclose(found.loc["val", "fall_sd"], np.std([0.1, 0.4], ddof=1))
    assert np.isnan(found.loc["testB", "fall_sd"])

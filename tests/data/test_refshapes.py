from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from workbench.config import RefshapesRecipe
from workbench.data import masks, refshapes
from workbench.data.images import read_image
from workbench.data.refer import read_refer
from workbench.data.scenes import HELD_OUT
from workbench.errors import DataError

RECIPE = RefshapesRecipe(seed=5, train_images=12, eval_images=8, width=80, height=56)


def digest(folder: Path) -> str:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    text = b"".join(f.relative_to(folder).as_posix().encode() + f.read_bytes() for f in files)
    return hashlib.sha256(text).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return refshapes.ensure(tmp_path_factory.mktemp("refshapes"), RECIPE)


def test_the_same_recipe_makes_the_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    again = refshapes.ensure(tmp_path, RECIPE)
    assert digest(again) == digest(folder)
    other = refshapes.ensure(tmp_path, RECIPE.model_copy(update={"seed": 6}))
    assert digest(other) != digest(folder)


def test_the_files_have_refcoco_s_form(folder: Path) -> None:
    refs = pickle.loads((folder / "refs(unc).p").read_bytes())
    assert set(refs[0]) == {
        "ref_id", "ann_id", "image_id", "category_id", "file_name", "split", "sent_ids", "sentences"
    }  # fmt: skip
    assert set(refs[0]["sentences"][0]) == {"raw", "sent", "sent_id", "tokens"}
    assert [s["sent_id"] for s in refs[3]["sentences"]] == refs[3]["sent_ids"]
    instances = json.loads((folder / "instances.json").read_text())
    assert set(instances["annotations"][0]) >= {
        "id", "image_id", "category_id", "bbox", "area", "segmentation", "iscrowd"
    }  # fmt: skip
    assert instances["images"][0]["file_name"] == "COCO_train2014_000000000001.png"
    assert len(list((folder / "images").glob("COCO_train2014_*.png"))) == len(instances["images"]) == 44


def test_the_splits_hold_what_they_promise(folder: Path) -> None:
    data = read_refer(folder, "refshapes", "unc")
    assert data.splits == ["train", "val", "testA", "testB", "testC"]
    objects = {row["ann_id"]: row for row in data.objects.to_pylist()}
    instances = json.loads((folder / "instances.json").read_text())
    assert len({row["image_id"] for row in data.expressions.to_pylist()}) == 44
    from workbench.data.language import expression_kind

    kinds = {split: {expression_kind(s) for s in data.split(split)["sentence"].to_pylist()} for split in data.splits}
    assert kinds["testA"] == {"attribute", "place"}
    assert kinds["testB"] == {"relation"}
    assert kinds["train"] == {"attribute", "place", "relation"}
    shapes = {c["id"]: c["name"] for c in instances["categories"]}
    images = {row["image_id"]: row["file_name"] for row in data.images.to_pylist()}
    for split in data.splits:
        for row in data.split(split).to_pylist():
            mask = masks.decode(objects[row["ann_ids"][0]]["rle"], 56, 80)
            picture = read_image(data.image_folder / images[row["image_id"]])
            colour = picture[mask > 0].astype(float).mean(axis=0)
            named = nearest_colour(colour)
            assert picture[mask > 0].std(axis=0).max() == 0, "a mask covers more than its object"
            held = (named, objects[row["ann_ids"][0]]["category"]) in HELD_OUT
            assert held == (split == "testC"), (split, named, row)
    assert set(shapes.values()) == {"circle", "square", "triangle", "cross"}


def nearest_colour(colour: np.ndarray) -> str:
    from workbench.data.scenes import COLOURS

    return min(COLOURS, key=lambda name: float(np.abs(np.array(COLOURS[name]) - colour).sum()))


def test_a_folder_that_exists_is_not_touched(folder: Path) -> None:
    before = digest(folder)
    with pytest.raises(DataError, match="exists already"):
        refshapes.make(folder, RECIPE)
    assert digest(folder) == before


def test_a_maker_that_dies_leaves_nothing(tmp_path: Path) -> None:
    def die(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refshapes.make(tmp_path / "set", RECIPE, die)
    assert list(tmp_path.iterdir()) == []

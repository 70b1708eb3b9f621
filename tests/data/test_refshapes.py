from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from workbench.config import RefshapesRecipe
from workbench.data import masks, refshapes
from workbench.data.datasets import find, read_refer
from workbench.data.images import read_image
from workbench.data.readers import read
from workbench.data.scenes import COLOURS, HELD_OUT, RADII
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


def test_several_processes_make_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RefshapesRecipe(seed=5, train_images=100, eval_images=8, version=2)
    alone = refshapes.ensure(tmp_path / "alone", recipe)
    monkeypatch.setattr(refshapes, "PARALLEL_FROM", 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    assert digest(refshapes.ensure(tmp_path / "together", recipe)) == digest(alone)


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


@pytest.fixture(scope="module")
def generalised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = RECIPE.model_copy(update={"targets": "any", "train_images": 60})
    return refshapes.ensure(tmp_path_factory.mktemp("any"), recipe)


def test_any_targets_are_written_as_grefcoco_writes_them(generalised: Path) -> None:
    assert not (generalised / "refs(unc).p").exists()
    refs = json.loads((generalised / "grefs(unc).json").read_text())
    assert set(refs[0]) == {
        "ref_id", "ann_id", "image_id", "category_id", "file_name", "split", "sent_ids", "sentences", "no_target"
    }  # fmt: skip
    kinds = {len(ref["ann_id"]) if ref["ann_id"] != [-1] else 0 for ref in refs}
    assert {0, 1, 2} <= kinds
    assert all(ref["no_target"] == (ref["ann_id"] == [-1]) for ref in refs)
    data = read(find(generalised, "refshapes", "unc"))
    for split in data.splits:
        lengths = {len(row) for row in data.split(split)["ann_ids"].to_pylist()}
        assert {0, 1, 2} <= lengths, split


def test_images_and_single_targets_are_those_of_the_plain_recipe(generalised: Path, tmp_path: Path) -> None:
    plain = refshapes.ensure(tmp_path, RECIPE.model_copy(update={"train_images": 60}))
    assert plain.name != generalised.name
    for image in sorted((plain / "images").iterdir()):
        assert image.read_bytes() == (generalised / "images" / image.name).read_bytes()
    one, other = (read(find(folder, "refshapes", "unc")) for folder in (plain, generalised))
    single = [r for r in other.expressions.to_pylist() if len(r["ann_ids"]) == 1]
    keys = ("split", "image_id", "ann_ids", "sentence")
    assert [tuple(map(str, (r[k] for k in keys))) for r in single] == [
        tuple(map(str, (r[k] for k in keys))) for r in one.expressions.to_pylist()
    ]


def test_sentences_to_several_or_none_mean_what_they_say() -> None:
    from workbench.data.scenes import describe_nothing, describe_several, draw_scene

    seen = {"shared": 0, "pairs": 0, "nothing": 0}
    for seed in range(400):
        rng = np.random.default_rng(seed)
        scene = draw_scene(rng, 80, 56, held_out=False)
        several = describe_several(rng, scene)
        if several is not None:
            sentence, targets = several
            assert len(targets) >= 2
            words = sentence.split()
            if words[0] in ("all", "both") or words[:2] == ["the", "two"]:
                seen["shared"] += 1
                named = {w.removesuffix("es") if w == "crosses" else w.removesuffix("s") for w in words[1:]}
                named &= {"circle", "square", "triangle", "cross", *COLOURS, *RADII}
                fits = [i for i, s in enumerate(scene) if named <= {s.size, s.colour, s.shape}]
                assert fits == targets, (sentence, scene)
                assert words[0] != "both" or len(targets) == 2
            else:
                seen["pairs"] += 1
                for part in sentence.removeprefix("the ").split(" and the "):
                    named = set(part.split()) - {"object", "thing"}
                    fits = [i for i, s in enumerate(scene) if named <= {s.size, s.colour, s.shape}]
                    assert len(fits) == 1
                    assert fits[0] in targets
        nothing = describe_nothing(rng, scene, held_out=False)
        if nothing is not None:
            seen["nothing"] += 1
            named = set(nothing.split()) - {"the"}
            assert not any(named <= {s.size, s.colour, s.shape} for s in scene), (nothing, scene)
            assert not any({colour, shape} <= named for colour, shape in HELD_OUT)
    assert min(seen.values()) > 50, seen

"""docs/own-data.md as a newcomer follows it: its script, its commands and its grid, on a small data set."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT, Outcome
from workbench.config import DataConfig, RefshapesRecipe
from workbench.data.datasets import open_data
from workbench.data.loading import Expressions
from workbench.data.masks import decode, to_rle
from workbench.data.prepared import open_prepared
from workbench.data.refshapes import ensure

PAGE = (ROOT / "docs" / "own-data.md").read_text()
Command = Callable[..., Outcome]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def run_script(text: str) -> str:
    """What a script of the page prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, "own-data.md", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


@pytest.fixture
def place(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures, annotations and sentences as the page wants them; one sentence has two targets, one has none."""
    recipe = RefshapesRecipe(seed=3, train_images=40, eval_images=6)
    folder = tmp_path / "data" / "mydata"
    folder.mkdir(parents=True)
    made = ensure(data_root, recipe)
    shutil.copytree(made / "images", folder / "images")
    shutil.copy(made / "instances.json", folder)
    data = open_data(DataConfig(recipe=recipe), data_root)
    with (tmp_path / "sentences.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["split", "image_id", "ann_id", "sentence"])
        for split in ("train", "val"):
            for e in Expressions(data, split):
                rows.writerow([split, e.image_id, *e.ann_ids, e.sentence])
        both = [a["id"] for a in json.loads((folder / "instances.json").read_text())["annotations"]
                if a["image_id"] == e.image_id][:2]  # fmt: skip
        rows.writerow(["val", e.image_id, " ".join(map(str, both)), "two of them"])
        rows.writerow(["val", e.image_id, "", "a cat"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.exhaustive
def test_from_a_folder_to_a_table(place: Path, workbench: Command) -> None:
    _, script = blocks("python")
    run_script(script)
    (grid,) = blocks("yaml")
    shorter = grid.replace("steps: 600", "steps: 2").replace("seeds: [1, 2, 3]", "seeds: [1]")
    assert shorter.count("steps: 2") == 1
    text = shorter.replace("base:\n", "base:\n  validation.every: null\n  machine: {trackers: [], threads: 1}\n")
    (place / "mygrid.yaml").write_text(text)
    lines = [line.partition("#")[0] for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) == 7
    printed = {}
    for line in lines:
        words = line.split()
        assert words[0] == "workbench"
        outcome = workbench(*words[1:])
        assert outcome.code == 0, (line, outcome.err)
        printed[" ".join(words[1:3])] = outcome.out
    val = Expressions(open_prepared(place / "data" / "prepared" / "mydata-mine"), "val")
    assert {len(e.ann_ids) for e in val} == {0, 1, 2}
    assert "2 runs" not in printed["plan mygrid.yaml"]
    assert "mydata-vit_mini-l_dit-" in printed["plan mygrid.yaml"]
    assert re.search(r"\| l_dit - default|\| l_dit − default", printed["table mygrid.yaml"])
    assert (place / "results" / "data" / "mydata-0.png").is_file()


def test_masks_that_are_pictures_are_the_same_masks(place: Path, workbench: Command) -> None:
    file = place / "data" / "mydata" / "instances.json"
    before = json.loads(file.read_text())
    shapes = {image["id"]: (image["height"], image["width"]) for image in before["images"]}
    names = {image["id"]: image["file_name"] for image in before["images"]}
    masks = file.parent / "masks"
    masks.mkdir()
    drawn, counts = {}, Counter[str]()
    for annotation in before["annotations"]:
        size, name = shapes[annotation["image_id"]], names[annotation["image_id"]]
        mask = decode(to_rle(annotation["segmentation"], *size), *size)
        counts[name] += 1
        drawn[f"{Path(name).stem}-{counts[name]}.png"] = mask
        Image.fromarray(255 * mask).save(masks / f"{Path(name).stem}-{counts[name]}.png")
    file.unlink()
    script, _ = blocks("python")
    printed = list(csv.DictReader(run_script(script).splitlines()))
    assert len(printed) == len(drawn)
    after = {annotation["id"]: annotation for annotation in json.loads(file.read_text())["annotations"]}
    for row in printed:
        segmentation, mask = after[int(row["ann_id"])]["segmentation"], drawn[row["mask"]]
        assert (decode(to_rle(segmentation, *mask.shape), *mask.shape) == mask).all()
    (place / "sentences.csv").write_text(
        "split,image_id,ann_id,sentence\n"
        + "".join(f"train,{row['image_id']},{row['ann_id']},it\n" for row in printed[:3])
    )
    run_script(blocks("python")[1])
    assert workbench("data", "check", "mydata", "--split-by", "mine", "--text-encoder", "bert_mini2").code == 0


def test_a_data_set_that_is_not_there_is_named_with_those_that_are(place: Path, workbench: Command) -> None:
    (place / "grid.yaml").write_text(
        "title: t\nbase: {data: {dataset: mydate, split_by: mine}, training.steps: 1}\nsettings: {a: {}}\n"
    )
    refused = workbench("submit", "grid.yaml")
    assert refused.code == 2
    assert "unknown data set 'mydate' (did you mean 'mydata'?)" in refused.err
    assert "one of your own is a folder in data" in refused.err
    planned = workbench("plan", "grid.yaml")
    assert planned.code == 0, "it may be planned where the data is not"
    assert "warning: unknown data set 'mydate' (did you mean 'mydata'?)" in planned.err
    (place / "grid.yaml").write_text("title: t\nbase: {data.dataset: ../x, training.steps: 1}\nsettings: {a: {}}\n")
    assert "data.dataset: a name without folders is expected" in workbench("plan", "grid.yaml").err


def test_refshapes_is_found_by_its_name(tmp_path: Path, workbench: Command) -> None:
    missing = workbench("data", "show", "refshapes", "--index", "0", "--root", tmp_path)
    assert "make it first: workbench data make refshapes" in missing.err
    for seed in (1, 2):
        ensure(tmp_path, RefshapesRecipe(seed=seed, train_images=3, eval_images=2))
        shown = workbench(
            "data", "show", "refshapes", "--index", "0", "--root", tmp_path, "--results", tmp_path / "results"
        )
        assert shown.code == (0 if seed == 1 else 2), shown.err
    assert "2 folders of refshapes are in" in shown.err

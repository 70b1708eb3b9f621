"""Segmenting one's own pictures: the same masks as the run's evaluation, whatever names the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.conftest import Outcome
from tests.models.test_released import bert_weights, weights_of
from workbench.analysis.predictor import Predictor
from workbench.config import SHIPPED_BERTS, DataConfig, RefshapesRecipe, RunConfig
from workbench.data import masks
from workbench.data.datasets import open_data, open_dataset
from workbench.data.loading import Expressions, ReferringDataset
from workbench.errors import CheckpointError, DataError
from workbench.results.folders import RunFolder
from workbench.training.train import train

Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def config(make_config: Callable[..., RunConfig]) -> RunConfig:
    return make_config(
        fusion__variant="l_dit", training__ema__decay=0.5, evaluation__threshold=0.4, evaluation__splits=["val"]
    )


@pytest.fixture(scope="module")
def run(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder.of(tmp_path_factory.mktemp("results"), config, 2)
    train(config, 2, folder)
    return folder


@pytest.mark.parametrize("named_by", ["id", "setting", "folder", "file", "file alone"])
def test_masks_are_those_of_the_run_s_evaluation(
    named_by: str, config: RunConfig, run: RunFolder, tmp_path: Path
) -> None:
    alone = tmp_path / "weights.safetensors"
    shutil.copy(run.evaluated_weights(), alone)
    name = {"id": run.name, "setting": run.id.setting_id, "folder": run.path, "file": run.evaluated_weights(),
            "file alone": alone}[named_by]  # fmt: skip
    predictor = Predictor.load(name, run.results)
    data = open_dataset(config)
    stored = run.expressions().set_index(["ref_id", "sent_id"])
    asked = [e for e in Expressions(data, "val") if e.image_id == Expressions(data, "val")[0].image_id]
    found = predictor(data.image_folder / asked[0].file_name, [e.sentence for e in asked])
    assert len(asked) > 2
    for expression, prediction in zip(asked, found, strict=True):
        rle = stored.loc[(expression.ref_id, expression.sent_id), "prediction"]
        expected = masks.decode(rle, expression.height, expression.width)
        assert (prediction.mask != (expected > 0)).sum() <= 1, "another batch may round a pixel differently"
        assert prediction.area == pytest.approx(prediction.mask.mean())
        assert prediction.score == 0 if not prediction.mask.any() else 0.4 < prediction.score <= 1


def test_the_command_writes_masks_and_overlays_at_the_picture_s_size(
    run: RunFolder, tmp_path: Path, workbench: Command
) -> None:
    rng = np.random.default_rng(0)
    for folder, size in (("one", (90, 41)), ("two", (20, 70))):
        (tmp_path / folder).mkdir()
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path / folder / "mine.png")
    images = [tmp_path / "one" / "mine.png", tmp_path / "two" / "mine.png"]
    out = tmp_path / "out"
    options = ("--run", run.name, "--results", run.results, "--out", out, "--json")
    done = workbench("predict", *images, "the red circle", "left one", *options)
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document == json.loads((out / "predictions.json").read_text())
    rows = document["predictions"]
    assert [(row["image"], row["sentence"]) for row in rows] == [
        (str(image), sentence) for image in images for sentence in ("the red circle", "left one")
    ]
    assert len(list(out.glob("*.png"))) == 8
    predictor = Predictor.load(run.name, run.results)
    for row in rows:
        mask, picture = np.array(Image.open(row["mask"])), np.array(Image.open(row["image"]))
        shown = np.array(Image.open(row["overlay"]))
        assert mask.shape == picture.shape[:2] == shown.shape[:2]
        (expected,) = predictor(row["image"], [row["sentence"]])
        np.testing.assert_array_equal(mask, expected.mask)
        untouched = (shown == picture).all(axis=2)
        assert not untouched[mask].any()
        assert row["area"] == pytest.approx(mask.mean(), abs=1e-4)


def test_a_photo_is_segmented_as_people_see_it(run: RunFolder, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 64, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = 8  # a quarter turn against the clock
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    predictor = Predictor.load(run.name, run.results)
    (of_file,) = predictor(tmp_path / "photo.png", ["red circle"])
    (upright,) = predictor(np.rot90(pixels).copy(), ["red circle"])
    np.testing.assert_array_equal(of_file.mask, upright.mask)
    assert of_file.mask.shape == (64, 40)
    with pytest.raises(DataError, match="the tokenizer keeps nothing of it"):
        predictor(pixels, ["red", "\u200b"])


def test_the_shipped_model_segments_without_any_run(tmp_path: Path, workbench: Command) -> None:
    data = open_data(DataConfig(recipe=RefshapesRecipe(seed=5, train_images=4, eval_images=12, version=2)), tmp_path)
    predictor = Predictor.load("builtin", tmp_path)
    for split, of_the_best_shortcut in (("testA", 0.37), ("testB", 0.41)):
        expressions, ious = ReferringDataset(data, split, 64, DataConfig()), []
        for expression in expressions.expressions:
            (found,) = predictor(data.image_folder / expression.file_name, [expression.sentence])
            truth = expressions.mask(expression) > 0
            ious.append((found.mask & truth).sum() / (found.mask | truth).sum())
        assert np.mean(ious) > of_the_best_shortcut + 0.2, split
    picture = data.image_folder / expressions.expressions[0].file_name
    done = workbench("predict", picture, "red circle", "--run", "builtin", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert (tmp_path / "out" / f"{picture.stem}-1.png").is_file()


def test_an_imported_checkpoint_is_asked_as_the_released_code_does(tmp_path: Path, workbench: Command) -> None:
    state = weights_of("l_dit_cross_attention_ffn") | bert_weights(True)[0]
    for table, rows in (("word", 200), ("position", 20)):
        name = f"lang_encoder.bert.embeddings.{table}_embeddings.weight"
        state[name] = torch.randn(rows, state[name].shape[1])
    torch.save(state, tmp_path / "r.pth")
    done = workbench("import-released", tmp_path / "r.pth", "--variant", "l_dit_cross_attention_ffn", "--out", tmp_path)
    assert done.code == 0, done.err
    shutil.copytree(SHIPPED_BERTS["bert_mini"], tmp_path / "bert-base-uncased")  # its words will do
    predictor = Predictor.load(tmp_path / "r.safetensors", checkpoint_root=tmp_path)
    evaluation = predictor.config.evaluation
    assert (evaluation.threshold, evaluation.masks, predictor.config.data.padding) == (0.35, "dilated", "centred")
    (found,) = predictor(np.zeros((60, 100, 3), np.uint8), ["red circle"])
    assert found.mask.shape == (60, 100)


def test_what_is_wrong_is_one_line(run: RunFolder, tmp_path: Path, workbench: Command) -> None:
    picture = tmp_path / "mine.png"
    Image.new("RGB", (30, 30)).save(picture)
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(run.evaluated_weights()), bare)

    def refused(*arguments: object, of: object = run.name) -> str:
        done = workbench("predict", *arguments, "--run", of, "--results", run.results, "--out", tmp_path / "out")
        assert done.code == 2
        assert not (tmp_path / "out").exists()
        return done.err

    assert "missing image nowhere.jpg" in refused("nowhere.jpg", "red circle")
    assert "name at least one image file" in refused("red circle")
    assert "say what to look for, in quotes" in refused(picture)
    assert "a sentence is empty" in refused(picture, " ")
    assert f"did you mean {run.name!r}" in refused(picture, "red", of=run.name[:-1] + "7")
    assert "it does not say of which model it is" in refused(picture, "red", of=bare)
    picture.write_bytes(b"no image")
    assert "mine.png: image cannot be decoded" in refused(picture, "red")
    with pytest.raises(CheckpointError, match="has none"):
        Predictor.load("anything", tmp_path)
    with pytest.raises(DataError, match="at least one sentence is needed, and none may be empty"):
        Predictor.load(run.name, run.results)(np.zeros((9, 9, 3), np.uint8), [])

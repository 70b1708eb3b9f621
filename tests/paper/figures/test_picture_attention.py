"""Attention in one's own pictures, by `workbench predict --attention`: odd pictures and sentences, honest captions."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from tests.conftest import Outcome
from tests.paper.figures.boxes import mistakes
from workbench.analysis.picture_maps import picture_maps
from workbench.analysis.predictor import Predictor
from workbench.config import RunConfig
from workbench.models.build import build_model
from workbench.paper.figures.picture_attention import caption, data, draw
from workbench.paper.style import WIDTH, styled
from workbench.training.checkpointing import CONFIG

Command = Callable[..., Outcome]
LONG = " ".join(["leftmost"] * 60)
SENTENCES = {
    "red": "",
    "red 🙂 ball": "unknown to the tokenizer: 🙂",
    "העיגול האדום": "unknown to the tokenizer: העיגול האדום",
    LONG: "past the longest sentence: leftmost leftmost leftmost leftmost leftmost and",
}


def saved(config: RunConfig, folder: Path, name: str) -> Path:
    torch.manual_seed(1)
    model, file = build_model(config), folder / f"{name}.safetensors"
    save_file(model.state_dict(), file, metadata={CONFIG: config.model_dump_json()})
    return file


@pytest.fixture(scope="module")
def weights(make_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    settings: dict[str, dict[str, Any]] = {
        "default": {"fusion__variant": "default"},
        "e_dit": {"fusion__variant": "e_dit", "fusion__projector__init": "default"},
        "l_dit": {"fusion__variant": "l_dit", "fusion__projector__init": "default"},
        "learned": {"fusion__variant": "l_dit", "fusion__text": "learned", "fusion__projector__init": "default"},
    }
    return {name: saved(make_config(**fields), folder, name) for name, fields in settings.items()}


def noise(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


def odd_picture(kind: str, folder: Path) -> Path:
    """A file of that kind, red in its upper left corner as people see it."""
    file = folder / ("mine.jpg" if kind in ("rotated", "cmyk") else "mine.png")
    pixels, options = noise(37, 53, 3), dict[str, Any]()
    if kind == "thin":
        pixels = noise(1, 1000, 3)
    image = Image.fromarray(pixels)
    if kind == "rotated":
        exif = Image.Exif()
        exif[274] = 6
        options = {"exif": exif}
    image = {"grey": image.convert("L"), "cmyk": image.convert("CMYK")}.get(kind, image)
    if kind == "deep":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    image.save(file, **options)
    return file


@pytest.mark.parametrize("kind", ["thin", "odd", "rotated", "grey", "cmyk", "deep"])
def test_odd_pictures_get_masks_and_maps_as_people_see_them(
    kind: str, tmp_path: Path, weights: dict[str, Path], workbench: Command
) -> None:
    file, out = odd_picture(kind, tmp_path), tmp_path / "out"
    done = workbench("predict", file, "red thing", "--run", weights["l_dit"], "--attention", "--out", out, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    size = {"thin": (1000, 1), "rotated": (37, 53)}.get(kind, (53, 37))
    for name in ("mask", "overlay"):
        with Image.open(document["predictions"][0][name]) as picture:
            assert picture.size == size
    names = [Path(name).name for name in document["attention"]]
    assert names == [f"mine-attention.{ending}" for ending in ("png", "pdf", "json", "safetensors")]
    with Image.open(out / names[0]) as figure:
        assert figure.width == int(WIDTH * 300)
    about = json.loads((out / names[2]).read_text())
    assert about["stretched"] == (kind == "thin")
    with safe_open(out / names[3], "pt") as stored:
        assert stored.get_tensor("1.encoder.blocks[2].attn.image_to_word").shape[2:] == (8, 8)
        assert json.loads(stored.metadata()["sentences"])[0]["sentence"] == "red thing"


def test_odd_sentences_are_read_as_far_as_they_can_be_and_said(
    tmp_path: Path, weights: dict[str, Path], workbench: Command
) -> None:
    Image.fromarray(noise(30, 40, 3)).save(tmp_path / "mine.png")
    asked = ("predict", tmp_path / "mine.png", *SENTENCES, "--run", weights["default"], "--out", tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of characters that it draws as boxes
        done = workbench(*asked, "--attention")
    assert done.code == 0, done.err
    told = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert len(told) == 4
    assert sum("'red 🙂 ball': the tokenizer knows only the letters of: ball" in line for line in told) == 1
    for sentence, why in SENTENCES.items():
        assert not why or any(repr(sentence) in line and why in line for line in told)
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"]
    assert [row["not_read"].startswith(why) for row, why in zip(rows, SENTENCES.values(), strict=True)] == [True] * 4
    for wrong, message in (("\u200b", "the tokenizer keeps nothing of it"), (" ", "a sentence is empty"),
                           ("red \udc80", "not valid text")):  # fmt: skip
        refused = workbench(
            "predict", tmp_path / "mine.png", wrong, "--run", weights["default"], "--out", tmp_path / "n"
        )
        assert refused.code == 2
        assert refused.err.count("\n") == 1
        assert message in refused.err
        assert not (tmp_path / "n").exists()


def test_maps_are_those_of_the_picture_and_parts_that_read_nothing_are_named(weights: dict[str, Path]) -> None:
    """Of default SAM, and with learned tokens, the mask decoder's alone, and never zeros in place of the encoder's."""
    pixels, sentence = noise(48, 64, 3), "the red circle"
    told = {
        "default": "The image encoder of this run reads no words.",
        "learned": "The image encoder of this run reads no words.",
        "l_dit": "In this run's image encoder the image reads the words, and the words do not read the image",
        "e_dit": "",
    }
    for name, said in told.items():
        predictor = Predictor.load(weights[name])
        found = picture_maps(predictor, pixels, [sentence, "blue"])
        (prediction, _) = predictor(pixels, [sentence, "blue"])
        shown = data(pixels, found, [prediction.mask, np.zeros((48, 64), bool)], "mine.png", name)
        parts = ["mask decoder"] if name in ("default", "learned") else ["mask decoder", "image encoder"]
        assert shown.document["parts"] == parts == list(found.sentences[0].maps)
        for part in parts:
            maps = found.sentences[0].maps[part]
            assert maps.shape == (4, 8, 8)
            assert maps.min() > 0
            np.testing.assert_allclose(maps[0], maps[1:].mean(axis=0), rtol=1e-5)  # each word is one token
        text = caption(shown)
        assert said in text
        assert ("reads no words" in text, "do not read the image" in text) == (len(parts) == 1, name == "l_dit")
        assert "Nothing found: “blue”." in text


@pytest.mark.exhaustive
def test_nothing_overlaps_with_many_words(weights: dict[str, Path]) -> None:
    predictor, pixels = Predictor.load(weights["e_dit"]), noise(48, 64, 3)
    sentences = [*SENTENCES, "the large green thing that is next to the $5 bill", "x" * 30]
    shown = data(pixels, picture_maps(predictor, pixels, sentences), [np.zeros((48, 64), bool)] * 6, "a.png", "r")

    @styled
    def check() -> None:
        pages = draw(shown)
        assert len(pages) > 1
        assert [mistake for page in pages for mistake in mistakes(page)] == []

    check()

"""The command that attributes, its picture, and that all of its text can be drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font
from PIL import Image
from safetensors.torch import save_file

from tests.conftest import Outcome
from workbench.analysis.attribution import METHODS
from workbench.config import RunConfig
from workbench.data.images import read_upright
from workbench.models.build import build_model
from workbench.paper.figures.attribution_panel import _lines
from workbench.paper.fonts import drawable, is_right_to_left
from workbench.paper.style import WIDTH
from workbench.training.checkpointing import CONFIG

Command = Callable[..., Outcome]
FAST = ("--steps", 2, "--orders", 2, "--draws", 2, "--target", "picture_logit")


@pytest.fixture(scope="module")
def weights(make_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights that names its configuration, as a run's does; nothing was trained."""
    config = make_config(fusion__variant="l_dit", fusion__projector__init="default")
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "l_dit.safetensors"
    save_file(build_model(config).state_dict(), file, metadata={CONFIG: config.model_dump_json()})
    return file


@pytest.fixture
def ask(weights: Path, workbench: Command, tmp_path: Path) -> Command:
    def call(*arguments: object) -> Outcome:
        return workbench("attribute", *arguments, "--run", weights, "--out", tmp_path / "out")

    return call


def picture_at(file: Path, shape: tuple[int, ...] = (48, 64, 3)) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)).save(file)
    return file


def test_the_command_writes_pictures_and_the_values_that_they_show(tmp_path: Path, ask: Command) -> None:
    image = picture_at(tmp_path / "mine.png")
    done = ask(image, "the red circle on the left", "blue", *FAST, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document == json.loads((tmp_path / "out" / "mine.json").read_text())
    first, second = document["sentences"]
    assert [one["word"] for one in first["words"]] == ["the", "red", "circle", "on", "the", "left"]
    assert first["target"]["name"] == "picture_logit"
    assert "over the whole picture" in first["target"]["definition"]
    for sentence, count in ((first, 6), (second, 1)):
        assert [one["method"] for one in sentence["attributions"]] == list(METHODS)
        for one in sentence["attributions"]:
            assert np.shape(one["values"]) == ((count,) if one["over"] == "words" else (6, 8))
            whole = one["completeness"]
            assert whole["sum"] == pytest.approx(np.sum(one["values"]))
            assert whole["gap"] == pytest.approx(whole["sum"] - whole["of_input"] + whole["of_baseline"])
            assert one["baseline"]
            assert set(one["faithfulness"]) == {"deletion", "insertion", "infidelity", "saco"}
    for measure in second["attributions"][1]["faithfulness"].values():
        assert "cannot separate" in measure["verdict"] or "undefined" in measure["verdict"], "of one word, one order"
    with Image.open(tmp_path / "out" / "mine.png") as png:
        assert png.width == int(WIDTH * 300)
    assert (tmp_path / "out" / "mine.pdf").read_bytes().startswith(b"%PDF")


def test_the_table_says_what_does_not_separate(tmp_path: Path, ask: Command) -> None:
    done = ask(picture_at(tmp_path / "mine.png"), " ".join(["red"] * 60), "--method", "word-shapley", *FAST)
    assert done.code == 0, done.err
    assert "more: past what the model reads" in done.out
    assert "≈ does not separate from them; ? cannot be told" in done.out
    assert "wrote" in done.out


@pytest.mark.parametrize(
    "kind",
    [
        "rotated",
        *(pytest.param(kind, marks=pytest.mark.exhaustive) for kind in ("thin", "odd", "grey", "cmyk", "deep")),
    ],
)
def test_odd_pictures(kind: str, tmp_path: Path, ask: Command) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (37, 53, 3), dtype=np.uint8)
    image, file = Image.fromarray(noise), tmp_path / ("one.jpg" if kind in ("rotated", "cmyk") else "one.png")
    options: dict[str, Any] = {}
    if kind == "thin":
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1, 1000, 3), dtype=np.uint8))
    if kind == "rotated":
        exif = Image.Exif()
        exif[274] = 6
        options = {"exif": exif}
    image = {"grey": image.convert("L"), "cmyk": image.convert("CMYK")}.get(kind, image)
    if kind == "deep":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    image.save(file, **options)
    done = ask(file, "red thing", "--method", "patch-occlusion", *FAST, "--json")
    assert done.code == 0, done.err
    (one,) = json.loads(done.out)["sentences"][0]["attributions"]
    assert np.shape(one["values"]) == {"thin": (1, 8), "rotated": (8, 6)}.get(kind, (6, 8))


def test_a_picture_is_turned_as_the_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # the camera's right side is up: a quarter turn clockwise
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255
    Image.fromarray(pixels).save(tmp_path / "one.png", exif=exif)
    turned = read_upright(tmp_path / "one.png")
    assert turned.shape == (40, 20, 3)
    np.testing.assert_array_equal(turned, np.rot90(pixels, -1))


def test_what_is_wrong_is_one_line(tmp_path: Path, ask: Command, weights: Path) -> None:
    image = picture_at(tmp_path / "mine.png")

    def refused(*arguments: object) -> str:
        done = ask(*arguments, *FAST)
        assert done.code == 2
        assert done.err.count("\n") == 1, done.err
        assert not (tmp_path / "out").exists()
        return done.err

    assert "a sentence is empty" in refused(image, "red", " ")
    assert "missing image nowhere.png" in refused("nowhere.png", "red")
    assert "the tokenizer keeps nothing of it" in refused(image, "\u200b")
    done = ask(image, "red", "--target", "soft_iou")
    assert "needs the referent's mask" in done.err
    small = picture_at(tmp_path / "mask.png", (3, 4))
    done = ask(image, "red", "--target", "soft_iou", "--referent", small)
    assert "the referent's mask is 3×4, the picture 48×64" in done.err
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert "broken.png: image cannot be decoded" in refused(tmp_path / "broken.png", "red")


@pytest.mark.parametrize(
    "text", ["plain", "🙂 dog ❤️", "שלום עולם", "红圆 red", "a\u200bb\x00c", "ਗੁਰੂ", "café naïve", "$x$"]
)
def test_every_character_that_is_drawn_has_a_glyph(text: str) -> None:
    shown, families = drawable(text)
    assert families[0] == "DejaVu Sans"
    fonts = [FT2Font(findfont(FontProperties(family=family))) for family in families]
    for character in shown:
        assert character == " " or any(font.get_char_index(ord(character)) for font in fonts), repr(character)
    escaped = [character for character in text if character not in shown]
    assert all(f"‹U+{ord(character):04X}›" in shown for character in escaped)
    if text in ("plain", "café naïve", "$x$"):
        assert shown == text


def test_the_direction_is_that_of_the_first_letter() -> None:
    assert is_right_to_left("12 שלום red")
    assert not is_right_to_left("red שלום")
    assert not is_right_to_left("🙂")


def test_lines_of_words_fit_the_page(weights: Path) -> None:
    from workbench.analysis.attribution import Effort, attribute
    from workbench.analysis.predictor import Predictor

    predictor = Predictor.load(weights)
    pixels = np.zeros((30, 30, 3), np.uint8)
    sentence = "x" * 300 + " " + " ".join(["leftmost"] * 60)
    explanation = attribute(
        predictor, pixels, sentence, ["word-ablation"], "picture_logit", effort=Effort(2, 2), draws=1
    )
    lines = _lines(explanation)
    for line in lines:
        assert sum(width for _, _, width, _ in line) <= WIDTH - 1.35 - 0.24 + 1e-6
    texts = [text for line in lines for text, _, _, _ in line]
    assert len(texts[0]) == 28
    assert texts[-1].endswith("more: past what the model reads")

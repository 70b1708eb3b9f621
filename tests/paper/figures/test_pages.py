"""Figures of many settings: nothing overlaps or is clipped, pages have the page's size, and old documents are drawn."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.paper.figures.boxes import mistakes
from tests.paper.figures.test_layers import heatmaps
from workbench.models.catalog import config_of
from workbench.paper.anatomy import anatomy_of, as_document
from workbench.paper.figures import figures
from workbench.paper.figures.data import FigureData
from workbench.paper.style import PAGE, WIDTHS, save_picture, styled

SENTENCE = "the large green thing that is next to the $5 bill and closest to the purple square, left of all others"
LONG = "L-DIT with cross-attention and a bottleneck projector in its last three layers"


def names_of(settings: int) -> list[str]:
    return [LONG if i == 2 else f"setting {i}" for i in range(settings)]


def score(rng: np.random.Generator, **more: Any) -> dict[str, Any]:
    value, reach = float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.01, 0.1))
    seeds = [value - reach / 2, value, value + reach / 2]
    return {"value": value, "low": value - reach, "high": value + reach, "seeds": [0, 1, 2], "seed_values": seeds,
            "expressions": 1200, **more}  # fmt: skip


def pictures(settings: int, expressions: int) -> FigureData:
    """Predictions and maps of settings on expressions, of images of three shapes."""
    rng, names = np.random.default_rng(0), names_of(settings)
    arrays: dict[str, Any] = {}
    for i in range(expressions):
        height, width = ((48, 64), (64, 64), (64, 48))[i % 3]
        arrays[f"image.{i}"] = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        truth = np.zeros((height, width), np.uint8)
        truth[:20, 10:30] = 1
        arrays[f"ground_truth.{i}"] = truth
        for s in range(settings):
            arrays[f"prediction.{s}.{i}"] = np.roll(truth, 9 * s, axis=1)
            arrays[f"map.{s}.{i}"] = rng.uniform(0, 4, (8, 8)).astype(np.float32)
    iou = {name: {"0": 0.4, "1": 0.61, "2": 0.83} for name in names}
    keys = [{"image_id": i, "split": "val", "ref_id": i, "sent_id": i} for i in range(expressions)]
    document = {
        "runs": dict.fromkeys(names, "run"), "seeds": {key: [0, 1, 2] for key in names}, "chosen": "at random",
        "shown_seeds": dict.fromkeys(names, 0), "scale": [0.0, 4.0], "no_text_in_image_encoder": names[:1],
        "columns": [[name, ("mask decoder", "image encoder")[i % 2]] for i, name in enumerate(names)],
        "extents": [[-0.5, 63.5, 63.5, -0.5]] * expressions,
        "expressions": [{**key, "sentence": SENTENCE, "iou": iou} for key in keys],
        "choice": {"split": "val"}, "worst": {name: list(range(expressions)) for name in names},
    }  # fmt: skip
    return FigureData(document, arrays)


def numbers(settings: int) -> FigureData:
    """What bars, dot plots and lines show."""
    rng, names, splits = np.random.default_rng(0), names_of(settings), ["val", "testA", "testB", "testC"]
    shared = {"metric": "miou", "title": "A title that says what the grid is about, in the field's words",
              "splits": splits, "settings": names, "baseline": names[0], "split": "val", "smoothed_over": 5,
              "n": {name: 3 - (i == 1) for i, name in enumerate(names)}, "incomplete": []}  # fmt: skip
    bars = [score(rng, setting=name, split=split) for name in names for split in splits]
    bins = {"size": ["under 2 % of the image", "2–10 %", "10–25 %", "over 25 %"], "kind": ["attribute", "place"]}
    scores = [
        score(rng, setting=name, by=by, bin=one, order=order)
        for name in names for by, of_kind in bins.items() for order, one in enumerate(of_kind)
    ]  # fmt: skip
    points = [
        score(rng, setting=name, split=split, variant="l_dit" if i else "default", layers=i,
              line=("default", "l_dit, learning_rate=0.0001", "l_dit, learning_rate=0.001")[min(i, 1 + i % 2)],
              rule=("none", "first", "last", "all")[min(i, 1 + i % 3)])
        for i, name in enumerate(names) for split in splits
    ]  # fmt: skip
    steps = list(range(20, 401, 20))
    line = {"steps": steps, "mean": [1 / step for step in steps], "deviation": [0.01] * len(steps)}
    curves = {name: {"loss": line, "validated": line} for name in names}
    costs = {"seen": 19_200.0, "trainable": 402_113.0, "gflops": 1.25}
    ranking = [
        score(rng, setting=name, budget={key: None if i == 1 else value * (1 + i) for key, value in costs.items()})
        for i, name in enumerate(names)
    ]  # fmt: skip
    return FigureData({**shared, "bars": bars, "scores": scores, "points": points, "curves": curves,
                       "ranking": ranking, "fields": list(costs), "tau": dict.fromkeys(costs, -0.5)})  # fmt: skip


MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("vit_mini", {"fusion.variant": "default", "backbone.decoder_depth": 6, "training.freeze.image_encoder": True}),
    ("vit_b", {"fusion.variant": "l_dit", "fusion.layers": [6, 7, 8, 9, 10, 11], "fusion.text": "learned"}),
    ("vit_b", {"fusion.variant": "l_dit_cross_attention", "fusion.projector.type": "shared"}),
    ("vit_mini", {"fusion.variant": "e_dit_reprojected", "fusion.layers": [0, 3], "evaluation.words": "shuffled"}),
    ("vit_h", {"fusion.variant": "l_dit_tokens", "training.freeze.fusion": True}),
)


@functools.cache
def anatomies() -> list[dict[str, Any]]:
    return [as_document(anatomy_of(config_of(backbone, setting))) for backbone, setting in MODELS]


def diagrams(settings: int) -> FigureData:
    """Models of different depths, ways of fusion, decoders and frozen parts."""
    names = names_of(settings)
    models = {name: anatomies()[i % len(MODELS)] for i, name in enumerate(names)}
    title = "A title that says what the grid is about, in the field's words"
    return FigureData(
        {"title": title, "settings": names, "labels": dict(zip(names, names, strict=True)), "models": models}
    )


def maps(settings: int) -> FigureData:
    """Interventions at twelve blocks, of three kinds."""
    rng, names = np.random.default_rng(0), names_of(settings)
    kinds = ("hide_words", "mean_words", "swap_words")
    rows = [
        {"setting": name, "kind": kind, "layer": layer, "value": value, "low": value - 0.02, "high": value + 0.03}
        for name in names for kind in kinds for layer in (*range(12), -1) for value in [float(rng.uniform(-0.4, 0.05))]
    ]  # fmt: skip
    document = {
        "metric": "miou", "title": "A title that says what the grid is about", "split": "val", "settings": names,
        "n": dict.fromkeys(names, 3), "expressions": {name: 1000 + i for i, name in enumerate(names)},
        "without": {"default": "reads no words in the image encoder"}, "rows": rows,
    }  # fmt: skip
    return FigureData(document)


MAKERS: dict[str, Callable[[int], FigureData]] = {
    "schemes": diagrams, "pipeline": diagrams,
    "bars": numbers, "by": numbers, "subsets": numbers, "curves": numbers, "budget": numbers,
    "predictions": lambda settings: pictures(settings, 2), "failures": lambda settings: pictures(settings, 2),
    "attention": lambda settings: pictures(settings, 2), "interventions": maps,
    "layers": lambda settings: heatmaps(names_of(settings), 4, 2),
}  # fmt: skip


FEW = 9
"""Settings up to which a column's pages have a page's height: of more, one expression may take more than a page."""
MORE = [
    pytest.param(*more, marks=pytest.mark.exhaustive) for more in ((3, 1), (5, 2), (9, 1), (9, 2), (20, 1), (20, 2))
]


@pytest.mark.parametrize(("settings", "columns"), [(3, 2), *MORE])
@pytest.mark.parametrize("name", list(figures))
def test_texts_neither_overlap_nor_are_clipped(name: str, settings: int, columns: int) -> None:
    made = MAKERS[name](settings)
    document = {**made.document, "columns_of_page": columns}

    @styled
    def check(data: FigureData) -> list[Figure]:
        pages = figures[name].draw(data)
        assert [mistake for page in pages for mistake in mistakes(page)] == []
        return pages

    for page in check(FigureData(document, made.arrays)):
        assert page.get_figwidth() == WIDTHS[2 if name == "pipeline" else columns]
        assert page.get_figheight() <= PAGE or len(page.axes) < 3 or (columns == 1 and settings > FEW)


@pytest.mark.parametrize("name", ["predictions", "failures", "attention"])
def test_sentences_in_any_script_are_drawn_without_boxes(name: str) -> None:
    """matplotlib warns of each character that a font lacks, and draws a box."""
    made = pictures(3, 2)
    texts = [
        "the 红圆 🙂 next to $x_1$ and 🦀 and so on until the end of the line and past it 红圆 红圆 红圆",
        "העיגול האדום משמאל",
    ]
    expressions = [{**e, "sentence": text} for e, text in zip(made.document["expressions"], texts, strict=True)]

    @styled
    def check() -> list[Figure]:
        pages = figures[name].draw(FigureData({**made.document, "expressions": expressions}, made.arrays))
        assert [mistake for page in pages for mistake in mistakes(page)] == []
        return pages

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pages = check()
    shown = " ".join(text.get_text() for page in pages for text in page.texts)
    assert "🦀" in shown or "‹U+1F980›" in shown
    assert "האדום" in shown


@pytest.mark.exhaustive
def test_pages_are_files_and_those_of_before_go(tmp_path: Path) -> None:
    draw = styled(lambda data: save_picture(figures["predictions"].draw(data), tmp_path, "p"))
    many = [file.name for file in draw(pictures(20, 4))]
    assert many[:2] == ["p.png", "p-2.png"]
    assert many[-1] == "p.pdf"
    assert (tmp_path / "p.pdf").read_bytes().count(b"/Type /Page ") == len(many) - 1
    few = draw(pictures(3, 1))
    assert {file.name for file in few} == {file.name for file in tmp_path.iterdir()} == {"p.png", "p.pdf"}


def test_badges_are_outside_of_every_picture() -> None:
    @styled
    def check() -> None:
        for page in figures["predictions"].draw(pictures(9, 2)):
            page.canvas.draw()
            badges = [text for text in page.texts if text.get_text() in ("W", "M")]
            assert badges
            for badge in badges:
                box = badge.get_window_extent()
                assert not any(box.overlaps(axes.get_window_extent()) for axes in page.axes)

    check()

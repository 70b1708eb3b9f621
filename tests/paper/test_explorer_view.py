"""The widget: what is chosen changes the picture, and a wrong choice leaves it with a sentence."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.cli.test_tools import run_in_lab
from workbench.grids import Grid
from workbench.paper.explorer_view import ALL, AttentionNotebook, ExplorerView, draw


@pytest.fixture(scope="module")
def view(trained: tuple[Grid, Path]) -> ExplorerView:
    widget = AttentionNotebook(trained[0].file, trained[1]).explore(pictures=3)
    assert isinstance(widget, ExplorerView)
    return widget


def pixels(view: ExplorerView) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(view.image.value)).convert("RGB"))


def test_choices_change_the_picture_and_going_back_restores_it(view: ExplorerView) -> None:
    start = pixels(view)
    for widget, value in ((view.layer, "encoder 0"), (view.head, 1), (view.word, 2), (view.method, "image to words")):
        before, old = pixels(view), widget.value
        widget.value = value
        assert not np.array_equal(pixels(view), before), widget.description
        widget.value = old
    assert np.array_equal(pixels(view), start)


def test_rollout_and_gradient_are_drawn_and_named(view: ExplorerView) -> None:
    start, drawn = pixels(view), set()
    for method in ("gradient", "rollout", "rollout × gradient"):
        view.method.value = method
        assert view.message.value == ""
        drawn.add(pixels(view).tobytes())
        label = draw(view.explorer, view.state).axes[-1].get_xlabel()
        where = "all blocks" if "rollout" in method else f"{view.layer.value}, mean of heads"
        assert label.startswith(f"{where}, all words: ")
    assert len(drawn | {start.tobytes()}) == 4
    view.method.value = "words to image"
    assert np.array_equal(pixels(view), start)


def test_another_picture_brings_its_sentences_and_words(view: ExplorerView) -> None:
    view.picture.value = 1
    known = list(view.explorer.pictures[1].referents)
    assert list(view.sentence.options) == known
    assert (view.sentence.value, view.word.value, view.head.value) == (known[0], ALL, ALL)
    view.sentence.value = "green thing"
    assert [label for label, _ in view.word.options] == ["all words", "[CLS]", "green", "thing", "[SEP]"]
    before = pixels(view)
    view.sentence.value = "  "
    assert view.message.value.startswith("a sentence is needed")
    assert np.array_equal(pixels(view), before)
    view.sentence.value = known[0]
    assert view.message.value == ""


def test_it_is_a_widget_and_a_picture(view: ExplorerView) -> None:
    bundle = view._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "image/png"} <= set(bundle)


def test_runs_that_are_not_there_are_a_sentence(trained: tuple[Grid, Path], tmp_path: Path) -> None:
    notebook = AttentionNotebook(trained[0].file, trained[1])
    assert "no completed run of 'e_dit'; train with: workbench submit" in notebook.explore(["e_dit"]).data
    assert "no completed run of 'l_dit' with seed 9" in notebook.explore(["l_dit"], seed=9).data
    assert "workbench submit" in AttentionNotebook(trained[0].file, tmp_path).explore().data


@pytest.mark.exhaustive
@pytest.mark.browser
def test_in_a_browser_the_slider_changes_the_picture(
    trained: tuple[Grid, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with run_in_lab("03_attention", "Where do the words look?", trained, tmp_path, tmp_path_factory) as page:
        # Only cells in sight are drawn, and a page may move on to the figure below.
        page.wait_for_function(
            """() => {
                document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0;
                const image = document.querySelector('img.widget-image');
                return image !== null && image.naturalWidth > 100;
            }""",
            polling=500,
        )
        image = page.locator("img.widget-image").first
        before = image.get_attribute("src")
        handle = page.locator(".widget-hslider .noUi-handle").first
        handle.focus()
        handle.press("ArrowLeft")
        page.wait_for_function("before => document.querySelector('img.widget-image').src !== before", arg=before)
        page.screenshot(path=str(tmp_path / "explorer.png"))
        assert page.locator(".widget-readout").first.inner_text() == "encoder 2"

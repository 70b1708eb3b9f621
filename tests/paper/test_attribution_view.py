"""Attributions in a notebook: which run and expression they are of, and the sentence where one is missing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from IPython.display import Image, Markdown

from workbench.grids import Grid
from workbench.paper.attribution_view import OVER_WORDS, AttributionView, open_attributions
from workbench.results.frames import RunFolders, runs_frame


@pytest.fixture
def view(trained: tuple[Grid, Path]) -> AttributionView:
    grid, results = trained
    run = f"{grid.settings['l_dit'].setting_id}/seed1"
    return AttributionView(results, run, "val", 2, "soft_iou", draws=2)


def test_it_is_of_the_run_and_the_expression_that_are_named(view: AttributionView) -> None:
    assert view.what() == f"{view.run} | {view.dataset.expressions[2].sentence}"
    assert view.predictor.config.fusion.variant == "l_dit"


def test_without_a_name_it_is_of_the_last_completed_run(
    trained: tuple[Grid, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKBENCH_RESULTS", str(trained[1]))
    completed = runs_frame(RunFolders(trained[1]), states=("completed",))
    assert open_attributions().run == completed["run"].iloc[-1]


def test_several_sentences_are_measured_once(view: AttributionView) -> None:
    frame: pd.DataFrame = view.measured(2).data
    sentences = [one.sentence for one in view.dataset.expressions[:2]]
    assert list(dict.fromkeys(frame["sentence"])) == list(dict.fromkeys(sentences))
    assert set(frame["method"]) == set(OVER_WORDS)
    assert view._several(2) is view._several(2)
    assert isinstance(view.separated(2), Image)


def test_words_are_compared_with_two_baselines(view: AttributionView) -> None:
    assert isinstance(view.baselines(), Image)


def test_what_is_missing_is_a_sentence(trained: tuple[Grid, Path], tmp_path: Path) -> None:
    nothing = AttributionView(tmp_path, None, "val", 2, "soft_iou").what()
    assert isinstance(nothing, Markdown)
    assert nothing.data == f"**Not available:** no completed run in {tmp_path}; make some with: make demo"
    grid, results = trained
    run = f"{grid.settings['l_dit'].setting_id}/seed0"
    far = AttributionView(results, run, "val", 10_000, "soft_iou").picture()
    assert "no expression 10000: the split val has those from 0 to" in far.data

"""`workbench report`: where the page goes, from runs or summaries, and what it refuses."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import stored
from tests.conftest import Outcome
from workbench.grids import load_grid

GRID = (
    "settings: {default: {}, l_dit: {fusion.variant: l_dit}}\nseeds: [0, 1]\nbaseline: default\n"
    "report: {metrics: [miou]}\n"
)
EMPTY = "settings: {e_dit: {fusion.variant: e_dit}}\nseeds: [7]\n"


def summary_of(grid_file: Callable[..., Path], workbench: Callable[..., Outcome], folder: Path) -> tuple[Path, Path]:
    """A grid of made-up runs and a kept summary of it; the runs lie in another folder than the page is made in."""
    file = grid_file(GRID)
    for config in load_grid(file).settings.values():
        for seed in (0, 1):
            stored.complete(folder / "runs", config, seed)
    done = workbench("summarise", file, "--results", folder / "runs", "--out", folder / "summary")
    assert done.code == 0, done.err
    return file, folder / "summary"


@pytest.mark.exhaustive
def test_it_writes_a_page_from_a_summary(
    grid_file: Callable[..., Path], workbench: Callable[..., Outcome], tmp_path: Path
) -> None:
    file, summary = summary_of(grid_file, workbench, tmp_path)
    results = tmp_path / "results"
    done = workbench("report", file, "--from", summary, "--results", results)
    assert done.code == 0, done.err
    assert f"wrote {results / 'grid' / 'report.html'} (0." in done.out
    first = (results / "grid" / "report.html").read_bytes()
    assert first.startswith(b"<!DOCTYPE html>")
    other = tmp_path / "new" / "page.html"
    assert workbench("report", file, "--from", summary, "--results", results, "--out", other).code == 0
    assert other.read_bytes() == first


@pytest.mark.exhaustive
def test_several_grids_make_one_page_and_an_empty_one_says_so(
    grid_file: Callable[..., Path], workbench: Callable[..., Outcome], tmp_path: Path
) -> None:
    file, _ = summary_of(grid_file, workbench, tmp_path)
    empty = grid_file(EMPTY, "empty")
    runs = tmp_path / "runs"
    done = workbench("report", file, empty, "--seeds", "0-9", "--results", runs)
    assert done.code == 0, done.err
    page = (runs / "report.html").read_text()
    assert "no completed run yet" in page
    assert 'href="#g1"' in page
    # The made-up expressions are none of the data set's.
    assert "other expressions of 'val' than are in" in html.unescape(page)
    alone = workbench("report", empty, "--results", runs)
    assert alone.code == 2
    assert "no completed run yet" in alone.err


@pytest.mark.exhaustive
def test_another_preset_makes_another_page(workbench: Callable[..., Outcome], tmp_path: Path, data_root: Path) -> None:
    (tmp_path / "presets").mkdir()
    recipe = "data.recipe: {seed: 3, train_images: 40, eval_images: 6}\n"
    for name, steps in (("long", 9), ("short", 2)):
        text = recipe + f"training: {{steps: {steps}, batch_size: 4}}\nevaluation.splits: [val]\n"
        (tmp_path / "presets" / f"{name}.yaml").write_text(text)
    file = tmp_path / "g.yaml"
    file.write_text("title: t\nbase: {preset: long}\nsettings: {a: {}}\nseeds: [0]\nreport: {metrics: [miou]}\n")
    options = ("--results", tmp_path / "r", "--data-root", data_root)
    stored.complete(tmp_path / "r", load_grid(file, preset="short").settings["a"], 0)
    assert "no completed run" in workbench("report", file, *options).err
    done = workbench("report", file, "--preset", "short", *options)
    assert done.code == 0, done.err
    assert (tmp_path / "r" / "g-short" / "report.html").is_file()
    logged = workbench("logs", file, "a", "--preset", "short", *options)
    assert logged.code == 0 or "(state: completed)" in logged.err
    assert "has not begun (state: new)" in workbench("logs", file, "a", *options).err
    assert "none of its runs is queued" in workbench("cancel", file, "--preset", "short", *options).out
    for command in (("report", file), ("logs", file, "a"), ("cancel", file)):
        wrong = workbench(*command, "--preset", "shrt", *options)
        assert wrong.code == 2
        assert "unknown preset 'shrt' (did you mean 'short'?)" in wrong.err


def test_each_grid_needs_a_summary_of_its_own(
    grid_file: Callable[..., Path], workbench: Callable[..., Outcome], tmp_path: Path
) -> None:
    file = grid_file(GRID)
    done = workbench("report", file, file, "--from", tmp_path)
    assert done.code == 2
    assert "--from: one summary per grid is expected, 2, not 1" in done.err

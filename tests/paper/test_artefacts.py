"""Figures and tables as files: what they show, when they are drawn again, and what a summary alone can make."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import stored
from workbench.grids import Grid
from workbench.grids.evaluated import evaluated
from workbench.paper.artefacts import current_files, draw_figure, make_artefacts
from workbench.paper.figures import figures
from workbench.paper.figures.data import FigureData
from workbench.paper.layout import lay_out
from workbench.paper.render import write_table
from workbench.paper.style import WIDTH, save_picture, styled
from workbench.results.folders import RunFolder, StoreError
from workbench.results.frames import RunFolders
from workbench.results.summary import Summary


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize("name", list(figures))
def test_a_figure_is_whole_repeats_and_is_drawn_from_its_data_alone(
    trained: tuple[Grid, Path], name: str, tmp_path: Path
) -> None:
    grid, results = trained
    files = draw_figure(name, evaluated(grid, RunFolders(results)), results)
    expected = [f"{name}.{ending}" for ending in ("png", "pdf", "json", "safetensors")]
    assert [file.name for file in files] == expected[: 3 + figures[name].needs_runs]
    picture = Image.open(files[0])
    assert picture.width == round(WIDTH * 300)
    grey = np.asarray(picture.convert("L"))
    rim = np.concatenate([grey[[0, -1]].ravel(), grey[:, [0, -1]].ravel()])
    assert rim.min() == 255, "something touches the rim and is clipped"
    pdf = files[1].read_bytes()
    assert b"/CreationDate" not in pdf
    assert b"/Type3" not in pdf
    before = [file.read_bytes() for file in files]
    draw_figure(name, evaluated(grid, RunFolders(results)), results)
    assert [file.read_bytes() for file in files] == before
    draw = styled(lambda data: save_picture(figures[name].draw(data), tmp_path, name))
    again = draw(FigureData.load(files[0].parent, name))
    assert [file.read_bytes() for file in again] == before[:2]


def test_bars_show_every_seed(made_up: tuple[Grid, Path]) -> None:
    grid, results = made_up
    (*_, document) = draw_figure("bars", evaluated(grid, RunFolders(results)), results)
    source: dict[str, Any] = json.loads(document.read_text())
    assert source["n"] == {"default": 5, "l_dit": 3}
    assert source["incomplete"] == ["default seed 5 (failed)", "e_dit seed 0 (not begun)"]
    for bar in source["bars"]:
        first = {"default": 1000, "l_dit": 3000}[bar["setting"]]
        draws = [first + seed for seed in bar["seeds"]]
        ious = [stored.mean_iou(stored.expressions(["val", "testA"], draw), bar["split"]) for draw in draws]
        assert bar["seed_values"] == pytest.approx(ious)
        assert bar["value"] == pytest.approx(sum(ious) / len(ious))


def test_from_a_summary_alone_the_table_and_bars_are_the_same_to_the_byte(made_up: tuple[Grid, Path]) -> None:
    grid, results = made_up
    runs = evaluated(grid, RunFolders(results))
    runs.write_summary(results / "kept")
    write_table(lay_out(runs), results / grid.name)
    draw_figure("bars", runs, results)
    before = digests(results / grid.name)
    assert len(before) == 6
    shutil.rmtree(results / "runs")
    shutil.rmtree(results / grid.name)
    kept = evaluated(grid, Summary(results / "kept"))
    write_table(lay_out(kept), results / grid.name)
    draw_figure("bars", kept, results, from_summary=True)
    assert digests(results / grid.name) == before
    with pytest.raises(StoreError, match="the figure attention needs the run folders"):
        draw_figure("attention", kept, results, from_summary=True)


def test_a_figure_is_drawn_again_only_when_something_changed(
    made_up: tuple[Grid, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, results = made_up

    def current() -> list[Path] | None:
        return current_files("bars", evaluated(grid, RunFolders(results)), results)

    assert current() is None
    files = draw_figure("bars", evaluated(grid, RunFolders(results)), results)
    assert current() == files
    stored.complete(results, grid.settings["l_dit"], 3)
    assert current() is None
    draw_figure("bars", evaluated(grid, RunFolders(results)), results)
    monkeypatch.setattr("workbench.paper.artefacts.package_digest", lambda: "other")
    assert current() is None
    monkeypatch.undo()
    assert current() == files
    files[2].write_text("[" * 100_000)
    assert current() is None
    draw_figure("bars", evaluated(grid, RunFolders(results)), results)
    files[1].unlink()
    assert current() is None


def test_artefacts_are_the_table_and_all_figures(trained: tuple[Grid, Path], tmp_path: Path) -> None:
    grid, results = trained
    table = make_artefacts(grid, results, ["table"])
    assert [file.name for file in table] == ["table.md", "table.csv", "table.json"]
    pictures = make_artefacts(grid, results, ["figure"])
    assert {file.name for file in pictures if file.suffix == ".png"} == {f"{name}.png" for name in figures}


def test_the_attention_figure_says_its_scale_and_keeps_its_maps_beside_the_run(trained: tuple[Grid, Path]) -> None:
    grid, results = trained
    files = draw_figure("attention", evaluated(grid, RunFolders(results)), results)
    source = json.loads(files[2].read_text())
    assert source["scale"][0] == 0
    assert source["scale"][1] > 1
    assert source["no_text_in_image_encoder"] == ["default"]
    assert len({expression["image_id"] for expression in source["expressions"]}) == 3
    frame = RunFolder(results, source["runs"]["l_dit"]).expressions().set_index(["split", "ref_id", "sent_id"])
    for shown in source["expressions"]:
        key = (shown["split"], shown["ref_id"], shown["sent_id"])
        assert shown["iou"]["l_dit"]["0"] == pytest.approx(frame.loc[key, "iou"], abs=5e-5)
        assert shown["iou"]["l_dit"].keys() == {"0", "1"}
    kept = RunFolder(results, source["runs"]["l_dit"]).artefacts / "attention.safetensors"
    before = kept.stat().st_mtime_ns
    draw_figure("attention", evaluated(grid, RunFolders(results)), results)
    assert kept.stat().st_mtime_ns == before, "computed once"
    kept.write_bytes(b"damaged")
    content = files[0].read_bytes()
    draw_figure("attention", evaluated(grid, RunFolders(results)), results)
    assert files[0].read_bytes() == content

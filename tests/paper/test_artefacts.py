"""Figures and tables as files: what they show, when they are drawn again, and what a summary alone can make."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests import stored
from workbench.grids import Grid, GridError, load_grid
from workbench.grids.evaluated import evaluated, without_runs
from workbench.paper.artefacts import current_files, draw_figure, draw_figures, make_artefacts, with_report
from workbench.paper.figures import figures
from workbench.paper.figures.data import FigureData
from workbench.paper.figures.predictions import false_regions
from workbench.paper.layout import lay_out
from workbench.paper.render import markdown, write_table
from workbench.paper.style import WIDTH, save_picture, styled
from workbench.results.folders import RunFolder, StoreError
from workbench.results.frames import RunFolders
from workbench.results.summary import Summary

NOT_HERE = ("subsets", "layers", "interventions")
"""The settings do not differ in their layers, and neither attention nor interventions were measured."""


SAMPLE = ("attention", "bars", "curves")
"""Of plots and of pictures: the other ones are drawn alike."""


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in SAMPLE else pytest.mark.exhaustive)
        for name in figures
        if name not in NOT_HERE
    ],
)
def test_a_figure_is_whole_repeats_and_is_drawn_from_its_data_alone(
    trained: tuple[Grid, Path], name: str, tmp_path: Path
) -> None:
    grid, results = trained
    files = draw_figure(name, evaluated(grid, RunFolders(results)), results)
    arrays = ["safetensors"] if name in ("predictions", "failures", "attention") else []
    assert [file.name for file in files] == [f"{name}.{ending}" for ending in ("png", "pdf", "json", *arrays)]
    picture = Image.open(files[0])
    assert picture.width == int(WIDTH * 300)
    grey = np.asarray(picture.convert("L"))
    rim = np.concatenate([grey[[0, -1]].ravel(), grey[:, [0, -1]].ravel()])
    assert rim.min() == 255, "something touches the rim and is clipped"
    pdf = files[1].read_bytes()
    assert b"/CreationDate" not in pdf
    assert b"/Type3" not in pdf
    assert b"/FontFile2" in pdf, "fonts are embedded as TrueType"
    before = [file.read_bytes() for file in files]
    draw_figure(name, evaluated(grid, RunFolders(results)), results)
    assert [file.read_bytes() for file in files] == before
    draw = styled(lambda data: save_picture(figures[name].draw(data), tmp_path, name))
    again = draw(FigureData.load(files[0].parent, name))
    assert [file.read_bytes() for file in again] == before[:2]


def test_diagrams_show_the_settings_before_any_of_them_has_run(made_up: tuple[Grid, Path], tmp_path: Path) -> None:
    grid, _ = made_up
    empty = without_runs(grid)
    files = draw_figure("schemes", empty, tmp_path)
    document = json.loads(files[2].read_text())
    assert document["settings"] == list(grid.settings) == ["default", "l_dit", "e_dit"]
    assert [len(document["models"][name]["entries"]) for name in document["settings"]] == [0, 4, 4]
    assert current_files("schemes", empty, tmp_path) == files
    pages = json.loads(draw_figure("pipeline", empty, tmp_path)[2].read_text())
    assert pages["settings"] == ["l_dit", "e_dit"], "the first of each variant that is fused"
    chosen = with_report(empty, settings=["default"])
    assert current_files("schemes", chosen, tmp_path) is None
    assert json.loads(draw_figure("pipeline", chosen, tmp_path)[2].read_text())["settings"] == ["default"]


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


@pytest.mark.exhaustive
def test_artefacts_are_the_table_and_all_figures(trained: tuple[Grid, Path], tmp_path: Path) -> None:
    grid, results = trained
    table = make_artefacts(grid, results, ["table"])
    assert [file.name for file in table] == ["table.md", "table.csv", "table.json"]
    pictures = make_artefacts(grid, results, ["figure"])
    drawn = {f"{name}.png" for name in figures if name not in NOT_HERE}
    assert {file.name for file in pictures if file.suffix == ".png"} == drawn


@pytest.mark.exhaustive
@pytest.mark.parametrize("cores", [1, 3])
def test_figures_are_drawn_by_several_processes_as_by_one(
    trained: tuple[Grid, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    grid, results = trained
    kept = evaluated(grid, RunFolders(results))
    names = ["pipeline", "bars", "curves"]
    for name in names:
        draw_figure(name, kept, results, out=tmp_path / "expected")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    out = tmp_path / "drawn"
    drawn = list(draw_figures(names, kept, results, out=out))
    assert [(made.name, made.is_new) for made in drawn] == [(name, True) for name in names]
    assert digests(out / grid.name) == digests(tmp_path / "expected" / grid.name)
    (out / grid.name / "bars.pdf").unlink()
    again = list(draw_figures(names, kept, results, out=out))
    assert [(made.name, made.is_new) for made in again] == [("pipeline", False), ("curves", False), ("bars", True)]
    assert all(made.is_new for made in draw_figures(names, kept, results, out=out, redraw=True))
    assert digests(out / grid.name) == digests(tmp_path / "expected" / grid.name)


@pytest.mark.parametrize("cores", [1, 2])
def test_where_one_figure_cannot_be_drawn_those_before_it_are(
    trained: tuple[Grid, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    grid, results = trained
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    drawing = draw_figures(["pipeline", "layers", "bars"], evaluated(grid, RunFolders(results)), results, out=tmp_path)
    assert next(drawing).name == "pipeline"
    with pytest.raises(StoreError, match="no figure layers"):
        next(drawing)
    assert {file.stem for file in (tmp_path / grid.name).iterdir()} == {"pipeline"}


def test_a_killed_process_that_draws_is_one_message(
    trained: tuple[Grid, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, results = trained
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr("workbench.paper.artefacts.save_picture", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(StoreError, match="no figure pipeline: the process that was to draw it was killed"):
        list(draw_figures(["pipeline", "bars"], evaluated(grid, RunFolders(results)), results, out=tmp_path))


def test_the_attention_figure_says_its_scale_and_keeps_its_maps_beside_the_run(trained: tuple[Grid, Path]) -> None:
    grid, results = trained
    files = draw_figure("attention", evaluated(grid, RunFolders(results)), results)
    source = json.loads(files[2].read_text())
    assert source["scale"][0] == 0
    assert source["scale"][1] > 1
    assert source["no_text_in_image_encoder"] == ["default"]
    assert len({expression["sent_id"] for expression in source["expressions"]}) == 3
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


def test_a_picture_shows_what_its_rule_says(trained: tuple[Grid, Path]) -> None:
    grid, results = trained
    document = json.loads(draw_figure("predictions", evaluated(grid, RunFolders(results)), results)[2].read_text())
    frames = {}
    for setting in ("default", "l_dit"):
        runs = [RunFolder.of(results, grid.settings[setting], seed).expressions() for seed in (0, 1)]
        frame = pd.concat([run[run["split"] == "val"] for run in runs])
        frames[setting] = frame.groupby(["ref_id", "sent_id"])["iou"].mean()
    gains = sorted((round(gain, 9), *key) for key, gain in (frames["l_dit"] - frames["default"]).items())
    places = [len(gains) // 6, len(gains) * 3 // 6, len(gains) * 5 // 6]
    shown = [(one["ref_id"], one["sent_id"]) for one in document["expressions"]]
    assert shown == [gains[place][1:] for place in places]
    assert document["choice"]["values"] == pytest.approx([gains[place][0] for place in places], abs=1e-6)
    assert "at the 16.7, 50 and 83.3 % quantiles of the difference in IoU (l_dit − default" in document["caption"]
    table = lay_out(evaluated(grid, RunFolders(results))).block("miou").cell("l_dit", "val", "difference")
    assert table is not None
    assert document["choice"]["mean"] == pytest.approx(table.value, abs=1e-6)


def test_choices_of_settings_expressions_and_seed(trained: tuple[Grid, Path]) -> None:
    grid, results = trained
    stored = evaluated(grid, RunFolders(results))
    first = RunFolder.of(results, grid.settings["l_dit"], 1).expressions().iloc[0]
    key = f"{first['split']}:{first['ref_id']}:{first['sent_id']}"
    chosen = with_report(stored, settings=["l_dit"], expressions=[key], seed=1, columns=1)
    files = draw_figure("predictions", chosen, results, file_name="mine")
    assert [file.name for file in files] == ["mine.png", "mine.pdf", "mine.json", "mine.safetensors"]
    document = json.loads(files[2].read_text())
    assert list(document["runs"]) == ["l_dit"]
    assert document["shown_seeds"] == {"l_dit": 1}
    assert [one["sentence"] for one in document["expressions"]] == [first["sentence"]]
    assert "named by hand" in document["caption"]
    assert Image.open(files[0]).width == 975
    assert current_files("predictions", chosen, results, "mine") is not None
    assert current_files("predictions", stored, results, "mine") is None
    with pytest.raises(GridError, match=r"unknown setting 'l_dti' \(did you mean 'l_dit'"):
        with_report(stored, settings=["l_dti"])
    with pytest.raises(GridError, match="split:ref_id:sent_id"):
        with_report(stored, expressions=["val:1"])
    for wrong, message in (({"seed": 7}, "no completed run of it"), ({"expressions": ["val:9:9"]}, "not evaluated")):
        with pytest.raises(StoreError, match=message):
            draw_figure("predictions", with_report(stored, **wrong), results)  # type: ignore[arg-type]


def test_documents_of_earlier_versions_are_still_drawn(trained: tuple[Grid, Path]) -> None:
    grid, results = trained
    stored = evaluated(grid, RunFolders(results))
    former = {
        "bars": "metric title splits settings n bars incomplete",
        "predictions": "runs seeds chosen expressions shown_seeds",
        "attention": "runs seeds chosen expressions columns extents shown_seeds scale unit mean_over "
        "no_text_in_image_encoder note",
    }
    for name, keys in former.items():
        data = figures[name].data(stored, results)
        old = FigureData({key: data.document[key] for key in keys.split()}, data.arrays)
        assert styled(figures[name].draw)(old)


def test_false_regions_are_boxed_or_counted() -> None:
    truth, predicted = np.zeros((100, 100), np.uint8), np.zeros((100, 100), np.uint8)
    truth[40:60, 40:60] = 1
    predicted[39:60, 40:60] = 1  # a rim of one row
    predicted[10:20, 70:90] = 1
    predicted[80:90, 5:10] = 1
    predicted[0, 0] = 1
    boxes, left_out, pixels = false_regions(predicted, truth)
    assert boxes == [(70, 10, 89, 19), (5, 80, 9, 89)]
    assert (left_out, pixels) == (2, 21)


def test_labels_are_what_tables_and_figures_show_and_no_part_of_an_id(trained: tuple[Grid, Path]) -> None:
    grid, results = trained
    file = grid.file.with_name("labelled.yaml")
    text = grid.file.read_text().replace("{fusion.variant: l_dit}", "{fusion.variant: l_dit, label: L-DIT}")
    file.write_text(text)
    labelled = load_grid(file)
    assert labelled.settings["l_dit"].setting_id == grid.settings["l_dit"].setting_id
    assert Grid.from_document(labelled.document()).label("l_dit") == "L-DIT"
    stored = evaluated(labelled, RunFolders(results))
    assert "| L-DIT − default |" in markdown(lay_out(stored))
    assert figures["bars"].data(stored, results).document["labels"]["l_dit"] == "L-DIT"
    file.write_text(text.replace("label: L-DIT", "label: default"))
    with pytest.raises(GridError, match="'default' is what 'default' is called"):
        load_grid(file)

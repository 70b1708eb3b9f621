from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tests.paper.figures.boxes import mistakes
from workbench.grids import Grid
from workbench.grids.evaluated import Evaluated, evaluated
from workbench.paper.artefacts import current_files, draw_figure, with_report
from workbench.paper.figures import figures
from workbench.paper.figures.data import FigureData
from workbench.paper.figures.layers import STATISTICS, file_of
from workbench.paper.style import PAGE, WIDTHS, styled
from workbench.results.folders import RunFolder, StoreError
from workbench.results.frames import RunFolders
from workbench.validation import DamagedFile

NAMES = ["layers.png", "layers-2.png", "layers-3.png", "layers-4.png", "layers.pdf", "layers.json"]


def written(
    folder: RunFolder, fused: tuple[int, ...], best: tuple[int, int] | None, shift: float = 0.0, layers: int = 4,
    heads: int = 2,
) -> None:  # fmt: skip
    """Statistics as `workbench attention` writes them: one layer's head looks at the referent."""
    rows = []
    for layer in range(layers):
        for head in range(heads):
            whole, of_words = f"encoder.blocks[{layer}].attn", f"encoder.blocks[{layer}].attn.image_to_word"
            numbers = [(whole, "entropy", 0.8, None), (whole, "distance", 3.0 + layer, None)]
            if layer in fused:
                on = best == (layer, head)
                verdict = "separates: above by 0.3" if on else "does not separate"
                numbers.append((of_words, "auc", (0.9 if on else 0.5) + shift, verdict))
                numbers.append((of_words, "entropy", 0.123, None))
                numbers.append((of_words, "mass_text", 0.1 * (layer + 1), None))
            rows += [(point, head, name, value, verdict) for point, name, value, verdict in numbers]
    rows.append(("decoder.layers[0].image_to_word", 0, "auc", 0.4, "does not separate"))
    file = file_of(folder, "val")
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = ["point", "head", "statistic", "value", "shuffled: verdict"]
    pd.DataFrame(rows, columns=columns).to_csv(file, index=False)


def measured(made_up: tuple[Grid, Path]) -> tuple[Evaluated, Path]:
    grid, results = made_up
    written(RunFolder.of(results, grid.settings["default"], 0), (), None)
    written(RunFolder.of(results, grid.settings["l_dit"], 0), (1, 3), (3, 1))
    written(RunFolder.of(results, grid.settings["l_dit"], 2), (1, 3), (3, 1), shift=-0.1)
    return evaluated(grid, RunFolders(results)), results


def test_cells_are_means_over_seeds_on_one_scale(made_up: tuple[Grid, Path]) -> None:
    runs, results = measured(made_up)
    files = draw_figure("layers", runs, results)
    assert [file.name for file in files] == NAMES
    document = json.loads(files[-1].read_text())
    assert document["seeds"] == {"default": [0], "l_dit": [0, 2]}
    by_name = {one["name"]: one for one in document["statistics"]}
    assert list(by_name) == [one.name for one in STATISTICS]
    auc = by_name["auc"]
    assert auc["rows"] == ["0", "1", "2", "3", "d0"]
    assert auc["values"]["l_dit"] == [[None, None], [0.45, 0.45], [None, None], [0.45, 0.85], [0.4, None]]
    assert auc["values"]["default"] == [[None, None]] * 4 + [[0.4, None]]
    assert auc["scale"] == pytest.approx([0.15, 0.85])
    assert auc["separates"]["l_dit"] == [[False, False]] * 3 + [[False, True], [False, False]]
    assert by_name["mass_text"]["scale"] == pytest.approx([0, 0.4])
    assert by_name["entropy"]["values"]["default"] == [[0.8, 0.8]] * 4, "of whole attentions, not of words' maps"
    assert by_name["distance"]["rows"] == ["0", "1", "2", "3"]
    for file in files[:4]:
        assert Image.open(file).width == int(WIDTHS[2] * 300)


def test_a_head_that_separates_in_one_seed_alone_has_no_dot(made_up: tuple[Grid, Path]) -> None:
    grid, results = made_up
    written(RunFolder.of(results, grid.settings["l_dit"], 0), (1, 3), (3, 1))
    written(RunFolder.of(results, grid.settings["l_dit"], 2), (1, 3), (1, 0))
    document = figures["layers"].data(evaluated(grid, RunFolders(results)), results).document
    assert not np.any(document["statistics"][0]["separates"]["l_dit"])
    one = with_report(evaluated(grid, RunFolders(results)), seed=2)
    alone = figures["layers"].data(one, results).document
    assert alone["seeds"] == {"l_dit": [2]}
    assert alone["not_measured"] == ["default", "e_dit"]
    assert alone["statistics"][0]["separates"]["l_dit"][1] == [True, False]


@pytest.mark.exhaustive
def test_new_statistics_make_a_new_figure(made_up: tuple[Grid, Path]) -> None:
    runs, results = measured(made_up)
    files = draw_figure("layers", runs, results)
    assert current_files("layers", runs, results) is not None
    written(RunFolder.of(results, runs.grid.settings["default"], 0), (), None, layers=3)
    assert current_files("layers", runs, results) is None
    before = [file.read_bytes() for file in draw_figure("layers", runs, results)]
    assert [file.read_bytes() for file in draw_figure("layers", runs, results)] == before
    assert b"/CreationDate" not in next(file for file in files if file.suffix == ".pdf").read_bytes()


def test_what_is_missing_or_damaged_is_said_in_one_line(
    made_up: tuple[Grid, Path], workbench: Callable[..., Any]
) -> None:
    grid, results = made_up
    runs = evaluated(grid, RunFolders(results))
    with pytest.raises(
        StoreError, match="no figure layers: no run has statistics of its attention on val; write them with"
    ):
        draw_figure("layers", runs, results)
    done = workbench("figure", "layers", grid.file, "--results", results)
    assert done.code == 2
    assert "write them with: workbench attention" in done.err
    assert done.err.endswith(" --split val\n")
    file = file_of(RunFolder.of(results, grid.settings["l_dit"], 0), "val")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("point,head\nx,1\n")
    with pytest.raises(DamagedFile, match="write it again with `workbench attention`"):
        draw_figure("layers", runs, results)


@pytest.mark.exhaustive
def test_what_was_measured_on_another_split_is_drawn_when_asked_for(
    made_up: tuple[Grid, Path], workbench: Callable[..., Any]
) -> None:
    grid, results = made_up
    folder = RunFolder.of(results, grid.settings["l_dit"], 0)
    written(folder, (1, 3), (3, 1))
    file_of(folder, "val").rename(file_of(folder, "testA"))
    runs = evaluated(grid, RunFolders(results))
    with pytest.raises(
        StoreError, match=r"attention on val \(there are some of testA: --split testA\); write them with"
    ):
        draw_figure("layers", runs, results)
    done = workbench("figure", "layers", grid.file, "--results", results, "--split", "testA")
    assert done.code == 0, done.err
    assert json.loads((results / "tiny" / "layers.json").read_text())["split"] == "testA"
    wrong = workbench("figure", "layers", grid.file, "--results", results, "--split", "testB")
    assert wrong.code == 2
    assert "'testB' is not evaluated by setting 'default' (did you mean 'testA'?)" in wrong.err


def heatmaps(names: list[str], layers: int, heads: int) -> FigureData:
    """What a page shows of made-up AUCs; the first setting's first layer reads no words."""
    rng, auc = np.random.default_rng(0), STATISTICS[0]
    values = {name: rng.uniform(0.3, 0.8, (layers + 2, heads)).tolist() for name in names}
    values[names[0]][0] = [None] * heads
    marks = {name: (rng.uniform(size=(layers + 2, heads)) > 0.9).tolist() for name in names}
    statistic = {
        "name": "auc", "label": auc.label, "text": auc.text, "centre": 0.5, "heads": heads, "scale": [0.2, 0.8],
        "rows": [*map(str, range(layers)), "d0", "d1"], "values": values, "separates": marks,
    }  # fmt: skip
    document = {
        "title": "A grid with a title", "split": "val", "settings": names, "labels": {},
        "seeds": {name: [0, 1, 2] for name in names}, "not_measured": ["another"], "statistics": [statistic],
    }  # fmt: skip
    return FigureData(document)


MORE = [pytest.param(*more, marks=pytest.mark.exhaustive) for more in ((1, 4, 2), (22, 12, 12), (8, 32, 16))]


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize(("settings", "layers", "heads"), [(8, 12, 12), *MORE])
def test_nothing_overlaps_and_pages_have_the_pages_size(columns: int, settings: int, layers: int, heads: int) -> None:
    long = "L-DIT with cross-attention and a bottleneck projector in its last three layers"
    names = [long if i == 2 else f"setting {i}" for i in range(settings)]
    document = {**heatmaps(names, layers, heads).document, "columns_of_page": columns}

    @styled
    def check() -> list[Figure]:
        pages = figures["layers"].draw(FigureData(document))
        assert [mistake for page in pages for mistake in mistakes(page)] == []
        return pages

    shown = 0
    for page in check():
        assert page.get_figwidth() == WIDTHS[columns]
        assert page.get_figheight() <= PAGE
        shown += sum(bool(axes.get_title()) for axes in page.axes)
    assert shown == settings


def test_it_is_drawn_from_what_the_attention_command_wrote(
    trained: tuple[Grid, Path], workbench: Callable[..., Any]
) -> None:
    grid, results = trained
    runs = evaluated(grid, RunFolders(results))
    done = workbench("attention", runs.run_of("l_dit", 1), "--results", results, "--expressions", 1)
    assert done.code == 0, done.err
    try:
        document = figures["layers"].data(runs, results).document
    finally:
        file_of(RunFolder.of(results, grid.settings["l_dit"], 1), "val").unlink()
    assert document["seeds"] == {"l_dit": [1]}
    assert [one["name"] for one in document["statistics"]] == [one.name for one in STATISTICS]
    assert document["statistics"][0]["rows"] == ["0", "1", "2", "3", "d0", "d1"]

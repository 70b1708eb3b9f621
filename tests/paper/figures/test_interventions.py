"""The figure of interventions: drawn from what was kept beside the runs, and only from that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests import stored
from tests.conftest import Outcome
from tests.paper.figures.boxes import mistakes
from workbench.analysis.comparison import compare
from workbench.analysis.kept_maps import ALL, DECODER, UNDISTURBED, Kept, of, write_map
from workbench.grids import Grid
from workbench.grids.evaluated import evaluated
from workbench.paper.artefacts import current_files, draw_figure, obstacle
from workbench.paper.figures import figures
from workbench.paper.figures.interventions import caption
from workbench.paper.style import WIDTH, styled
from workbench.results.folders import RunFolder, StoreError
from workbench.results.frames import RunFolders


def keep(results: Path, grid: Grid, seed: int, expressions: int = 15, worse: float = 0.0) -> Kept:
    """A made-up map of a run of l_dit; block 0's words do nothing, block 1's matter."""
    folder = RunFolder.of(results, grid.settings["l_dit"], seed)
    whole = stored.expressions(["val"], 3000 + seed).drop(columns=["kind", "prediction"]).head(expressions)
    rows, rng = [], np.random.default_rng(seed)
    for kind, layer in ((UNDISTURBED, ALL), ("hide_words", 0), ("hide_words", 1), ("hide_words", ALL)):
        lost = rng.uniform(0.3 + worse, 0.6, len(whole)) if layer else np.zeros(len(whole))
        lost = np.zeros(len(whole)) if kind == UNDISTURBED else lost
        frame = whole.assign(intersection=(whole["intersection"] * (1 - lost)).astype(int))
        iou = frame["intersection"] / frame["union"]
        changed = frame.assign(iou=iou, delta=iou - whole["iou"])
        rows.append(changed.assign(intervention=kind, point="p", layer=layer, head=ALL))
    about = {"run": folder.name, "split": "val", "expressions": expressions, "of": 15, "chosen": "all", "changes": [],
             "finished": folder.record().finished, "code": "x"}  # fmt: skip
    kept = Kept(pd.concat(rows, ignore_index=True), about)
    write_map(folder, kept)
    return kept


def test_nothing_is_drawn_before_something_was_measured(
    made_up: tuple[Grid, Path], workbench: Callable[..., Outcome]
) -> None:
    grid, results = made_up
    runs = evaluated(grid, RunFolders(results))
    why = "no run of it has been measured on val: workbench interventions RUN... --split val"
    assert obstacle("interventions", runs, results) == why
    with pytest.raises(StoreError, match="no figure interventions: no run of it has been measured"):
        draw_figure("interventions", runs, results)
    done = workbench("figure", "interventions", grid.file, "--results", results)
    assert done.code == 2
    assert why in done.err


def test_differences_are_paired_by_seed_and_image(made_up: tuple[Grid, Path]) -> None:
    grid, results = made_up
    kept = {0: keep(results, grid, 0), 1: keep(results, grid, 1, expressions=9)}
    runs = evaluated(grid, RunFolders(results))
    files = draw_figure("interventions", runs, results)
    assert [file.name for file in files] == [f"interventions.{ending}" for ending in ("png", "pdf", "json")]
    picture = np.asarray(Image.open(files[0]).convert("L"))
    assert picture.shape[1] == int(WIDTH * 300)
    assert np.concatenate([picture[[0, -1]].ravel(), picture[:, [0, -1]].ravel()]).min() == 255
    document = json.loads(files[2].read_text())
    assert document["settings"] == ["l_dit"]
    assert document["n"] == {"l_dit": 2}
    assert document["expressions"] == {"l_dit": 9}, "of what both seeds have"
    assert document["without"] == {"default": "reads no words in the image encoder"}
    rows = {row["layer"]: row for row in document["rows"]}
    assert sorted(rows) == [ALL, 0, 1]
    assert (rows[0]["value"], rows[0]["low"], rows[0]["high"]) == (0, 0, 0)
    both = [one.rows[one.rows["sent_id"].isin(kept[1].rows["sent_id"])].assign(seed=seed) for seed, one in kept.items()]
    joined = pd.concat(both)
    found = compare(of(joined, "hide_words", 1, ALL), of(joined, UNDISTURBED, ALL, ALL), "miou")
    expected = (found.interval.value, found.interval.low, found.interval.high)
    assert (rows[1]["value"], rows[1]["low"], rows[1]["high"]) == pytest.approx(expected)
    assert rows[1]["value"] < -0.05


def test_the_mask_decoder_stands_beside_the_blocks_and_hides_none_of_them(made_up: tuple[Grid, Path]) -> None:
    """Its changes may be a hundred times as large: then the scale is logarithmic beyond one point."""
    grid, results = made_up
    kept = keep(results, grid, 0)
    small = kept.rows["layer"] == 1
    undisturbed = of(kept.rows, UNDISTURBED, ALL, ALL)
    rows = kept.rows.copy()
    rows.loc[small, "intersection"] = (undisturbed["intersection"] * 0.999).astype(int).to_numpy()
    rows.loc[rows["layer"] == ALL, "intersection"] = np.tile(undisturbed["intersection"], 2)
    decoder = undisturbed.assign(
        intersection=0, iou=0.0, delta=-undisturbed["iou"], intervention="hide_words", layer=DECODER
    )
    rows["iou"] = rows["intersection"] / rows["union"]
    write_map(RunFolder.of(results, grid.settings["l_dit"], 0), Kept(pd.concat([rows, decoder]), kept.about))
    data = figures["interventions"].data(evaluated(grid, RunFolders(results)), results)
    assert {row["layer"] for row in data.document["rows"]} == {0, 1, ALL, DECODER}
    (page,) = styled(figures["interventions"].draw)(data)
    (panel,) = (axes for axes in page.axes if axes.get_title())
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0", "1", "all", "dec."]
    assert panel.get_yscale() == "symlog"
    assert "dec.: what the mask decoder reads. Beyond ±1 the scale is logarithmic." in caption(data.document)
    assert mistakes(page) == []


def test_it_is_drawn_again_when_something_was_measured_again(made_up: tuple[Grid, Path]) -> None:
    grid, results = made_up
    keep(results, grid, 0)
    runs = evaluated(grid, RunFolders(results))
    files = draw_figure("interventions", runs, results)
    assert current_files("interventions", runs, results) == files
    keep(results, grid, 0, worse=0.2)
    assert current_files("interventions", runs, results) is None
    draw_figure("interventions", runs, results)
    assert current_files("interventions", runs, results) == files
    RunFolder.of(results, grid.settings["l_dit"], 0).update(finished=1.0)
    again = evaluated(grid, RunFolders(results))
    assert obstacle("interventions", again, results) is not None, "the run was trained again since"

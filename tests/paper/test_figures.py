from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench.grids import Grid
from workbench.paper.figures import current_files, figures
from workbench.paper.style import WIDTH


@pytest.mark.parametrize("name", list(figures))
def test_a_figure_is_png_pdf_and_its_source_and_repeats(trained: tuple[Grid, Path], name: str) -> None:
    grid, results = trained
    files = figures[name](grid, results)
    assert [f.name for f in files] == [f"{name}.png", f"{name}.pdf", f"{name}.json"]
    picture = Image.open(files[0])
    assert picture.width == round(WIDTH * 300)
    rim = np.concatenate(
        [np.asarray(picture.convert("L"))[[0, -1]].ravel(), np.asarray(picture.convert("L"))[:, [0, -1]].ravel()]
    )
    assert rim.min() == 255, "something touches the rim and is clipped"
    pdf = files[1].read_bytes()
    assert b"/CreationDate" not in pdf
    assert b"/Type3" not in pdf
    before = [f.read_bytes() for f in files]
    assert [f.read_bytes() for f in figures[name](grid, results)] == before
    source = json.loads(files[2].read_text())
    assert source["grid"] == "tiny.yaml"


def test_a_figure_is_redrawn_only_when_something_changed(
    trained: tuple[Grid, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, results = trained
    (results / grid.name / "bars.json").unlink(missing_ok=True)
    assert current_files("bars", grid, results) is None
    files = figures["bars"](grid, results)
    assert current_files("bars", grid, results) == files
    monkeypatch.setattr("workbench.paper.figures.code_digest", lambda: "other")
    assert current_files("bars", grid, results) is None
    monkeypatch.undo()
    files[1].unlink()
    assert current_files("bars", grid, results) is None


def test_the_attention_figure_says_its_scale_and_who_has_none(trained: tuple[Grid, Path]) -> None:
    grid, results = trained
    source = json.loads(figures["attention"](grid, results)[2].read_text())
    assert source["scale"][0] == 0
    assert source["scale"][1] > 1
    assert source["no_text_in_image_encoder"] == ["default"]
    assert len(source["expressions"]) == 3
    assert len({e["image_id"] for e in source["expressions"]}) == 3
    assert all(0 <= v <= 1 for e in source["expressions"] for v in e["iou"].values())


def test_bars_hold_the_table_s_values(trained: tuple[Grid, Path]) -> None:
    from workbench.paper.tables import make_table

    grid, results = trained
    source = json.loads(figures["bars"](grid, results)[2].read_text())
    cells = make_table(grid, results).cells
    for bar in source["bars"]:
        here = cells[
            (cells["setting"] == bar["setting"]) & (cells["split"] == bar["split"]) & (cells["metric"] == "miou")
        ]
        assert bar["value"] == pytest.approx(here["value"].item())

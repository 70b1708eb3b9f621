"""What notebooks show agrees with the runs, and what is missing is a sentence with the way out."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from IPython.display import Image, Markdown
from PIL import Image as Pictures

from workbench.grids import Grid
from workbench.paper.browsing import GridView, open_grid, project_folder


@pytest.fixture
def view(made_up: tuple[Grid, Path], monkeypatch: pytest.MonkeyPatch) -> GridView:
    monkeypatch.delenv("WORKBENCH_DATA", raising=False)
    return GridView(made_up[0].file, made_up[1])


def test_it_shows_every_run_that_has_begun(view: GridView) -> None:
    runs = view.runs()
    assert runs.groupby("setting")["seed"].apply(list).to_dict() == {"default": [0, 1, 2, 3, 4, 5], "l_dit": [0, 1, 2]}
    assert list(runs.loc[runs["state"] != "completed", "seed"]) == [5]
    assert runs["message"].notna().all()


def test_gains_are_means_over_seeds(view: GridView) -> None:
    shown = view.gains().data
    first = shown.iloc[0]
    keys = ["split", "ref_id", "sent_id"]
    of = {}
    for setting, frame in view.stored.expressions.items():
        here = frame[(frame[keys] == first[keys].to_numpy()).all(axis=1)]
        of[setting] = sum(here["iou"]) / len(here)
    assert first["gain"] == pytest.approx(of["l_dit"] - of["default"])
    assert list(shown["gain"]) == sorted(shown["gain"], reverse=True)


@pytest.mark.parametrize("name", ["by_kind", "distribution"])
def test_pictures_are_pictures(view: GridView, name: str) -> None:
    picture = getattr(view, name)()
    assert isinstance(picture, Image)
    pixels = Pictures.open(io.BytesIO(picture.data)).convert("RGB")
    assert pixels.width > 1000
    assert len(pixels.getcolors(1 << 24) or []) > 10


def test_metrics_are_a_row_per_run_and_split(view: GridView) -> None:
    frame: pd.DataFrame = view.metrics().data
    assert len(frame) == 8 * 2
    assert frame["miou"].between(0, 1).all()


def test_what_is_missing_is_one_sentence_with_the_command(tmp_path: Path, made_up: tuple[Grid, Path]) -> None:
    view = GridView(made_up[0].file, tmp_path / "empty", data_root=tmp_path)
    said = view.table()
    assert isinstance(said, Markdown)
    assert said.data.startswith("**Not available:** ")
    assert f"workbench submit {made_up[0].file}" in said.data
    assert view.gains().data == "*Not available: see the sentence above.*"
    assert view.layers().data[:4] == b"\x89PNG"
    runs = view.runs()
    assert f"no run of {made_up[0].file}" in runs.data
    lost = GridView(tmp_path / "none.yaml", tmp_path, preset="refshapes-mini")
    assert "no such file" in lost.runs().data
    assert lost.command == f"workbench submit {tmp_path / 'none.yaml'} --preset refshapes-mini"


def test_an_unknown_figure_and_a_lonely_setting_are_sentences(view: GridView, made_up: tuple[Grid, Path]) -> None:
    assert "no figure 'pie'; there are schemes" in view.figure("pie").data
    alone = GridView(made_up[0].file, made_up[1])
    alone.__dict__["grid"] = made_up[0].narrowed("l_dit", None)
    assert "workbench submit" in alone.gains().data


def test_the_environment_names_grid_and_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_up: tuple[Grid, Path]
) -> None:
    (tmp_path / "ablations").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.delenv("WORKBENCH_GRID", raising=False)
    monkeypatch.delenv("WORKBENCH_RESULTS", raising=False)
    monkeypatch.delenv("WORKBENCH_PRESET", raising=False)
    plain = open_grid("ablations/a.yaml", preset="refshapes-mini")
    assert (plain.file, plain.results, plain.preset) == (Path("ablations/a.yaml"), Path("results"), "refshapes-mini")
    assert Path.cwd() == tmp_path == project_folder()
    monkeypatch.setenv("WORKBENCH_GRID", str(made_up[0].file))
    monkeypatch.setenv("WORKBENCH_RESULTS", str(made_up[1]))
    other = open_grid("ablations/a.yaml", preset="refshapes-mini")
    assert (other.file, other.results, other.preset) == (made_up[0].file, made_up[1], None)
    monkeypatch.setenv("WORKBENCH_PRESET", "short")
    assert open_grid("ablations/a.yaml").preset == "short"

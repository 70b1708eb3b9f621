"""The commands that show results, as they are typed: which seeds, from where, and what is said of damage."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import stored
from tests.conftest import Outcome
from workbench.grids import Grid, load_grid

Command = Callable[..., Outcome]


@pytest.fixture
def grid(grid_file: Callable[[str], Path]) -> Grid:
    return load_grid(
        grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\nbaseline: a\nreport: {metrics: [miou]}\n")
    )


@pytest.fixture
def results(grid: Grid, tmp_path: Path) -> Path:
    """Five seeds of each setting, though the grid names one; a sixth of b failed."""
    for seed in range(5):
        stored.complete(tmp_path / "r", grid.settings["a"], seed)
        stored.complete(tmp_path / "r", grid.settings["b"], seed, draw=2000 + seed)
    stored.fail(tmp_path / "r", grid.settings["b"], 5)
    return tmp_path / "r"


def test_five_seeds_of_a_grid_that_names_one_are_shown(workbench: Command, grid: Grid, results: Path) -> None:
    shown = workbench("table", grid.file, "--results", results)
    assert shown.code == 0, shown.err
    values = [stored.mean_iou(stored.expressions(["val", "testA"], 2000 + seed), "val") for seed in range(5)]
    mean = sum(values) / 5
    spread = (sum((value - mean) ** 2 for value in values) / 4) ** 0.5
    row = next(line for line in shown.out.splitlines() if line.startswith("| b "))
    assert row.split("|")[2].strip() == "5"
    assert row.split("|")[3].strip().startswith(f"{100 * mean:.1f} ± {100 * spread:.1f} [")
    assert "– not completed: b seed 5 (failed)." in shown.out
    shutil.rmtree(results / "runs" / grid.settings["b"].setting_id / "seed4")
    fewer = workbench("table", grid.file, "--results", results).out
    assert "* fewer seeds than others: b (4 of 5)." in fewer
    # Another row's numbers may have made a column wider.
    untouched = [line.split() for line in shown.out.splitlines() if line.startswith("| a ")]
    assert [line.split() for line in fewer.splitlines() if line.startswith("| a ")] == untouched


def test_seeds_narrow_the_table_and_the_figure(workbench: Command, grid: Grid, results: Path) -> None:
    table = workbench("table", grid.file, "--results", results, "--seeds", "1,2")
    assert next(line for line in table.out.splitlines() if line.startswith("| a ")).split("|")[2].strip() == "2"
    assert "not completed" not in table.out
    assert workbench("figure", "bars", grid.file, "--results", results, "--seeds", "3").code == 0
    document = json.loads((results / "grid" / "bars.json").read_text())
    assert document["n"] == {"a": 1, "b": 1}
    wrong = workbench("table", grid.file, "--results", results, "--seeds", "x")
    assert wrong.code == 2
    assert "--seeds: 'x' is none of the forms" in wrong.err
    none = workbench("table", grid.file, "--results", results, "--seeds", "77")
    assert none.code == 2
    assert "no completed run" in none.err


def test_a_summary_alone_makes_the_same_files(workbench: Command, grid: Grid, results: Path) -> None:
    def files() -> dict[str, str]:
        made = (results / "grid").iterdir()
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in made if file.is_file()}

    where = ("--results", results)
    assert workbench("table", grid.file, *where).code == 0
    assert workbench("figure", "bars", grid.file, *where).code == 0
    kept = workbench("summarise", grid.file, *where)
    assert kept.out.startswith(f"wrote {results / 'grid' / 'summary'} (")
    before = files()
    shutil.rmtree(results / "runs")
    for file in before:
        (results / "grid" / file).unlink()
    summary = results / "grid" / "summary"
    assert workbench("table", grid.file, *where, "--from", summary).code == 0
    assert workbench("figure", "bars", grid.file, *where, "--from", summary).code == 0
    assert files() == before
    refused = workbench("figure", "attention", grid.file, *where, "--from", summary)
    assert refused.code == 2
    assert "needs the run folders" in refused.err
    missing = workbench("table", grid.file, *where, "--from", results / "nowhere")
    assert "is no summary" in missing.err


def test_diagrams_need_no_runs(workbench: Command, grid: Grid, tmp_path: Path) -> None:
    done = workbench("figure", "schemes", grid.file, "--results", tmp_path / "none")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == f"wrote {tmp_path / 'none' / 'grid' / 'schemes.png'}"
    again = workbench("figure", "schemes", grid.file, "--results", tmp_path / "none")
    assert again.out == f"{tmp_path / 'none' / 'grid' / 'schemes.png'} is up to date\n"


def test_a_variant_is_drawn_without_a_grid(workbench: Command, grid: Grid, tmp_path: Path) -> None:
    last = ("--variant", "l_dit", "-o", "fusion.layers=[6,7,8,9,10,11]", "--results", tmp_path)
    done = workbench("figure", "pipeline", *last)
    assert done.code == 0, done.err
    document = json.loads((tmp_path / "variants" / "pipeline-l_dit.json").read_text())
    model = document["models"]["l_dit"]
    assert [entry["layer"] for entry in model["entries"]] == [6, 7, 8, 9, 10, 11]
    assert model["stages"]["fusion"]["weights"] == 6 * (768 * 768 + 768)
    assert document["title"] == "l_dit on vit_b, fusion.layers [6, 7, 8, 9, 10, 11]"

    def refused(*arguments: object) -> str:
        done = workbench("figure", *arguments, "--results", tmp_path)
        assert done.code == 2
        assert done.err.count("\n") == 1
        return done.err

    assert "unknown fusion variant 'l_dti' (did you mean 'l_dit'?)" in refused("pipeline", "--variant", "l_dti")
    assert "unknown backbone 'vit_x'" in refused("pipeline", "--variant", "l_dit", "--backbone", "vit_x")
    assert "no layer 12" in refused("schemes", "--variant", "l_dit", "-o", "fusion.layers=[12]")
    assert "a field of a section is expected" in refused("schemes", "--variant", "l_dit", "-o", "layers=2")
    assert "--variant is for schemes and pipeline" in refused("bars", "--variant", "l_dit")
    assert "--variant is for schemes and pipeline, in place" in refused("schemes", grid.file, "--variant", "l_dit")
    assert "-o is for --variant" in refused("schemes", grid.file, "-o", "training.steps=2")
    assert "name a grid, such as" in refused("pipeline")


def test_a_damaged_run_is_a_warning_with_file_and_field(workbench: Command, grid: Grid, results: Path) -> None:
    record = results / "runs" / grid.settings["a"].setting_id / "seed2" / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"starts": "often"}))
    shown = workbench("table", grid.file, "--results", results)
    assert shown.code == 0
    assert f"warning: {record}: damaged (starts: 'often' is not valid" in shown.err
    assert "a seed 2 (damaged: " in shown.out
    assert "* fewer seeds than others: a (4 of 5)." in shown.out

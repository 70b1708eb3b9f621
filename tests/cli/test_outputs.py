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


def test_a_damaged_run_is_a_warning_with_file_and_field(workbench: Command, grid: Grid, results: Path) -> None:
    record = results / "runs" / grid.settings["a"].setting_id / "seed2" / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"starts": "often"}))
    shown = workbench("table", grid.file, "--results", results)
    assert shown.code == 0
    assert f"warning: {record}: damaged (starts: 'often' is not valid" in shown.err
    assert "a seed 2 (damaged: " in shown.out
    assert "* fewer seeds than others: a (4 of 5)." in shown.out

"""`workbench reproduce`: a plan that changes nothing, then runs, tables and notebooks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from tests import stored
from tests.conftest import Outcome
from workbench.grids import load_grid

GRID = "settings: {default: {}, l_dit: {fusion.variant: l_dit}}\nseeds: [0]\nbaseline: default\n"


def rows_of(out: str) -> dict[str, list[str]]:
    lines = [line.split() for line in out.splitlines() if line]
    return {line[0]: line[1:] for line in lines}


def files_in(folder: Path) -> dict[str, bytes]:
    """All but the index, which is only what is in the records."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and "index" not in file.name
    }


def test_the_plan_counts_shared_runs_once_and_changes_nothing(
    grid_file: Callable[..., Path], tmp_path: Path, workbench: Callable[..., Outcome]
) -> None:
    first, second = grid_file(GRID, "first"), grid_file(GRID + "report: {metrics: [miou]}\n", "second")
    results = tmp_path / "results"
    stored.complete(results, load_grid(first).settings["default"], 0)
    before = files_in(results)
    done = workbench("reproduce", first, second, "--results", results)
    assert (done.code, done.err) == (0, "")
    rows = rows_of(done.out)
    assert rows["first"][:4] == ["2", "1", "–", "1"]
    assert rows["second"][:4] == ["2", "1", "–", "0"]
    assert rows["first"][-4:] == ["no", "0", "of", rows["first"][-1]]
    assert "\n1 run to train in all; cost unknown" in done.out
    assert done.out.splitlines()[-1].startswith("nothing was changed")
    assert files_in(results) == before


def test_the_cost_is_that_of_past_runs_summed_over_grids(
    grid_file: Callable[..., Path], tmp_path: Path, workbench: Callable[..., Outcome]
) -> None:
    from workbench.launch.cost import expected_cost
    from workbench.launch.plan import plan, to_train

    first = grid_file(GRID + "", "first")
    second = grid_file(GRID.replace("l_dit: {fusion.variant: l_dit}", "e_dit: {fusion.variant: e_dit}"), "second")
    results = tmp_path / "results"
    grids = [load_grid(file) for file in (first, second)]
    for grid in grids:
        for config in grid.settings.values():
            stored.complete(results, config, 7)
    costs = [expected_cost(to_train(plan(grid, results)), results) for grid in grids]
    done = workbench("reproduce", first, second, "--results", results)
    # `default` belongs to both and is trained once: three runs, all of known kinds.
    assert [cost.runs for cost in costs] == [2, 2]
    assert "\n3 runs to train in all; about" in done.out
    assert "for 3 runs, going by past ones" in done.out


@pytest.mark.exhaustive
def test_submit_of_completed_grids_makes_their_tables_and_one_report(
    grid_file: Callable[..., Path],
    tmp_path: Path,
    workbench: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = "report: {metrics: [miou]}\n"
    first, second = grid_file(GRID + report, "first"), grid_file(GRID.replace("default, ", "") + report, "second")
    results = tmp_path / "results"
    for config in load_grid(first).settings.values():
        stored.complete(results, config, 0)
    monkeypatch.chdir(tmp_path)
    planned = workbench("reproduce", first, second, "--results", results)
    assert f"report: {results / 'report.html'} is not made yet" in planned.out
    done = workbench("reproduce", first, second, "--submit", "--results", results)
    # The made-up runs have no weights, so that figures of masks cannot be drawn; what can be made is made.
    assert done.err.startswith("error: 2 steps failed: first: ")
    assert f"wrote {results / 'report.html'} (" in done.out
    page = (results / "report.html").read_text()
    assert 'href="#g1"' in page
    assert (results / "first" / "table.md").is_file()
    assert (
        f"report: {results / 'report.html'} exists" in workbench("reproduce", first, second, "--results", results).out
    )


@pytest.mark.slow
@pytest.mark.exhaustive
def test_submit_trains_and_makes_tables_figures_and_notebooks(
    grid_file: Callable[..., Path],
    tmp_path: Path,
    workbench: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = grid_file(GRID)
    (tmp_path / "notebooks").mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import os; os.environ['WORKBENCH_RESULTS']")])
    nbformat.write(notebook, tmp_path / "notebooks" / "1_a.ipynb")
    monkeypatch.chdir(tmp_path)
    done = workbench("reproduce", file, "--submit", "--results", "results", "--workers", "1")
    assert done.code == 0, done.err
    for made in ("table.md", "bars.png", "attention.pdf", "predictions.png", "report.html"):
        assert (tmp_path / "results" / "grid" / made).is_file()
    assert str(tmp_path / "results") in (tmp_path / "results" / "notebooks" / "1_a.html").read_text()
    again = workbench("reproduce", file, "--results", "results")
    assert rows_of(again.out)["grid"][:4] == ["2", "2", "–", "0"]
    assert "nothing to train" in again.out


def test_wrong_arguments_are_one_line(
    tmp_path: Path,
    grid_file: Callable[..., Path],
    workbench: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = workbench("reproduce")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: no grids in ")
    done = workbench("reproduce", "none.yaml")
    assert (done.code, done.err) == (2, "error: none.yaml: no such file\n")
    done = workbench("reproduce", grid_file(GRID), "--preset", "refshapes-mini")
    assert done.code == 2
    assert done.err.count("\n") == 1

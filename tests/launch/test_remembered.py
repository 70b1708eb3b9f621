"""Completed runs that were read before: they are not read again, and whatever happens to their records is seen."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import stored
from workbench import receipts
from workbench.grids import Grid, load_grid
from workbench.launch import remembered
from workbench.launch.plan import plan, plan_runs, with_existing_seeds
from workbench.results.folders import RunFolder
from workbench.results.record import RunRecord

Read = list[str]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Read:
    """The names of the runs whose records are read."""
    monkeypatch.setenv(receipts.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(receipts, "TICK", 0)
    monkeypatch.setattr(remembered, "FEWEST", 3)
    names: Read = []
    honest = RunFolder.record

    def counted(folder: RunFolder) -> RunRecord:
        names.append(folder.name)
        return honest(folder)

    monkeypatch.setattr(RunFolder, "record", counted)
    return names


@pytest.fixture
def grid(grid_file: Callable[[str], Path], tmp_path: Path) -> Grid:
    grid = load_grid(grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\nseeds: [0, 1, 2]\n"))
    for run in grid.runs()[:5]:
        stored.complete(tmp_path / "results", run.config, run.seed)
    return grid


def test_records_are_read_once_and_again_when_they_changed(grid: Grid, tmp_path: Path, read: Read) -> None:
    results, completed = tmp_path / "results", grid.runs()[:5]

    def looked() -> tuple[list[str], list[str]]:
        read.clear()
        planned = plan(grid, results)
        return [one.state for one in planned], [name for name in read if name in {run.id for run in completed}]

    before = [one.run_state.record for one in plan(grid, results)]
    assert looked() == (5 * ["completed"] + ["new"], [])
    assert [one.run_state.record for one in plan(grid, results)] == before
    assert [record.finished for record in before if record] == [1.7e9 + run.seed for run in completed]

    file = RunFolder(results, completed[1].id).record_file
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"steps": 6', b'"steps": "'))
    states, again = looked()
    assert states == ["completed", "damaged", *3 * ["completed"], "new"]
    assert set(again) == {completed[1].id}
    file.write_bytes(content)
    os.utime(file, ns=(1, 1))
    assert looked() == (5 * ["completed"] + ["new"], [completed[1].id])
    RunFolder(results, completed[0].id).update(state="interrupted")
    assert looked()[0] == ["interrupted", *4 * ["completed"], "new"]
    RunFolder(results, completed[2].id).record_file.unlink()
    assert looked()[0] == ["interrupted", "completed", "new", "completed", "completed", "new"]
    assert looked()[1].count(completed[4].id) == 0


def test_what_is_kept_may_be_damaged_and_is_not_kept_for_few_runs(grid: Grid, tmp_path: Path, read: Read) -> None:
    results, ids = tmp_path / "results", [run.id for run in grid.runs()]
    plan_runs(grid.runs()[:2], results)
    assert not list((tmp_path / "cache").glob("completed-*"))
    plan(grid, results)
    (kept,) = (tmp_path / "cache").glob("completed-*")
    entries = json.loads(kept.read_bytes())
    assert sorted(entries) == sorted(ids[:5])
    stamp, text = entries[ids[1]]
    entries |= {ids[0]: 7, ids[1]: [stamp, text[:-1]], ids[2]: [stamp], ids[3]: [[1, 2, 3, 4], text]}
    kept.write_text(json.dumps(entries))
    read.clear()
    assert [one.state for one in plan(grid, results)] == 5 * ["completed"] + ["new"]
    assert set(read) >= set(ids[:4])
    assert ids[4] not in read
    kept.write_text("[]")
    assert [one.state for one in plan(grid, results)] == 5 * ["completed"] + ["new"]


def test_a_part_of_the_seeds_forgets_none_of_the_others(grid: Grid, tmp_path: Path, read: Read) -> None:
    results = tmp_path / "results"
    plan(grid, results)
    stored.complete(results, grid.settings["b"], 2)
    stored.complete(results, grid.settings["b"], 7)
    plan_runs([run for run in grid.runs() if run.seed == 2], results)
    read.clear()
    runs = with_existing_seeds(grid, results)
    assert sorted(run.seed for run in runs) == [0, 0, 1, 1, 2, 2, 7]
    assert {one.state for one in plan_runs(runs, results)} == {"completed"}
    assert set(read) == {runs[-1].id}


def test_a_folder_with_another_configuration_is_read_each_time(grid: Grid, tmp_path: Path, read: Read) -> None:
    results, wrong = tmp_path / "results", RunFolder(tmp_path / "results", grid.runs()[0].id)
    other = grid.settings["b"].identity_document()
    wrong.update(identity=other)
    for _ in range(2):
        read.clear()
        assert [one.state for one in plan(grid, results)][:2] == ["damaged", "completed"]
        assert wrong.name in read

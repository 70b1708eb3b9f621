"""Runs that begin from others, on a cluster: how they wait, and what holds them up."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import stored
from tests.conftest import Outcome
from workbench.benchmarks.fake_slurm import FakeSlurm
from workbench.grids import Grid, Run, load_grid
from workbench.launch.plan import plan, plan_runs, runs_of
from workbench.launch.profiles import Profile
from workbench.launch.slurm import ends_of
from workbench.launch.submissions import Submissions, latest
from workbench.launch.submit import Request, submit
from workbench.launch.tasks import STOPPED, ArrayTask
from workbench.paper.report import report
from workbench.results.folders import RunFolder

Write = Callable[..., Path]
Command = Callable[..., Outcome]
PROFILE = Profile(name="test", backend="slurm")
FAILURE = {"class": "code_error", "message": "KeyError: 'x'", "type": "KeyError"}


@pytest.fixture
def grid(grid_file: Write) -> Grid:
    grid_file("settings: {base: {fusion.variant: l_dit}}\n", name="first")
    later = "{fusion.variant: l_dit, start_from: {grid: first.yaml, setting: base}"
    return load_grid(
        grid_file(
            f"settings:\n  tuned: {later}}}\n  slow: {later}, training.steps: 9}}\nseeds: [0, 1]\n", name="second"
        )
    )


def request(results: Path, **more: object) -> Request:
    return Request(results, PROFILE, lambda grid: None, report, **more)  # type: ignore[arg-type]


def of(grid: Grid, setting: str, seed: int) -> Run:
    return next(run for run in runs_of(grid) if (run.setting, run.seed) == (setting, seed))


def start(results: Path, run: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Do what the newest task of a run does at its beginning; the status it ends with, 0 where it would train."""
    submission, index = latest(Submissions(results).all())[run]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(index))
    monkeypatch.setattr("workbench.launch.tasks.TrainingJob.train", lambda job, stop: run)
    try:
        ArrayTask(str(submission.folder), 3600, 60)()
    except SystemExit as ended:
        return int(str(ended.code))
    return 0


def test_a_stage_costs_one_array_however_many_runs_others_begin_from(
    grid: Grid, tmp_path: Path, slurm: FakeSlurm
) -> None:
    submit(grid.narrowed(None, tuple(range(30))), request(tmp_path / "r"))
    assert [job["count"] for job in slurm.jobs()] == [30, 60]
    script = Path(str(slurm.jobs()[1]["script"])).read_text()
    (waits,) = re.findall(r"--dependency=\"?'?afterany:([\w:]+)", script)
    assert waits.split(":") == [f"1_{k}" for k in range(30)]


def test_a_dependency_on_many_tasks_names_their_array() -> None:
    assert ends_of(["7_0", "7_2", "8_1"]) == "afterany:7_0:7_2:8_1"
    assert ends_of([f"7_{k}" for k in range(3000)] + ["8_1"]) == "afterany:7:8_1"


def test_an_earlier_run_that_failed_holds_up_those_alone_that_begin_from_it(
    grid: Grid, tmp_path: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "r"
    submit(grid, request(results))
    base = of(grid, "base", 1)
    stored.complete(results, base.config, 0)
    RunFolder(results, base.id).update(state="failed", error=FAILURE)
    assert start(results, of(grid, "tuned", 0).id, monkeypatch) == 0
    held = of(grid, "tuned", 1)
    assert start(results, held.id, monkeypatch) == STOPPED
    for index in range(2):
        slurm.set_state(f"1_{index}", "COMPLETED")
    for index in range(4):
        slurm.set_state(f"2_{index}", "FAILED")
    (planned,) = plan_runs([held], results)
    assert (planned.state, planned.run_state.cause) == ("interrupted", "blocked")
    assert planned.run_state.message == f"it begins from {base.id}, which is failed: KeyError: 'x'"
    # It is retried together with what it needs, in an array that waits for that.
    outcome = submit(grid, request(results, retry=True))
    assert {p.run.id for p in outcome.chosen} >= {base.id, held.id}
    assert "--dependency=" in Path(str(slurm.jobs()[-1]["script"])).read_text()


def test_what_waits_for_a_run_that_is_submitted_again_waits_for_the_new_one(
    grid: Grid, tmp_path: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "r"
    submit(grid, request(results))
    base, other = of(grid, "base", 1), of(grid, "tuned", 0)
    RunFolder(results, base.id).update(state="failed", error=FAILURE)
    slurm.set_state("1_1", "FAILED")
    before = latest(Submissions(results).all())[other.id]
    outcome = submit(grid, request(results, retry=True))
    waiting = {of(grid, setting, 1).id for setting in ("tuned", "slow")}
    assert {p.run.id for p in outcome.chosen} == {base.id} | waiting
    assert re.search(r"afterany:3_0\b", Path(str(slurm.jobs()[-1]["script"])).read_text())
    newest = latest(Submissions(results).all())
    assert newest[other.id] == before, "seed 0 keeps its place"
    assert {newest[run][0].number for run in waiting} == {outcome.arrays[-1].submission.number}
    assert plan(grid, results)[0].state == "queued"


def test_a_run_that_has_begun_goes_on_whatever_became_of_what_it_began_from(
    grid: Grid, tmp_path: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "r"
    submit(grid, request(results))
    run = of(grid, "tuned", 0)
    with RunFolder(results, run.id).checkpoints.new(3) as place:
        place.model.write_bytes(b"")
    assert start(results, run.id, monkeypatch) == 0
    assert not RunFolder(results, run.id).record_file.exists()

"""Jobs that make a grid's table and figures: their states, and when they are made again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import stored
from tests.conftest import Outcome
from workbench.benchmarks.fake_slurm import FakeSlurm
from workbench.grids import Grid, load_grid
from workbench.launch.profiles import Profile
from workbench.launch.reports import ReportStatus, report_statuses
from workbench.launch.scheduler import SchedulerError
from workbench.launch.submissions import Submissions
from workbench.launch.submit import Request, SubmissionOutcome, submit
from workbench.launch.tasks import ReportTask
from workbench.paper.report import report
from workbench.results.folders import StoreError

Write = Callable[..., Path]
Command = Callable[..., Outcome]
PROFILE = Profile(name="test", backend="slurm")
SETTINGS = "settings: {a: {}, b: {fusion.variant: l_dit}}\n"


@pytest.fixture
def grid(grid_file: Write) -> Grid:
    return load_grid(grid_file(f"{SETTINGS}then: [table]\n"))


def hand_over(grid: Grid, results: Path, **more: object) -> SubmissionOutcome:
    return submit(grid, Request(results, PROFILE, lambda grid: None, report, **more))  # type: ignore[arg-type]


def only(results: Path, grid: Grid) -> ReportStatus:
    (status,) = report_statuses(results, grid)
    return status


def waits_for(slurm: FakeSlurm, job: int) -> str:
    script = Path(str(slurm.jobs()[job - 1]["script"])).read_text()
    return "".join(re.findall(r"--dependency=\"?'?afterany:([\w:]+)", script))


def test_a_report_has_a_state_from_its_submission_to_its_end(grid: Grid, tmp_path: Path, slurm: FakeSlurm) -> None:
    results = tmp_path / "r"
    assert report_statuses(results, grid) == []
    (job,) = hand_over(grid, results).reports
    assert only(results, grid).state == "waiting"
    slurm.set_state("2_0", "RUNNING")
    assert only(results, grid).state == "running"
    with pytest.raises(StoreError, match="no completed run yet"):
        ReportTask(str(job.submission.folder), report)()
    failed = only(results, grid)
    assert (failed.state, failed.cause) == ("failed", "bad_data")
    assert "no completed run yet" in str(failed.message)
    for config in grid.settings.values():
        stored.complete(results, config, 0)
    ReportTask(str(job.submission.folder), report)()
    before = slurm.calls().total()
    assert only(results, grid).state == "made"
    assert slurm.calls().total() == before, "nobody has to be asked"
    assert hand_over(grid, results).reports == []


@pytest.mark.parametrize("end", ["failed", "cancelled", "refused", "vanished", "killed launcher"])
def test_one_that_was_not_made_is_made_by_the_next_submission(
    grid: Grid, tmp_path: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    results = tmp_path / "r"

    def refuse(*given: object) -> str:
        raise SchedulerError("sbatch says: no more jobs")

    if end == "refused":
        with monkeypatch.context() as patch:
            patch.setattr("workbench.launch.arrays.submit_report", refuse)
            with pytest.raises(SchedulerError):
                hand_over(grid, results)
    else:
        (job,) = hand_over(grid, results).reports
    for config in grid.settings.values():
        stored.complete(results, config, 0)
    if end == "failed":
        job.submission.note_reported("failed", cause="code_error", message="'x'")
    elif end == "cancelled":
        slurm.set_state("2_0", "CANCELLED")
    elif end != "refused":
        lines = (slurm.folder / "jobs").read_text().splitlines()
        (slurm.folder / "jobs").write_text(f"{lines[0]}\n")
    if end == "killed launcher":
        (job.submission.folder / "taken.json").unlink()
    expected = {"vanished": "cancelled", "killed launcher": "new"}.get(end, end)
    assert only(results, grid).state == expected
    assert len(hand_over(grid, results).reports) == 1
    assert only(results, grid).state == "waiting"
    assert hand_over(grid, results).reports == [], "it waits"


def test_retry_of_a_class_leaves_a_report_of_another_alone(grid: Grid, tmp_path: Path, slurm: FakeSlurm) -> None:
    results = tmp_path / "r"
    (job,) = hand_over(grid, results).reports
    for config in grid.settings.values():
        stored.complete(results, config, 0)
    job.submission.note_reported("failed", cause="code_error", message="'x'")
    assert hand_over(grid, results, retry=["timeout"]).reports == []
    assert len(hand_over(grid, results, retry=["code_error"]).reports) == 1


def test_a_table_waits_for_runs_that_another_grid_submitted(
    grid: Grid, grid_file: Write, tmp_path: Path, slurm: FakeSlurm
) -> None:
    results = tmp_path / "r"
    first = load_grid(grid_file(f"{SETTINGS}seeds: [0, 1]\n", name="first"))
    hand_over(first, results)
    assert [run.id for run in first.runs()[:2]] == [run.id for run in grid.runs()]
    outcome = hand_over(grid, results)
    assert outcome.arrays == []
    assert len(outcome.reports) == 1, "all of its runs are in the other grid's queue"
    assert waits_for(slurm, 2) == "1_0:1_1", "and not for the other's seed 1"
    assert hand_over(grid, results).reports == []


def test_the_commands_show_and_cancel_it(workbench: Command, grid: Grid, tmp_path: Path, slurm: FakeSlurm) -> None:
    results = tmp_path / "r"
    hand_over(grid, results)
    assert "table of grid: waiting, job 2_0" in workbench("status", grid.file, "--results", results).out
    everything = json.loads(workbench("status", "--results", results, "--json").out)
    assert [(one["setting"], one["state"]) for one in everything if one["seed"] is None] == [("grid", "waiting")]
    said = workbench("cancel", grid.file, "--results", results).out
    assert "cancelled the table of grid (job 2_0)" in said
    said = workbench("status", grid.file, "--results", results).out
    assert "table of grid: cancelled" in said
    assert f"to make it: workbench submit {grid.file}" in said
    (record,) = [s for s in Submissions(results).all() if s.is_report]
    assert record.cancelled == {0}

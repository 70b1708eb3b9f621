"""Where runs stand: every mix of what the folder says and what the scheduler says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.benchmarks.fake_slurm import FakeSlurm
from workbench.config import RunConfig
from workbench.grids import Grid, load_grid
from workbench.launch.housekeeping import cancel
from workbench.launch.plan import plan, to_train
from workbench.launch.profiles import Profile
from workbench.launch.scheduler import SchedulerError, Task, _tasks
from workbench.launch.states import GONE, forgiving, look_at_queue
from workbench.launch.status import failures, statuses
from workbench.launch.submissions import Submissions
from workbench.launch.submit import Request, submit
from workbench.paper.report import report
from workbench.results.folders import RunFolder

Write = Callable[..., Path]
PROFILE = Profile(name="test", backend="slurm")


@pytest.fixture
def handed(grid_file: Write, tmp_path: Path, slurm: FakeSlurm) -> tuple[Grid, Path, RunFolder]:
    """A grid of one run that was submitted as job 1_0."""
    grid = load_grid(grid_file("settings: {a: {}}\n"))
    submit(grid, Request(tmp_path / "results", PROFILE, lambda grid: None, report))
    return grid, tmp_path / "results", RunFolder(tmp_path / "results", grid.runs()[0].id)


@pytest.mark.parametrize(
    ("record", "scheduler", "state", "cause"),
    [
        ({}, "PENDING", "queued", None),
        ({}, "RUNNING", "running", None),
        ({}, "CANCELLED", "cancelled", "cancelled"),
        ({}, "NODE_FAIL", "failed", "node_failure"),
        ({"state": "running"}, "RUNNING", "running", None),
        ({"state": "running"}, "COMPLETING", "running", None),
        ({"state": "running"}, "REQUEUED", "queued", None),
        ({"state": "running"}, "SUSPENDED", "running", None),
        ({"state": "running"}, "FAILED", "killed", "killed"),
        ({"state": "running"}, "TIMEOUT", "killed", "timeout"),
        ({"state": "running"}, "PREEMPTED", "killed", "preempted"),
        ({"state": "running"}, "OUT_OF_MEMORY", "failed", "out_of_memory"),
        ({"state": "running"}, "CANCELLED", "cancelled", "cancelled"),
        ({"state": "interrupted", "error": {"class": "timeout", "message": "m"}}, "PENDING", "queued", "timeout"),
        ({"state": "interrupted", "error": {"class": "timeout", "message": "m"}}, "TIMEOUT", "interrupted", "timeout"),
        ({"state": "interrupted", "error": {"class": "cancelled", "message": "m"}}, "CANCELLED", "cancelled",
         "cancelled"),
        ({"state": "interrupted", "error": {"class": "cancelled", "message": "m"}}, "FAILED", "cancelled",
         "cancelled"),
        ({"state": "interrupted", "error": {"class": "cancelled", "message": "m"}}, "NODE_FAIL", "interrupted",
         "cancelled"),
        ({"state": "interrupted", "error": {"class": "preempted", "message": "m"}}, "COMPLETING", "queued",
         "preempted"),
        ({"state": "running"}, "POWER_UP_NODE", "running", None),
        ({"state": "failed", "error": {"class": "code_error", "message": "m"}}, "FAILED", "failed", "code_error"),
        ({"state": "failed", "error": {"class": "code_error", "message": "m"}}, "COMPLETING", "failed", "code_error"),
        ({"state": "completed", "steps": 6}, "PENDING", "completed", None),
    ],
)  # fmt: skip
def test_the_folder_and_the_scheduler_together(
    handed: tuple[Grid, Path, RunFolder],
    slurm: FakeSlurm,
    record: dict[str, object],
    scheduler: str,
    state: str,
    cause: str | None,
) -> None:
    grid, results, folder = handed
    if record:
        folder.update(**record)
    slurm.set_state("1_0", scheduler)
    before = slurm.calls().total()
    (planned,) = plan(grid, results, look_at_queue)
    assert (planned.state, planned.run_state.cause) == (state, cause)
    assert slurm.calls().total() - before == (0 if state == "completed" else 1)


def test_a_job_that_the_scheduler_forgot_is_judged_by_its_folder(handed: tuple[Grid, Path, RunFolder]) -> None:
    grid, results, folder = handed
    (submission,) = Submissions(results).all()
    submission.began_file.write_text("0\n")
    assert plan(grid, results, lambda submissions: [])[0].state == "new"
    folder.update(state="running")
    assert plan(grid, results, lambda submissions: [])[0].state == "killed"
    folder.update(state="interrupted", error={"class": "timeout", "message": "m", "type": "InterruptedRun"})
    (planned,) = plan(grid, results, lambda submissions: [])
    assert (planned.state, planned.run_state.cause) == ("interrupted", "timeout")


def test_how_a_job_ended_is_remembered_after_the_scheduler_forgot_it(
    handed: tuple[Grid, Path, RunFolder], slurm: FakeSlurm
) -> None:
    grid, results, folder = handed
    slurm.set_state("1_0", "CANCELLED")
    assert plan(grid, results)[0].state == "cancelled"
    (slurm.folder / "jobs").unlink()
    assert plan(grid, results)[0].state == "cancelled", "cancelled while it waited, and so it stays"
    folder.update(state="running")
    Submissions(results).all()[0].began_file.write_text("0\n")
    task = Task(Submissions(results).all()[0].job, "1", 0, "NODE_FAIL", None)
    for seen in ([task], []):
        (planned,) = plan(grid, results, lambda submissions, seen=seen: seen)
        assert (planned.state, planned.run_state.cause) == ("killed", "node_failure")
    again = Task(task.job, "1", 0, "PENDING", None)
    assert plan(grid, results, lambda submissions: [again])[0].state == "queued"
    assert plan(grid, results, lambda submissions: [])[0].run_state.cause == "killed", "that was an attempt before"


def test_a_task_that_vanished_before_it_began_is_asked_about(
    handed: tuple[Grid, Path, RunFolder], slurm: FakeSlurm
) -> None:
    grid, results, folder = handed
    for _ in range(2):
        (planned,) = plan(grid, results, lambda submissions: [])
        assert (planned.state, planned.run_state.message) == ("cancelled", GONE)
    assert to_train([planned]) == []
    assert to_train([planned], retry=["cancelled"]) == [planned]
    # It had begun, and was put back into the queue: what it did before does not say that it begins again.
    (submission,) = Submissions(results).all()
    folder.update(state="interrupted", error={"class": "timeout", "message": "m", "type": "InterruptedRun"})
    submission.began_file.write_text("0\n")
    assert plan(grid, results, lambda submissions: [])[0].state == "interrupted"
    submission.note_waiting(0)
    assert plan(grid, results, lambda submissions: [])[0].state == "cancelled"
    submission.note_begun(0)
    assert plan(grid, results, lambda submissions: [])[0].state == "interrupted", "the requeue was refused"


def test_what_was_cancelled_through_us_stays_so_when_the_scheduler_forgot_it(
    handed: tuple[Grid, Path, RunFolder], slurm: FakeSlurm
) -> None:
    grid, results, _ = handed
    assert len(cancel(plan(grid, results), results)) == 1
    (slurm.folder / "jobs").unlink()
    (planned,) = plan(grid, results)
    assert (planned.state, planned.run_state.message) == ("cancelled", "cancelled with workbench cancel")
    assert submit(grid, Request(results, PROFILE, lambda grid: None, report)).arrays == []


def test_an_array_that_a_killed_launcher_left_is_known_from_the_first_look_on(
    handed: tuple[Grid, Path, RunFolder], slurm: FakeSlurm
) -> None:
    grid, results, _ = handed
    (submission,) = Submissions(results).all()
    (submission.folder / "taken.json").unlink()
    assert plan(grid, results, lambda submissions: [])[0].state == "new", "it may never have been handed over"
    assert plan(grid, results)[0].state == "queued"
    assert submission.taken
    assert plan(grid, results, lambda submissions: [])[0].state == "cancelled"


def test_a_run_that_waited_for_one_that_failed_is_new_again(
    handed: tuple[Grid, Path, RunFolder], slurm: FakeSlurm
) -> None:
    grid, results, _ = handed
    task = Task(Submissions(results).all()[0].job, "1", 0, "CANCELLED", "DependencyNeverSatisfied")
    (planned,) = plan(grid, results, lambda submissions: [task])
    assert (planned.state, planned.run_state.message) == ("new", "it waited for a run that failed")


def test_a_scheduler_that_does_not_answer_is_no_reason_to_hand_over_again(
    handed: tuple[Grid, Path, RunFolder], slurm: FakeSlurm
) -> None:
    grid, results, folder = handed
    said: list[str] = []

    def refuses(submissions: object) -> list[Task]:
        raise SchedulerError("squeue says: no")

    look = forgiving(refuses, said.append)
    assert plan(grid, results, look)[0].state == "queued"
    folder.update(state="running")
    assert plan(grid, results, look)[0].state == "running"
    assert to_train(plan(grid, results, look)) == []
    assert said[0] == "states of runs on a cluster are taken from the run folders alone: squeue says: no"


def test_failures_are_grouped_by_cause_the_most_frequent_first(
    grid_file: Write, tmp_path: Path, make_config: Callable[..., RunConfig]
) -> None:
    grid = load_grid(grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\nseeds: [0, 1]\n"))
    for number, planned in enumerate(plan(grid, tmp_path)):
        message = "KeyError: 'x'" if number < 3 else "no space left"
        kind = "code_error" if number < 3 else "disk_full"
        planned.folder.update(state="failed", error={"class": kind, "message": message, "type": "E"})
    found = failures(statuses(plan(grid, tmp_path)))
    assert [(f.cause, f.message, len(f.runs)) for f in found] == [
        ("code_error", "KeyError: 'x'", 3),
        ("disk_full", "no space left", 1),
    ]
    assert found[1].runs == ("b seed 1",)


def test_a_truncated_record_spoils_its_own_run_alone(grid_file: Write, tmp_path: Path) -> None:
    grid = load_grid(grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\n"))
    first, second = plan(grid, tmp_path)
    for planned in (first, second):
        planned.folder.update(state="completed", metrics={})
    file = first.folder.path / "run.json"
    file.write_bytes(file.read_bytes()[:10])
    damaged, sound = plan(grid, tmp_path)
    assert (damaged.state, sound.state) == ("damaged", "completed")
    assert "run.json: damaged" in str(damaged.run_state.message)
    assert to_train([damaged]) == []
    (taken,) = to_train([damaged], retry=["damaged"])
    taken.folder.set_aside_damage()
    assert (first.folder.path / "run.json.damaged").is_file()
    assert plan(grid, tmp_path)[0].state == "new"


def test_every_form_in_which_slurm_writes_tasks_is_read() -> None:
    text = (
        "12_3|workbench-000001-ab|RUNNING|None\n12_[5-6,9%2]|workbench-000001-ab|PENDING|JobArrayTaskLimit\n"
        "12_4|workbench-000001-ab|CANCELLED by 0|\n77|somebody's|RUNNING|None\n"
        "welcome to the cluster\n78|a|name|of bars|RUNNING|None\n"
    )
    name = "workbench-000001-ab"
    assert _tasks(text) == [
        Task(name, "12", 3, "RUNNING", None),
        *(Task(name, "12", index, "PENDING", "JobArrayTaskLimit") for index in (5, 6, 9)),
        Task(name, "12", 4, "CANCELLED", None),
    ]
    assert _tasks(text)[0].live
    assert not _tasks(text)[-1].live


def test_submission_folders_are_private_and_a_later_one_supersedes(handed: tuple[Grid, Path, RunFolder]) -> None:
    grid, results, folder = handed
    ledger = Submissions(results)
    (first,) = ledger.all()
    assert first.folder.stat().st_mode & 0o777 == 0o700
    assert ledger.superseded(first.number, folder.name) is None
    with ledger.lock():
        second = ledger.add("grid", [folder.name], {})
    assert second.number == first.number + 1
    assert ledger.superseded(first.number, folder.name) == second.name
    assert plan(grid, results)[0].state == "new", "the later one was never submitted"

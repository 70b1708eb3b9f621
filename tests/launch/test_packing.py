"""Several short runs in one array task: how they are handed over, take turns, end, come back and are cancelled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Outcome
from tests.launch.packed import Packed, hand_over, request
from tests.launch.test_crash import killed_at, trained_by
from workbench.benchmarks.fake_slurm import FakeSlurm
from workbench.grids import Grid, load_grid
from workbench.launch import epilogue
from workbench.launch.arrays import count_tasks
from workbench.launch.housekeeping import cancel
from workbench.launch.packing import Turns, task_count
from workbench.launch.reports import live_tasks
from workbench.launch.snapshot import snapshot
from workbench.launch.states import EARLY, GONE
from workbench.launch.submissions import Submissions
from workbench.launch.submit import submit
from workbench.launch.tasks import STOPPED, TASK_RUN, ArrayTask

Write = Callable[..., Path]
Command = Callable[..., Outcome]
CANCELLED = "slurmstepd-n1: error: *** STEP 12.0 ON n1 CANCELLED AT 2026-01-31T12:00:00"


@pytest.fixture
def ten(grid_file: Write) -> Grid:
    return load_grid(grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\nseeds: 0-4\n"))


@pytest.fixture
def packed(ten: Grid, tmp_path: Path, slurm: FakeSlurm) -> Packed:
    return hand_over(ten, tmp_path / "r", slurm)


@pytest.fixture
def in_task(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Make this process one of a task and of the run whose turn it is."""

    def within(task: int, run: int) -> None:
        for name, value in {"SLURM_ARRAY_JOB_ID": 1, "SLURM_ARRAY_TASK_ID": task, TASK_RUN: run}.items():
            monkeypatch.setenv(name, str(value))

    return within


def test_ten_runs_of_four_a_task_are_three_tasks(
    workbench: Command, ten: Grid, tmp_path: Path, slurm: FakeSlurm
) -> None:
    profile = tmp_path / "cluster.yaml"
    profile.write_text("backend: slurm\ntasks_of: 4\ntime_minutes: 30\nparallel: 2\n")
    options = ("--results", tmp_path / "r", "--profile", profile)
    shared = "10 runs in 3 array tasks (4 a task, one after another; time limit 4 × 30 = 120 min)"
    assert shared in workbench("plan", ten.file, *options).out
    dry = workbench("submit", ten.file, *options, "--dry-run")
    assert dry.code == 0, dry.err
    assert shared in dry.out
    assert slurm.jobs() == []
    done = workbench("submit", ten.file, *options)
    assert done.code == 0, done.err
    assert "submitted as job 1: 10 runs in 3 array tasks, at most 2 at once" in done.out
    (job,) = slurm.jobs()
    assert job["count"] == 3
    script = Path(str(job["script"])).read_text()
    assert "#SBATCH --array=0-2%2\n" in script
    assert "#SBATCH --time=120\n" in script
    every = json.loads(workbench("status", ten.file, "--results", tmp_path / "r", "--json").out)
    assert [run["state"] for run in every] == ["queued"] * 10
    assert sorted(run["job"] for run in every) == ["1_0"] * 4 + ["1_1"] * 4 + ["1_2"] * 2
    assert "10 queued)\nnothing to submit" in workbench("submit", ten.file, *options).out
    assert "array task" not in workbench("plan", ten.file, *options).out, "nothing is left to submit"


def test_an_array_is_as_large_as_the_cluster_takes_in_tasks(
    ten: Grid, grid_file: Write, tmp_path: Path, slurm: FakeSlurm
) -> None:
    submit(ten, request(tmp_path / "r", tasks_of=3, array_size=2))
    assert [job["count"] for job in slurm.jobs()] == [2, 2]
    first, last = Submissions(tmp_path / "r").all()
    assert [(len(s.runs), s.tasks) for s in (first, last)] == [(6, 2), (4, 2)]
    assert [list(last.runs_of(task)) for task in range(2)] == [[0, 1, 2], [3]]
    assert [task_count(n, 4) for n in (1, 4, 5, 1000)] == [1, 1, 2, 250]
    other = load_grid(grid_file("settings: {b: {fusion.variant: l_dit}}\nseeds: [4]\n", name="other"))
    assert live_tasks(other, tmp_path / "r") == ["2_1"], "a report of it waits for the task that has its run"


def test_a_later_stage_waits_for_the_tasks_that_hold_what_it_begins_from(
    grid_file: Write, tmp_path: Path, slurm: FakeSlurm
) -> None:
    grid_file("settings: {base: {fusion.variant: l_dit}}\n", name="first")
    later = "{fusion.variant: l_dit, start_from: {grid: first.yaml, setting: base}}"
    grid = load_grid(grid_file(f"settings: {{plain: {{}}, tuned: {later}}}\nseeds: 0-4\n", name="second"))
    outcome = submit(grid, request(tmp_path / "r", tasks_of=2))
    assert [job["count"] for job in slurm.jobs()] == [3, 3, 3]
    assert count_tasks(grid, outcome.planned, outcome.chosen, 2) == 9
    assert count_tasks(grid, outcome.planned, outcome.chosen, 4) == 6
    assert "dependency=afterany:1_0:1_1:1_2\n" in Path(str(slurm.jobs()[2]["script"])).read_text()
    assert "dependency" not in Path(str(slurm.jobs()[1]["script"])).read_text()


def test_one_run_a_task_is_recorded_and_started_as_before(ten: Grid, tmp_path: Path, slurm: FakeSlurm) -> None:
    submit(ten, request(tmp_path / "r", tasks_of=1))
    (submission,) = Submissions(tmp_path / "r").all()
    assert set(json.loads((submission.folder / "submission.json").read_text())) == {"job", "created", "grid", "runs"}
    assert submission.tasks_of == 1
    script = (submission.folder / "array.sh").read_text()
    assert "train_one" not in script
    assert script.count("%A_%a_%t_log.out") == 1


def test_a_task_trains_its_runs_one_after_another_and_leaves_nothing(packed: Packed) -> None:
    assert packed.execute(2) == 0
    assert packed.trained == [8, 9]
    assert packed.states() == ["queued"] * 8 + ["completed"] * 2
    assert not list(packed.submission.folder.glob("1_2_*"))


def test_a_run_that_fails_in_the_middle_stops_none_of_the_others(packed: Packed) -> None:
    packed.happens(r1=[(1, "ModuleNotFoundError: No module named 'x'")])
    assert packed.execute(0) == 1
    assert packed.trained == [0, 1, 2, 3]
    packed.slurm.set_state("1_0", "FAILED")
    assert packed.states() == ["completed", "failed", "completed", "completed", *["queued"] * 6]
    error = packed.folder(1).record().error
    assert error is not None
    assert (error.cause, "No module named 'x'" in error.message) == ("code_error", True)
    assert packed.folder(1).record().ended == {"code_error": 1}
    assert [packed.submission.output(k) for k in (0, 2, 3)] == [[], [], []]
    (log,) = packed.submission.output(1)
    assert "No module named 'x'" in log.read_text()
    assert packed.slurm.requeued() == []


def test_a_task_whose_second_run_is_told_of_the_time_limit_comes_back_for_it_and_for_those_after_it(
    packed: Packed,
) -> None:
    packed.happens(r1=[(128 + 12, "")])
    assert packed.execute(0) == 140
    assert packed.trained == [0, 1]
    assert packed.slurm.requeued() == ["1_0"]
    assert packed.states() == ["completed", *["queued"] * 9]
    assert packed.planned()[1].run_state.cause == "timeout"
    assert packed.execute(0) == 0
    assert packed.trained == [0, 1, 1, 2, 3], "the first is not repeated"
    assert packed.states()[:4] == ["completed"] * 4


def test_when_a_task_begins_again_all_that_are_not_over_wait_for_their_turn(packed: Packed) -> None:
    packed.happens(r1=[(128 + 12, "")])
    packed.execute(0)
    packed.slurm.set_state("1_0", "RUNNING")
    with packed.submission.began_file.open("a") as notes:
        notes.write("t0\n")  # what the task notes before it takes up the first of them
    assert packed.states()[:4] == ["completed", "queued", "queued", "queued"]


def test_a_task_that_dies_without_a_word_leaves_the_later_runs_new_and_says_so(
    packed: Packed, workbench: Command
) -> None:
    packed.happens(r1=[("kill", "")])
    assert packed.execute(0) == -9
    packed.slurm.set_state("1_0", "TIMEOUT")
    found = packed.planned()
    assert [(p.state, p.run_state.cause) for p in found[:4]] == [
        ("completed", None), ("killed", "timeout"), ("new", None), ("new", None)
    ]  # fmt: skip
    assert found[2].run_state.message == f"{EARLY} (timeout)"
    said = workbench("status", packed.grid.file, "--results", packed.results).out
    assert said.count(f"{EARLY} (timeout)") == 2
    again = submit(packed.grid, request(packed.results))
    assert {p.run.id for p in again.chosen} == set(packed.submission.runs[1:4])
    (array,) = again.arrays
    assert (array.submission.tasks, array.submission.tasks_of) == (1, 3)


def test_a_node_that_failed_repeats_none_that_is_over_and_begins_with_the_one_it_was_at(packed: Packed) -> None:
    packed.happens(r0=[(1, "ModuleNotFoundError: No module named 'x'")], r1=[("kill", "")])
    packed.execute(0)
    packed.slurm.set_state("1_0", "RUNNING")  # Slurm requeued it, and has started it
    assert packed.execute(0) == 0
    assert packed.trained == [0, 1, 1, 2, 3]
    assert packed.states()[:4] == ["failed", "completed", "completed", "completed"]


def test_a_run_that_timed_out_too_often_does_not_hold_up_those_after_it(
    ten: Grid, tmp_path: Path, slurm: FakeSlurm
) -> None:
    packed = hand_over(ten, tmp_path / "r", slurm, retries={"timeout": 0})
    packed.happens(r1=[(140, "")])
    packed.execute(0)
    assert packed.slurm.requeued() == ["1_0"]
    assert packed.states()[:4] == ["completed", "interrupted", "queued", "queued"]
    packed.execute(0)
    assert packed.trained == [0, 1, 2, 3]


def test_no_run_begins_when_it_could_not_be_told_of_the_time_limit_any_more(
    ten: Grid, tmp_path: Path, slurm: FakeSlurm
) -> None:
    packed = hand_over(ten, tmp_path / "r", slurm, tasks_of=2, time_minutes=1, signal_seconds=59)
    packed.happens(r0=[("slow", "")])
    assert packed.execute(0) == STOPPED
    assert packed.trained == [0]
    assert packed.slurm.requeued() == ["1_0"]
    assert packed.execute(0) == 0
    assert packed.trained == [0, 1]


def test_the_run_whose_turn_it_is_runs_and_the_ones_after_it_wait_for_theirs(packed: Packed) -> None:
    packed.slurm.set_state("1_0", "RUNNING")
    packed.submission.began_file.write_text("t0\n0\n=0\n1\n")
    packed.folder(0).update(state="failed", error={"class": "code_error", "message": "m", "type": "E"})
    found = packed.planned()
    assert [p.state for p in found] == ["failed", "running", *["queued"] * 8]
    assert found[2].run_state.message == "its turn in job 1_0"
    assert found[4].run_state.message is None, "its task waits itself"
    with packed.folder(2).claim():
        packed.folder(2).update(state="running")
        assert packed.states()[2] == "running", "elsewhere, out of turn"


def test_a_task_that_vanished_is_asked_about_if_it_waited_and_taken_up_if_it_ran(packed: Packed) -> None:
    (packed.slurm.folder / "jobs").unlink()
    assert {p.run_state.message for p in packed.planned()} == {GONE}
    packed.submission.began_file.write_text("t0\n0\n=0\n1\n")
    found = packed.planned()
    assert [p.run_state.message for p in found[2:5]] == [EARLY, EARLY, GONE]
    packed.submission.note_waiting(1)
    packed.submission.note_task(0, begun=False)
    packed.folder(1).update(state="interrupted", error={"class": "timeout", "message": "m", "type": "E"})
    assert [p.state for p in packed.planned()[1:4]] == ["cancelled"] * 3, "it went back to wait, and waited no more"


def test_what_was_ended_at_the_scheduler_is_cancelled_with_all_that_had_not_begun(packed: Packed) -> None:
    packed.happens(r1=[(143, f"{CANCELLED} ***")])
    packed.execute(0)
    assert packed.trained == [0, 1]
    packed.slurm.set_state("1_0", "CANCELLED")
    assert packed.states()[:5] == ["completed", "cancelled", "cancelled", "cancelled", "queued"]
    (packed.slurm.folder / "jobs").unlink()
    assert packed.states()[:4] == ["completed", "cancelled", "cancelled", "cancelled"]
    assert packed.slurm.requeued() == []


def test_a_task_that_is_ended_between_two_runs_begins_no_other(packed: Packed) -> None:
    packed.happens(r0=[("term", "")])
    packed.execute(0)
    assert packed.trained == [0]
    packed.slurm.set_state("1_0", "CANCELLED")
    assert packed.states()[:5] == ["completed", "cancelled", "cancelled", "cancelled", "queued"]
    (packed.submission.folder / "ended.json").unlink()
    (packed.slurm.folder / "jobs").unlink()
    assert {p.run_state.message for p in packed.planned()[1:]} == {GONE}


def test_cancelling_a_run_that_waits_in_a_task_leaves_the_others_alone(
    packed: Packed, workbench: Command, in_task: Callable[[int, int], None]
) -> None:
    said = workbench("cancel", packed.grid.file, "--results", packed.results, "--only", "a", "--seeds", "2")
    index = packed.submission.runs.index(next(r.id for r in packed.grid.runs() if (r.setting, r.seed) == ("a", 2)))
    assert said.out == f"cancelled a seed 2 (job 1_{index // 4})\n"
    assert packed.slurm.calls()["scancel"] == 0
    assert packed.states() == ["cancelled" if k == index else "queued" for k in range(10)]
    in_task(index // 4, index)
    with pytest.raises(SystemExit) as ended:
        ArrayTask(str(packed.submission.folder), 3600, 60)()
    assert ended.value.code == STOPPED
    assert epilogue.main(packed.submission.folder, STOPPED, 0.0) == 0, "the next one begins"
    assert packed.folder(index).record().state == "cancelled"
    assert index in Submissions(packed.results).all()[0].turns.over
    again = submit(packed.grid, replace(request(packed.results), retry=["cancelled"]))
    assert [p.run.id for p in again.chosen] == [packed.submission.runs[index]]


def test_cancelling_the_run_whose_turn_it_is_stops_that_one_and_the_next_begins(
    packed: Packed, in_task: Callable[[int, int], None]
) -> None:
    packed.slurm.set_state("1_0", "RUNNING")
    packed.submission.began_file.write_text("t0\n0\n=0\n1\n")
    packed.folder(0).update(state="completed", metrics={})
    assert len(cancel(packed.planned()[1:2], packed.results)) == 1
    assert packed.slurm.signals() == ["1_0 USR2"]
    in_task(0, 1)
    error = {"class": "preempted", "message": "told to stop", "type": "InterruptedRun", "time": 9e9}
    packed.folder(1).update(state="interrupted", error=error)
    assert epilogue.main(packed.submission.folder, STOPPED, 0.0) == 0
    assert packed.folder(1).record().state == "cancelled"
    assert packed.slurm.requeued() == []
    # With the last two cancelled, nothing is left of the task.
    cancel(packed.planned()[2:3], packed.results)
    assert packed.slurm.calls()["scancel"] == 1
    cancel(packed.planned()[3:4], packed.results)
    assert packed.slurm.calls()["scancel"] == 2
    packed.slurm.set_state("1_0", "CANCELLED")
    assert packed.states()[:5] == ["completed", "cancelled", "cancelled", "cancelled", "queued"]


def test_a_run_that_begins_while_it_is_cancelled_is_stopped(packed: Packed) -> None:
    packed.slurm.set_state("1_0", "RUNNING")
    seen = packed.planned()[1:2]
    assert seen[0].state == "queued"
    packed.submission.began_file.write_text("t0\n0\n=0\n1\n")
    cancel(seen, packed.results)
    assert packed.slurm.signals() == ["1_0 USR2"]


def test_a_run_that_another_job_has_is_passed_over(packed: Packed, in_task: Callable[[int, int], None]) -> None:
    in_task(0, 0)
    with packed.folder(0).claim():
        assert epilogue.main(packed.submission.folder, 1, 0.0) == 0
    with Submissions(packed.results).lock():
        Submissions(packed.results).add("grid", [packed.submission.runs[1]], {})
    in_task(0, 1)
    with pytest.raises(SystemExit):
        ArrayTask(str(packed.submission.folder), 3600, 60)()
    assert epilogue.main(packed.submission.folder, STOPPED, 0.0) == 0
    assert Submissions(packed.results).all()[0].turns.over == {0, 1}
    assert not packed.folder(0).record_file.exists()


def test_a_launcher_killed_anywhere_and_two_at_once_hand_each_run_over_once(
    ten: Grid, tmp_path: Path, slurm: FakeSlurm
) -> None:
    results = tmp_path / "r"

    def launch() -> None:
        submit(ten, request(results, array_size=2))

    snapshot(results)
    assert 0 in [killed_at(event, launch) for event in (20, 40, 50, 60, 70)]
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                launch()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert trained_by(slurm, results) == dict.fromkeys((run.id for run in ten.runs()), 1)


def test_notes_of_turns_are_read_in_their_order_and_nonsense_is_not_read() -> None:
    notes = ["t0", "0", "=0", "1", "-1", "-t0", "t1", "4", "t0", "x9", "t-0", "==3", "²"]
    assert Turns.read(notes, 4) == Turns({1: 4}, {0, 1}, {0})
    assert Turns.read([*notes, "1"], 4).current == {0: 1, 1: 4}


@pytest.mark.exhaustive
def test_a_packed_task_really_trains(ten: Grid, tmp_path: Path, slurm: FakeSlurm) -> None:
    (array,) = submit(ten.narrowed("a", (0, 1)), request(tmp_path / "r", tasks_of=2)).arrays
    packed = Packed(ten, tmp_path / "r", array.submission, slurm)
    assert packed.execute(0) == 0
    assert [packed.folder(k).record().state for k in range(2)] == ["completed"] * 2
    assert not list(packed.submission.folder.glob("1_0_*"))

"""Launchers that die, a controller that restarts, accounting that is missing, stages, and several processes a run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.cluster.conftest import DevCluster
from tests.cluster.test_grid_on_slurm import (
    MAIN,
    folders,
    processes_of,
    states,
    status,
    trained_here,
    wait_until,
    weights,
    workbench,
)
from tests.conftest import ROOT, last_step
from workbench.benchmarks.fake_slurm import FakeSlurm
from workbench.grids import load_grid
from workbench.launch.plan import plan
from workbench.launch.states import look_at_queue

Write = Callable[..., Path]


def test_dead_launchers_a_controller_that_restarts_and_no_sacct(
    grid_file: Write, profile: Write, tmp_path: Path, dev_cluster: DevCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_sacct = FakeSlurm.counted(tmp_path / "counted")
    (without_sacct.bin / "sacct").unlink()
    results, usual = tmp_path / "results", profile("usual", array_size=2)
    grid = grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\nseeds: [0, 1]\n")
    command = [sys.executable, "-c", MAIN, "submit", str(grid), "--results", str(results), "--profile", str(usual)]
    chance = random.Random(0)
    died = 0
    for _ in range(8):
        launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        time.sleep(chance.uniform(0.3, 2.5))
        launcher.send_signal(signal.SIGKILL)
        died += launcher.wait() == -signal.SIGKILL
    assert died >= 2
    workbench("submit", grid, "--results", results, "--profile", usual)
    monkeypatch.setenv("PATH", f"{without_sacct.bin}")
    runs = folders(grid, results)
    dev_cluster.control("stop", "slurmctld")
    said = workbench("status", grid, "--results", results)
    assert "warning: states of runs on a cluster are taken from the run folders alone" in said
    assert "Traceback" not in said
    refused = workbench("submit", grid, "--results", results, "--profile", usual, check=False)
    assert "error: squeue says: " in refused
    dev_cluster.control("start", "slurmctld")
    wait_until(lambda: not states(grid, results) & {"running", "queued"})
    assert states(grid, results) == {"completed"}
    for run in runs.values():
        assert [e.event for e in run.log().events].count("start") == 1
    assert "sacct" not in without_sacct.calls()
    assert "nothing to submit" in workbench("submit", grid, "--results", results, "--profile", usual)


def test_a_job_that_dies_without_a_word_is_known_to_be_dead(
    grid_file: Write, profile: Write, tmp_path: Path, dev_cluster: DevCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch script that Slurm kills with all that is in it, as at the end of a node."""
    grid, results = grid_file("settings: {a: {training.steps: 3000}}\n"), tmp_path / "results"
    workbench("submit", grid, "--results", results, "--profile", profile("usual"))
    (run,) = folders(grid, results).values()
    wait_until(lambda: last_step(run) > 3)
    task = status(grid, results)["a"]["job"]
    for pid in processes_of(task):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: states(grid, results) == {"killed"})
    for path in (os.environ["PATH"], str(_without_sacct(tmp_path))):
        monkeypatch.setenv("PATH", path)
        found = status(grid, results)["a"]
        assert (found["state"], found["cause"]) == ("killed", "killed"), path
        assert found["step"] > 3
    (taken,) = plan(load_grid(grid), results, look_at_queue)
    assert taken.state == "killed", "submitting again would resume it"


def _without_sacct(tmp_path: Path) -> Path:
    made = FakeSlurm.counted(tmp_path / "counted")
    (made.bin / "sacct").unlink()
    return made.bin


def test_a_later_stage_waits_at_slurm_and_begins_from_the_earlier_ones_weights(
    grid_file: Write, profile: Write, tmp_path: Path, dev_cluster: DevCluster
) -> None:
    first = grid_file("settings: {base: {fusion.variant: l_dit}}\n", name="first")
    grid = grid_file(
        "settings:\n  tuned: {fusion.variant: l_dit, start_from: {grid: first.yaml, setting: base}}\n"
        "  evaluated:\n    fusion.variant: l_dit\n    start_from: {grid: first.yaml, setting: base}\n"
        "    training.steps: 0\n    evaluation.splits: [val, testA, testB]\n",
        name="second",
    )
    results = tmp_path / "results"
    said = workbench("submit", grid, "--results", results, "--profile", profile("usual"))
    assert "3 runs (3 new)" in said
    assert said.count("submitted as job") == 2
    now = status(grid, results)
    assert set(now) == {"base", "tuned", "evaluated"}, "the earlier stage is shown, too"
    assert {now[name]["state"] for name in ("tuned", "evaluated")} == {"queued"}
    assert {now[name]["error"] for name in ("tuned", "evaluated")} == {"Dependency"}
    wait_until(lambda: states(grid, results) == {"completed"})
    base, runs = folders(first, results)["base"], folders(grid, results)
    same = base.record().metrics, runs["evaluated"].record().metrics
    assert same[0]["val"] == same[1]["val"]
    assert runs["tuned"].record().metrics["val"] != same[0]["val"]
    assert runs["tuned"].record().provenance.digests()["start_from_run_sha256"]


def test_two_processes_a_run_train_as_one_and_score_every_expression_once(
    grid_file: Write, profile: Write, tmp_path: Path, dev_cluster: DevCluster, still_bert: Path
) -> None:
    grid = grid_file(
        f"  fusion: {{variant: l_dit, dropout: 0.0}}\n  text_encoder: {{name: '{still_bert}', max_tokens: 12}}\n"
        "settings: {a: {training.steps: 120}}\n"
    )
    results = tmp_path / "results"
    workbench("submit", grid, "--results", results, "--profile", profile("two", tasks_per_node=2))
    run, (planned,) = folders(grid, results)["a"], plan(load_grid(grid), results)
    assert planned.run_state.task is not None
    wait_until(lambda: last_step(run) >= 3)
    # As Slurm does before a time limit, to both processes; they agree where to stop, and come back.
    subprocess.run(["scancel", "--signal=USR2", planned.run_state.task.id], check=True)
    wait_until(lambda: not states(grid, results) & {"running", "queued"})
    assert run.state() == "completed", run.record()
    assert run.record().processes == 2
    assert set(run.record().ended) <= {"preempted", "timeout"}
    (resumed,) = [e.step for e in run.log().events if e.event == "resume"]
    assert 3 <= resumed < 120
    assert [e.step for e in run.log().events if e.event == "step"] == list(range(1, 121))
    alone = trained_here(grid, "a", tmp_path / "alone")
    pd.testing.assert_frame_equal(
        run.expressions().drop(columns=["intersection", "union", "predicted_area", "iou", "prediction"]),
        alone.expressions().drop(columns=["intersection", "union", "predicted_area", "iou", "prediction"]),
    )
    for split, metrics in alone.record().metrics.items():
        assert run.record().metrics[split] == pytest.approx(metrics, abs=0.02)
    here, there = weights(run), weights(alone)
    # Not the largest difference: Adam turns rounding into whole steps where a gradient is all but zero.
    assert torch.cat([(here[key] - there[key]).abs().flatten() for key in there]).mean() < 1e-4


def test_cancel_marks_the_waiting_and_stops_the_running(
    grid_file: Write, profile: Write, tmp_path: Path, dev_cluster: DevCluster
) -> None:
    grid = grid_file("settings: {a: {training.steps: 3000}, b: {fusion.variant: l_dit}}\n")
    results, usual = tmp_path / "results", profile("one", parallel=1)
    workbench("submit", grid, "--results", results, "--profile", usual)
    run = folders(grid, results)["a"]
    wait_until(lambda: last_step(run) > 3)
    assert workbench("cancel", grid, "--results", results).count("cancelled") == 2
    wait_until(lambda: states(grid, results) == {"cancelled"})
    assert run.checkpoints.latest() is not None, "it saved before it ended"
    said = workbench("submit", grid, "--results", results, "--profile", usual)
    assert "2 failed before and are left alone" in said
    assert f"workbench retry {grid} --class cancelled" in said
    said = workbench("gc", "--results", results, "--dry-run")
    assert "would free 0.0 MB" in said, "its submission is still the newest of runs that are not completed"


def test_what_scancel_stopped_as_the_controller_crashed_stays_cancelled(
    grid_file: Write, profile: Write, tmp_path: Path, dev_cluster: DevCluster
) -> None:
    grid = grid_file("settings: {a: {training.steps: 3000}}\n")
    results, usual = tmp_path / "results", profile()
    workbench("submit", grid, "--results", results, "--profile", usual)
    run = folders(grid, results)["a"]
    wait_until(lambda: last_step(run) > 3)
    controller = int((Path(dev_cluster.environment["WORKBENCH_DEV_CLUSTER"]) / "slurmctld.pid").read_text())
    jobs = subprocess.run(["squeue", "--noheader", "--format=%A"], capture_output=True, text=True, check=True)
    subprocess.run(["scancel", *jobs.stdout.split()], check=True)
    time.sleep(0.1)  # it has passed the word on, and not saved it
    os.kill(controller, signal.SIGKILL)
    wait_until(lambda: run.record().state == "interrupted")
    time.sleep(10)  # until the node kills the job (KillWait), whose last words wait for a controller
    dev_cluster.control("start", "slurmctld")
    wait_until(lambda: not states(grid, results) & {"running", "queued"})
    assert states(grid, results) == {"cancelled"}
    said = workbench("submit", grid, "--results", results, "--profile", usual)
    assert "nothing to submit" in said
    assert f"workbench retry {grid} --class cancelled" in said


def test_the_doctor_finds_a_healthy_cluster_and_names_what_is_wrong(
    profile: Write, tmp_path: Path, dev_cluster: DevCluster
) -> None:
    said = workbench("doctor", "--profile", profile("well"), "--results", tmp_path)
    assert "FAIL" not in said
    assert "Python on a compute node" in said
    wrong = profile("ill", partition="nope", python="/nowhere/python")
    said = workbench("doctor", "--profile", wrong, "--results", tmp_path, check=False)
    assert "partition: 'nope' does not exist" in said
    assert "set partition to one of dev" in said
    slow = profile("slow", time_minutes=600, python="/nowhere/python")
    said = workbench("doctor", "--profile", slow, "--results", tmp_path, check=False)
    assert "600 min asked, 60 min allowed" in said
    assert "set python to an interpreter that the compute nodes see" in said
    assert said.rstrip().endswith("error: 2 checks failed")


def test_two_tasks_of_three_runs_train_all_whatever_happens_to_one_of_them(
    grid_file: Write, profile: Write, tmp_path: Path, dev_cluster: DevCluster
) -> None:
    steps = {"a": 6, "b": 400, "c": 5, "d": 7, "e": 8, "f": 9}
    settings = ", ".join(f"{name}: {{training.steps: {count}}}" for name, count in steps.items())
    grid = grid_file(f"settings: {{{settings}}}\n")
    results, usual = tmp_path / "results", profile("packed", tasks_of=3, parallel=1)
    said = workbench("submit", grid, "--results", results, "--profile", usual)
    assert "6 runs in 2 array tasks (3 a task, one after another; time limit 3 × 10 = 30 min)" in said
    assert said.count("submitted as job") == 1
    runs = folders(grid, results)
    wait_until(lambda: last_step(runs["b"]) > 3)
    now = status(grid, results)
    assert {name: now[name]["state"] for name in "abcd"} == {
        "a": "completed", "b": "running", "c": "queued", "d": "queued"
    }  # fmt: skip
    assert now["c"]["error"] == f"its turn in job {now['b']['job']}"
    assert "cancelled c seed 0" in workbench("cancel", grid, "--results", results, "--only", "c")
    subprocess.run(["scontrol", "requeue", now["b"]["job"]], check=True)
    wait_until(lambda: not states(grid, results) & {"running", "queued"}, 480)
    now = status(grid, results)
    assert {name: one["state"] for name, one in now.items()} == {
        **dict.fromkeys("abdef", "completed"), "c": "cancelled"
    }  # fmt: skip
    assert set(runs["b"].record().ended) == {"preempted"}
    for name in "abdef":
        assert [e.event for e in runs[name].log().events].count("start") == 1

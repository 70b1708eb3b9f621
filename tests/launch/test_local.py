"""Real jobs in real processes, through submitit's local executor."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, last_step
from workbench.grids import load_grid
from workbench.launch.local import _environment, training_jobs
from workbench.launch.plan import plan
from workbench.results.folders import SUBMISSIONS, RunFolder

Write = Callable[..., Path]
pytestmark = pytest.mark.slow


def command(grid: Path, results: Path, *more: str) -> list[str]:
    return [sys.executable, "-c", "from workbench.cli import main; main()", "submit", str(grid), "--results",
            str(results), *more]  # fmt: skip


def folders(grid: Path, results: Path) -> list[RunFolder]:
    return [RunFolder.of(results, run.config, run.seed) for run in load_grid(grid).runs()]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"it ended too early: {process.communicate()}"
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


def curves_in(folder: Path) -> set[str]:
    """The runs that TensorBoard shows, of those that have a loss."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    shown = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    return {name for name, tags in shown.Runs().items() if "loss" in tags["scalars"]}


@pytest.mark.exhaustive
def test_never_more_trainings_than_workers_and_nothing_twice(grid_file: Write, tmp_path: Path) -> None:
    grid = grid_file(
        "settings: {a: {}, b: {fusion.variant: l_dit, machine.trackers: [tensorboard]}, bad: {training: {steps: 30,"
        " optimizer: {learning_rate: 1.0e+6, clip_norm: null}, explosion_factor: 5.0}}}\nseeds: [0, 1]\n"
    )
    results = tmp_path / "results"
    process = subprocess.Popen(
        command(grid, results, "--workers", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    runs, most = folders(grid, results), 0
    while process.poll() is None:
        most = max(most, sum(run.claimed() for run in runs))
        time.sleep(0.05)
    out, err = process.communicate()
    states = {run.name: run.state() for run in runs}
    assert sorted(states.values()) == ["completed"] * 4 + ["diverged"] * 2, (out, err)
    assert 1 <= most <= 2, "these may be too short to meet; the tests below see two side by side"
    assert process.returncode == 2
    assert curves_in(results / "tensorboard") == {f"grid/b/seed{seed}" for seed in range(2)}
    assert "2 of 6 runs are not completed: bad seed 0 diverged (the loss became non-finite or rose above 5 times" in err
    assert "--retry-failed" in err
    assert "Traceback" not in err
    logs = {run.name: run.log_file.read_bytes() for run in runs}
    again = subprocess.run(command(grid, results), capture_output=True, text=True, check=False)
    assert again.returncode == 2, "what failed is still not completed"
    assert "6 runs (4 completed, 2 diverged)" in again.stdout
    assert {run.name: run.log_file.read_bytes() for run in runs} == logs, "something ran again"
    for folder in (results / SUBMISSIONS).glob("jobs-*"):
        assert folder.stat().st_mode & 0o777 == 0o700
    (code,) = (results / SUBMISSIONS).glob("code-*")
    assert (code / "workbench" / "cli" / "__init__.py").is_file()


def test_jobs_import_the_snapshot_and_not_the_tree_they_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "workbench").mkdir()
    (tmp_path / "workbench" / "__init__.py").touch()
    (tmp_path / "probe.py").write_text("import workbench; print(workbench.__file__)")
    monkeypatch.chdir(ROOT)
    with _environment(tmp_path, threads=1):
        done = subprocess.run([sys.executable, "-m", "probe"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "workbench" / "__init__.py")


@pytest.mark.exhaustive
def test_ctrl_c_saves_and_submitting_again_goes_on(grid_file: Write, tmp_path: Path) -> None:
    grid = grid_file("settings: {a: {training.steps: 150}, b: {training.steps: 150, fusion.variant: l_dit}}\n")
    results = tmp_path / "results"
    process = subprocess.Popen(
        command(grid, results, "--workers", "2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that starts the tests in the background has them ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # type: ignore[arg-type, return-value]
    )
    runs = folders(grid, results)
    wait_for(lambda: all(last_step(run) >= 3 for run in runs), process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert [run.state() for run in runs] == ["interrupted", "interrupted"]
    reached = [run.log_tail().last("checkpoint").step for run in runs]
    assert all(0 < step < 150 for step in reached)
    for run in runs:
        assert not run.claimed()
    again = subprocess.run(command(grid, results, "--workers", "2"), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "2 runs (2 interrupted)" in again.stdout
    for run, step in zip(runs, reached, strict=True):
        assert run.state() == "completed"
        assert [e.step for e in run.log().events if e.event == "resume"] == [step]


@pytest.mark.exhaustive
def test_a_killed_launcher_loses_and_doubles_nothing(grid_file: Write, tmp_path: Path) -> None:
    grid = grid_file("settings: {a: {training.steps: 120}}\n")
    results = tmp_path / "results"
    process = subprocess.Popen(command(grid, results), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    (run,) = folders(grid, results)
    wait_for(lambda: run.log_tail().last("step") is not None, process)
    process.kill()
    process.wait()
    assert run.state() == "running", "the job outlives its launcher"
    again = subprocess.run(command(grid, results), capture_output=True, text=True, check=False)
    assert "1 run (1 running)" in again.stdout
    deadline = time.monotonic() + 300
    while run.state() == "running" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert run.state() == "completed"
    assert [e.event for e in run.log().events].count("start") == 1


@pytest.mark.exhaustive
def test_a_run_whose_folder_is_removed_while_it_trains_is_named_and_trained_again_when_asked(
    grid_file: Write, tmp_path: Path
) -> None:
    grid = grid_file("settings: {a: {training.steps: 60}}\n")
    results = tmp_path / "results"
    process = subprocess.Popen(command(grid, results), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    (run,) = folders(grid, results)
    wait_for(lambda: last_step(run) >= 3, process)
    shutil.rmtree(run.path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "1 of 1 run is not completed: a seed 0 failed (its folder was removed, or files of it, while it was" in err
    assert "Traceback" not in err
    assert subprocess.run(command(grid, results), capture_output=True, check=False).returncode == 2
    assert run.state() == "failed"
    again = subprocess.run(command(grid, results, "--retry-failed"), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert run.record().codes


CRASHING = """
import ctypes, os, sys

def crash(event, arguments):
    global began
    if began and event == "open":
        ctypes.string_at(0)
    began = began or (event == "os.rename" and str(arguments[1]).endswith("run.json"))

began = False
if "SUBMITIT_EXECUTOR" in os.environ:
    sys.addaudithook(crash)
"""


@pytest.mark.exhaustive
def test_a_training_that_crashes_by_itself_is_not_called_killed(
    grid_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashing").mkdir()
    (tmp_path / "crashing" / "sitecustomize.py").write_text(CRASHING)
    before = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "crashing"), *before]))
    grid, results = grid_file("settings: {a: {}}\n"), tmp_path / "results"
    done = subprocess.run(command(grid, results), capture_output=True, text=True, check=False)
    (run,) = folders(grid, results)
    record = run.record()
    assert (done.returncode, record.state) == (2, "failed")
    assert record.error is not None
    assert record.error.cause == "code_error"
    assert "the training itself crashed with a segmentation fault (SIGSEGV)" in record.error.message
    assert record.error.message in done.stderr


def test_jobs_hold_absolute_paths_and_fill_in_threads(
    grid_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = "b: {fusion.variant: l_dit, machine.threads: null}"
    grid = load_grid(grid_file(f"settings: {{a: {{machine.data_root: here, machine.threads: 1}}, {other}}}\n"))
    planned = plan(grid, tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(14)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    made = training_jobs(planned, Path("results"), workers=2)
    assert [job.config["machine"]["threads"] for job in made] == [1, 7]
    assert made[0].config["machine"]["data_root"] == str(tmp_path / "here")
    assert made[0].results == str(tmp_path / "results")
    for bound, threads in (("3", 3), ("20", 7), ("2,1", 2), ("0", 1), ("many", 7)):
        monkeypatch.setenv("OMP_NUM_THREADS", bound)
        assert training_jobs(planned, Path("results"), workers=2)[1].config["machine"]["threads"] == threads

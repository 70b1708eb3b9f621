"""A grid on a real Slurm, with everything that can happen to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.cluster.conftest import DevCluster
from tests.conftest import ROOT, last_step
from workbench.grids import load_grid
from workbench.launch.plan import plan
from workbench.launch.states import look_at_queue
from workbench.results.folders import RunFolder
from workbench.results.provenance import ENTRY_POINTS, digest_of_modules, imported_modules
from workbench.training.train import train

Write = Callable[..., Path]
MAIN = "from workbench.cli import main; main()"


def workbench(*arguments: object, package: Path = ROOT, check: bool = True) -> str:
    """The command in a process and session of its own, as from a shell that is then left."""
    environment = {**os.environ, "PYTHONPATH": str(package), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        capture_output=True, text=True, check=False, env=environment, start_new_session=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert not check or done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout + done.stderr


def status(grid: Path, results: Path) -> dict[str, dict[str, Any]]:
    found = json.loads(workbench("status", grid, "--results", results, "--json"))
    return {one["setting"]: one for one in found}


def states(grid: Path, results: Path) -> set[str]:
    """The same in this process, to be asked often."""
    return {planned.state for planned in plan(load_grid(grid), results, look_at_queue)}


def wait_until(
    condition: Callable[[], bool], seconds: float = 240, seen: Callable[[], object] = lambda: "nothing more is known"
) -> None:
    """Waits; a test that fails here says what was `seen` last."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {seen()}"
        time.sleep(0.5)


def folders(grid: Path, results: Path) -> dict[str, RunFolder]:
    return {run.setting: RunFolder(results, run.id) for run in load_grid(grid).runs()}


def step(run: RunFolder) -> int:
    return last_step(run)


def processes_of(task: str) -> list[int]:
    """All processes of a Slurm task, its batch script first."""
    array, _, index = task.partition("_")
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        wanted = (f"SLURM_ARRAY_JOB_ID={array}".encode(), f"SLURM_ARRAY_TASK_ID={index}".encode())
        if all(w in environment for w in wanted) and command:
            found.append(int(folder.name))
    return sorted(found)


def process_of(task: str) -> int:
    """The training process of a Slurm task."""
    trains = [pid for pid in processes_of(task) if b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()[:200]]
    return next(pid for pid in trains if b"srun" not in Path(f"/proc/{pid}/cmdline").read_bytes())


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    place = run.checkpoints.latest()
    assert place is not None
    return load_file(place.model)


def trained_here(grid: Path, setting: str, results: Path) -> RunFolder:
    """The same run, undisturbed."""
    loaded = load_grid(grid)
    run = next(run for run in loaded.runs() if run.setting == setting)
    folder = RunFolder(results, run.id)
    machine = run.config.machine.model_copy(update={"threads": 1})
    train(run.config.model_copy(update={"machine": machine}), run.seed, folder)
    return folder


def buggy_package(tmp_path: Path) -> Path:
    """A copy of the package with a mistake in one variant."""
    package = tmp_path / "package"
    shutil.copytree(ROOT / "workbench", package / "workbench", ignore=shutil.ignore_patterns("__pycache__"))
    file = package / "workbench" / "models" / "fusion" / "e_dit.py"
    sound = "        if block.previous is not None:"
    assert sound in file.read_text()
    file.write_text(file.read_text().replace(sound, f"        raise KeyError('a planted bug')\n{sound}"))
    return package


def test_whatever_happens_to_six_runs_each_ends_as_it_should(
    grid_file: Write, profile: Write, tmp_path: Path, dev_cluster: DevCluster
) -> None:
    rate = "training.optimizer.learning_rate"
    grid = grid_file(
        "  fusion.variant: l_dit\nsettings:\n"
        f"  cancelled: {{training.steps: 400, {rate}: 0.001}}\n  killed: {{training.steps: 400, {rate}: 0.002}}\n"
        f"  requeued: {{training.steps: 300, {rate}: 0.003}}\n  buggy: {{fusion.variant: e_dit}}\n"
        "  untouched: {training.steps: 30}\n  slow: {training.steps: 2000}\n"
    )
    grid.write_text(grid.read_text().replace("log_steps: 1}", "log_steps: 1, checkpoint_minutes: 0.02}"))
    results = tmp_path / "results"
    package = buggy_package(tmp_path)
    usual, short = profile("usual"), profile("short", time_minutes=1, signal_seconds=10)
    for only, chosen in (("[!s]*", usual), ("slow", short)):
        said = workbench("submit", grid, "--results", results, "--profile", chosen, "--only", only, package=package)
        assert "submitted as job" in said
    runs = folders(grid, results)
    (snapshot,) = (results / "submissions").glob("code-*")
    cli = package / "workbench" / "cli" / "__init__.py"
    cli.write_text("raise SystemExit('edited while jobs wait')\n")

    wait_until(lambda: all(step(runs[name]) >= 10 for name in ("cancelled", "killed")))
    now = status(grid, results)
    assert [now[name]["state"] for name in ("cancelled", "killed")] == ["running"] * 2
    assert [now[name]["state"] for name in ("requeued", "buggy", "untouched", "slow")] == ["queued"] * 4
    subprocess.run(["scancel", now["cancelled"]["job"]], check=True)
    os.kill(process_of(now["killed"]["job"]), signal.SIGKILL)
    wait_until(lambda: step(runs["requeued"]) >= 10)
    subprocess.run(["scontrol", "requeue", status(grid, results)["requeued"]["job"]], check=True)
    # One minute was too short for it, once: how often again depends on the machine, and each time costs two minutes.
    wait_until(lambda: "timeout" in runs["slow"].record().ended, 480, lambda: status(grid, results))
    longer = ["scontrol", "update", f"JobId={now['slow']['job']}", "TimeLimit=30"]
    # Slurm may refuse it in the moment in which the job leaves its node.
    wait_until(lambda: subprocess.run(longer, check=False).returncode == 0)
    wait_until(lambda: not states(grid, results) & {"running", "queued"}, 900, lambda: status(grid, results))

    now = status(grid, results)
    assert {name: (one["state"], one["cause"]) for name, one in now.items()} == {
        "cancelled": ("cancelled", "cancelled"),
        "killed": ("completed", None),
        "requeued": ("completed", None),
        "buggy": ("failed", "code_error"),
        "untouched": ("completed", None),
        "slow": ("completed", None),
    }
    said = workbench("status", grid, "--results", results)
    assert said.count("a planted bug") == 1
    assert "1 × code_error: 'a planted bug' [buggy seed 0]" in said
    causes = {name: set(run.record().ended) for name, run in runs.items()}
    assert causes["killed"] == {"killed"}
    assert causes["requeued"] == {"preempted"}
    assert causes["slow"] == {"timeout"}
    assert causes["untouched"] == set()
    assert [e.event for e in runs["untouched"].log().events].count("start") == 1
    assert not [e for e in runs["untouched"].log().events if e.event == "resume"]
    assert "KeyError" in workbench("logs", grid, "buggy", "--results", results)

    said = workbench("submit", grid, "--results", results, "--profile", usual)
    assert "nothing to submit" in said
    assert "workbench retry" in said
    said = workbench("retry", grid, "--class", "cancelled", "--results", results, "--profile", usual)
    assert "1 run to train" in said
    wait_until(lambda: runs["cancelled"].state() == "completed")

    codes = {name: run.record().codes for name, run in runs.items()}
    copied = snapshot / "workbench"
    code = digest_of_modules(copied, imported_modules(copied, ENTRY_POINTS))
    assert all(codes[name] == (code,) for name in ("killed", "requeued", "untouched", "slow")), "an edit leaked in"
    assert len(codes["cancelled"]) == 2, "begun by the copy, completed by this package"
    table = workbench("table", grid, "--results", results)
    assert "† computed by other code" in table
    for name in ("cancelled", "killed", "requeued", "slow"):
        alone = trained_here(grid, name, tmp_path / "alone")
        here, there = weights(runs[name]), weights(alone)
        assert all(torch.equal(here[key], there[key]) for key in there), name
        assert [e.step for e in runs[name].log().events if e.event == "step"] == list(
            range(1, runs[name].record().steps + 1)
        ), f"log lines of {name} were lost"
        assert runs[name].record().metrics == alone.record().metrics

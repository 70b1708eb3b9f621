"""`workbench bench launch`: a grid of 1,000 runs submitted to Slurm, followed and submitted again; nothing is trained.

With `--fake-scheduler`, or where no Slurm answers, a stand-in queues the runs; a real one holds them, and they are
cancelled at the end. Every scheduler command is counted.

Figures, in seconds unless said otherwise:
    submit_seconds, resubmit_seconds, status_seconds: the work of the three commands, their libraries loaded.
    resubmit_command_seconds, status_command_seconds: the whole commands, as processes.
    submit_1000_command_seconds: the same, of the first submission of a grid of ten settings, its data prepared.
    libraries_seconds: importing alone what checks models: torch and torchvision, in turns with it.
    plan_first_seconds, plan_unchanged_seconds: `plan` of that grid, for the first time and after that.
    submit_10k_command_seconds, submit_100k_command_seconds: of ten settings that were checked before.
    status_10k_command_seconds, status_100k_command_seconds (and status_100k_mib): while all wait.
    status_10k_done_command_seconds: when all are completed.
    table_10k_command_seconds, table_10k_mib: the table of 10,000 completed runs.
    array_tasks_1000_tasks_of_10: of 1,000 runs, ten in each task.
    sbatch_calls_550_after_50: of a stage of 550 runs that begin from 50 others, these included.
    sbatch_calls: how many the 1,000 runs took.
    status_scheduler_calls, resubmit_scheduler_calls: calls of any scheduler command in one of each.
    collect_10k_cold_seconds, collect_10k_warm_seconds: 10,000 finished runs as a results frame, without and with the
        index, pandas loaded.
    files_per_run: what one completed run leaves in its folder and in its submission's, without its checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.benchmarks import launch_commands
from workbench.benchmarks.fake_slurm import FakeSlurm
from workbench.benchmarks.race import Report
from workbench.errors import WorkbenchError
from workbench.grids import Grid, check_grid, load_grid
from workbench.launch import scheduler
from workbench.launch.cost import expected_cost
from workbench.launch.plan import plan
from workbench.launch.profiles import load_profile
from workbench.launch.states import look_at_queue
from workbench.launch.status import statuses
from workbench.launch.submit import Request, SubmissionOutcome, submit
from workbench.paper.report import report as report_on
from workbench.results.folders import RUNS, RunFolder
from workbench.results.frames import RunFolders, runs_frame
from workbench.results.index import INDEX

SETTINGS, SEEDS = 10, 100
FINISHED = 10_000
PATIENCE_SECONDS = 300.0
GRID = """title: a thousand runs
base:
  data: {{recipe: {{train_images: 40, eval_images: 6}}}}
  training: {{steps: 1, batch_size: 4, optimizer: {{learning_rate: 0.0001}}}}
  evaluation: {{splits: [val]}}
  fusion: {{variant: l_dit}}
  machine: {{data_root: {data}, trackers: [], device: cpu}}
axes: {{fusion.dropout: [{values}]}}
seeds: 0-{last}
"""


def run(report: Report, fake: bool) -> dict[str, float]:
    """All figures; see the module."""
    with tempfile.TemporaryDirectory(prefix="bench-launch-") as name:
        folder = Path(name)
        pretend = fake or not _answers()
        report("a stand-in for the scheduler" if pretend else "the real Slurm, its calls counted")
        slurm = FakeSlurm.pretending(folder / "slurm") if pretend else FakeSlurm.counted(folder / "slurm")
        with slurm.on_the_path():
            results = _submission(folder, slurm, pretend, report)
            results |= _commands(folder, report)
            results["files_per_run"] = _files_per_run(folder, slurm, pretend, report)
        return results | _collection(folder / "finished", report)


def _answers() -> bool:
    try:
        scheduler.check_available()
        scheduler.max_array_size()
    except scheduler.SchedulerError:
        return False
    return True


def _submission(folder: Path, slurm: FakeSlurm, pretend: bool, report: Report) -> dict[str, float]:
    grid = _grid(folder, SETTINGS, SEEDS)
    profile = folder / "bench.yaml"
    profile.write_text(
        "backend: slurm\nmemory_gb: 1\narray_size: 100000\n" + ("" if pretend else "sbatch: {hold: true}\n")
    )
    measurements: dict[str, float] = {}

    def measured(name: str, work: Callable[[], Any]) -> int:
        before = slurm.calls().total()
        began = time.monotonic()
        work()
        measurements[name] = time.monotonic() - began
        report(f"{name}: {measurements[name]:.2f} s")
        return slurm.calls().total() - before

    def submit_to(results: Path) -> None:
        outcome = _submitted(grid, results, profile)
        if outcome.chosen:
            expected_cost(outcome.chosen, results)

    results = [folder / "library", folder / "command"]
    try:
        check_grid(grid)  # loads the libraries
        measured("submit_seconds", lambda: submit_to(results[0]))
        measurements["sbatch_calls"] = slurm.calls()["sbatch"]
        measurements["resubmit_scheduler_calls"] = measured("resubmit_seconds", lambda: submit_to(results[0]))
        measurements["status_scheduler_calls"] = measured(
            "status_seconds", lambda: statuses(plan(grid, results[0], look_at_queue))
        )
        _command(results[1], "submit", grid.file, "--profile", profile)
        measured("resubmit_command_seconds", lambda: _command(results[1], "submit", grid.file, "--profile", profile))
        measured("status_command_seconds", lambda: _command(results[1], "status", grid.file, "--json"))
    finally:
        if not pretend:
            scheduler.cancel([p.run_state.task for r in results for p in plan(grid, r) if p.run_state.task is not None])
    return measurements


def _commands(folder: Path, report: Report) -> dict[str, float]:
    """Whole commands, always with a stand-in: no cluster takes a hundred thousand runs for a measurement."""
    from workbench.data.datasets import open_dataset

    place = folder / "commands"
    place.mkdir()
    grid = _grid(place, SETTINGS, 1)
    open_dataset(next(iter(grid.settings.values())))
    profile = place / "commands.yaml"
    profile.write_text("backend: slurm\nmemory_gb: 1\n")
    slurm = FakeSlurm.pretending(place / "slurm")
    with slurm.on_the_path():
        return launch_commands.measure(place, grid, profile, slurm, report)


def _submitted(grid: Grid, results: Path, profile: Path) -> SubmissionOutcome:
    return submit(grid, Request(results, load_profile(profile), check_grid, report_on))


def _grid(folder: Path, settings: int, seeds: int) -> Grid:
    file = folder / "thousand.yaml"
    values = ", ".join(f"{0.01 * k:g}" for k in range(settings))
    file.write_text(GRID.format(data=folder / "data", values=values, last=seeds - 1))
    return load_grid(file)


def _command(results: Path, *arguments: object) -> None:
    command = [sys.executable, "-c", "from workbench.cli import script; script()", *map(str, arguments)]
    done = subprocess.run([*command, "--results", str(results)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkbenchError(f"bench launch: {' '.join(command[3:])} failed: {done.stderr.strip()}")


def _files_per_run(folder: Path, slurm: FakeSlurm, pretend: bool, report: Report) -> float:
    """One real training of one step, through a real batch script."""
    from workbench.data.datasets import open_dataset

    file = folder / "one"
    file.mkdir()
    grid, results = _grid(file, 1, 1), folder / "one-result"
    profile = folder / "one.yaml"
    profile.write_text("backend: slurm\nmemory_gb: 2\n")
    open_dataset(next(iter(grid.settings.values())))
    outcome = _submitted(grid, results, profile)
    (array,) = outcome.arrays
    if pretend:
        environment = {**os.environ, "SLURM_ARRAY_JOB_ID": array.array_id, "SLURM_ARRAY_TASK_ID": "0",
                       "SLURM_JOB_ID": array.array_id}  # fmt: skip
        subprocess.run(
            ["bash", str(array.submission.folder / "array.sh")], env=environment, capture_output=True, check=False
        )
    (planned,) = outcome.planned
    deadline = time.monotonic() + PATIENCE_SECONDS
    # The batch script tidies up after the training has ended.
    while planned.folder.state() != "completed" or array.submission.output(0):
        if time.monotonic() > deadline:
            raise WorkbenchError(
                f"bench launch: the one real run is {planned.folder.state()} after {PATIENCE_SECONDS} s"
            )
        time.sleep(0.5)
    own = [path for path in planned.folder.path.iterdir() if path.is_file()]
    left = list(array.submission.folder.glob(f"{array.array_id}_*"))
    report(f"left by one run: {', '.join(path.name for path in own + left)}")
    return len(own) + len(left)


def _collection(results: Path, report: Report) -> dict[str, float]:
    report(f"writing {FINISHED} finished runs")
    _write_finished(results)
    seconds = {}
    import pandas as pd

    pd.DataFrame({"a": [1]}).drop_duplicates()
    for name in ("cold", "warm"):
        began = time.monotonic()
        frame = runs_frame(RunFolders(results))
        seconds[f"collect_10k_{name}_seconds"] = time.monotonic() - began
        report(f"{name}: {seconds[f'collect_10k_{name}_seconds']:.2f} s for {len(frame)} rows")
        if frame["run"].nunique() != FINISHED:
            raise WorkbenchError(f"bench launch: {frame['run'].nunique()} of {FINISHED} runs were collected")
    (results / INDEX).unlink()
    shutil.rmtree(results / RUNS)
    return seconds


def _write_finished(results: Path) -> None:
    """Records as a training writes them, with everything that a real one holds."""
    with tempfile.TemporaryDirectory() as name:
        config = next(iter(_grid(Path(name), 1, 1).settings.values()))
    metrics = {"expressions": 500, "oiou": 0.5, "miou": 0.5} | {f"p@0.{k}": 0.1 * k for k in range(5, 10)}
    for number in range(FINISHED):
        setting, seed = divmod(number, SEEDS // 10)
        folder = RunFolder(results, f"refshapes-vit_mini-l_dit-{setting:012x}/seed{seed}")
        folder.path.mkdir(parents=True)
        record = {
            "identity": config.identity_document(), "machine": config.machine.model_dump(mode="json"), "processes": 1,
            "seed": seed, "state": "completed", "steps": 800, "provenance": {"code": "0" * 12, "packages": {}},
            "codes": ["0" * 12], "started": 0.0, "error": None,
            "metrics": dict.fromkeys(("val", "testA", "testB"), metrics),
            "finished": 1.0, "training_seconds": 100.0, "seconds": 110.0, "gpu_hours": 0.0,
        }  # fmt: skip
        # Written without fsync: only reading is measured, and a thousand fsyncs take minutes.
        (folder.path / "run.json").write_text(json.dumps(record, indent=1))
        folder.log_file.write_text('{"event": "end", "time": 1.0, "state": "completed"}\n')

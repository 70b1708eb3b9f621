"""Whole commands as processes on grids of 1,000, 10,000 and 100,000 runs, with a stand-in for the scheduler.

Each figure is the median of three. The commands run with a receipts cache of their own and with Python's byte code,
which a command before them wrote; the data set is prepared.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from workbench.benchmarks.fake_slurm import FakeSlurm
from workbench.benchmarks.race import Report
from workbench.errors import WorkbenchError
from workbench.grids import Grid, load_grid
from workbench.launch.profiles import load_profile
from workbench.launch.submit import Request, submit
from workbench.paper.report import report as report_on
from workbench.receipts import VARIABLE
from workbench.results.folders import RunFolder

REPEATS = 3
THOUSAND, MANY, MOST = 1_000, 10_000, 100_000
EARLIER, LATER = 50, 11
"""Seeds of an earlier stage, and settings of a later one that begin from it."""
PACK = 10
"""Runs in one array task, of the figure about that."""
SPLITS = ("val", "testA", "testB")
WATCH = """
import resource, subprocess, sys, time
began = time.monotonic()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""
"""A small process between: Linux counts the memory of the process that starts a command as the command's own."""


class Commands:
    """The command line in processes of its own, each timed and its memory measured.

    Args:
        folder: for the receipts.
        slurm: the stand-in, first on the commands' path.
    """

    def __init__(self, folder: Path, slurm: FakeSlurm, report: Report) -> None:
        self.receipts = folder / "receipts"
        self._report = report
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        path = f"{slurm.bin}{os.pathsep}{environment['PATH']}"
        self._environment = {**environment, "PATH": path, VARIABLE: str(self.receipts)}

    def forget_checks(self) -> None:
        """Let the next command check its grid as if it were the first."""
        shutil.rmtree(self.receipts, ignore_errors=True)

    def run(self, *arguments: object) -> tuple[float, float]:
        """Run one; returns seconds and the most MiB that it held."""
        return self._process("from workbench.cli import script; script()", *map(str, arguments))

    def libraries(self) -> tuple[float, float]:
        """The same of a process that only imports what a model of a grid is checked with, and ends at once."""
        return self._process("import torch, torchvision, os; os._exit(0)")

    def _process(self, code: str, *arguments: str) -> tuple[float, float]:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(
            [sys.executable, "-ISc", WATCH, *command],
            capture_output=True,
            text=True,
            check=False,
            env=self._environment,
        )
        if done.returncode:
            raise WorkbenchError(f"bench launch: {' '.join(arguments) or code} failed: {done.stderr.strip()}")
        seconds, kib = map(float, done.stdout.split())
        return seconds, kib / 1024

    def measured(self, name: str, *arguments: object, memory: bool = False) -> dict[str, float]:
        """The medians of one command, run three times."""
        return self.named(name, [self.run(*arguments) for _ in range(REPEATS)], memory)

    def named(self, name: str, taken: list[tuple[float, float]], memory: bool) -> dict[str, float]:
        """The medians of what was taken, as figures: `<name>_seconds`, and `<name>_mib` with `memory`."""
        seconds, mib = (statistics.median(values) for values in zip(*taken, strict=True))
        self._report(f"{name}: {seconds:.2f} s, {mib:.0f} MiB")
        return {f"{name}_seconds": seconds} | ({f"{name}_mib": mib} if memory else {})


def measure(folder: Path, grid_of: Grid, profile: Path, slurm: FakeSlurm, report: Report) -> dict[str, float]:
    """All figures of this module.

    Args:
        grid_of: a grid whose settings and data the measured ones have, with more seeds each.
    """
    commands = Commands(folder, slurm, report)
    given = ("--profile", profile, "--results")
    thousand, many, most = (_with_runs(grid_of, count, folder) for count in (THOUSAND, MANY, MOST))
    planned = commands.run("plan", thousand, "--results", folder / "nothing")
    figures = commands.named("plan_first", [planned], False)
    figures |= commands.measured("plan_unchanged", "plan", thousand, "--results", folder / "nothing")
    figures |= _submissions(commands, "submit_1000_command", thousand, folder, given, first=True)
    figures |= _submissions(commands, "submit_10k_command", many, folder, given, first=False)
    figures |= commands.measured("status_10k_command", "status", many, "--results", _last(folder))
    figures |= _submissions(commands, "submit_100k_command", most, folder, given, first=False, repeats=1)
    figures |= commands.measured("status_100k_command", "status", most, "--results", _last(folder), memory=True)
    figures["status_100k_mib"] = figures.pop("status_100k_command_mib")
    results = folder / "done"
    _complete(load_grid(many), results)
    figures |= commands.measured("status_10k_done_command", "status", many, "--results", results)
    table = commands.named("table_10k_command", [commands.run("table", many, "--results", results)], True)
    figures |= {"table_10k_mib": table.pop("table_10k_command_mib"), **table}
    shutil.rmtree(results)
    figures[f"array_tasks_1000_tasks_of_{PACK}"] = _tasks_of_packs(load_grid(thousand), folder, profile, slurm)
    return figures | {"sbatch_calls_550_after_50": _calls_of_stages(folder, grid_of, profile, slurm)}


def _with_runs(grid: Grid, count: int, folder: Path) -> Path:
    file = folder / f"runs-{count}.yaml"
    lines = grid.file.read_text().splitlines()
    seeds = f"seeds: 0-{max(1, count // len(grid.settings)) - 1}"
    file.write_text("\n".join([*(line for line in lines if not line.startswith("seeds:")), seeds]) + "\n")
    return file


def _last(folder: Path) -> Path:
    return folder / "submitted"


def _submissions(
    commands: Commands, name: str, grid: Path, folder: Path, given: tuple[object, ...], first: bool,
    repeats: int | None = None,
) -> dict[str, float]:  # fmt: skip
    """Submit a grid into results that are empty; the last ones stay.

    Args:
        first: nothing of it was checked before; how long its libraries take alone is measured in turns with it.
    """
    taken, libraries = [], []
    for _ in range(REPEATS if repeats is None else repeats):
        shutil.rmtree(_last(folder), ignore_errors=True)
        if first:
            commands.forget_checks()
            libraries.append(commands.libraries())
        taken.append(commands.run("submit", grid, *given, _last(folder)))
    figures = commands.named(name, taken, False)
    return figures | (commands.named("libraries", libraries, False) if first else {})


def _complete(grid: Grid, results: Path) -> None:
    """Records and expressions as trainings leave them; without fsync, for only reading is measured."""
    expressions = results / "expressions.parquet"
    results.mkdir()
    _write_expressions(expressions)
    metrics = {"expressions": 4, "oiou": 0.5, "miou": 0.5} | {f"p@0.{k}": 0.5 for k in range(5, 10)}
    record = {
        "processes": 1, "state": "completed", "steps": 800, "provenance": {"code": "0" * 12, "packages": {}},
        "codes": ["0" * 12], "started": 0.0, "error": None, "metrics": dict.fromkeys(SPLITS, metrics), "finished": 1.0,
        "training_seconds": 100.0, "seconds": 110.0, "gpu_hours": 0.0,
    }  # fmt: skip
    documents = {
        name: {"identity": config.identity_document(), "machine": config.machine.model_dump(mode="json"), **record}
        for name, config in grid.settings.items()
    }
    for run in grid.runs():
        folder = RunFolder(results, run.id)
        folder.path.mkdir(parents=True)
        folder.record_file.write_text(json.dumps({**documents[run.setting], "seed": run.seed}, indent=1))
        folder.log_file.write_text('{"event": "end", "time": 1.0, "state": "completed"}\n')
        folder.expressions_file.hardlink_to(expressions)


def _write_expressions(file: Path) -> None:
    """Four expressions of each split."""
    import pandas as pd

    from workbench.results.expressions import write_expressions

    rows = [
        {
            "split": split, "image_id": 10 * place + k, "ref_id": 10 * place + k, "ann_id": k,
            "sent_id": 10 * place + k,
            "sentence": "red circle", "category": "circle", "kind": "attribute", "targets": 1, "no_target": False,
            "distractors": k, "height": 64, "width": 64, "target_area": 100, "intersection": 50, "union": 100,
            "predicted_area": 50, "iou": 0.5, "prediction": "0",
        }
        for place, split in enumerate(SPLITS)
        for k in range(4)
    ]  # fmt: skip
    write_expressions(file, pd.DataFrame(rows))


def _tasks_of_packs(grid: Grid, folder: Path, profile: Path, slurm: FakeSlurm) -> float:
    """The array tasks that a grid takes with several runs in each."""
    before = len(slurm.jobs())
    packed = load_profile(profile).model_copy(update={"tasks_of": PACK})
    submit(grid, Request(folder / "packed", packed, lambda grid: None, report_on))
    return sum(int(str(job["count"])) for job in slurm.jobs()[before:])


def _calls_of_stages(folder: Path, grid: Grid, profile: Path, slurm: FakeSlurm) -> float:
    """The calls of sbatch for 550 runs that begin from 50 of an earlier stage, these included."""
    text = grid.file.read_text()
    base = text[text.index("base:") : text.index("axes:")]
    seeds = f"seeds: 0-{EARLIER - 1}\n"
    (folder / "earlier.yaml").write_text(f"title: earlier\n{base}settings: {{start: {{}}}}\n{seeds}")
    later = folder / "later.yaml"
    values = ", ".join(f"{0.01 * (k + 1):g}" for k in range(LATER))
    later.write_text(
        f"title: later\n{base}  start_from: {{grid: earlier.yaml, setting: start}}\n"
        f"axes: {{fusion.dropout: [{values}]}}\n{seeds}"
    )
    before = slurm.calls()["sbatch"]
    loaded = load_grid(later)
    submit(loaded, Request(folder / "stages", load_profile(profile), lambda grid: None, report_on))
    return slurm.calls()["sbatch"] - before

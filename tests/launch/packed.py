"""A grid whose tasks train several runs each, with a stand-in for Slurm and for the trainings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from workbench.benchmarks.fake_slurm import FakeSlurm
from workbench.grids import Grid
from workbench.launch.plan import PlannedRun, plan
from workbench.launch.profiles import Profile
from workbench.launch.submissions import Submission
from workbench.launch.submit import Request, submit
from workbench.paper.report import report
from workbench.results.folders import RunFolder

TRAINS = r"""#!{python} -IS
import json, os, signal, sys, time
run, output = int(os.environ["WORKBENCH_TASK_RUN"]), sys.argv[sys.argv.index("--output") + 1]
folder = os.path.dirname(output)
said = json.load(open(os.path.join(folder, "submission.json")))
results = json.load(open(os.path.join(folder, "manifest.json")))["results"]
place = os.path.join(results, "runs", *said["runs"][run].split("/"))
with open({trained!r}, "a") as stream:
    stream.write("%d\n" % run)
os.makedirs(place, exist_ok=True)
script = json.load(open({script!r}))
status, printed = (script.get(str(run)) or [[0, ""]]).pop(0)
json.dump(script, open({script!r}, "w"))
with open(output.replace("%t", "0"), "a") as stream:
    stream.write(printed + "\n")
with open(os.path.join(place, "run.json"), "w") as stream:
    json.dump(dict(state="completed" if status in (0, "slow", "term") else "running"), stream)
if status in ("kill", "term"):
    os.kill(os.getppid(), signal.SIGKILL if status == "kill" else signal.SIGTERM)
time.sleep(2.2 if status == "slow" else 0)
sys.exit(status if isinstance(status, int) else 0)
"""
"""In the place of srun: does to a run what the script says, attempt by attempt; without anything said, completes it."""


@dataclass
class Packed:
    """A grid of ten runs whose tasks train four each."""

    grid: Grid
    results: Path
    submission: Submission
    slurm: FakeSlurm

    def happens(self, **what: list[tuple[object, str]]) -> None:
        """Say what the attempts of runs end with (status and output), `r1` for the run with index 1."""
        (self.slurm.folder / "script").write_text(json.dumps({run[1:]: ends for run, ends in what.items()}))

    def execute(self, task: int) -> int:
        """Do what a task's batch script does; its exit status."""
        environment = {**os.environ, "SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": "1"}
        output = self.submission.folder / f"1_{task}_0_log.out"
        with output.open("a") as stream:
            script = ["bash", str(self.submission.folder / "array.sh")]
            return subprocess.run(script, env=environment, stdout=stream, stderr=stream, check=False).returncode

    @property
    def trained(self) -> list[int]:
        """The runs that were begun, in order."""
        file = self.slurm.folder / "trained"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def planned(self) -> list[PlannedRun]:
        """All runs, in the order of their indices, as the queue and the folders say."""
        by_id = {p.run.id: p for p in plan(self.grid, self.results)}
        return [by_id[run] for run in self.submission.runs]

    def states(self) -> list[str]:
        return [p.state for p in self.planned()]

    def folder(self, index: int) -> RunFolder:
        return RunFolder(self.results, self.submission.runs[index])


def request(results: Path, **keys: object) -> Request:
    values = {"name": "test", "backend": "slurm", "tasks_of": 4, **keys}
    return Request(results, Profile.model_validate(values), lambda grid: None, report)


def hand_over(grid: Grid, results: Path, slurm: FakeSlurm, **keys: object) -> Packed:
    (array,) = submit(grid, request(results, **keys)).arrays
    text = TRAINS.format(
        python=sys.executable, trained=str(slurm.folder / "trained"), script=str(slurm.folder / "script")
    )
    (slurm.bin / "srun").write_text(text)
    packed = Packed(grid, results, array.submission, slurm)
    packed.happens()
    return packed

"""A results folder with one of everything: runs, submissions, scores, a kept summary, an index, figures' documents."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests import stored
from workbench.benchmarks.fake_slurm import FakeSlurm
from workbench.grids import Grid, load_grid
from workbench.grids.evaluated import evaluated
from workbench.launch.profiles import load_profile
from workbench.launch.submissions import Submissions
from workbench.launch.submit import Request, submit
from workbench.paper.artefacts import draw_figure
from workbench.paper.layout import lay_out
from workbench.paper.render import write_table
from workbench.paper.report import report
from workbench.results.folders import RunFolder
from workbench.results.frames import RunFolders, runs_frame
from workbench.results.scored import PredictionFile, ScoredFolder, ScoreRecord

GRID = """title: ground
base:
  data: {{recipe: {{seed: 3, train_images: 40, eval_images: 6}}}}
  training: {{steps: 6, batch_size: 4}}
  evaluation: {{splits: [val, testA]}}
  machine: {{data_root: '{root}', trackers: [], threads: 1}}
settings: {{a: {{}}, b: {{fusion.variant: l_dit}}}}
seeds: [0, 1]
baseline: a
report: {{models: [other]}}
then: [table]
"""


@dataclass(frozen=True)
class Ground:
    """Where everything lies.

    Attributes:
        sound: what a table shows of the runs while all is sound: setting and seeds.
    """

    file: Path
    grid: Grid
    results: Path
    profile: Path
    summary: Path

    def run(self, setting: str, seed: int) -> RunFolder:
        """A run's folder."""
        return RunFolder(self.results, f"{self.grid.settings[setting].setting_id}/seed{seed}")

    def records(self) -> list[Path]:
        """Every JSON, JSONL and Parquet file, by name."""
        files = (file for file in self.results.rglob("*") if file.suffix in (".json", ".jsonl", ".parquet"))
        return sorted(file for file in files if file.is_file() and not any("code-" in part for part in file.parts))


def build(folder: Path, data_root: Path) -> Ground:
    """Make it; a scheduler's stand-in must be on the path."""
    file, results, profile = folder / "ground.yaml", folder / "results", folder / "cluster.yaml"
    file.write_text(GRID.format(root=data_root))
    profile.write_text("backend: slurm\n")
    grid = load_grid(file)
    submit(grid, Request(results, load_profile(profile), lambda grid: None, report))
    for submission in Submissions(results).all():
        submission.cancel([0])
        submission.remember({0: "TIMEOUT"}, [])
    for setting, draw in (("a", 1000), ("b", 2000)):
        for seed in (0, 1, 2):
            stored.complete(results, grid.settings[setting], seed, draw + seed)
    stored.fail(results, grid.settings["b"], 3, "no luck")
    frame = stored.expressions(["val", "testA"], 5000)
    record = ScoreRecord(
        name="other",
        dataset={"name": "refshapes"},
        predictions=PredictionFile(file="masks.json", sha256="0" * 64),
        no_target_area=0,
        metrics={split: {"expressions": 15.0, "miou": stored.mean_iou(frame, split)} for split in ("val", "testA")},
    )
    ScoredFolder(results, "other").write(record, frame)
    runs = evaluated(grid, RunFolders(results))
    write_table(lay_out(runs), results / grid.name)
    draw_figure("bars", runs, results)
    runs.write_summary(results / grid.name / "summary")
    runs_frame(RunFolders(results))  # leaves the index
    return Ground(file, grid, results, profile, results / grid.name / "summary")


def slurm(folder: Path) -> FakeSlurm:
    """The stand-in."""
    return FakeSlurm.pretending(folder / "slurm")


def document_of(file: Path) -> object:
    """A JSON file's content."""
    return json.loads(file.read_text())

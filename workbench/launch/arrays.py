"""Runs as job arrays: split to the size that the cluster takes, recorded, then submitted."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.config import RunConfig
from workbench.grids import Grid
from workbench.launch import scheduler
from workbench.launch.packing import task_count
from workbench.launch.plan import PlannedRun, job_document, stages
from workbench.launch.profiles import Profile
from workbench.launch.slurm import submit_array, submit_report
from workbench.launch.snapshot import snapshot
from workbench.launch.submissions import REPORT, Submission, Submissions
from workbench.results.provenance import source
from workbench.results.record import RunId

if TYPE_CHECKING:
    from workbench.launch.tasks import Report


@dataclass(frozen=True)
class SubmittedArray:
    """A submission that the scheduler has taken, and its id there."""

    submission: Submission
    array_id: str


def submit_arrays(
    chosen: Sequence[PlannedRun],
    results: Path,
    profile: Profile,
    grid: Grid,
    lock: int,
    after: Mapping[str, Sequence[str]],
) -> Iterator[SubmittedArray]:
    """Submit runs to Slurm in arrays as large as the cluster and the profile let them be; yields each once it is taken.

    Args:
        lock: the descriptor of the locked submissions, for sbatch to keep open.
        after: by run, the tasks that must have ended before.

    Raises:
        SchedulerError: Slurm refuses; what was submitted before stays so, and submitting again takes the rest.
    """
    for planned in chosen:
        planned.folder.set_aside_damage()
    code, origin = snapshot(results), source()
    for part in split(chosen, min(profile.array_size, scheduler.max_array_size()) * profile.tasks_of):
        configs = {RunId.parse(p.run.id).setting_id: p.run.config for p in part}
        manifest = {
            "results": str(results.absolute()),
            "code": code.name,
            "source": origin,
            "profile": profile.model_dump(mode="json"),
            "settings": {name: _for_profile(config, profile) for name, config in configs.items()},
        }
        submission = Submissions(results).add(
            str(grid.file.resolve()), [p.run.id for p in part], manifest, min(profile.tasks_of, len(part))
        )
        tasks = list(dict.fromkeys(task for p in part for task in after[p.run.id]))
        with _noting(submission) as taken:
            taken.append(submit_array(submission, profile, code, [lock], tasks))
        yield SubmittedArray(submission, taken[0])


@contextlib.contextmanager
def _noting(submission: Submission) -> Iterator[list[str]]:
    """Remember with a submission whether the scheduler took it: the block adds the array's id to the list."""
    taken: list[str] = []
    try:
        yield taken
    except scheduler.SchedulerError as error:
        submission.note_refused(str(error))
        raise
    submission.note_taken(taken[0])


def split(runs: Sequence[PlannedRun], size: int) -> list[Sequence[PlannedRun]]:
    """Runs in parts of at most `size`, in order."""
    return [runs[first : first + size] for first in range(0, len(runs), size)]


def in_groups(chosen: Sequence[PlannedRun], waiting: Collection[str]) -> list[list[PlannedRun]]:
    """Those that may start, and those that wait: no run waits for what it does not need."""
    return [[p for p in chosen if p.run.id not in waiting], [p for p in chosen if p.run.id in waiting]]


def count_tasks(grid: Grid, planned: Sequence[PlannedRun], chosen: Sequence[PlannedRun], tasks_of: int) -> int:
    """How many tasks of a cluster the chosen runs make.

    Args:
        planned: all that are known, also those that the chosen ones begin from.
    """
    by_id, wanted = {p.run.id: p for p in chosen}, 0
    completed = {p.run.id for p in planned if p.state == "completed"}
    for stage in stages(grid):
        of_stage = [by_id[run.id] for run in stage.runs if run.id in by_id]
        waiting = {p.run.id for p in of_stage if any(n.id not in completed for n in stage.grid.needed([p.run]))}
        wanted += sum(task_count(len(group), tasks_of) for group in in_groups(of_stage, waiting))
    return wanted


def _for_profile(config: RunConfig, profile: Profile) -> dict[str, Any]:
    """A job that was given a GPU must not train without one, should the node's be broken."""
    if profile.gpus_per_node and config.machine.device == "auto":
        machine = config.machine.model_copy(update={"device": "cuda"})
        config = config.model_copy(update={"machine": machine})
    return job_document(config, profile.cpus_per_task)


def submit_report_job(
    grid: Grid, results: Path, profile: Profile, lock: int, after: Sequence[str], report: Report
) -> SubmittedArray:
    """Submit the job that reports on a grid, as it is resolved now, when tasks have ended."""
    code = snapshot(results)
    manifest = {
        "results": str(results.absolute()),
        "code": code.name,
        "grid": grid.document(),
        "then": list(grid.then),
    }
    name = str(grid.file.resolve())
    submission = Submissions(results).add(name, [f"{REPORT}{name}"], manifest)
    with _noting(submission) as taken:
        taken.append(submit_report(submission, profile, code, [lock], after, report))
    return SubmittedArray(submission, taken[0])

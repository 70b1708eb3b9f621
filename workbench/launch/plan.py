"""Which runs of a grid are to be trained, and the hand-over of them as jobs to a backend."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.config import BUILTIN, RunConfig
from workbench.errors import MissingCheckpoint
from workbench.files import digest_of
from workbench.grids import Grid, Run
from workbench.launch.profiles import Profile
from workbench.launch.states import Look, RunState, forgiving, look_at_queue, run_states
from workbench.launch.submissions import REPORT, Submission, Submissions
from workbench.launch.tasks import TrainingJob
from workbench.results.folders import FAILED, SUBMISSIONS, DamagedRecord, RunFolder, State


@dataclass(frozen=True)
class PlannedRun:
    """A run and what is known of it."""

    run: Run
    folder: RunFolder
    run_state: RunState

    @property
    def state(self) -> State:
        """Its state."""
        return self.run_state.state


@dataclass(frozen=True)
class SubmittedArray:
    """A submission that the scheduler has taken, and its id there."""

    submission: Submission
    array_id: str


def plan(grid: Grid, results: Path, look: Look | None = None) -> list[PlannedRun]:
    """Every run of a grid and where it stands; see `plan_runs`."""
    return plan_runs(grid.runs(), results, look)


def plan_runs(runs: Sequence[Run], results: Path, look: Look | None = None) -> list[PlannedRun]:
    """Where runs stand.

    Args:
        look: how the scheduler is asked, once, if any of them was handed over to one; None: the queue, if it answers.

    Raises:
        StoreError: what is stored under a run's id is another configuration.
        CheckpointError: a run was begun with other weights than the file of that name holds now.
    """
    folders = []
    for run in runs:
        folder = RunFolder(results, run.id)
        with contextlib.suppress(DamagedRecord):  # its state says so
            folder.check(run.config)
            _check_weights(run, folder)
        folders.append(folder)
    found = run_states(folders, results, look or forgiving(look_at_queue))
    return [PlannedRun(*one) for one in zip(runs, folders, found, strict=True)]


def _check_weights(run: Run, folder: RunFolder) -> None:
    """Shipped weights are part of the identity; others only by name, so their content is compared here."""
    config, stored = run.config, folder.record().get("provenance")
    if not stored or (config.backbone.checkpoint in (None, BUILTIN) and config.text_encoder.name == "bert_mini"):
        return
    from workbench.models.build import check_digests

    # A table can be made where the weights are not; a training checks them again.
    with contextlib.suppress(MissingCheckpoint):
        check_digests(config, stored, folder.name)


def to_train(planned: Sequence[PlannedRun], retry: Collection[str] | bool = False) -> list[PlannedRun]:
    """What a submission hands over: finished runs are skipped, queued and running ones left alone, failed ones need
    asking for.

    Args:
        retry: the failure classes asked for, and then nothing else is taken; True stands for all beside the rest.
    """
    skipped: tuple[State, ...] = ("completed", "running", "queued")
    open_runs = [p for p in planned if p.state not in skipped]
    if isinstance(retry, bool):
        return [p for p in open_runs if retry or p.state not in FAILED]
    return [p for p in open_runs if p.run_state.cause in retry]


def jobs(runs: Sequence[PlannedRun], results: Path, threads: int) -> list[TrainingJob]:
    """One job a run, with absolute paths, and with `threads` where the configuration leaves them open."""
    from workbench.results.provenance import source

    origin = source()
    documents = {p.run.setting: job_document(p.run.config, threads) for p in runs}
    return [TrainingJob(documents[p.run.setting], p.run.seed, str(results.absolute()), origin) for p in runs]


def job_document(config: RunConfig, threads: int) -> dict[str, Any]:
    """A configuration as a job gets it: plain values, absolute paths, and `threads` where it leaves them open."""
    machine = config.machine.model_copy(
        update={
            "data_root": config.machine.data_root.absolute(),
            "checkpoint_root": config.machine.checkpoint_root.absolute(),
            "threads": config.machine.threads or threads,
        }
    )
    return config.model_copy(update={"machine": machine}).model_dump(mode="json")


def submit_arrays(
    chosen: Sequence[PlannedRun],
    results: Path,
    profile: Profile,
    grid: Grid,
    held: int,
    after: Sequence[str] = (),
) -> list[SubmittedArray]:
    """Submit runs to Slurm in arrays as large as the cluster and the profile let them be; the ledger must be locked.

    Args:
        held: the lock's descriptor, for sbatch to hold on to.
        after: tasks that must be completed before.

    Raises:
        SchedulerError: Slurm refuses; what was handed over before stays so, and submitting again takes the rest.
    """
    from workbench.launch import scheduler
    from workbench.launch.slurm import submit_array
    from workbench.results.provenance import source

    for planned in chosen:
        planned.folder.set_aside_damage()
    code, origin, made = snapshot(results), source(), []
    size = min(profile.array_size, scheduler.max_array_size())
    for first in range(0, len(chosen), size):
        part = chosen[first : first + size]
        configs = {p.run.id.partition("/")[0]: p.run.config for p in part}
        manifest = {
            "results": str(results.absolute()),
            "code": code.name,
            "source": origin,
            "profile": profile.model_dump(mode="json"),
            "settings": {name: _for_profile(config, profile) for name, config in configs.items()},
        }
        submission = Submissions(results).add(str(grid.file.resolve()), [p.run.id for p in part], manifest)
        made.append(SubmittedArray(submission, submit_array(submission, profile, code, [held], after)))
    return made


def _for_profile(config: RunConfig, profile: Profile) -> dict[str, Any]:
    """A job that was given a GPU must not train without one, should the node's be broken."""
    if profile.gpus_per_node and config.machine.device == "auto":
        machine = config.machine.model_copy(update={"device": "cuda"})
        config = config.model_copy(update={"machine": machine})
    return job_document(config, profile.cpus_per_task)


def report_is_due(grid: Grid, results: Path) -> bool:
    """Whether runs of a grid were handed over since its last report was, also by a launcher that died then."""
    name, made = str(grid.file.resolve()), [0, 0]
    for submission in Submissions(results).submissions():
        if submission.grid == name:
            made[submission.runs[0].startswith(REPORT)] = submission.number
    return made[False] > made[True]


def submit_report_job(grid: Grid, results: Path, profile: Profile, held: int, after: Sequence[str]) -> SubmittedArray:
    """Submit the job that makes the table and figures of a grid when tasks have ended; the ledger must be locked."""
    from workbench.launch.slurm import submit_report

    code, machine = snapshot(results), next(iter(grid.settings.values())).machine
    manifest = {
        "results": str(results.absolute()),
        "code": code.name,
        "grid": str(grid.file.absolute()),
        "then": list(grid.then),
        "data_root": str(machine.data_root.absolute()),
        "checkpoint_root": str(machine.checkpoint_root.absolute()),
    }
    name = str(grid.file.resolve())
    submission = Submissions(results).add(name, [f"{REPORT}{name}"], manifest)
    return SubmittedArray(submission, submit_report(submission, profile, code, [held], after))


def snapshot(results: Path) -> Path:
    """A copy of the package as it is now, for the jobs to run from; the same code shares one copy.

    Returns:
        The folder to put in front of PYTHONPATH.
    """
    from workbench.results.provenance import PACKAGE, code_digest

    assets = "".join(digest_of(file) for file in sorted((PACKAGE / "assets").rglob("*")) if file.is_file())
    name = f"code-{code_digest()}-{hashlib.sha256(assets.encode()).hexdigest()[:8]}"
    target = results.absolute() / SUBMISSIONS / name
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
        shutil.copytree(PACKAGE, partial / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        try:
            partial.rename(target)
        except OSError:
            shutil.rmtree(partial)
            if not target.is_dir():
                raise
    return target


def job_folder(results: Path) -> Path:
    """A new private folder for a submission's logs and pickles."""
    parent = results / SUBMISSIONS
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="jobs-", dir=parent))
    os.chmod(folder, 0o700)  # noqa: PTH101 - mkdtemp's mode already, said aloud: it holds pickles
    return folder

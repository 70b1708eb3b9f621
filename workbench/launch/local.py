"""Running on this machine: submitit's local executor, never with more jobs alive than there are workers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import submitit

from workbench.errors import ConfigError
from workbench.failures import crash, known
from workbench.files import is_locked, open_file
from workbench.grids import Grid
from workbench.launch.plan import PlannedRun, Stage, job_document
from workbench.launch.snapshot import snapshot
from workbench.launch.tasks import TrainingJob
from workbench.results.folders import SUBMISSIONS, RunBusy, RunFolder
from workbench.results.provenance import source

if TYPE_CHECKING:
    from workbench.launch.tasks import Report

POLL_SECONDS = 0.2
STOP_SECONDS = 60.0
IN_USE = ".in-use"
WEEK_MINUTES = 7 * 24 * 60


class ShownProgress(Protocol):
    """What shows how far runs are, for as long as it is entered."""

    def __enter__(self) -> ShownProgress: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def tick(self, running: int, waiting: int) -> None:
        """Called a few times per second."""


Progress = Callable[[Sequence[PlannedRun]], ShownProgress]


class LocalExecutor:
    """This machine as an executor: a bounded number of trainings at once, each a process of its own.

    Args:
        prepare: called for each stage that has something to train.
        report: makes what a grid's `then:` names.
        workers: how many trainings run at once.
        begun: called before a stage is trained, with its runs and the number of trainings at once.

    Attributes:
        logs: folders with what jobs printed.
        artefacts: tables and figures that were made.
    """

    def __init__(
        self,
        results: Path,
        prepare: Callable[[Grid], None],
        report: Report,
        workers: int,
        progress: Progress | None = None,
        begun: Callable[[Sequence[PlannedRun], int], None] = lambda runs, workers: None,
    ) -> None:
        self._results, self._prepare, self._report = results, prepare, report
        self._workers, self._progress, self._begun = workers, progress, begun
        self.logs: list[Path] = []
        self.artefacts: list[Path] = []

    def train(self, stage: Stage, chosen: Sequence[PlannedRun]) -> None:
        """Train a stage's runs; returns when all have ended."""
        self._prepare(stage.grid)
        workers = min(self._workers, len(chosen))
        for planned in chosen:
            planned.folder.set_aside_damage()
        folder = _job_folder(self._results)
        jobs = training_jobs(chosen, self._results, workers)
        self._begun(chosen, workers)
        with contextlib.nullcontext() if self._progress is None else self._progress(chosen) as shown:
            tick = (lambda running, waiting: None) if shown is None else shown.tick
            run_jobs(jobs, folder, snapshot(self._results), workers, visible_gpus(), tick)
        self.logs.append(folder)

    def report(self, stage: Stage) -> None:
        """Make a stage's table and figures, as far as its runs are completed."""
        grid = stage.grid
        states = (RunFolder(self._results, run.id).state() for run in grid.runs())
        if grid.then and any(state == "completed" for state in states):
            # Its file may have been edited while the runs were trained.
            self.artefacts += self._report(replace(grid.whole(), submitted=True), self._results, grid.then)


def training_jobs(runs: Sequence[PlannedRun], results: Path, workers: int) -> list[TrainingJob]:
    """One job per run, with absolute paths; where a configuration leaves its threads open, they share the cores."""
    threads, origin = _threads(workers), source()
    documents = {planned.run.setting: job_document(planned.run.config, threads) for planned in runs}
    return [TrainingJob(documents[p.run.setting], p.run.seed, str(results.absolute()), origin) for p in runs]


def _threads(workers: int) -> int:
    """How many threads each of so many jobs gets: its share of the cores that this process may use.

    More would fight over the cores. OMP_NUM_THREADS, where it is set, is an upper bound: on a machine that others use
    too, threads that wait for each other at every operation can be far slower than one alone.
    """
    share = len(os.sched_getaffinity(0)) // workers
    bound = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return max(1, min(share, int(bound)) if bound.isdecimal() else share)


def _job_folder(results: Path) -> Path:
    """A new private folder for the jobs' logs and pickles."""
    parent = results / SUBMISSIONS
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="jobs-", dir=parent))


def run_jobs(
    jobs: Sequence[TrainingJob],
    folder: Path,
    code: Path,
    workers: int,
    gpus: Sequence[int],
    tick: Callable[[int, int], None],
) -> None:
    """Run all jobs, at most `workers` at once, each with one of `gpus` if there are any; returns when all have ended.

    On KeyboardInterrupt the running jobs are asked to save a checkpoint and waited for; then it is raised again.

    Args:
        folder: for submitit's pickles and the jobs' logs.
        code: put in front of the jobs' PYTHONPATH.
        tick: called a few times per second with (jobs running, jobs waiting).
    """
    executor = submitit.LocalExecutor(folder=folder / "%j")
    waiting = list(jobs)
    running: dict[int, tuple[Any, TrainingJob]] = {}
    with _used(folder):
        _run_all(executor, waiting, running, code, workers, gpus, tick)


def _run_all(
    executor: Any,
    waiting: list[TrainingJob],
    running: dict[int, tuple[Any, TrainingJob]],
    code: Path,
    workers: int,
    gpus: Sequence[int],
    tick: Callable[[int, int], None],
) -> None:
    try:
        while waiting or running:
            for slot in range(workers):
                if slot in running and running[slot][0].done():
                    _note_crash(*running.pop(slot))
                if slot not in running and waiting:
                    executor.update_parameters(timeout_min=WEEK_MINUTES, **_gpu(slot, gpus))
                    with _environment(code, waiting[0].config["machine"]["threads"]):
                        running[slot] = (executor.submit(waiting[0]), waiting.pop(0))
            tick(len(running), len(waiting))
            if waiting or running:
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        _stop([job for job, _ in running.values()])
        raise


def _note_crash(job: Any, training: TrainingJob) -> None:
    """Where a training crashed without time for words of its own: record what its output says of it."""
    run = training.folder()
    if run.state() != "killed":
        return
    printed = job.paths.stderr.read_text(errors="replace") if job.paths.stderr.is_file() else ""
    failure, crashed_with = known(printed), crash(printed)
    cause, message = (failure.kind, failure.message) if failure is not None else crashed_with or (None, "")
    if cause is None:
        return
    with contextlib.suppress(RunBusy), run.claim() as log:
        log.write("end", state="failed", cause=cause, error=message)
        error = {"type": "JobError", "message": message, "class": cause, "time": time.time()}
        run.update(state="failed", error=error)


@contextlib.contextmanager
def _used(folder: Path) -> Iterator[None]:
    """Mark a submission's folder as in use for as long as this process lives."""
    with open_file(folder / IN_USE, "a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def is_in_use(folder: Path) -> bool:
    """Whether the launcher of a local submission still lives."""
    return is_locked(folder / IN_USE)


def visible_gpus() -> list[int]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES numbers them; none without a GPU.

    Raises:
        ConfigError: the variable names them otherwise than by number, which submitit cannot pass on.
    """
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return []
    if named is None:
        return list(range(torch.cuda.device_count()))
    try:
        return [int(number) for number in named.split(",")]
    except ValueError:
        raise ConfigError("CUDA_VISIBLE_DEVICES", f"{named!r}: name GPUs by number, as in 0,1") from None


def _gpu(slot: int, gpus: Sequence[int]) -> dict[str, Any]:
    return {"gpus_per_node": 1, "visible_gpus": [gpus[slot % len(gpus)]]} if gpus else {"gpus_per_node": 0}


@contextlib.contextmanager
def _environment(code: Path, threads: int) -> Iterator[None]:
    """What a job's processes inherit. Ctrl-C must reach the launcher alone, which then stops the jobs in order."""
    path = os.environ.get("PYTHONPATH")
    wanted = {
        "PYTHONPATH": f"{code}{os.pathsep}{path}" if path else str(code),
        # submitit starts `python -m`, which would put the working folder, and so the live tree, before the snapshot.
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": str(threads),
    }
    before = {name: os.environ.get(name) for name in wanted}
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(wanted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _stop(running: list[Any]) -> None:
    for job in running:
        job._process.send_signal(signal.SIGTERM)  # submitit's cancel() would kill after one second
    deadline = time.monotonic() + STOP_SECONDS
    while any(not job.done() for job in running) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)

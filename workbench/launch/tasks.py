"""What a submitted job does: train one run, whatever the backend that started it."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.allocator import keep_freed_memory
from workbench.config import RunConfig
from workbench.errors import InterruptedRun
from workbench.failures import classify, message_of
from workbench.results.record import RunId

if TYPE_CHECKING:
    from workbench.grids import Grid
    from workbench.results.folders import RunFolder

    Report = Callable[[Grid, Path, Sequence[str]], list[Path]]
    """Makes a grid's table or figures, or both, in the results folder; returns their files."""

STOPPED = 75
"""The exit status of a job that was told to stop and left a checkpoint (EX_TEMPFAIL: try again)."""
STDERR = 2
TASK_RUN, TASK_BEGAN = "WORKBENCH_TASK_RUN", "WORKBENCH_TASK_BEGAN"
"""Where the batch script of a task of several runs says whose turn it is (its index), and when the task began."""
CLAIM_SECONDS = 150.0
"""A lock on a network file system outlives a dead node by its lease, 90 seconds as a rule."""


@dataclass(frozen=True)
class TrainingJob:
    """A picklable job. It holds plain values, so that the code that unpickles it is the code that runs.

    Attributes:
        config: the resolved configuration, as `RunConfig.model_dump(mode="json")`.
        results: the results folder, absolute.
        source: commit and state of the tree that submitted it.
    """

    config: dict[str, Any]
    seed: int
    results: str
    source: dict[str, Any]

    def __call__(self) -> str:
        """Train the run; returns its id."""
        stopping: list[int] = []
        # First of all: loading torch takes seconds in which a signal would be lost.
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:  # a local launcher keeps Ctrl-C for itself
                signal.signal(number, lambda received, frame: stopping.append(received))
        try:
            return self.train(lambda: bool(stopping))
        except InterruptedRun as error:
            logging.warning("%s", error)
            return self.folder().name

    def folder(self) -> RunFolder:
        """The run's folder."""
        from workbench.results.folders import RunFolder

        return RunFolder.of(Path(self.results), RunConfig.parse(self.config), self.seed)

    def train(self, stop: Callable[[], str | bool | None]) -> str:
        """Train the run until it is completed or `stop` ends it with InterruptedRun; returns its id."""
        from workbench.training.train import train

        keep_freed_memory()
        logging.basicConfig(
            level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", force=True
        )
        # Where a crash in a library's native code was; who looks after the job reads it there.
        faulthandler.enable(file=STDERR, all_threads=False)
        folder = self.folder()
        train(RunConfig.parse(self.config), self.seed, folder, stop=stop, source=self.source)
        return folder.name

    def obstacle(self) -> str | None:
        """Why the run cannot begin: the run that it begins from is not completed; None where nothing is in the way."""
        from workbench.results.folders import RunFolder

        name = RunConfig.parse(self.config).start_from.run_for(self.seed)
        if name is None or self.folder().checkpoints.latest() is not None:  # it has begun before, and resumes
            return None
        needed = RunFolder(Path(self.results), name)
        state = needed.state()
        if state == "completed":
            return None
        error = None if state == "damaged" else needed.record().error
        return f"it begins from {name}, which is {state}{f': {error.message}' if error is not None else ''}"

    def record_blocked(self, obstacle: str) -> None:
        """Record that the run did not begin, and why; nothing where another process has it."""
        from workbench.results.folders import RunBusy

        folder = self.folder()
        with contextlib.suppress(RunBusy), folder.claim() as log:
            now = time.time()
            log.write("end", state="interrupted", cause="blocked", error=obstacle)
            error = {"type": "Blocked", "message": obstacle, "class": "blocked", "time": now}
            folder.update(state="interrupted", error=error)

    def checkpoint(self) -> Any:
        """Asked by submitit before a timeout or a preemption: the same job again, which resumes by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def task_job(submission: Path, index: int) -> TrainingJob:
    """The job of one run of an array, from the submission's manifest."""
    from workbench.launch.submissions import SubmissionError, read_submission

    record = read_submission(submission)
    manifest = record.manifest
    try:
        setting, seed = RunId.parse(record.runs[index])
        config = manifest.settings[setting]
    except (IndexError, KeyError, ValueError) as error:
        raise SubmissionError(f"{submission}: task {index} has no run: {error}") from None
    return TrainingJob(config, seed, manifest.results, manifest.source)


@dataclass(frozen=True)
class ArrayTask:
    """Any task of one job array: which run it trains is the array's index in the submission's record, or the index that
    the batch script gives it, of a task of several runs.

    All tasks are the same, so one pickle serves all batch scripts, and is there before sbatch is called.

    Attributes:
        submission: the submission's folder, absolute.
        time_seconds: the time limit.
        signal_seconds: how long before it the signal comes.
    """

    submission: str
    time_seconds: float
    signal_seconds: float

    def __call__(self) -> str:
        """Train the task's run; a run that a later submission also names is left to that one."""
        began = float(os.environ.get(TASK_BEGAN, time.time()))
        stopping: list[str] = []

        def stop(received: int, frame: object) -> None:
            if received == signal.SIGUSR2:
                # Slurm may send it a minute early.
                near_end = time.time() - began > self.time_seconds - self.signal_seconds - 90
                stopping.append("timeout" if near_end else "preempted")
            else:
                stopping.append("cancelled")

        # Left alone, SIGUSR2 and SIGTERM would end the process in the middle of a step.
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, stop)
        from workbench.launch.submissions import Submissions, read_submission

        record = read_submission(Path(self.submission))
        index = run_index(record.tasks_of)
        run = record.runs[index]
        job = task_job(record.folder, index)
        if later := Submissions(Path(job.results)).superseded(record.number, run):
            logging.warning("%s was submitted again as %s; this job leaves it to that one", run, later)
            sys.exit(STOPPED)  # not as completed, or what waits for the run would begin without it
        if record.tasks_of > 1 and index in record.cancelled:
            logging.warning("%s was cancelled before its turn", run)
            sys.exit(STOPPED)
        if obstacle := job.obstacle():
            self._give_way(job, obstacle)
        join_processes()
        self._wait_for_claim(job)
        try:
            return job.train(lambda: stopping[0] if stopping else None)
        except InterruptedRun as error:
            logging.warning("%s", error)
            sys.exit(STOPPED)  # not an exception: it would print a traceback

    def _give_way(self, job: TrainingJob, obstacle: str) -> None:
        """End before the training; the next submission takes the run up again."""
        logging.warning("%s: %s", job.folder().name, obstacle)
        if not int(os.environ.get("SLURM_PROCID", "0")):  # the main process records it for all
            job.record_blocked(obstacle)
        sys.exit(STOPPED)

    def _wait_for_claim(self, job: TrainingJob) -> None:
        folder, deadline = job.folder(), time.monotonic() + CLAIM_SECONDS
        if int(os.environ.get("SLURM_PROCID", "0")):
            return  # the main process claims for all
        while folder.claimed() and time.monotonic() < deadline:
            time.sleep(1)


@dataclass(frozen=True)
class ReportTask:
    """Reports on a grid after its runs; a later submission of the grid leaves it to its own.

    Attributes:
        submission: the submission's folder, absolute.
        report: pickled by its name, so that the snapshot's function runs.
    """

    submission: str
    report: Report

    def __call__(self) -> None:
        """Make the table and figures of the grid as it was submitted."""
        from workbench.launch.submissions import Submissions, read_submission

        record = read_submission(Path(self.submission))
        results = Path(record.manifest.results)
        if later := Submissions(results).superseded(record.number, record.runs[0]):
            logging.warning("%s is made by the later submission %s", record.runs[0], later)
            return
        try:
            files = self.report(record.resolved_grid(), results, record.manifest.then)
        except Exception as error:
            record.note_reported("failed", cause=classify(error), message=message_of(error))
            raise
        record.note_reported("made", files=[str(file) for file in files])
        for file in files:
            logging.info("wrote %s", file)


def task_index() -> int:
    """This process's index in its job array."""
    return int(os.environ["SLURM_ARRAY_TASK_ID"])


def run_index(tasks_of: int) -> int:
    """The index of the run whose turn it is in this task, among the submission's runs."""
    return task_index() if tasks_of == 1 else int(os.environ[TASK_RUN])


def join_processes() -> None:
    """Tell torch about the other processes that Slurm started for this run, if there are any."""
    if int(os.environ.get("SLURM_NTASKS", "1")) == 1:
        return
    from submitit.helpers import TorchDistributedEnvironment

    TorchDistributedEnvironment().export(overwrite=True, set_cuda_visible_devices=False)
    if os.environ.get("SLURM_JOB_NUM_NODES", "1") == "1":
        os.environ["MASTER_ADDR"] = "127.0.0.1"  # a node may not be able to resolve its own name

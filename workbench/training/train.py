"""One training, from a configuration and a seed to a finished run folder; it can be stopped and resumed at any step."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from workbench.config import RunConfig
from workbench.errors import ConfigError, DivergedError, InterruptedRun, WorkbenchError
from workbench.failures import FailureClass, classify, message_of
from workbench.results.folders import RunBusy, RunFolder, RunLog, RunRemoved
from workbench.training.checkpointing import resume, save
from workbench.training.final_evaluation import evaluate_splits
from workbench.training.loop import Loop
from workbench.training.reporting import Report, Reporter
from workbench.training.setup import build_parts
from workbench.training.validation import Validation


def train(
    config: RunConfig,
    seed: int,
    folder: RunFolder,
    stop: Callable[[], str | bool | None] = lambda: None,
    report: Report = lambda event: None,
    source: dict[str, Any] | None = None,
) -> None:
    """Train, evaluate and store one run; a finished one is left alone, an unfinished one resumes.

    Args:
        folder: the run's own; claimed for as long as this takes.
        stop: asked after every step and every batch of an evaluation (several processes: after every logged step and
            before each split); a true value saves a checkpoint and ends with InterruptedRun; a failure class, such
            as "timeout", is recorded as the reason.
        source: commit and state of the tree that submitted the run; None means this one's.

    Raises:
        RunBusy: another process is training it.
        DivergedError: the loss became non-finite or exploded.
        InterruptedRun: `stop` asked for it.
        RunRemoved: the run's folder was removed meanwhile.
        ConfigError, DataError, CheckpointError: before anything is trained.
    """
    accelerator = _accelerator(config, folder)
    reason: FailureClass | None = None

    def stop_requested() -> bool:
        nonlocal reason
        request = stop()
        reason = cast(FailureClass, request) if isinstance(request, str) else reason
        return bool(request)

    with _removal_recorded(folder), contextlib.ExitStack() as stack:
        log = _claimed(folder, accelerator, stack)
        if folder.record().state == "completed":
            return
        stack.enter_context(_warnings_logged(log))
        try:
            reporter = Reporter(folder, log, accelerator, report)
            with _removal_told(reporter):
                _train(config, seed, folder, reporter, accelerator, stop_requested, source)
        except RunRemoved:  # recorded outside this claim, which may be on a log that is no more
            raise
        except DivergedError as error:
            _ended(folder, log, "diverged", error, "diverged")
            raise
        except InterruptedRun as error:
            # The reason may be known to a process other than the main one.
            reasons = [cause for cause in gather_object([reason]) if cause is not None]
            _ended(folder, log, "interrupted", error, reasons[0] if reasons else "cancelled")
            # When one process exits, the others are ended too, so wait until the main one has written.
            accelerator.wait_for_everyone()
            raise
        except BaseException as error:
            if log is None:
                folder.leave_error(accelerator.process_index, _error_fields(error, classify(error)))
            _ended(folder, log, "failed", error, classify(error))
            raise


def _train(
    config: RunConfig,
    seed: int,
    folder: RunFolder,
    reporter: Reporter,
    accelerator: Accelerator,
    stop: Callable[[], bool],
    source: dict[str, Any] | None,
) -> None:
    """Set up, train what is left of it, evaluate, and write the final record."""
    config.check_processes(accelerator.num_processes)
    parts = build_parts(config, seed, folder, accelerator.device)
    counts = resume(folder, parts, accelerator)

    def save_now() -> None:
        if reporter.writes:
            reporter.check_held()
            save(folder, parts, counts, accelerator)
            reporter.event("checkpoint", step=counts.step)

    reporter.started(parts, source)
    if config.data.members:
        reporter.event("data", notes=list(parts.data.notes))
    accelerator.init_trackers("")
    reporter.event("resume" if counts.step else "start", step=counts.step, steps=parts.steps)
    validation = None
    if config.validation.every is not None:
        validation = Validation(folder, parts, accelerator, reporter)
    if counts.step < parts.steps or (validation is not None and validation.due(counts)):
        Loop(parts, counts, accelerator, reporter, stop, validation).run(save_now)
    elif folder.checkpoints.latest() is None:  # nothing to train
        save_now()
    began = time.monotonic()
    metrics = evaluate_splits(folder, parts, counts, accelerator, reporter, stop)
    seconds = time.monotonic() - began
    accelerator.end_training()
    reporter.completed(parts, counts, metrics, seconds)


def _accelerator(config: RunConfig, folder: RunFolder) -> Accelerator:
    machine, precision = config.machine, config.training.precision
    if machine.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("machine.device", "cuda is asked for, but torch finds no GPU here; set it to auto or cpu")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        # Without a GPU, accelerate sets up several processes only if the CPU is asked for.
        cpu=machine.device == "cpu" or (several and not torch.cuda.is_available()),
        log_with=list(machine.trackers) or None,
        project_dir=folder.tracker_folder,
    )


def _claimed(folder: RunFolder, accelerator: Accelerator, stack: contextlib.ExitStack) -> RunLog | None:
    """The claimed log for the main process, None for the others; all of them fail if another process holds it."""
    log: RunLog | None = None
    refusal: list[RunBusy | None] = [None]
    if accelerator.is_main_process:
        try:
            log = stack.enter_context(folder.claim())
        except RunBusy as error:
            refusal = [error]
    broadcast_object_list(refusal)
    if refusal[0] is not None:
        raise refusal[0]
    return log


@contextlib.contextmanager
def _removal_told(reporter: Reporter) -> Iterator[None]:
    """Where the run's folder was removed, that is what ended it, and not what followed from it."""
    try:
        yield
    except Exception:
        if reporter.began:
            reporter.check_held()
        raise


@contextlib.contextmanager
def _removal_recorded(folder: RunFolder) -> Iterator[None]:
    """Where the run's folder was removed, a record says so, unless another process has begun the run again."""
    try:
        yield
    except RunRemoved as error:
        with contextlib.suppress(OSError, WorkbenchError), folder.claim() as log:
            record = folder.record()
            if record.identity is None or record.state == "running":
                _ended(folder, log, "failed", error, classify(error))
        raise


@contextlib.contextmanager
def _warnings_logged(log: RunLog | None) -> Iterator[None]:
    """Python's warnings also become lines of the log, because what a job prints is not kept."""
    if log is None:
        yield
        return
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            text = (str(message).strip() or category.__name__).splitlines()[0]
            log.write("warning", category=category.__name__, message=text)
            shown(message, category, *where, **more)

        warnings.showwarning = show
        yield


def _ended(folder: RunFolder, log: RunLog | None, state: str, error: BaseException, cause: FailureClass) -> None:
    if log is None:
        return
    fields = _error_fields(error, cause)
    # The disk may be full; that must not hide the error that ended the run.
    with contextlib.suppress(OSError):
        log.write("end", state=state, cause=cause, error=fields["message"])
    with contextlib.suppress(OSError):
        folder.update(state=state, error=fields)


def _error_fields(error: BaseException, cause: FailureClass) -> dict[str, Any]:
    return {"type": type(error).__name__, "message": message_of(error), "class": cause, "time": time.time()}

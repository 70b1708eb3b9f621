"""The local backend: submitit's local executor behind a queue that never has more jobs alive than it has workers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import submitit

from workbench.errors import ConfigError
from workbench.files import is_locked
from workbench.launch.tasks import TrainingJob

POLL_SECONDS = 0.2
STOP_SECONDS = 60.0
IN_USE = ".in-use"
WEEK_MINUTES = 7 * 24 * 60


def run_locally(
    jobs: Sequence[TrainingJob],
    folder: Path,
    code: Path,
    workers: int,
    gpus: Sequence[int],
    tick: Callable[[int, int], None],
) -> None:
    """Run all jobs, at most `workers` at once, each with one of `gpus` if there are any; returns when all have ended.

    On KeyboardInterrupt the running jobs are asked to save a checkpoint, and are waited for, before it goes on up.

    Args:
        folder: for submitit's pickles and the jobs' logs.
        code: put in front of the jobs' PYTHONPATH.
        tick: called a few times a second with (jobs running, jobs waiting).
    """
    executor = submitit.LocalExecutor(folder=folder / "%j")
    waiting = list(jobs)
    running: dict[int, Any] = {}
    with _used(folder):
        _run_all(executor, waiting, running, code, workers, gpus, tick)


def _run_all(
    executor: Any,
    waiting: list[TrainingJob],
    running: dict[int, Any],
    code: Path,
    workers: int,
    gpus: Sequence[int],
    tick: Callable[[int, int], None],
) -> None:
    try:
        while waiting or running:
            for slot in range(workers):
                if slot in running and running[slot].done():
                    del running[slot]
                if slot not in running and waiting:
                    executor.update_parameters(timeout_min=WEEK_MINUTES, **_gpu(slot, gpus))
                    with _environment(code, waiting[0].config["machine"]["threads"]):
                        running[slot] = executor.submit(waiting.pop(0))
            tick(len(running), len(waiting))
            if waiting or running:
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        _stop(list(running.values()))
        raise


@contextlib.contextmanager
def _used(folder: Path) -> Iterator[None]:
    """Mark a submission's folder as in use for as long as this process lives."""
    with (folder / IN_USE).open("a+b") as stream:
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

"""Times contestants in turns, so that changes of the machine's speed affect all of them alike."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from workbench.errors import WorkbenchError

T = TypeVar("T")

Report = Callable[[str], None]
"""Called with one line for each thing that was measured."""


def race(contestants: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each contestant over `rounds` turns, after one warm-up turn."""
    seconds: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    for _ in range(rounds + 1):
        for contestant, run in contestants.items():
            _wait(device)
            began = time.perf_counter()
            run()
            _wait(device)
            seconds[contestant].append(time.perf_counter() - began)
    return {contestant: statistics.median(times[1:]) for contestant, times in seconds.items()}


def in_words(name: str, seconds: Mapping[str, float]) -> str:
    """A line for `Report`."""
    return f"{name}: " + ", ".join(f"{contestant} {1000 * s:.1f} ms" for contestant, s in seconds.items())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(prepare: Callable[[], Callable[[], object]], device: torch.device) -> float:
    """MiB that a piece of work takes at its peak, beyond what was in use before.

    Args:
        prepare: returns the work; on the CPU it runs in a fresh process, so it must be importable.
    """
    if device.type == "cuda":
        run = prepare()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        _wait(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    return in_fresh_process(functools.partial(_resident_growth, prepare))


def _resident_growth(prepare: Callable[[], Callable[[], object]]) -> float:
    run = prepare()
    before = most_resident()
    run()
    return most_resident() - before


def most_resident() -> float:
    """The most MiB that this process had resident. Not from getrusage, which keeps the parent's peak across exec."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


@contextlib.contextmanager
def busy_core() -> Iterator[int]:
    """Another process computes all the time; its number. It ends with the block, and should this process die."""
    busy = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"
    process = subprocess.Popen([sys.executable, "-c", busy])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def in_fresh_process(work: Callable[[], T]) -> T:
    """What `work` returns in a process of its own: with an allocator that no other measurement has affected."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(work, torch.get_num_threads(), sender))
    process.start()
    sender.close()
    try:
        answer: T = receiver.recv()
    except EOFError:
        raise WorkbenchError("a measuring process ended early; is there enough memory?") from None
    finally:
        process.join()
    return answer


def _answer(work: Callable[[], object], threads: int, sender: Any) -> None:
    torch.set_num_threads(threads)
    sender.send(work())

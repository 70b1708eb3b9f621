"""Why a run ended before it was completed: a small set of classes, each with a way out."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from workbench.errors import DivergedError, InterruptedRun, WorkbenchError

FailureClass = Literal[
    "out_of_memory",
    "timeout",
    "preempted",
    "node_failure",
    "diverged",
    "bad_data",
    "disk_full",
    "code_error",
    "killed",
    "cancelled",
    "blocked",
    "removed",
    "damaged",
    "tampered",
]
CLASSES: tuple[str, ...] = get_args(FailureClass)

WAY_OUT: dict[str, str] = {
    "out_of_memory": "a smaller batch, or a profile with more memory",
    "timeout": "a profile with more time; it resumes from its last checkpoint",
    "preempted": "it resumes from its last checkpoint",
    "node_failure": "it resumes from its last checkpoint; name a node in the profile's exclude if it fails again",
    "diverged": "a lower learning rate",
    "bad_data": "the message names the file or the field",
    "disk_full": "room on the disk that holds the results",
    "code_error": "see its log",
    "killed": "something outside ended it; it resumes from its last checkpoint",
    "cancelled": "workbench retry --class cancelled takes it up again",
    "blocked": "take up the run that it begins from, with workbench retry, which also submits this one again",
    "removed": "workbench retry --class removed trains it again, from the checkpoint if that is still there",
    "damaged": "workbench retry --class damaged sets run.json aside and takes it up from its checkpoint",
    "tampered": "ask who else may write the results folder; workbench retry --class tampered submits it anew",
}


@dataclass(frozen=True)
class Known:
    """A failure that libraries report in words of their own.

    Attributes:
        words: what they say, a regular expression.
        message: what it means and what to do, the same for all runs, so that they are counted together.
    """

    kind: FailureClass
    words: re.Pattern[str]
    message: str


SHARED_MEMORY = (
    "the loader workers' shared memory, /dev/shm, is full: lower machine.loader_workers, or give the job (or the "
    "container: --shm-size) more of it"
)
KNOWN = (
    Known("out_of_memory", re.compile(
        r"killed by signal: Bus error|out of shared memory|insufficient shared memory \(shm\)"
        r"|unable to (write to|mmap|open|allocate).{0,40}</?torch_|unable to allocate shared memory\(shm\)"
    ), SHARED_MEMORY),
    Known("out_of_memory", re.compile(r"DataLoader worker \(pid \S+ is killed by signal: Killed"),
          "a loader worker was killed, which a node does when its memory is full: lower machine.loader_workers, set "
          "machine.cache_images to false, or choose a profile with more memory"),
    Known("out_of_memory", re.compile(
        r"(CUDA|HIP) (out of memory|ran out of memory)|CUDA error: out of memory|(cuda|hip)ErrorMemoryAllocation"
        r"|CU(BLAS|SOLVER|SPARSE|DNN|FFT)(_STATUS)?_(INTERNAL_ERROR_DEVICE_)?ALLOC(ATION)?_FAILED"
        r"|CUBLAS_STATUS_NOT_INITIALIZED.*cublas(Lt)?Create|CUDA_ERROR_OUT_OF_MEMORY"
    ), "the GPU's memory is full: a smaller training.batch_size or image, or a profile whose GPUs have more"),
    Known("node_failure", re.compile(
        r"uncorrectable (ECC|NVLink) error|cudaErrorECCUncorrectable|cudaErrorNvlinkUncorrectable|double[- ]bit ECC"
        r"|cudaErrorContained|hardware stack error"
    ), "the GPU reports damaged memory or links (an uncorrectable error): name the node in the profile's exclude, and "
       "tell the cluster's people"),
    Known("node_failure", re.compile(
        r"fallen off the bus|\bXid\b|GPU is lost|cudaErrorDevicesUnavailable|device\(s\) is/are busy or unavailable"
        r"|cudaErrorNoDevice|no CUDA-capable device is detected|No CUDA GPUs are available|CUDA_ERROR_NO_DEVICE"
        r"|CUDA-capable device is busy|cudaErrorSystemNotReady|system not yet initialized"
    ), "the GPU was lost or cannot be used: name the node in the profile's exclude if it happens there again"),
    Known("node_failure", re.compile(
        r"unhandled (system|cuda) error|nccl(System|Remote|UnhandledCuda)Error|remote process exited or there was a net"
        r"|Watchdog caught collective operation timeout|NCCL operation timed out|NCCL communicator was aborted"
    ), "the GPUs' processes lost each other (NCCL): another one ended or hung, or the network failed; the other "
       "processes' logs may say more, NCCL_DEBUG=INFO says which"),
)  # fmt: skip
"""In this order: the first that fits tells."""


def known(text: str) -> Known | None:
    """The known failure that a text speaks of, such as an exception's message or what a job printed."""
    return next((failure for failure in KNOWN if failure.words.search(text)), None)


def _said(error: BaseException) -> Iterator[str]:
    """The messages of an exception and of those that it came from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield str(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _known(error: BaseException) -> Known | None:
    return next((failure for text in _said(error) for failure in [known(text)] if failure is not None), None)


def message_of(error: BaseException) -> str:
    """What ended a run, in one line: of a known failure, what it means and what to do."""
    found = _known(error)
    if found is not None:
        return found.message
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def classify(error: BaseException) -> FailureClass:
    """The class of what an exception ended; torch need not be there for it."""
    if isinstance(error, DivergedError):
        return "diverged"
    if isinstance(error, InterruptedRun):
        return "cancelled"
    found = _known(error)
    if found is not None:
        return found.kind
    kinds = {kind.__name__ for kind in type(error).__mro__}
    # CPU torch says it with a RuntimeError of these words.
    if kinds & {"OutOfMemoryError", "MemoryError"} or "not enough memory" in str(error):
        return "out_of_memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full"
    if "No space left on device" in str(error):  # libraries in other languages bring the words alone
        return "disk_full"
    if "RunRemoved" in kinds:  # of a room above this one
        return "removed"
    if isinstance(error, WorkbenchError):
        return "bad_data"
    return "code_error"


CRASHES = {
    "SIGSEGV": "a segmentation fault",
    "SIGABRT": "an abort",
    "SIGFPE": "an arithmetic error",
    "SIGILL": "an instruction that this processor lacks",
    "SIGBUS": "a bus error",
}
"""Signals that a process causes itself, as a rule; Python's fault handler writes where it was."""
FAULT = re.compile(r"^Fatal Python error: (.+)$", re.M)
FRAME = re.compile(r'^  File "(.+)", line (\d+) in (\S+)$', re.M)
FAULTS = {"Segmentation fault": "SIGSEGV", "Aborted": "SIGABRT", "Floating point exception": "SIGFPE",
          "Floating-point exception": "SIGFPE", "Illegal instruction": "SIGILL", "Bus error": "SIGBUS"}  # fmt: skip


def crash(printed: str, signal_name: str | None = None) -> tuple[FailureClass, str] | None:
    """The class and the message of a training that crashed by itself; None where it did not.

    Args:
        printed: what it printed, with what Python's fault handler wrote last.
        signal_name: which ended it, where that is known; otherwise the fault handler's words tell.
    """
    faults = list(FAULT.finditer(printed))
    name = signal_name or (FAULTS.get(faults[-1][1].strip()) if faults else None)
    if name not in CRASHES:
        return None
    frame = FRAME.search(printed, faults[-1].end()) if faults else None
    where = f" in {frame[3]}, line {frame[2]} of {frame[1]}" if frame else ""
    advice = f", or {SHARED_MEMORY}" if name == "SIGBUS" else ""
    return (
        "code_error",
        f"the training itself crashed with {CRASHES[name]} ({name}){where}; its log may say more{advice}",
    )

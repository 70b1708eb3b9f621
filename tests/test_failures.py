from __future__ import annotations

import errno
import signal
import subprocess
import sys

import pytest
import torch

from workbench.errors import CheckpointError, ConfigError, DataError, DivergedError
from workbench.failures import CLASSES, WAY_OUT, classify, crash, known, message_of
from workbench.launch.scheduler import SLURM_STATES

GPU_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.2 GiB is free.",
    "CUDA out of memory. Allocation was preemptively rejected because it would exceed per_process_memory_fraction",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA driver error: out of memory: CUDA_ERROR_OUT_OF_MEMORY",
    "cudaErrorMemoryAllocation: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA ran out of memory outside PyTorch's allocator. If this workload uses many dynamic shapes",
)
SHARED = (
    "DataLoader worker (pid 4242) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit.",
    "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).",
    "unable to write to file </torch_4242_1_0>: No space left on device (28)",
    "unable to mmap 201326592 bytes from file </torch_4242_1_0>: Cannot allocate memory (12)",
    "unable to allocate shared memory(shm) for file </torch_4242_1_0>: Success (0)",
)
DAMAGED = (
    "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be",
    "cudaErrorECCUncorrectable",
    "CUDA error: uncorrectable NVLink error detected during the execution",
)
LOST = (
    "NVRM: Xid (PCI:0000:1b:00): 79, pid=42, GPU has fallen off the bus.",
    "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
    "cudaErrorDevicesUnavailable",
    "No CUDA GPUs are available",
    "Unable to determine the device handle for GPU0000:1B:00.0: GPU is lost.  Reboot the system to recover this GPU",
)
APART = (
    "NCCL error in: ProcessGroupNCCL.cpp:2690, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL "
    "version 2.27.5\nncclSystemError: System call (e.g. socket, malloc) or external library call failed.",
    "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12, OpType=ALLREDUCE) ran for 600029 ms",
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
    "NCCL communicator was aborted on rank 1.",
)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (torch.OutOfMemoryError("HIP out of memory"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried"),
         "out_of_memory"),
        (DivergedError(3, "NaN"), "diverged"),
        (DataError("broken image"), "bad_data"),
        (ConfigError("a.b", "wrong"), "bad_data"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"), "disk_full"),
        (OSError(errno.EACCES, "Permission denied"), "code_error"),
        (RuntimeError("CUDA error: device-side assert triggered"), "code_error"),
        (RuntimeError("x_backward does not have a deterministic implementation"), "code_error"),
        (CheckpointError("model.pt: truncated"), "bad_data"),
        (KeyError("x"), "code_error"),
    ],
)  # fmt: skip
def test_an_exception_has_its_class(error: BaseException, kind: str) -> None:
    assert classify(error) == kind


def test_every_class_has_a_way_out_and_every_slurm_state_a_class() -> None:
    assert set(WAY_OUT) == set(CLASSES)
    assert set(SLURM_STATES.values()) <= set(CLASSES)


@pytest.mark.parametrize(
    ("texts", "kind", "advice"),
    [
        (GPU_MEMORY, "out_of_memory", "smaller training.batch_size"),
        (SHARED, "out_of_memory", "lower machine.loader_workers"),
        (("DataLoader worker (pid 7) is killed by signal: Killed. ",), "out_of_memory", "cache_images"),
        (DAMAGED, "node_failure", "exclude"),
        (LOST, "node_failure", "exclude"),
        (APART, "node_failure", "NCCL_DEBUG"),
    ],
)
def test_a_gpu_nodes_words_are_known(texts: tuple[str, ...], kind: str, advice: str) -> None:
    for text in texts:
        error = RuntimeError(text)
        assert (classify(error), known(text) is not None) == (kind, True), text
        assert advice in message_of(error)
        assert "\n" not in message_of(error)
    assert len({message_of(RuntimeError(text)) for text in texts}) == 1, "counted together"


def test_the_cause_of_an_exception_counts_too() -> None:
    error = RuntimeError("DataLoader worker (pid(s) 4242) exited unexpectedly")
    error.__cause__ = RuntimeError(SHARED[0])
    assert classify(error) == "out_of_memory"
    assert "/dev/shm" in message_of(error)
    assert message_of(KeyError("x")) == "'x'"
    assert message_of(AssertionError()) == "AssertionError"


@pytest.mark.parametrize(
    ("statement", "name", "words"),
    [
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV", "a segmentation fault (SIGSEGV) in string_at"),
        ("import os; os.abort()", "SIGABRT", "an abort (SIGABRT) in <module>"),
    ],
)
def test_a_process_that_crashes_by_itself_is_not_called_killed(statement: str, name: str, words: str) -> None:
    program = f"import faulthandler, numpy; faulthandler.enable(all_threads=False)\n{statement}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -getattr(signal, name)
    for known_signal in (name, None):
        found = crash(done.stderr, known_signal)
        assert found is not None
        assert found[0] == "code_error"
        assert words in found[1]
    assert crash("", name) is not None
    assert crash("", "SIGKILL") is None
    assert crash("nothing of the kind") is None


def test_a_bus_error_names_shared_memory() -> None:
    found = crash("", "SIGBUS")
    assert found is not None
    assert "/dev/shm" in found[1]

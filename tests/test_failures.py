from __future__ import annotations

import errno

import pytest
import torch

from workbench.errors import ConfigError, DataError, DivergedError
from workbench.failures import CLASSES, WAY_OUT, classify
from workbench.launch.scheduler import SLURM_STATES


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried"),
         "out_of_memory"),
        (DivergedError(3, "NaN"), "diverged"),
        (DataError("broken image"), "bad_data"),
        (ConfigError("a.b", "wrong"), "bad_data"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"), "disk_full"),
        (OSError(errno.EACCES, "Permission denied"), "code_error"),
        (KeyError("x"), "code_error"),
    ],
)  # fmt: skip
def test_an_exception_has_its_class(error: BaseException, kind: str) -> None:
    assert classify(error) == kind


def test_every_class_has_a_way_out_and_every_slurm_state_a_class() -> None:
    assert set(WAY_OUT) == set(CLASSES)
    assert set(SLURM_STATES.values()) <= set(CLASSES)

"""Memory that a submission needs beside the node's own: what loader workers share, and what is free on the GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.config import RunConfig
from workbench.grids import Grid

SHARED_MEMORY = Path("/dev/shm")
PREFETCHED = 2
"""Batches that each loader worker holds ready, torch's default; one more is being made, one is in use."""
FREE_SHARE = 0.9
"""Of a GPU's memory; with less, another process uses it."""


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        passed: None where it could not be checked.
        remedy: how to fix it.
    """

    name: str
    passed: bool | None
    found: str
    remedy: str = ""


def loader_bytes(config: RunConfig, processes: int = 1) -> int:
    """Bytes of shared memory that one process's loader workers fill with batches; 0 without workers.

    Args:
        processes: that share a run's batches.
    """
    batch = -(-config.training.batch_size // processes)
    pixels_and_mask = 4 * config.backbone.image_size**2
    workers = config.machine.loader_workers
    return (workers * (PREFETCHED + 1) + 1) * batch * pixels_and_mask if workers else 0


def free_shared_memory() -> int | None:
    """Bytes that are free in /dev/shm; None where there is none."""
    if not SHARED_MEMORY.is_dir():
        return None
    state = os.statvfs(SHARED_MEMORY)
    return state.f_bavail * state.f_frsize


def free_gpu_memory() -> list[tuple[int, int]]:
    """Free and total bytes of each GPU that torch finds here."""
    import torch

    return [torch.cuda.mem_get_info(number) for number in range(torch.cuda.device_count())]


def shared_memory(grid: Grid | None, at_once: int, free: int | None, where: str, processes: int = 1) -> Iterator[Check]:
    """Whether /dev/shm holds what the loader workers of a node's processes put there; nothing without workers.

    Args:
        at_once: runs on the node.
        free: its free bytes; None where there is no such folder.
        processes: of one run, on the node.
    """
    configs = [] if grid is None else list(grid.settings.values())
    needed = max((loader_bytes(config, processes) for config in configs), default=0) * at_once * processes
    if not needed:
        return
    name = f"shared memory {where}"
    if free is None:
        yield Check(name, None, f"no {SHARED_MEMORY} to look at")
        return
    remedy = "lower machine.loader_workers, or give the job (or the container: --shm-size) more of it"
    measured = f"{free / 2**30:.1f} GB free in {SHARED_MEMORY}, the loader workers fill up to {needed / 2**30:.2f}"
    yield Check(name, free >= needed, measured, remedy)


def gpu_memory(free_and_total: Sequence[Sequence[int]], where: str) -> Iterator[Check]:
    """Whether the GPUs are empty; nothing without a GPU."""
    for number, (free, total) in enumerate(free_and_total):
        measured = f"{free / 2**30:.0f} of {total / 2**30:.0f} GB free"
        remedy = "another process uses it: see nvidia-smi there"
        yield Check(f"memory of GPU {number} {where}", free >= FREE_SHARE * total, measured, remedy)

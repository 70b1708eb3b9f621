"""Speed and memory, as ratios between contestants that alternate in one run; `workbench bench NAME` prints them.

Most figures are speed-ups: how many times as fast ours is as the reference. Their names are fixed, so that runs can be
compared; each benchmark's module says what its figures are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from workbench.registry import Registry

if TYPE_CHECKING:
    import torch

Report = Callable[[str], None]
Benchmark = Callable[["torch.device", Report], dict[str, float]]
benchmarks: Registry[Benchmark] = Registry("benchmark", "bench")


@benchmarks.register("attention")
def _attention(device: torch.device, report: Report) -> dict[str, float]:
    from workbench.benchmarks.attention import run

    return run(device, report)


@benchmarks.register("data")
def _data(device: torch.device, report: Report) -> dict[str, float]:
    from workbench.benchmarks.data import run

    return run(device, report)


@benchmarks.register("encoder")
def _encoder(device: torch.device, report: Report) -> dict[str, float]:
    from workbench.benchmarks.encoder import run

    return run(device, report)


@benchmarks.register("launch")
def _launch(device: torch.device, report: Report) -> dict[str, float]:
    from workbench.benchmarks.launch import run

    return run(report, fake=False)


@benchmarks.register("reuse")
def _reuse(device: torch.device, report: Report) -> dict[str, float]:
    from workbench.benchmarks.reuse import run

    return run(device, report)


@benchmarks.register("trace")
def _trace(device: torch.device, report: Report) -> dict[str, float]:
    from workbench.benchmarks.trace import run

    return run(device, report)

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from workbench.benchmarks import launch

Command = Callable[..., Any]


@pytest.mark.exhaustive
def test_bench_launch_prints_its_figures(workbench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "SETTINGS", 2)
    monkeypatch.setattr(launch, "SEEDS", 10)
    monkeypatch.setattr(launch, "FINISHED", 20)
    done = workbench("bench", "launch", "--fake-scheduler", "--json")
    assert done.code == 0, done.err
    figures = json.loads(done.out)
    assert figures["sbatch_calls"] == figures["status_scheduler_calls"] == figures["resubmit_scheduler_calls"] == 1
    assert figures["files_per_run"] <= 3
    assert {"submit_seconds", "status_seconds", "collect_10k_cold_seconds", "collect_10k_warm_seconds"} <= set(figures)


def test_a_fake_scheduler_means_nothing_to_other_benchmarks(workbench: Command) -> None:
    done = workbench("bench", "reuse", "--fake-scheduler")
    assert done.code == 2
    assert "--fake-scheduler belongs to the benchmark launch, not to reuse" in done.err

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from workbench.benchmarks import launch, launch_commands

Command = Callable[..., Any]


@pytest.mark.exhaustive
def test_bench_launch_prints_its_figures(workbench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "SETTINGS", 2)
    monkeypatch.setattr(launch, "SEEDS", 10)
    monkeypatch.setattr(launch, "FINISHED", 20)
    for name, count in {"REPEATS": 1, "THOUSAND": 4, "MANY": 8, "MOST": 12}.items():
        monkeypatch.setattr(launch_commands, name, count)
    done = workbench("bench", "launch", "--fake-scheduler", "--json")
    assert done.code == 0, done.err
    figures = json.loads(done.out)
    assert figures["sbatch_calls"] == figures["status_scheduler_calls"] == figures["resubmit_scheduler_calls"] == 1
    assert figures["files_per_run"] <= 3
    assert figures["sbatch_calls_550_after_50"] == 2
    assert figures["array_tasks_1000_tasks_of_10"] == 1, "of the four runs that stand for a thousand here"
    commands = {f"{name}_command_seconds" for name in ("submit_1000", "submit_10k", "status_10k", "status_100k",
                                                       "status_10k_done", "table_10k")}  # fmt: skip
    assert commands | {
        "plan_first_seconds",
        "plan_unchanged_seconds",
        "libraries_seconds",
        "status_100k_mib",
        "table_10k_mib",
    } <= set(figures)
    assert {"submit_seconds", "status_seconds", "collect_10k_cold_seconds", "collect_10k_warm_seconds"} <= set(figures)


def test_a_fake_scheduler_means_nothing_to_other_benchmarks(workbench: Command) -> None:
    done = workbench("bench", "reuse", "--fake-scheduler")
    assert done.code == 2
    assert "--fake-scheduler belongs to the benchmark launch, not to reuse" in done.err

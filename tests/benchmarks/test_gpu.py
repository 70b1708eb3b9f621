"""The parts of a GPU's first hour, tried on the CPU at toy size, and how they are run."""

from __future__ import annotations

import builtins
import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from workbench.benchmarks import benchmarks, gpu, gpu_checks, gpu_speed
from workbench.benchmarks.gpu import GOALS, PARTS, TOY, Figures, Hour, Part, Skipped, attempt, examine

Command = Callable[..., Any]


def hour(folder: Path, **known: Figures) -> Hour:
    return Hour("cpu", TOY, folder, known)


def part(name: str) -> Part:
    return next(part for part in PARTS if part.name == name)


def test_without_a_gpu_every_part_is_skipped_by_name(workbench: Command, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = workbench("doctor", "--gpu", "--out", tmp_path / "new" / "gpu.json")
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "new" / "gpu.json").read_text())
    for one in PARTS:
        assert told[one.name] == {
            "status": "skipped",
            "why": "torch finds no GPU",
            "seconds": told[one.name]["seconds"],
        }
        assert f"skipped  {one.name}: torch finds no GPU" in done.out
    assert set(told["goals"].values()) == {None}
    assert told["machine"]["missing_packages"] == ""


def test_the_doctor_wants_a_profile_or_a_gpu(workbench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKBENCH_PROFILE", raising=False)
    asked = workbench("doctor")
    assert asked.code == 2
    assert "--profile" in asked.err


def good(hour: Hour) -> Figures:
    return {"number": 1 / 3, "known": len(hour.known)}


def bad(hour: Hour) -> Figures:
    raise ValueError("a first line\nand a second")


def without_package(hour: Hour) -> Figures:
    raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")


def not_here(hour: Hour) -> Figures:
    raise Skipped("it needs two")


def crashing(hour: Hour) -> Figures:
    os.abort()


def slow(hour: Hour) -> Figures:
    time.sleep(60)
    return {}


@pytest.mark.exhaustive
def test_a_part_that_fails_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "test_gpu_parts"
    monkeypatch.setitem(sys.modules, f"workbench.benchmarks.{place}", sys.modules[__name__])
    monkeypatch.setattr(gpu, "LEAST_SECONDS", 0.1)
    names = ("bad", "crashing", "without_package", "not_here", "slow", "good")
    parts = [Part(name, f"{place}:{name}", 3) for name in names]
    lines: list[str] = []
    answers = examine(tmp_path / "gpu.json", lines.append, "cpu", TOY, parts=parts)
    why = {name: (answers[name]["status"], answers[name].get("why")) for name in names}
    assert why == {
        "bad": ("error", "ValueError: a first line"),
        "crashing": ("error", "its process was ended by SIGABRT"),
        "without_package": ("skipped", "the package nowhere is missing"),
        "not_here": ("skipped", "it needs two"),
        "slow": ("error", "took longer than 3 s"),
        "good": ("done", None),
    }
    assert answers["good"]["number"] == 0.3333
    assert json.loads((tmp_path / "gpu.json").read_text()) == answers
    assert len(lines) == len(names)
    late = examine(None, lines.append, "cpu", TOY, seconds=0.0, parts=parts)
    assert {late[name]["why"] for name in names} == {"no time was left"}


def test_goals_are_held_against_the_figures() -> None:
    answers: dict[str, Figures] = {"training": {"tflops": 420.0}, "loader": {"share_of_rate_without": 0.9}}
    assert list(gpu._goals(answers).values()) == [True, False]
    assert {name for name, _ in GOALS} <= {one.name for one in PARTS}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "card",
        "matmul_peak",
        "training",
        "bf16",
        pytest.param("deterministic", marks=pytest.mark.exhaustive),
        "attention",
        "variants",
    ],
)
def test_a_part_does_its_work_on_the_cpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "every_case", lambda: iter([("l_dit", "global"), ("e_dit", "windowed")]))
    answer = attempt(part(name), hour(tmp_path, matmul_peak={"bf16_tflops": 0.1}))
    assert answer["status"] == "done", answer
    figures = {key: value for key, value in answer.items() if isinstance(value, float)}
    assert all(value >= 0 for value in figures.values())
    if name == "training":
        assert answer["gflop_per_image"] > 0
        assert answer["share_of_matmul_peak"] > 0
    if name == "deterministic":
        assert answer["the_same_twice"] == answer["cases"] == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.exhaustive) for name in ("grid", "loader", "two_processes", "compile")],
)
def test_a_larger_part_does_its_work_on_the_cpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    answer = attempt(part(name), hour(tmp_path))
    assert answer["status"] == "done", answer
    wanted = {"grid": "l_dit_miou", "loader": "share_of_rate_without", "two_processes": "largest_difference",
              "compile": "largest_difference"}[name]  # fmt: skip
    assert answer[wanted] >= 0


@pytest.mark.slow
def test_the_useful_work_of_a_step_is_what_the_ceiling_assumes(tmp_path: Path) -> None:
    work = gpu_speed.useful_flops(Hour("cpu", gpu.FULL, tmp_path))
    assert 0.6e12 < work["encoder"] < work["model"] < 0.75e12, "about 0.67 TFLOP an image"


def test_benchmarks_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(benchmarks._things, "encoder", lambda device, report: {"figure": 2.0})
    assert attempt(part("bench_encoder"), hour(tmp_path)) == {"status": "done", "figure": 2.0}
    assert attempt(part("bench_encoder"), Hour("cpu", gpu.FULL, tmp_path))["status"] == "skipped"


def test_a_difference_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "every_case", lambda: iter([("l_dit", "global")]))
    monkeypatch.setattr(gpu_checks, "FP32_ERROR", -1.0)
    monkeypatch.setattr(gpu_checks, "LEAST_COSINE", 2.0)
    for name in ("variants", "bf16"):
        answer = attempt(part(name), hour(tmp_path))
        assert answer["status"] == "error"
        assert "l_dit, global" in answer["why"]


def test_the_command_line_s_packages_are_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without_typer(name: str, *rest: Any, **more: Any) -> Any:
        if name == "workbench.cli":
            raise ModuleNotFoundError("No module named 'typer'", name="typer")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_typer)
    monkeypatch.setattr(gpu, "PARTS", ())
    monkeypatch.setattr(gpu.examine, "__defaults__", (*gpu.examine.__defaults__[:3], (), True))  # type: ignore[index]
    monkeypatch.setattr(sys, "argv", ["workbench", "doctor", "--gpu", "--out", str(tmp_path / "gpu.json")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("workbench", run_name="__main__")
    assert ended.value.code == 0
    assert "machine" in json.loads((tmp_path / "gpu.json").read_text())
    monkeypatch.setattr(sys, "argv", ["workbench", "table"])
    with pytest.raises(SystemExit, match="the package typer is missing"):
        runpy.run_module("workbench", run_name="__main__")


def test_python_m_workbench_is_the_command_line() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "workbench", "doctor", "--help"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--gpu" in done.stdout


def test_the_runner_needs_the_standard_library_alone() -> None:
    program = "import sys; import workbench.benchmarks.gpu; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=False, cwd=ROOT,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not {"torch", "numpy", "pydantic", "typer"} & set(done.stdout.split())

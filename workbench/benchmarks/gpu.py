"""`workbench doctor --gpu`: checks and measurements that need a GPU, in parts that do not stop each other.

This module needs only the standard library, so that it can name missing packages. Each part runs in a process of its
own, with a time limit, because after an error of CUDA a process cannot compute any more.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import multiprocessing
import os
import platform
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "torchvision", "numpy", "pydantic", "segment_anything", "transformers", "safetensors", "pycocotools",
    "pyarrow", "PIL", "omegaconf", "accelerate", "pandas", "tensorboard", "typer", "rich",
)  # fmt: skip
"""What the parts import; the others of the project's packages are not needed here."""
LEAST_SECONDS = 15.0
GOALS = {
    ("training", "tflops"): 410.0,
    ("loader", "share_of_rate_without"): 0.95,
}
"""(part, figure) and the least it should be on one H100 or H200."""

Figures = dict[str, Any]
Report = Callable[[str], None]


class Skipped(Exception):
    """A part cannot be done here; the message says why."""


@dataclass(frozen=True)
class Size:
    """How large the parts are.

    Attributes:
        backbone, image: of what is timed; image in pixels.
        batch: of what is timed; halved while it does not fit.
        rounds: of which the median is taken.
        steps: of a short training.
        matmul: side of the square matrices of the peak.
        scale: of the data set for the loader, as a fraction of RefCOCO.
        tokens: side of the grid of image tokens of the timed attention.
    """

    backbone: str = "vit_b"
    image: int = 512
    batch: int = 64
    rounds: int = 7
    steps: int = 60
    matmul: int = 8192
    scale: float = 0.02
    tokens: int = 32


FULL = Size()
TOY = Size("vit_mini", image=64, batch=2, rounds=1, steps=2, matmul=64, scale=0.001, tokens=4)


@dataclass(frozen=True)
class Hour:
    """What every part is given.

    Attributes:
        device: "cuda", or "cpu" to try the parts themselves.
        folder: for files that are gone afterwards.
        known: the figures of the parts before, by part.
    """

    device: str
    size: Size
    folder: Path
    known: Mapping[str, Figures] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One thing that is tried.

    Attributes:
        place: `module:function` below this package; imported in the part's own process. The function takes an `Hour`,
            returns its figures, and raises where something is wrong.
        seconds: the most that it may take.
    """

    name: str
    place: str
    seconds: float = 90.0


PARTS = (
    Part("card", "gpu_checks:card", 60),
    Part("matmul_peak", "gpu_speed:matmul_peak", 60),
    Part("training", "gpu_speed:training", 120),
    Part("variants", "gpu_checks:variants"),
    Part("deterministic", "gpu_checks:deterministic"),
    Part("bf16", "gpu_checks:bf16"),
    Part("loader", "gpu_speed:loader", 120),
    Part("attention", "gpu_speed:attention"),
    Part("grid", "gpu_checks:grid", 120),
    Part("two_processes", "gpu_checks:two_processes"),
    Part("compile", "gpu_checks:compiled", 120),
    Part("bench_attention", "gpu_speed:bench_attention", 120),
    Part("bench_encoder", "gpu_speed:bench_encoder", 120),
)
"""In this order: what is most wanted first, should the time run out."""


def examine(
    out: Path | None,
    report: Report,
    device: str = "cuda",
    size: Size = FULL,
    seconds: float = 570.0,
    parts: Sequence[Part] = PARTS,
    isolated: bool = True,
) -> dict[str, Figures]:
    """Do all parts in turn.

    Args:
        out: a JSON file, written anew after each part.
        report: called with one line per part.
        seconds: for all parts together.
        isolated: each part in its own process; otherwise in this one, without a time limit.

    Returns:
        By part: `status` ("done", "skipped" or "error"), `why` where it is not done, `seconds`, and its figures.
        `machine` says where it was, `goals` which goals were reached.
    """
    began = time.monotonic()
    answers: dict[str, Figures] = {"machine": _machine()}
    if answers["machine"]["missing_packages"]:
        report(f"missing packages: {answers['machine']['missing_packages']}")
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            left = seconds - (time.monotonic() - began)
            hour = Hour(device, size, Path(folder), dict(answers))
            answers[part.name] = _one(part, hour, min(part.seconds, left), isolated)
            report(_line(part.name, answers[part.name]))
            _write(out, answers)
    answers["goals"] = _goals(answers)
    answers["machine"]["seconds"] = round(time.monotonic() - began, 1)
    _write(out, answers)
    return answers


def _one(part: Part, hour: Hour, seconds: float, isolated: bool) -> Figures:
    card = hour.known.get("card")
    if card is not None and card["status"] != "done":
        return {"status": "skipped", "why": card["why"], "seconds": 0.0}
    if seconds < LEAST_SECONDS:
        return {"status": "skipped", "why": "no time was left", "seconds": 0.0}
    began = time.monotonic()
    answer = _apart(part, hour, seconds) if isolated else attempt(part, hour)
    return answer | {"seconds": round(time.monotonic() - began, 1)}


def attempt(part: Part, hour: Hour) -> Figures:
    """Do a part here: its figures, or in one line why there are none."""
    module, _, function = part.place.partition(":")
    try:
        figures = getattr(importlib.import_module(f"{__package__}.{module}"), function)(hour)
    except Skipped as reason:
        return {"status": "skipped", "why": str(reason)}
    except ModuleNotFoundError as missing:
        return {"status": "skipped", "why": f"the package {missing.name} is missing"}
    except Exception as error:
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        return {"status": "error", "why": f"{type(error).__name__}: {words}"[:500]}
    return {"status": "done", **{name: _rounded(value) for name, value in figures.items()}}


def _apart(part: Part, hour: Hour, seconds: float) -> Figures:
    """`attempt` in a process of its own. It is forked: this process never touches CUDA, and has torch to load once."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(part, hour, sender))
    process.start()
    sender.close()
    answer: Figures = {"status": "error", "why": f"took longer than {seconds:.0f} s"}
    try:
        if receiver.poll(seconds):
            answer = receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        answer = {"status": "error", "why": f"its process {ended}"}
    finally:
        _end(process)
    return answer


def _send(part: Part, hour: Hour, sender: Any) -> None:
    os.setsid()  # so that its own children can be ended with it
    sender.send(attempt(part, hour))


def _end(process: Any) -> None:
    process.join(5)
    for ended in (os.killpg, os.kill):
        try:
            ended(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    process.join()


def _machine() -> Figures:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    return {"python": platform.python_version(), "cpus": os.cpu_count(), "missing_packages": ", ".join(missing)}


def _goals(answers: Mapping[str, Figures]) -> Figures:
    """Whether each goal was reached; None where its figure is not there."""
    reached: Figures = {}
    for (part, figure), least in GOALS.items():
        value = answers.get(part, {}).get(figure)
        reached[f"{part}.{figure} >= {least:g}"] = None if value is None else bool(value >= least)
    return reached


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _line(name: str, answer: Figures) -> str:
    """One line for a person."""
    if answer["status"] != "done":
        return f"{answer['status']:7}  {name}: {answer['why']}"
    figures = ", ".join(f"{key} {value}" for key, value in answer.items() if key not in ("status", "seconds"))
    return f"{'ok':7}  {name} ({answer['seconds']:.0f} s): {figures}"


def _write(out: Path | None, answers: Mapping[str, Figures]) -> None:
    if out is None:
        return
    from workbench.files import write_atomically

    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out.absolute(), (json.dumps(answers, indent=1) + "\n").encode())

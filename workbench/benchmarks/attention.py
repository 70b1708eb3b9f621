"""`workbench bench attention`: every implementation against the released formulation, forward and with gradients.

Figures, for heads of 64, 12 of them, batch 1, with gradients of everything that has one in training:
    forward_1044, train_1044: 32×32 image tokens and 20 words; the policy's choice against the released formulation.
    forward_4096, train_4096: 64×64 image tokens, no words; the same.
    train_4096_memory: the policy's choice's peak memory as a fraction of the released formulation's.
    windows_forward, windows_train: 25 windows of 14×14; the policy's choice against SDPA with a mask.
    train_1044_busy, windows_train_busy: beside a process that keeps one core busy; the policy's choice against the
        released formulation or SDPA with a mask, whichever is the faster there. On the CPU only.
    <figure>_<implementation>: the same for each implementation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.benchmarks.formulation import released_attention
from workbench.benchmarks.race import Report, busy_core, in_fresh_process, in_words, peak_memory, race
from workbench.models.attention import FORWARD_ONLY_ON_CPU, UNORDERED_ON_GPU, AttentionInput, attention, implementations
from workbench.models.attention_policy import SHIPPED, Policy, Rule, choose, load_policy

RELEASED = "released"
HEADS, HEAD_WIDTH = 12, 64


@dataclass(frozen=True)
class Shape:
    """One kind of attention."""

    batch: int
    side: int
    words: int
    rounds: int

    @property
    def tokens(self) -> int:
        """Keys of one image."""
        return self.side**2 + self.words


SHAPES = {
    "84": Shape(batch=16, side=8, words=20, rounds=15),
    "windows": Shape(batch=25, side=14, words=0, rounds=9),
    "1044": Shape(batch=1, side=32, words=20, rounds=9),
    "4096": Shape(batch=1, side=64, words=0, rounds=5),
}


BUSY = ("windows", "1044")
"""The shapes that are also trained beside a busy process."""


def run(device: torch.device, report: Report) -> dict[str, float]:
    """All figures; see the module."""
    return figures(measure(device, report), device, report)


def measure(device: torch.device, report: Report) -> dict[tuple[str, bool], dict[str, float]]:
    """Median seconds of each implementation, by (shape's name, with gradients)."""
    measured = {}
    for name in SHAPES:
        for gradient in (False, True):
            measured[name, gradient] = _measure_one(name, gradient, device)
            report(in_words(f"{'train' if gradient else 'forward'} {name}", measured[name, gradient]))
    return measured


def busy_figures(device: torch.device, report: Report) -> dict[str, float]:
    """Those of the module's figures that are measured beside a busy process; none on a GPU."""
    ratios: dict[str, float] = {}
    for name in [n for n in BUSY if n in SHAPES and device.type == "cpu"]:
        with busy_core():
            seconds = _measure_one(name, True, device)
        figure = f"{_figure(name, True)}_busy"
        report(in_words(f"train {name}, beside a busy process", seconds))
        ratios |= _ratios(
            figure, min(seconds[RELEASED], seconds["sdpa"]), seconds, _policy_s(SHAPES[name], True, device)
        )
    return ratios


def _measure_one(name: str, gradient: bool, device: torch.device) -> dict[str, float]:
    measure_it = functools.partial(_race, SHAPES[name], gradient, device)
    # Whether buffers of this size come from the kernel or from the heap depends on earlier allocations.
    return in_fresh_process(measure_it) if device.type == "cpu" else measure_it()


def _race(shape: Shape, gradient: bool, device: torch.device) -> dict[str, float]:
    contestants = {name: contestant(name, shape, gradient, device) for name in _entered(device)}
    return race(contestants, shape.rounds, device)


def figures(
    measured: dict[tuple[str, bool], dict[str, float]], device: torch.device, report: Report
) -> dict[str, float]:
    """The module's figures: from `measure`'s times, and what is measured here: memory, and times on a busy machine."""
    ratios: dict[str, float] = {}
    for (name, gradient), seconds in measured.items():
        against = seconds["sdpa" if name == "windows" else RELEASED]
        ratios |= _ratios(_figure(name, gradient), against, seconds, _policy_s(SHAPES[name], gradient, device))
    memory = {
        implementation: peak_memory(functools.partial(contestant, implementation, SHAPES["4096"], True, device), device)
        for implementation in (RELEASED, _policy_s(SHAPES["4096"], True, device))
    }
    report("train 4096: " + ", ".join(f"{implementation} {mib:.0f} MiB" for implementation, mib in memory.items()))
    ratios["train_4096_memory"] = memory[_policy_s(SHAPES["4096"], True, device)] / memory[RELEASED]
    return ratios | busy_figures(device, report)


def _figure(name: str, gradient: bool) -> str:
    kind = "train" if gradient else "forward"
    return f"windows_{kind}" if name == "windows" else f"{kind}_{name}"


def _ratios(figure: str, against: float, seconds: dict[str, float], chosen: str) -> dict[str, float]:
    """A figure for the policy's choice and one for each implementation, from seconds."""
    others = {f"{figure}_{name}": against / own for name, own in seconds.items() if name != RELEASED}
    return {figure: against / seconds[chosen]} | others


def policy_of(measured: dict[tuple[str, bool], dict[str, float]], device: torch.device) -> Policy:
    """The fastest implementation at each size, and the shipped rules for what was not measured.

    Between two measured sizes the rule changes at their geometric mean.
    """
    rules: list[Rule] = []
    for gradient in (False, True):
        barred = {RELEASED} | (UNORDERED_ON_GPU if gradient and device.type == "cuda" else set())
        best = sorted(
            (
                SHAPES[name].tokens,
                min((s, implementation) for implementation, s in seconds.items() if implementation not in barred)[1],
            )
            for (name, with_gradient), seconds in measured.items()
            if with_gradient == gradient
        )
        for (tokens, implementation), after in zip(best, [*best[1:], None], strict=True):
            if after is not None and after[1] == implementation:
                continue
            limit = None if after is None else math.isqrt(tokens * after[0])
            rules.append(
                Rule.model_validate(
                    {"device": device.type, "dtype": _dtype_name(device), "gradient": gradient, "max_tokens": limit,
                     "implementation": implementation}
                )
            )  # fmt: skip
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return Policy(
        measured=f"`workbench bench attention` on {what}, torch {torch.__version__}; the rules after it are shipped",
        rules=(*rules, *load_policy(SHIPPED).rules),
    )


def contestant(name: str, shape: Shape, gradient: bool, device: torch.device) -> Callable[[], object]:
    """A run of one implementation on fixed random numbers, with its backward pass if `gradient`."""
    inputs = _inputs(shape, gradient, device)
    ones = torch.ones_like(inputs.q)

    def once() -> Tensor:
        return released_attention(inputs) if name == RELEASED else attention(inputs, name)

    def forward() -> None:
        with torch.no_grad():
            once()

    def train() -> None:
        wanted = [inputs.q, inputs.k, inputs.v, inputs.relative_h, inputs.relative_w]
        torch.autograd.grad(once(), wanted, ones)  # type: ignore[arg-type]

    return train if gradient else forward


def _inputs(shape: Shape, gradient: bool, device: torch.device) -> AttentionInput:
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, _dtype_name(device))

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).to(device, dtype).requires_grad_(gradient)

    q, k, v = (draw(shape.batch, HEADS, shape.tokens, HEAD_WIDTH) for _ in range(3))
    table_h, table_w = (draw(shape.side, shape.side, HEAD_WIDTH) for _ in range(2))
    return AttentionInput(q, k, v, (shape.side, shape.side), table_h, table_w)


def _entered(device: torch.device) -> list[str]:
    slow = set(FORWARD_ONLY_ON_CPU) if device.type == "cpu" else set()
    return [RELEASED, *(name for name in implementations if name not in slow)]


def _policy_s(shape: Shape, gradient: bool, device: torch.device) -> str:
    return choose(device.type, _dtype_name(device), gradient, shape.tokens)


def _dtype_name(device: torch.device) -> str:
    return "bfloat16" if device.type == "cuda" else "float32"

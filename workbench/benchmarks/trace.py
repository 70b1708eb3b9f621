"""`workbench bench trace`: what tracing costs beside the forward pass of ViT-B with L-DIT, batch 1, without gradients.

Figures, of the image encoder at 32×32 image tokens and 20 words, all attention global:
    time_over_plain: recording both text blocks of all 12 layers, every head, against the forward pass alone.
    reductions_over_plain: column sums and entropies of all rows, layers and heads, against the forward pass alone.
    memory_over_keeping_all: what the former takes at its peak beyond the forward pass alone, as a fraction of all maps
        in fp32.
At 64×64 image tokens and 20 words, of one block:
    memory_4096: what recording its text blocks, column sums and entropies takes at its peak beyond the block alone, as
        a fraction of one N×N matrix in fp32 per head.

explorer_choice_s and its neighbours: how long the explorer takes to answer; see `benchmarks.explorer`.

Memory on the CPU is what the system gave to a fresh process (VmHWM), reset and with all that was free handed back right
before: unlike a count of tensors it holds what threads and kernels take for themselves, and other work on the machine
does not change it. Plain and traced are each the median of three processes.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from workbench.analysis.trace import trace
from workbench.benchmarks import explorer
from workbench.benchmarks.encoder import TEXT_WIDTH, WORDS, l_dit
from workbench.benchmarks.race import Report, in_words, peak_memory, race
from workbench.models.backbones import BlockOptions, backbones
from workbench.models.referring_sam import ReferringSam

LAYERS, HEADS = 12, 12
SIDE, LARGE_SIDE = 32, 64
PATCH = 16
ROUNDS = 5
PROCESSES = 3
REDUCTIONS = ("column_sum", "entropy")
TEXT_BLOCKS = ("attn.word_to_image", "attn.image_to_word")


def run(device: torch.device, report: Report) -> dict[str, float]:
    """All figures; see the module."""
    return _times(device, report) | _memory(device, report) | explorer.run(report)


def _model(device: torch.device) -> ReferringSam:
    return ReferringSam(l_dit(device, False), backbones["vit_b"].build(), None, TEXT_WIDTH).eval().to(device)


def _inputs(side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, side * PATCH, side * PATCH, generator=generator)
    return image.to(device), torch.randn(1, WORDS, TEXT_WIDTH, generator=generator).to(device)


def _encode(
    model: ReferringSam, image: Tensor, text: Tensor, points: Sequence[str] = (), reductions: Sequence[str] = ()
) -> None:
    with torch.inference_mode(), trace(model, points, reductions=reductions):
        model.encode_image(image, text)


def _times(device: torch.device, report: Report) -> dict[str, float]:
    model, (image, text) = _model(device), _inputs(SIDE, device)
    blocks = [f"encoder.blocks[*].{part}" for part in TEXT_BLOCKS]
    contestants = {
        "plain": lambda: _encode(model, image, text),
        "text blocks": lambda: _encode(model, image, text, blocks),
        "reductions": lambda: _encode(model, image, text, ["encoder.blocks[*].attn"], REDUCTIONS),
    }
    seconds = race(contestants, ROUNDS, device)
    report(in_words(f"L-DIT on ViT-B, {SIDE}×{SIDE} tokens", seconds))
    return {
        "time_over_plain": seconds["text blocks"] / seconds["plain"],
        "reductions_over_plain": seconds["reductions"] / seconds["plain"],
    }


def _memory(device: torch.device, report: Report) -> dict[str, float]:
    def beyond_plain(work: Callable[..., Callable[[], None]]) -> float:
        traced, plain = (
            statistics.median(peak_memory(functools.partial(work, device, on), device) for _ in range(PROCESSES))
            for on in (True, False)
        )
        report(f"{work.__name__.strip('_').replace('_', ' ')}: {plain:.0f} MiB, traced {traced:.0f} MiB")
        return max(0.0, traced - plain)

    def matrices(side: int, count: int) -> float:
        return float(count * (side**2 + WORDS) ** 2 * 4 / 2**20)

    return {
        "memory_over_keeping_all": beyond_plain(_whole_encoder) / matrices(SIDE, LAYERS * HEADS),
        "memory_4096": beyond_plain(_one_large_block) / matrices(LARGE_SIDE, HEADS),
    }


def _forget_peak(device: torch.device) -> None:
    """Building the model took more than the work will: without this, what the work takes would not be seen."""
    if device.type == "cpu":
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _whole_encoder(device: torch.device, traced: bool) -> Callable[[], None]:
    model, (image, text) = _model(device), _inputs(SIDE, device)
    points = [f"encoder.blocks[*].{part}" for part in TEXT_BLOCKS] if traced else []
    _forget_peak(device)
    return lambda: _encode(model, image, text, points)


def _one_large_block(device: torch.device, traced: bool) -> Callable[[], None]:
    model, (image, text) = _model(device), _inputs(LARGE_SIDE, device)
    with torch.inference_mode():
        tokens = model.image_encoder.before_text(image)
    points = [f"encoder.blocks[0].{part}" for part in (*TEXT_BLOCKS, "attn")] if traced else []
    _forget_peak(device)

    def work() -> None:
        with torch.inference_mode(), trace(model, points, reductions=REDUCTIONS):
            model.image_encoder.vit.run_block(0, tokens, text, None, False, BlockOptions(windowed=False))

    return work

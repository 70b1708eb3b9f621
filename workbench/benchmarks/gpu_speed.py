"""Parts of `workbench doctor --gpu` that measure: the card's peak, useful work per second, and what the loader costs.

Useful work is counted on the model in its plainest form: the products of a forward pass, text encoder left out, and
twice as much for a backward pass. What an implementation computes besides (again, or in padding) does not count.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from workbench.benchmarks.gpu import Figures, Hour, Skipped
from workbench.benchmarks.gpu_checks import WORDS, loss_of, model_of, random_batch
from workbench.benchmarks.race import race

CALLS = 10
"""Products that are timed as one."""
VARIANT = "l_dit"
BACKWARD = 2
"""Times as much work as forward."""


def matmul_peak(hour: Hour) -> Figures:
    """TFLOP/s of large square products in bf16, in fp32 with TF32, and in fp32."""
    device, n = torch.device(hour.device), hour.size.matmul
    figures: Figures = {}
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False), ("fp16", torch.float16, False), ("tf32", torch.float32, True),
        ("fp32", torch.float32, False),
    ):  # fmt: skip
        a, b = torch.randn(2, n, n, device=device).to(dtype)
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32

        def products(a: Tensor = a, b: Tensor = b) -> None:
            for _ in range(CALLS):
                a @ b

        seconds = race({name: products}, hour.size.rounds, device)[name]
        torch.backends.cuda.matmul.allow_tf32 = before
        figures[f"{name}_tflops"] = CALLS * 2 * n**3 / seconds / 1e12
    return figures


def training(hour: Hour) -> Figures:
    """A training step of L-DIT in bf16 from pixels to weights: speed, share of the peak, cost of being deterministic.

    Figures: `encoder_` of the image encoder alone; `deterministic_slowdown` is the time of a deterministic step over
    that of another, of the same batch.
    """
    from workbench.training.setup import set_determinism

    work = useful_flops(hour)
    batch, rate = _fitting(hour, lambda size: _step_rate(hour, size))
    memory = torch.cuda.max_memory_allocated() / 2**30 if hour.device == "cuda" else 0.0
    encoder_rate = _encoder_rate(hour, batch)
    set_determinism(True)
    try:
        fixed_rate = _step_rate(hour, batch)
    finally:
        set_determinism(False)
    figures = {
        "batch": batch,
        "images_per_second": rate,
        "gflop_per_image": work["model"] / 1e9,
        "tflops": rate * work["model"] / 1e12,
        "encoder_images_per_second": encoder_rate,
        "encoder_tflops": encoder_rate * work["encoder"] / 1e12,
        "deterministic_images_per_second": fixed_rate,
        "deterministic_slowdown": rate / fixed_rate,
        "peak_gib": memory,
    }
    peak = hour.known.get("matmul_peak", {}).get("bf16_tflops")
    return figures if peak is None else figures | {"share_of_matmul_peak": figures["tflops"] / peak}


def useful_flops(hour: Hour) -> dict[str, float]:
    """Of a training step of one image with 20 words: of the image encoder, and of it with the mask decoder."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = model_of(hour.size.backbone, hour.size.image, VARIANT).to("meta").eval()
    model.image_encoder.implementation = "eager"
    image = torch.empty(1, 3, hour.size.image, hour.size.image, device="meta")
    text = torch.empty(1, WORDS, model.text_proj.in_features, device="meta")
    counts = []
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as encoder:
            embedding = model.encode_image(image, text)
        with FlopCounterMode(display=False) as decoder:
            model.decode(embedding, text)
        counts = [encoder.get_total_flops(), decoder.get_total_flops()]
    forward_and_backward = 1 + BACKWARD
    return {"encoder": float(forward_and_backward * counts[0]), "model": float(forward_and_backward * sum(counts))}


class Trainer:
    """A model that takes training steps as fast as it can, in bf16."""

    def __init__(self, hour: Hour) -> None:
        self.model = model_of(hour.size.backbone, hour.size.image, VARIANT).to(hour.device).train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def step(self, batch: tuple[Tensor, ...]) -> None:
        """One step."""
        self._finish(loss_of(self.model, batch, torch.bfloat16))

    def encoder_step(self, pixels: Tensor, text: Tensor) -> None:
        """One step of the image encoder alone."""
        with torch.autocast(pixels.device.type, torch.bfloat16):
            embedding = self.model.image_encoder(pixels, text)
        self._finish(embedding.float().square().mean())

    def _finish(self, loss: Tensor) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()


def _step_rate(hour: Hour, batch: int) -> float:
    """Images per second, of a batch that is on the device."""
    trainer, images = Trainer(hour), random_batch(batch, hour.size.image, hour.device)
    return batch / race({"step": lambda: trainer.step(images)}, hour.size.rounds, torch.device(hour.device))["step"]


def _encoder_rate(hour: Hour, batch: int) -> float:
    trainer, device = Trainer(hour), torch.device(hour.device)
    pixels = torch.randn(batch, 3, hour.size.image, hour.size.image, device=device)
    text = torch.randn(batch, WORDS, trainer.model.text_proj.in_features, device=device)
    seconds = race({"step": lambda: trainer.encoder_step(pixels, text)}, hour.size.rounds, device)
    return batch / seconds["step"]


def _fitting(hour: Hour, work: Callable[[int], float]) -> tuple[int, float]:
    """The largest batch that fits, halved from the wanted one, and what the work answers for it."""
    batch = hour.size.batch
    while True:
        try:
            return batch, work(batch)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        # Out of the handler, whose traceback holds the tensors.
        batch //= 2
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def loader(hour: Hour) -> Figures:
    """Training from JPEG files of RefCOCO's sizes, decoded and augmented by the real loader, against without it."""
    batch = int(hour.known.get("training", {}).get("batch", hour.size.batch))
    workers = max(1, min(16, (os.cpu_count() or 1) - 1))
    device, trainer = torch.device(hour.device), Trainer(hour)
    steps = max(2, hour.size.rounds) * 3
    batches = (_on(device, loaded) for loaded in _loaded(hour, batch, 2 * steps, workers))
    fixed = random_batch(batch, hour.size.image, hour.device)
    without = _rate(trainer, itertools.repeat(fixed, 2 * steps), steps, batch, device)
    rate = _rate(trainer, batches, steps, batch, device)
    return {
        "workers": workers,
        "images_per_second": rate,
        "images_per_second_without": without,
        "share_of_rate_without": rate / without,
        "loader_alone_images_per_second": _loader_alone(hour, batch, steps, workers),
    }


def _rate(
    trainer: Trainer, batches: Iterable[tuple[Tensor, ...]], warm_up: int, batch: int, device: torch.device
) -> float:
    """Images per second of the steps after a warm-up, waited for once at its end and once at theirs."""
    began, steps = 0.0, 0
    for number, images in enumerate(batches, 1):
        trainer.step(images)
        if number == warm_up:
            _wait(device)
            began, steps = time.perf_counter(), number
    _wait(device)
    return batch * (number - steps) / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _loaded(hour: Hour, batch: int, steps: int, workers: int) -> Iterator[dict[str, Any]]:
    from workbench.benchmarks import full_size
    from workbench.benchmarks.data import CONFIG
    from workbench.data.datasets import find
    from workbench.data.loading import ReferringDataset, training_loader
    from workbench.data.prepare import prepare
    from workbench.data.prepared import open_prepared, prepared_folder

    folder = hour.folder / "refcoco"
    if not folder.is_dir():
        full_size.make(hour.folder, hour.size.scale)
        prepare(find(folder, "refcoco", "unc"), prepared_folder(folder.parent, folder.name, "unc"))
    data = open_prepared(prepared_folder(folder.parent, folder.name, "unc"))
    dataset = ReferringDataset(data, "train", hour.size.image, CONFIG, cache=False)
    yield from training_loader(dataset, CONFIG, batch, steps, seed=0, workers=workers)


def _on(device: torch.device, loaded: dict[str, Any]) -> tuple[Tensor, ...]:
    """A batch of the loader on the device; the words are any, their encoding is measured elsewhere."""
    ids = torch.ones(len(loaded["sentence"]), WORDS, dtype=torch.int64)
    parts = (loaded["pixels"], loaded["content"], ids, ids, loaded["mask"])
    return tuple(part.to(device, non_blocking=True) for part in parts)


def _loader_alone(hour: Hour, batch: int, steps: int, workers: int) -> float:
    batches = _loaded(hour, batch, 2 * steps, workers)
    for _ in itertools.islice(batches, steps):
        pass
    began = time.perf_counter()
    count = sum(len(loaded["sentence"]) for loaded in batches)
    return count / (time.perf_counter() - began)


def attention(hour: Hour) -> Figures:
    """TFLOP/s of each attention implementation with relative positions, in bf16, forward and with gradients."""
    from workbench.benchmarks.attention import HEAD_WIDTH, HEADS, Shape, contestant
    from workbench.models.attention import FORWARD_ONLY_ON_CPU, implementations

    device = torch.device(hour.device)
    side, words, batch = hour.size.tokens, WORDS, max(1, hour.size.batch // 4)
    shape = Shape(batch=batch, side=side, words=words, rounds=hour.size.rounds)
    rows = side**2 * 2 * side
    work = 2 * batch * HEADS * HEAD_WIDTH * (2 * shape.tokens**2 + rows)
    peak = hour.known.get("matmul_peak", {}).get("bf16_tflops")
    figures: Figures = {}
    for name in implementations:
        for gradient in (False, True):
            if gradient and name in FORWARD_ONLY_ON_CPU and device.type == "cpu":
                continue
            kind = f"{'train' if gradient else 'forward'}_{name}"
            try:
                once = contestant(name, shape, gradient, device)
                seconds = race({name: once}, shape.rounds, device)[name]
            except Exception as error:  # one that fails must not hide the others
                figures[kind] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:120]
                continue
            tflops = work * (1 + BACKWARD * gradient) / seconds / 1e12
            figures[f"{kind}_tflops"] = tflops
            if peak is not None:
                figures[f"{kind}_share_of_peak"] = tflops / peak
    return figures


def bench_attention(hour: Hour) -> Figures:
    """The figures of `workbench bench attention`."""
    return _bench("attention", hour)


def bench_encoder(hour: Hour) -> Figures:
    """The figures of `workbench bench encoder`."""
    return _bench("encoder", hour)


def _bench(name: str, hour: Hour) -> Figures:
    from workbench.benchmarks import benchmarks

    if hour.device == "cpu" and hour.size.backbone == "vit_b":
        raise Skipped(f"`workbench bench {name}` measures it on a CPU")
    return dict(benchmarks[name](torch.device(hour.device), lambda line: None))

"""Parts of `workbench doctor --gpu` that compare results: with the CPU's, with another precision, with themselves."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from workbench.benchmarks.gpu import Figures, Hour, Skipped
from workbench.errors import WorkbenchError

WORDS = 20
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
FP32_ERROR = 2e-3
"""The most that a gradient may differ from the CPU's, relative to its norm: sums are in another order."""
MEETING = timedelta(seconds=60)
LEAST_COSINE = 0.97
"""Between the gradients in bf16 and in fp32."""


def card(hour: Hour) -> Figures:
    """What torch and its GPU are; skipped where there is none, and with it all other parts."""
    description: Figures = {"torch": torch.__version__, "device": hour.device}
    if hour.device == "cpu":
        return description
    if not torch.cuda.is_available():
        raise Skipped("torch finds no GPU")
    properties = torch.cuda.get_device_properties(0)
    return description | {
        "name": properties.name,
        "cards": torch.cuda.device_count(),
        "memory_gib": properties.total_memory / 2**30,
        "free_gib": torch.cuda.mem_get_info(0)[0] / 2**30,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(0))),
    }


def small_model(variant: str, attention: str) -> Any:
    """A miniature with random weights and words that matter; as if in training, but without dropout."""
    return model_of("vit_mini", 64, variant, attention).eval()


def model_of(backbone: str, image: int, variant: str, attention: str = "global") -> Any:
    """A model with random weights on the CPU, words of the shipped text encoder."""
    from workbench.models.build import build_model
    from workbench.models.fusion import variants

    fusion: dict[str, Any] = {"variant": variant, "text_projection": variant != "default"}
    if "projector" in variants[variant].reads:
        fusion["projector"] = {"init": "normal"}
    values = {"backbone": {"name": backbone, "checkpoint": None, "image_size": image, "attention": attention}}
    torch.manual_seed(0)
    return build_model(run_config(values | {"fusion": fusion, "training": {"steps": 1}}))


def run_config(values: dict[str, Any]) -> Any:
    """A configuration on refshapes with the shipped text encoder and 20 words."""
    from workbench.config import RunConfig

    return RunConfig.parse({"data": {"recipe": {}}, "text_encoder": {"max_tokens": WORDS}, **values})


def random_batch(batch: int, image: int, device: str, seed: int = 0) -> tuple[Tensor, ...]:
    """Pixels, content, token ids, their mask and target masks as the loader makes them, on a device."""
    generator = torch.Generator().manual_seed(seed)

    def draw(most: int, *size: int) -> Tensor:
        return torch.randint(0, most, size, generator=generator)

    content = torch.tensor([0, 0, image, image - 8]).expand(batch, -1)
    seen = torch.arange(WORDS) < draw(WORDS - 2, batch, 1) + 2
    pixels, mask = draw(256, batch, 3, image, image).byte(), draw(2, batch, image, image).byte() * 255
    return tuple(x.to(device) for x in (pixels, content, draw(100, batch, WORDS), seen.long(), mask))


def loss_of(model: Any, batch: tuple[Tensor, ...], precision: torch.dtype | None) -> Tensor:
    """The loss as `training.loop` computes it; `model` may be wrapped for several processes."""
    from workbench.data.transforms import target_of
    from workbench.models.referring_sam import upsample
    from workbench.training.losses import mask_loss

    pixels, content, ids, attention_mask, mask = batch
    bare = getattr(model, "module", model)
    with torch.autocast(pixels.device.type, dtype=precision, enabled=precision is not None):
        logits = model(bare.normalise(pixels, content), ids, attention_mask)
    square = upsample(logits.float(), (mask.shape[1], mask.shape[2]))
    return mask_loss(square, target_of(mask), 5.0, 1.0)


def gradients(model: nn.Module, batch: tuple[Tensor, ...], precision: torch.dtype | None = None) -> dict[str, Tensor]:
    """Of one batch, on the CPU, by parameter; the loss is with them."""
    model.zero_grad(set_to_none=True)
    loss = loss_of(model, batch, precision)
    loss.backward()
    by_parameter = {name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None}
    return by_parameter | {"loss": loss.detach().float().cpu()}


def worst(measured: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The largest difference of a gradient, relative to its norm (or, of a tiny one, to all gradients'), and whose."""
    if measured.keys() != expected.keys():
        raise WorkbenchError(f"other parameters have gradients: {sorted(measured.keys() ^ expected.keys())[:3]}")
    floor = 1e-3 * max(float(g.norm()) for name, g in expected.items() if name != "loss")
    errors = {name: float((measured[name] - g).norm() / max(float(g.norm()), floor)) for name, g in expected.items()}
    name = max(errors, key=errors.__getitem__)
    return errors[name], name


def every_case() -> Iterator[tuple[str, str]]:
    """(variant, attention)."""
    from workbench.models.fusion import variants

    return itertools.product(variants, ("windowed", "global"))


def variants(hour: Hour) -> Figures:
    """Loss and gradients in fp32 of every variant, windowed and global, against the CPU's."""
    torch.backends.cudnn.allow_tf32 = False
    figures: Figures = {}
    for variant, attention in every_case():
        model = small_model(variant, attention)
        expected = gradients(model, random_batch(4, 64, "cpu"))
        measured = gradients(model.to(hour.device), random_batch(4, 64, hour.device))
        error, name = worst(measured, expected)
        if not error <= FP32_ERROR:
            raise WorkbenchError(f"{variant}, {attention}: {name} differs from the CPU's by {error:.1e}")
        figures[f"{variant}_{attention}"] = error
    return figures


def bf16(hour: Hour) -> Figures:
    """The cosine between all gradients in bf16 and in fp32, of every variant."""
    figures: Figures = {}
    for variant, attention in every_case():
        model = small_model(variant, attention).to(hour.device)
        batch = random_batch(4, 64, hour.device)
        both = [gradients(model, batch, precision) for precision in (torch.bfloat16, None)]
        narrow, wide = (torch.cat([g.flatten() for name, g in one.items() if name != "loss"]) for one in both)
        cosine = float(torch.cosine_similarity(narrow, wide, dim=0))
        if not cosine >= LEAST_COSINE:
            raise WorkbenchError(f"{variant}, {attention}: the cosine of bf16's gradients and fp32's is {cosine:.4f}")
        figures[f"{variant}_{attention}"] = cosine
    return figures


def deterministic(hour: Hour) -> Figures:
    """Three steps of training, twice: the same weights to the last bit, of every variant and precision."""
    from workbench.training.setup import set_determinism

    set_determinism(True)
    differing, cases = [], 0
    try:
        for (variant, attention), (name, precision) in itertools.product(every_case(), PRECISIONS.items()):
            first, second = (_trained(hour, variant, attention, precision) for _ in range(2))
            cases += 1
            if not all(torch.equal(first[key], second[key]) for key in first):
                differing.append(f"{variant} {attention} {name}")
    finally:
        set_determinism(False)
    if differing:
        raise WorkbenchError(f"{len(differing)} of {cases} differ when repeated: {', '.join(differing)}")
    return {"cases": cases, "the_same_twice": cases}


def _trained(hour: Hour, variant: str, attention: str, precision: torch.dtype | None) -> dict[str, Tensor]:
    model = small_model(variant, attention).to(hour.device).train()
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    for step in range(3):
        torch.manual_seed(step)
        optimizer.zero_grad(set_to_none=True)
        loss_of(model, random_batch(4, 64, hour.device, step), precision).backward()
        optimizer.step()
    return {name: value.cpu() for name, value in model.state_dict().items()}


def compiled(hour: Hour) -> Figures:
    """The compiled image encoder's gradients against the plain one's."""
    torch.backends.cudnn.allow_tf32 = False
    model = small_model("l_dit", "global").to(hour.device)
    batch = random_batch(4, 64, hour.device)
    wanted = gradients(model, batch)
    model.image_encoder.compile(dynamic=False)
    error, name = worst(gradients(model, batch), wanted)
    if not error <= FP32_ERROR:
        raise WorkbenchError(f"compiled: {name} differs by {error:.1e}")
    if hour.device == "cpu":  # compiling takes minutes there
        return {"largest_difference": error}
    narrow = gradients(model, batch, torch.bfloat16)
    return {"largest_difference": error, "bf16_loss": float(narrow["loss"])}


def two_processes(hour: Hour) -> Figures:
    """The mean of two processes' gradients, each of half a batch, against one process's of all of it."""
    if hour.device == "cuda" and torch.cuda.device_count() < 2:
        raise Skipped("there is one card")
    place = str(hour.folder / "gradients.pt")
    arguments = (hour.device, str(hour.folder / "meeting"), place)
    spawn(_half, arguments, nprocs=2)
    model = small_model("l_dit", "global").to(hour.device)
    expected = gradients(model, random_batch(4, 64, hour.device))
    measured = torch.load(place)
    expected.pop("loss")
    error, name = worst(measured, expected)
    if not error <= FP32_ERROR:
        raise WorkbenchError(f"two processes: {name} differs by {error:.1e}")
    return {"largest_difference": error}


def _half(rank: int, device: str, meeting: str, place: str) -> None:
    """One of the two processes."""
    torch.backends.cudnn.allow_tf32 = False
    name = f"cuda:{rank}" if device == "cuda" else device
    backend = "nccl" if device == "cuda" else "gloo"
    torch.distributed.init_process_group(
        backend, init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=MEETING
    )
    if device == "cuda":
        torch.cuda.set_device(rank)
    try:
        model = nn.parallel.DistributedDataParallel(small_model("l_dit", "global").to(name))
        halves = tuple(x[2 * rank : 2 * rank + 2] for x in random_batch(4, 64, name))
        loss_of(model, halves, None).backward()
        if rank == 0:
            bare = model.module
            torch.save({n: p.grad.cpu() for n, p in bare.named_parameters() if p.grad is not None}, place)
    finally:
        torch.distributed.destroy_process_group()


def grid(hour: Hour) -> Figures:
    """A short training and evaluation of three variants, from files to a finished run folder, in bf16."""
    from workbench.results.folders import RunFolder
    from workbench.training.train import train

    figures: Figures = {}
    for variant in ("default", "e_dit", "l_dit"):
        config = run_config(_short(hour, variant))
        folder = RunFolder.of(hour.folder / "results", config, 0)
        train(config, 0, folder)
        losses = [event.loss for event in folder.log().events if event.event == "step" and event.loss is not None]
        metrics = folder.record().metrics or {}
        figures |= {f"{variant}_first_loss": losses[0], f"{variant}_last_loss": losses[-1]}
        figures |= {f"{variant}_miou": metrics["val"]["miou"]}
    return figures


def _short(hour: Hour, variant: str) -> dict[str, Any]:
    steps, images = hour.size.steps, 4 * hour.size.steps
    return {
        "data": {"recipe": {"seed": 1, "train_images": images, "eval_images": 8}},
        "fusion": {"variant": variant},
        "training": {"steps": steps, "batch_size": 16, "precision": "bf16"},
        "evaluation": {"splits": ["val"]},
        "machine": {
            "data_root": str(Path(hour.folder) / "data"),
            "device": hour.device,
            "trackers": [],
            "log_steps": 1,
            "loader_workers": min(2, os.cpu_count() or 1),
        },
    }

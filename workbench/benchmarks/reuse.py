"""`workbench bench reuse`: work that is not done twice, on a ViT-B-shaped encoder with random weights at 512 px.

Figures:
    evaluate_default: default SAM, one image and 8 expressions about it, encoder and decoder; against one encoder pass
        per expression. The masks' logits must be the same.
    train_default_frozen_cached: a training step of default SAM with frozen encoder and neck, batch 4, from cached
        features; against the same step from pixels. The losses must agree to 1 %, which is more than fp16 rounding.
    train_loss_difference: their relative difference.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.benchmarks.race import Report, in_words, race
from workbench.config import RunConfig
from workbench.data.datasets import open_dataset
from workbench.data.loading import ReferringDataset, training_loader
from workbench.errors import WorkbenchError
from workbench.models.build import build_model
from workbench.models.referring_sam import ReferringSam
from workbench.models.text_encoder import load_tokenizer
from workbench.training.features import cached_features
from workbench.training.loop import batch_loss
from workbench.training.optimizer import build_optimizer

EXPRESSIONS, BATCH = 8, 4


def run(device: torch.device, report: Report) -> dict[str, float]:
    """All figures; see the module."""
    with tempfile.TemporaryDirectory() as folder:
        config = _config(Path(folder))
        torch.manual_seed(0)
        model = build_model(config).to(device)
        return _evaluation(model, device, report) | _training(model, config, device, report)


def _config(data_root: Path) -> RunConfig:
    return RunConfig.parse(
        {
            "backbone": {"name": "vit_b", "checkpoint": None, "image_size": 512},
            "data": {"recipe": {"train_images": 6, "eval_images": 1}},
            "training": {
                "steps": 1,
                "batch_size": BATCH,
                "freeze": {"image_encoder": True, "neck": True},
                "cache_features": True,
            },
            "machine": {"data_root": str(data_root)},
        }
    )


def _evaluation(model: ReferringSam, device: torch.device, report: Report) -> dict[str, float]:
    model.eval()
    image = torch.randn(1, 3, 512, 512, device=device)
    text = torch.randn(EXPRESSIONS, 14, model.text_proj.in_features, device=device)
    image_of = torch.zeros(EXPRESSIONS, dtype=torch.int64, device=device)

    def shared() -> Tensor:
        return model.decode(model.encode_shared(image, image_of, text), text)

    def each() -> Tensor:
        masks = [model.decode(model.encode_image(image, features[None]), features[None]) for features in text]
        return torch.cat(masks)

    with torch.inference_mode():
        torch.testing.assert_close(shared(), each(), rtol=1e-3, atol=1e-3)
        seconds = race({"shared": shared, "each": each}, 3, device)
    report(in_words(f"evaluate default, {EXPRESSIONS} expressions per image", seconds))
    return {"evaluate_default": seconds["each"] / seconds["shared"]}


def _training(model: ReferringSam, config: RunConfig, device: torch.device, report: Report) -> dict[str, float]:
    tokenizer = load_tokenizer(config.text_encoder, Path())
    optimizer = build_optimizer(model, config)
    data = open_dataset(config)

    def batch_of(cached: bool) -> dict[str, Any]:
        dataset = ReferringDataset(data, "train", 512, config.data)
        if cached:
            dataset.features = cached_features(model, dataset, config, device)
        return next(iter(training_loader(dataset, config.data, BATCH, 1, seed=0)))

    batches = {"cached": batch_of(True), "pixels": batch_of(False)}
    model.eval()  # without dropout the two losses can be compared

    def loss(kind: str) -> Tensor:
        return batch_loss(model, tokenizer, batches[kind], config, device)

    with torch.inference_mode():
        losses = {kind: loss(kind).item() for kind in batches}
    difference = abs(losses["cached"] - losses["pixels"]) / losses["pixels"]
    if difference > 0.01:
        raise WorkbenchError(f"bench reuse: the losses differ, {losses}; their speeds cannot be compared")

    def step(kind: str) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(kind).backward()
        optimizer.step()

    seconds = race({"cached": lambda: step("cached"), "pixels": lambda: step("pixels")}, 3, device)
    report(in_words("training step of frozen default", seconds))
    return {
        "train_default_frozen_cached": seconds["pixels"] / seconds["cached"],
        "train_loss_difference": difference,
    }

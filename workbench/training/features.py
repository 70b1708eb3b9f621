"""Filling a `FeatureStore`: what a frozen image encoder computes of each image before text enters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch

from workbench.config import RunConfig
from workbench.data.features import FeatureStore
from workbench.data.loading import ReferringDataset
from workbench.models.referring_sam import ReferringSam

Progress = Callable[[int, int], bool]
"""Called with (finished rows, all rows); True stops, and the store stays as it is."""


def cached_features(
    model: ReferringSam,
    dataset: ReferringDataset,
    config: RunConfig,
    device: torch.device,
    progress: Progress = lambda done, rows: False,
) -> FeatureStore:
    """The store of a training split's features, filled where rows are missing.

    Raises:
        DataError: no room on the disk, features that do not fit fp16, or an image that cannot be read.
    """
    images = {e.image_id: e for e in dataset.expressions.one_of_each_image()}
    document = _document(model, dataset, config)
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    folder = config.machine.data_root / "features" / f"{config.backbone.name}-{digest[:16]}"
    store = FeatureStore(folder, sorted(images), flips=config.data.horizontal_flip > 0)
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.training.precision)

    def compute(rows: range) -> torch.Tensor:
        squares, contents = [], []
        for image_id, flipped in map(store.image_of, rows):
            pixels, content = dataset.placed(images[image_id], flipped)
            squares.append(pixels)
            contents.append(content)
        image = model.normalise(torch.stack(squares).to(device), torch.stack(contents))
        with torch.inference_mode(), torch.autocast(device.type, dtype=precision, enabled=precision is not None):
            return model.before_text(image).float()

    was_training = model.training
    model.eval()
    store.create(tuple(compute(range(1)).shape[1:]), document)
    for rows in store.missing():
        store.write(rows, compute(rows))
        if progress(store.finished(), len(store)):
            break
    model.train(was_training)
    return store


def _document(model: ReferringSam, dataset: ReferringDataset, config: RunConfig) -> dict[str, Any]:
    """All that the features depend on."""
    weights = hashlib.sha256()
    for name, tensor in model.image_encoder.vit.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    images = [(e.image_id, e.file_name, e.height, e.width) for e in dataset.expressions.one_of_each_image()]
    sizes = [dataset.file_size(name) for _, name, *_ in images]
    listing = hashlib.sha256(json.dumps([images, sizes]).encode()).hexdigest()
    return {
        "encoder_sha256": weights.hexdigest(),
        "layers": model.image_encoder.first_fused,
        "neck": model.caches_embedding,
        "attention": config.backbone.attention,
        "image_size": config.backbone.image_size,
        "precision": config.training.precision,
        "padding": config.data.padding,
        "flips": config.data.horizontal_flip > 0,
        "dataset": config.data.dataset,
        "images": len(images),
        "images_sha256": listing,
    }

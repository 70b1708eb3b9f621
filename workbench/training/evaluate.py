"""Evaluation: every expression of a split once, at the image's original size, one row each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from workbench.config import RunConfig
from workbench.data.language import expression_kind
from workbench.data.loading import EvaluationBatch, Expression, ReferringDataset, evaluation_batches
from workbench.data.transforms import dilated_mask, restore_logits
from workbench.errors import InterruptedRun
from workbench.models.backbones import normalise
from workbench.models.referring_sam import ReferringSam
from workbench.models.text_encoder import Tokenizer
from workbench.training.metrics import iou


def evaluate(
    model: ReferringSam,
    tokenizer: Tokenizer,
    dataset: ReferringDataset,
    config: RunConfig,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    stop: Callable[[], bool] = lambda: False,
) -> pd.DataFrame:
    """Score a split.

    Args:
        stop: asked after every batch; True ends it with InterruptedRun.

    Returns:
        One row an expression, by image and sentence: split, image_id, ref_id, ann_id, sent_id, sentence, category,
        kind, height, width, intersection, union, predicted_area (pixels), iou, and prediction (COCO's compressed RLE).
    """
    rows: list[dict[str, Any]] = []
    for batch in evaluation_batches(dataset, config.machine.evaluation_batch_size, rank, world):
        masks = predict(model, tokenizer, dataset, batch, config, device)
        rows += [_row(dataset, e, mask) for e, mask in zip(batch.expressions, masks, strict=True)]
        if stop():
            raise InterruptedRun(f"stopped in the evaluation of {batch.expressions[0].split}, which begins anew")
    frame = pd.DataFrame(rows)
    return frame.sort_values(["image_id", "sent_id"], ignore_index=True) if rows else frame


@torch.inference_mode()
def predict(
    model: ReferringSam,
    tokenizer: Tokenizer,
    dataset: ReferringDataset,
    batch: EvaluationBatch,
    config: RunConfig,
    device: torch.device,
) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
    """The predicted masks of a batch, each height×width of its own image, zeros and ones."""
    model.eval()
    ids, attention_mask = (t.to(device) for t in tokenizer([e.sentence for e in batch.expressions]))
    image = normalise(batch.pixels.to(device), batch.content)
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.training.precision)
    with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
        text, text_mask = model.encode_text(ids, attention_mask)
        embedding = model.encode_shared(image, batch.image_of.to(device), text, text_mask)
        logits = model.decode(embedding, text, text_mask)[:, 0].float()
    # The sigmoid is monotonous, so the threshold is applied to the logits.
    cut = float(torch.tensor(config.evaluation.threshold, dtype=torch.float64).logit())
    return (
        _mask(dataset, e, mask, cut, config).cpu().numpy().astype(np.uint8)
        for e, mask in zip(batch.expressions, logits, strict=True)
    )


def _mask(dataset: ReferringDataset, expression: Expression, logits: Tensor, cut: float, config: RunConfig) -> Tensor:
    where = (dataset.placement(expression), dataset.side, expression.height, expression.width)
    align_corners = config.backbone.mask_upsampling == "align_corners"
    if config.evaluation.masks == "dilated":
        return dilated_mask(logits, *where, cut, align_corners)
    return restore_logits(logits, *where, align_corners) > cut


def _row(
    dataset: ReferringDataset, expression: Expression, predicted: np.ndarray[Any, np.dtype[np.uint8]]
) -> dict[str, Any]:
    truth = dataset.mask(expression)
    intersection, union = int((predicted & truth).sum()), int((predicted | truth).sum())
    return {
        "split": expression.split,
        "image_id": expression.image_id,
        "ref_id": expression.ref_id,
        "ann_id": expression.ann_id,
        "sent_id": expression.sent_id,
        "sentence": expression.sentence,
        "category": expression.category,
        "kind": expression_kind(expression.sentence),
        "height": expression.height,
        "width": expression.width,
        "intersection": intersection,
        "union": union,
        "predicted_area": int(predicted.sum()),
        "iou": float(iou(intersection, union)),
        "prediction": coco_mask.encode(np.asfortranarray(predicted))["counts"].decode("ascii"),
    }

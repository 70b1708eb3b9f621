"""Evaluation: every expression of a split once, at the image's original size, one row each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from workbench.config import RunConfig
from workbench.data import masks
from workbench.data.loading import EvaluationBatch, Expression, ReferringDataset, evaluation_batches
from workbench.data.transforms import dilated_mask, restore_logits
from workbench.errors import InterruptedRun
from workbench.evaluation.scoring import ORDER, score
from workbench.models.referring_sam import ReferringSam
from workbench.models.text_encoder import Tokenizer


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
        One row per expression (see `score`), sorted by image, referent and sentence.
    """
    rows: list[dict[str, Any]] = []
    machine, area = config.machine, config.evaluation.no_target_area
    for batch in evaluation_batches(dataset, machine.evaluation_batch_size, rank, world, machine.loader_workers):
        predicted = predict(model, tokenizer, dataset, batch, config, device)
        rows += [score(e, mask, area) for e, mask in zip(batch.expressions, predicted, strict=True)]
        if stop():
            raise InterruptedRun(f"stopped during the evaluation of {batch.expressions[0].split}, which starts again")
    frame = pd.DataFrame(rows)
    return frame.sort_values(ORDER, ignore_index=True) if rows else frame


@torch.inference_mode()
def predict(
    model: ReferringSam,
    tokenizer: Tokenizer,
    dataset: ReferringDataset,
    batch: EvaluationBatch,
    config: RunConfig,
    device: torch.device,
) -> Iterator[bytes]:
    """The predicted masks of a batch, each at the size of its own image, as compressed RLE counts."""
    model.eval()
    ids, attention_mask = (t.to(device) for t in tokenizer([e.sentence for e in batch.expressions]))
    image = model.normalise(batch.pixels.to(device), batch.content)
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.training.precision)
    with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
        text, text_mask = model.encode_text(ids, attention_mask)
        embedding = model.encode_shared(image, batch.image_of.to(device), text, text_mask)
        logits = model.decode(embedding, text, text_mask)[:, 0].float()
    # The sigmoid is monotonic, so the threshold is applied to the logits.
    cut = float(torch.tensor(config.evaluation.threshold, dtype=torch.float64).logit())
    return (
        masks.encode(_mask(dataset, e, mask, cut, config).cpu().numpy())
        for e, mask in zip(batch.expressions, logits, strict=True)
    )


def _mask(dataset: ReferringDataset, expression: Expression, logits: Tensor, cut: float, config: RunConfig) -> Tensor:
    where = (dataset.placement(expression), dataset.side, expression.height, expression.width)
    align_corners = config.backbone.mask_upsampling == "align_corners"
    if config.evaluation.masks == "dilated":
        return dilated_mask(logits, *where, cut, align_corners)
    return restore_logits(logits, *where, align_corners) > cut

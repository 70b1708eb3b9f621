"""Evaluation: every expression of a split once, at the image's original size, one row each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from workbench.config import RunConfig
from workbench.data import masks
from workbench.data.loading import EvaluationBatch, ReferringDataset, evaluation_batches
from workbench.data.transforms import Placement, dilated_mask, restore_logits
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


def predict(
    model: ReferringSam,
    tokenizer: Tokenizer,
    dataset: ReferringDataset,
    batch: EvaluationBatch,
    config: RunConfig,
    device: torch.device,
) -> Iterator[bytes]:
    """The predicted masks of a batch, each at the size of its own image, as compressed RLE counts."""
    sentences = [dataset.words_of(e) for e in batch.expressions]
    logits = mask_logits(model, tokenizer, batch.pixels, batch.content, batch.image_of, sentences, config, device)
    return (
        masks.encode(mask_of(one, dataset.placement(e), e.height, e.width, config).cpu().numpy())
        for e, one in zip(batch.expressions, logits, strict=True)
    )


@torch.inference_mode()
def mask_logits(
    model: ReferringSam,
    tokenizer: Tokenizer,
    pixels: Tensor,
    content: Tensor,
    image_of: Tensor,
    sentences: Sequence[str],
    config: RunConfig,
    device: torch.device,
) -> Tensor:
    """Low-resolution logits E×h×w, in fp32, of E sentences about I images; each image is encoded once before text.

    Args:
        pixels: I×3×S×S uint8.
        content: I×4 (top, left, height, width), where the images are in their squares.
        image_of: for each sentence the index of its image, E.
    """
    model.eval()
    ids, attention_mask = (t.to(device) for t in tokenizer(list(sentences)))
    image = model.normalise(pixels.to(device), content)
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.training.precision)
    with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
        text, text_mask = model.encode_text(ids, attention_mask)
        embedding = model.encode_shared(image, image_of.to(device), text, text_mask)
        return model.decode(embedding, text, text_mask)[:, 0].float()


def mask_of(logits: Tensor, placement: Placement, height: int, width: int, config: RunConfig) -> Tensor:
    """The predicted mask height×width, bool, of one sentence's low-resolution logits h×w."""
    # The sigmoid is monotonic, so the threshold is applied to the logits.
    cut = float(torch.tensor(config.evaluation.threshold, dtype=torch.float64).logit())
    where = (placement, config.backbone.image_size, height, width)
    align_corners = config.backbone.mask_upsampling == "align_corners"
    if config.evaluation.masks == "dilated":
        return dilated_mask(logits, *where, cut, align_corners)
    return restore_logits(logits, *where, align_corners) > cut

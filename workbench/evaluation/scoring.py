"""The row that an evaluation stores per expression, whatever made the mask."""

from __future__ import annotations

from typing import Any

from workbench.data import masks
from workbench.data.language import expression_kind
from workbench.data.loading import Expression
from workbench.evaluation.metrics import iou


def score(expression: Expression, predicted: bytes, no_target_area: int = 0) -> dict[str, Any]:
    """One row of an evaluation.

    Args:
        predicted: compressed RLE counts at the image's original size.
        no_target_area: a mask of fewer pixels is emptied: it counts as a no-target answer.

    Returns:
        split, image_id, ref_id, ann_id (the first target's, -1 for none), sent_id, sentence, category, kind, targets,
        no_target, distractors (-1: unknown), height, width, target_area, intersection, union, predicted_area (pixels),
        iou, and prediction (compressed RLE counts).
    """
    height, width = expression.height, expression.width
    if masks.area(predicted, height, width) < no_target_area:
        predicted = masks.union([], height, width)
    intersection, union = masks.areas_of(predicted, expression.rle, height, width)
    return {
        "split": expression.split,
        "image_id": expression.image_id,
        "ref_id": expression.ref_id,
        "ann_id": expression.ann_ids[0] if expression.ann_ids else -1,
        "sent_id": expression.sent_id,
        "sentence": expression.sentence,
        "category": expression.category,
        "kind": expression_kind(expression.sentence),
        "targets": len(expression.ann_ids),
        "no_target": not expression.ann_ids,
        "distractors": expression.distractors,
        "height": height,
        "width": width,
        "target_area": masks.area(expression.rle, height, width),
        "intersection": intersection,
        "union": union,
        "predicted_area": masks.area(predicted, height, width),
        "iou": float(iou(intersection, union)),
        "prediction": predicted.decode("ascii"),
    }


ORDER = ["image_id", "ref_id", "sent_id"]
"""The columns that rows are sorted by, so that their order does not depend on which process made them."""

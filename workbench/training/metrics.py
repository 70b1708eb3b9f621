"""The metrics of referring segmentation, from intersections and unions in pixels."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
METRICS = ("oiou", "miou", *(f"p@{threshold}" for threshold in THRESHOLDS))
"""`oiou` ΣI/ΣU over expressions, `miou` the mean IoU, `p@X` the share of expressions with IoU > X."""


def iou(intersection: ArrayLike, union: ArrayLike) -> NDArray[np.float64]:
    """I/U an expression; 1 where both masks are empty."""
    intersection, union = np.asarray(intersection, dtype=np.float64), np.asarray(union, dtype=np.float64)
    found: NDArray[np.float64] = np.divide(intersection, union, out=np.ones_like(union), where=union > 0)
    return found


def summarise(frame: pd.DataFrame) -> dict[str, float]:
    """The metrics of a frame with columns `intersection` and `union`, one row an expression; shares from 0 to 1."""
    each = iou(frame["intersection"], frame["union"])
    union = float(frame["union"].sum())
    found = {"oiou": float(frame["intersection"].sum()) / union if union else 1.0, "miou": float(each.mean())}
    return found | {f"p@{threshold}": float((each > threshold).mean()) for threshold in THRESHOLDS}

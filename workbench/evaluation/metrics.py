"""The metrics of referring segmentation: one registry, each a ratio of two sums over expressions, of areas in pixels.

I and U are an expression's intersection and union, and IoU = I/U (1 where both masks are empty). Expressions
with a target count, unless a definition says otherwise; no-target expressions are gRefCOCO's (GRES, arXiv 2306.00968).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
RELEASED_PROCESSES = 4
"""How many GPUs the released code trains and evaluates on."""
Floats = NDArray[np.float64]
Parts = Callable[["pd.DataFrame"], tuple[Floats, Floats]]
"""From evaluated expressions to what each adds to the numerator and to the denominator."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: its name in grids and in the files of tables.
        label: its name in tables and figures.
        definition: in words.
        parts: what each expression adds to the numerator and to the denominator.
        of_nothing: its value where the denominator is 0; NaN: undefined.
        applies_to: `target`: defined on any data set; `no_target`: only where some expressions have no target.
        by_name: computed only where a grid or a call names it.
        direction: which way is better.
        unit: of the value.
    """

    name: str
    label: str
    definition: str
    parts: Parts
    of_nothing: float = float("nan")
    applies_to: Literal["target", "no_target"] = "target"
    by_name: bool = False
    direction: Literal["higher", "lower"] = "higher"
    unit: Literal["fraction"] = "fraction"

    def value(self, frame: pd.DataFrame) -> float:
        """The metric of a frame, NaN where no expression counts."""
        numerator, denominator = (float(part.sum()) for part in self.parts(frame))
        return numerator / denominator if denominator else self.of_nothing if len(frame) else float("nan")


metrics: Registry[Metric] = Registry("metric", "report.metrics")


def iou(intersection: ArrayLike, union: ArrayLike) -> Floats:
    """I/U per expression; 1 where both masks are empty."""
    intersection, union = np.asarray(intersection, dtype=np.float64), np.asarray(union, dtype=np.float64)
    ious: Floats = np.divide(intersection, union, out=np.ones_like(union), where=union > 0)
    return ious


def is_no_target(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Which expressions have no target; where the column is missing, all have one."""
    if "no_target" not in frame:
        return np.zeros(len(frame), dtype=np.bool_)
    return frame["no_target"].to_numpy(np.bool_)


def _has_target(frame: pd.DataFrame) -> Floats:
    return (~is_no_target(frame)).astype(np.float64)


def _areas(frame: pd.DataFrame) -> tuple[Floats, Floats]:
    return frame["intersection"].to_numpy(np.float64), frame["union"].to_numpy(np.float64)


def _oiou(frame: pd.DataFrame) -> tuple[Floats, Floats]:
    intersection, union = _areas(frame)
    return intersection * _has_target(frame), union * _has_target(frame)


def _miou(frame: pd.DataFrame) -> tuple[Floats, Floats]:
    return iou(*_areas(frame)) * _has_target(frame), _has_target(frame)


def _precision(threshold: float, or_equal: bool) -> Parts:
    def parts(frame: pd.DataFrame) -> tuple[Floats, Floats]:
        ious = iou(*_areas(frame))
        passed = ious >= threshold if or_equal else ious > threshold
        return passed * _has_target(frame), _has_target(frame)

    return parts


def _giou(frame: pd.DataFrame) -> tuple[Floats, Floats]:
    return iou(*_areas(frame)), np.ones(len(frame))


def _n_acc(frame: pd.DataFrame) -> tuple[Floats, Floats]:
    no_target, answered = is_no_target(frame), frame["predicted_area"].to_numpy() > 0
    return (no_target & ~answered).astype(np.float64), no_target.astype(np.float64)


def _t_acc(frame: pd.DataFrame) -> tuple[Floats, Floats]:
    no_target, answered = is_no_target(frame), frame["predicted_area"].to_numpy() > 0
    return (~no_target & answered).astype(np.float64), _has_target(frame)


def _oiou_by_process(frame: pd.DataFrame) -> tuple[Floats, Floats]:
    """Parts whose ratio is the mean of the shards' ΣI / ΣU: each expression adds its I over its shard's ΣU."""
    intersection, union = _oiou(frame)
    numbers = np.random.default_rng(0).permutation(len(frame))
    padded = np.resize(numbers, -(-len(frame) // RELEASED_PROCESSES) * RELEASED_PROCESSES)
    numerator = np.zeros(len(frame))
    for process in range(RELEASED_PROCESSES):
        shard = padded[process::RELEASED_PROCESSES]
        total = union[shard].sum()
        np.add.at(numerator, shard, intersection[shard] / total if total else 1 / len(shard))
    return numerator / RELEASED_PROCESSES, np.full(len(frame), 1 / max(1, len(frame)))


def _register(metric: Metric) -> None:
    metrics.register(metric.name)(metric)


_register(Metric("oiou", "oIoU", "ΣI / ΣU; some papers call it cIoU", _oiou, of_nothing=1.0))
_register(Metric("miou", "mIoU", "mean IoU per expression", _miou))
_register(
    Metric(
        "oiou_4_processes",
        "oIoU, mean of 4 processes",
        "ΣI / ΣU of each of 4 shards of the split, shuffled and padded with its first expressions, then their mean; "
        "what the released code prints when it evaluates on 4 GPUs",
        _oiou_by_process,
        of_nothing=1.0,
        by_name=True,
    )
)
for _sign, _relation, _or_equal in (("@", ">", False), (">=", "≥", True)):
    for _threshold in THRESHOLDS:
        _register(
            Metric(
                f"p{_sign}{_threshold}",
                f"P@{_threshold} (IoU {_relation} {_threshold})",
                f"fraction of expressions with IoU {_relation} {_threshold}{', as LAVT counts' * _or_equal}",
                _precision(_threshold, _or_equal),
            )
        )
_register(
    Metric(
        "giou", "gIoU",
        "mean IoU over all expressions; a no-target expression counts 1 if it is answered with nothing, else 0",
        _giou, applies_to="no_target",
    )
)  # fmt: skip
_register(
    Metric(
        "ciou", "cIoU",
        "ΣI / ΣU over all expressions; a missed no-target adds its predicted area to U, a correct one adds nothing",
        _areas, of_nothing=1.0, applies_to="no_target",
    )
)  # fmt: skip
_register(
    Metric(
        "n_acc", "N-acc", "fraction answered with nothing among no-target expressions: TP / (TP + FN)", _n_acc,
        applies_to="no_target",
    )
)  # fmt: skip
_register(
    Metric(
        "t_acc", "T-acc", "fraction answered with something among expressions with a target: TN / (TN + FP)", _t_acc,
        applies_to="no_target",
    )
)  # fmt: skip


def applicable(frame: pd.DataFrame) -> tuple[str, ...]:
    """The metrics that these expressions have: those of gRefCOCO only where some have no target, and none that is
    computed only by name."""
    any_no_target = bool(is_no_target(frame).any())
    return tuple(
        name
        for name, metric in metrics.items()
        if not metric.by_name and (any_no_target or metric.applies_to == "target")
    )


def summarise(frame: pd.DataFrame, names: Iterable[str] | None = None) -> dict[str, float]:
    """Metrics of evaluated expressions, without those for which no expression counts.

    Args:
        frame: one row per expression, with intersection, union and predicted_area in pixels, and no_target.
        names: the metrics to compute; None: the `applicable` ones.

    Returns:
        Fractions from 0 to 1.
    """
    values = {name: metrics[name].value(frame) for name in (applicable(frame) if names is None else names)}
    return {name: value for name, value in values.items() if not np.isnan(value)}

"""A metric of parts of a grid's evaluated expressions, with the interval and every seed: what dots and lines show."""

from __future__ import annotations

from typing import Any

import pandas as pd

from workbench.analysis.statistics import estimate
from workbench.evaluation.metrics import applicable, metrics


def score_of(part: pd.DataFrame, metric: str) -> dict[str, Any] | None:
    """Plain JSON of value, interval and each seed's value, as fractions; None where the metric is not defined.

    Args:
        part: evaluated expressions of one setting, of one seed or several (`run`).
    """
    if part.empty or not (metrics[metric].by_name or metric in applicable(part)):
        return None
    interval = estimate(part, metric)
    of_seeds = [metrics[metric].value(one) for _, one in part.groupby("run")]
    if pd.isna([interval.value, interval.low, interval.high, *of_seeds]).any():
        return None
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "seeds": sorted(int(seed) for seed in set(part["seed"])) if "seed" in part else [],
        "seed_values": of_seeds,
        "runs": sorted(set(part["run"])),
        "expressions": len(part) // len(set(part["run"])),
    }

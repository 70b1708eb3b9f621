"""Run folders as a training leaves them, without training: every number is drawn here, so tests know what to expect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.config import RunConfig
from workbench.results.folders import RunFolder
from workbench.results.provenance import code_digest

SENTENCES = ("red circle", "the blue square on the left", "small star", "the circle right of the red square")
KINDS = ("attribute", "place", "attribute", "relation")


def expressions(splits: Sequence[str], draw: int, images: int = 5, per_image: int = 3) -> pd.DataFrame:
    """Evaluated expressions of made-up images; `draw` decides what was predicted, and nothing else."""
    rng, ground_truth = np.random.default_rng(draw), np.random.default_rng(0)
    rows = []
    for s, split in enumerate(splits):
        for number in range(images * per_image):
            target, predicted = int(ground_truth.integers(50, 400)), int(rng.integers(50, 400))
            intersection = int(rng.integers(0, min(target, predicted) + 1))
            rows.append(
                {
                    "split": split, "image_id": 100 * s + number // per_image, "ref_id": 1000 * s + number // 2,
                    "ann_id": number, "sent_id": 1000 * s + number, "sentence": SENTENCES[number % 4],
                    "category": "circle", "kind": KINDS[number % 4], "targets": 1, "no_target": False,
                    "distractors": number % 3, "height": 64, "width": 64, "target_area": target,
                    "intersection": intersection, "union": target + predicted - intersection,
                    "predicted_area": predicted, "iou": intersection / (target + predicted - intersection),
                    "prediction": "0",
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def mean_iou(frame: pd.DataFrame, split: str) -> float:
    """The mean IoU of a split, in plain Python."""
    ious = [i / u for i, u, s in zip(frame["intersection"], frame["union"], frame["split"], strict=True) if s == split]
    return sum(ious) / len(ious)


def overall_iou(frame: pd.DataFrame, split: str) -> float:
    """The overall IoU of a split, in plain Python."""
    pairs = [p for *p, s in zip(frame["intersection"], frame["union"], frame["split"], strict=True) if s == split]
    return sum(i for i, _ in pairs) / sum(u for _, u in pairs)


def complete(results: Path, config: RunConfig, seed: int, draw: int | None = None, **fields: Any) -> RunFolder:
    """A completed run of a configuration."""
    folder = RunFolder.of(results, config, seed)
    frame = expressions(config.evaluation.splits, 1000 + seed if draw is None else draw)
    metrics = {
        split: {"expressions": int((frame["split"] == split).sum()), "miou": mean_iou(frame, split),
                "oiou": overall_iou(frame, split)}
        for split in config.evaluation.splits
    }  # fmt: skip
    folder.update(
        **{
            "identity": config.identity_document(), "machine": {"threads": 1}, "processes": 1, "seed": seed,
            "state": "completed", "steps": 6, "provenance": {"code": code_digest()}, "codes": [code_digest()],
            "started": 1.7e9, "starts": 1, "error": None, "metrics": metrics, "finished": 1.7e9 + seed,
            "training_seconds": 3.0, "seconds": 4.0, "gpu_hours": 0.0, **fields,
        }
    )  # fmt: skip
    folder.write_expressions(frame)
    with folder.claim() as log:
        log.write("start", step=0, steps=6)
        log.write("step", step=6, loss=0.5, steps=6, expressions_per_second=9.0, seconds_left=0.0)
        log.write("end", state="completed", step=6)
    return folder


def fail(results: Path, config: RunConfig, seed: int, message: str = "it broke") -> RunFolder:
    """A run that failed."""
    folder = RunFolder.of(results, config, seed)
    error = {"class": "code_error", "message": message, "type": "RuntimeError", "time": 1.7e9}
    folder.update(identity=config.identity_document(), seed=seed, state="failed", starts=1, error=error)
    return folder

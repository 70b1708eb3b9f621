"""Remakes the shipped weights of a whole default SAM that knows refshapes' words, from which the miniature begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from workbench.config import RunConfig
from workbench.results.folders import RunFolder
from workbench.training.pretrain import Progress
from workbench.training.train import train

STEPS = 8000
DATA_SEED = 1
"""Other images than those that the miniature trains on and is scored on, which have seed 0."""
NAME = "referring_mini"


def referring_config(data_root: Path, steps: int) -> RunConfig:
    """The training behind the shipped weights: text encoder and mask decoder learn the words, the image encoder stays
    SAM's."""
    return RunConfig.parse(
        {
            "backbone": {"name": "vit_mini", "checkpoint": "builtin", "image_size": 64},
            "text_encoder": {"name": "bert_mini2", "max_tokens": 18},
            "fusion": {"variant": "default"},
            "data": {"recipe": {"seed": DATA_SEED, "train_images": 12000, "eval_images": 50, "version": 2}},
            "training": {
                "steps": steps,
                "batch_size": 64,
                "freeze": {"image_encoder": True, "neck": True},
                "optimizer": {"learning_rate": 2e-3},
            },
            "evaluation": {"splits": ["val", "testA", "testB", "testC"]},
            "machine": {"data_root": str(data_root), "threads": 1, "trackers": []},
        }
    )


def pretrain_referring(out: Path, data_root: Path, steps: int, progress: Progress) -> dict[str, Any]:
    """Train it as any run, with seed 0, and write `referring_mini.safetensors` and its report into `out`.

    A training that was stopped goes on from its last checkpoint.

    Returns:
        The report: command, configuration and mIoU by split.
    """
    config = referring_config(data_root, steps)
    folder = RunFolder.of(out / f"{NAME}-run", config, 0)

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            progress(event["step"], steps, {"loss": event["loss"]})

    train(config, 0, folder, report=report)
    # Tensors alone, as shipped: the digest of the file is part of the runs that begin from it.
    save_file(load_file(folder.evaluated_weights()), out / f"{NAME}.safetensors")
    miou = {split: metrics["miou"] for split, metrics in folder.record().metrics.items()}
    document = {"command": f"workbench pretrain {NAME}", "config": config.identity_document()["config"], "miou": miou}
    (out / f"{NAME}.json").write_text(json.dumps(document, indent=2) + "\n")
    return document

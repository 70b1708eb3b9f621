from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from workbench.config import RunConfig
from workbench.data import masks
from workbench.data.datasets import open_dataset
from workbench.data.loading import ReferringDataset
from workbench.evaluation.evaluate import evaluate
from workbench.models.build import build_model
from workbench.models.text_encoder import load_tokenizer


@pytest.mark.parametrize("variant", ["default", "l_dit"])
def test_sharing_an_image_between_expressions_changes_nothing(
    make_config: Callable[..., RunConfig], variant: str, tmp_path: Path
) -> None:
    """Against one plain forward pass an expression, on images that are not square."""
    config = make_config(
        fusion__variant=variant,
        fusion__projector__init="default",
        fusion__layers={"last": 2},
        data__recipe={"seed": 3, "train_images": 2, "eval_images": 6, "width": 88, "height": 60},
        machine__data_root=str(tmp_path),
    )
    dataset = ReferringDataset(open_dataset(config), "val", 64, config.data)
    tokenizer = load_tokenizer(config.text_encoder, Path())
    model = build_model(config).eval()
    frame = evaluate(model, tokenizer, dataset, config, torch.device("cpu"))
    assert len(frame) == len(dataset)
    by_id = frame.set_index("sent_id")
    for expression in dataset.expressions:
        ids, mask = tokenizer([expression.sentence])
        content = torch.tensor([[0, 0, 44, 64]])
        with torch.inference_mode():
            logits = model(model.normalise(dataset.square(expression)[None], content), ids, mask)
            large = F.interpolate(logits[None], size=(64, 64), mode="bilinear")[..., :44, :]
            predicted = (F.interpolate(large, size=(60, 88), mode="bilinear")[0, 0] > 0).numpy()
        truth = dataset.mask(expression) > 0
        row = by_id.loc[expression.sent_id]
        assert (row["height"], row["width"]) == (60, 88) == truth.shape
        assert row["intersection"] == (predicted & truth).sum()
        assert row["union"] == (predicted | truth).sum()
        stored = masks.decode(row["prediction"].encode(), 60, 88)
        np.testing.assert_array_equal(stored, predicted)


def test_the_encoder_runs_once_an_image(make_config: Callable[..., RunConfig]) -> None:
    config = make_config()
    dataset = ReferringDataset(open_dataset(config), "val", 64, config.data)
    model = build_model(config).eval()
    images: list[int] = []
    model.image_encoder.vit.patch_embed.register_forward_hook(lambda module, given, out: images.append(len(out)))
    evaluate(model, load_tokenizer(config.text_encoder, Path()), dataset, config, torch.device("cpu"))
    assert sum(images) == len({e.image_id for e in dataset.expressions}) < len(dataset)


def test_the_threshold_moves_the_mask(make_config: Callable[..., RunConfig]) -> None:
    areas = []
    for threshold in (0.2, 0.5, 0.8):
        config = make_config(evaluation__threshold=threshold)
        dataset = ReferringDataset(open_dataset(config), "val", 64, config.data)
        torch.manual_seed(0)
        model = build_model(config).eval()
        frame = evaluate(model, load_tokenizer(config.text_encoder, Path()), dataset, config, torch.device("cpu"))
        areas.append(frame["predicted_area"].sum())
    assert areas[0] > areas[1] > areas[2]

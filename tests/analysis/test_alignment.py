from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.analysis.test_trace import MakeConfig, built
from workbench.analysis.alignment import collect, scores, table
from workbench.analysis.points import TraceError
from workbench.data.datasets import open_dataset
from workbench.data.loading import ReferringDataset
from workbench.evaluation.evaluate import evaluate
from workbench.models.text_encoder import load_tokenizer


def test_scores_of_maps_whose_answers_are_known() -> None:
    inside = torch.zeros(1, 4, 4)
    inside[0, :2, :2] = 1
    on, flat, off = inside.clone(), torch.ones(1, 4, 4), 1 - inside
    found = scores(torch.stack([on, flat, off + 1e-9], dim=1), inside)
    assert found["inside"][0].tolist() == pytest.approx([0.75, 0.0, -0.25], abs=1e-6)
    assert found["auc"][0].tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert found["pointing"][0].tolist()[::2] == [1.0, 0.0]
    assert found["entropy"][0].tolist()[:2] == pytest.approx([0.5, 1.0])
    nobody = scores(flat[:, None], torch.zeros(1, 4, 4))
    assert nobody["auc"].isnan().all()
    assert nobody["pointing"].isnan().all()


def test_the_auc_is_the_chance_of_a_pair() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, inside = torch.rand(1, 1, 6, 6, generator=generator), (torch.rand(1, 6, 6, generator=generator) > 0.6).float()
    one, other = maps[0, 0][inside[0] > 0], maps[0, 0][inside[0] == 0]
    expected = (one[:, None] > other[None]).double().mean()
    assert scores(maps, inside)["auc"].item() == pytest.approx(expected.item())


def planted(head: int, seed: int = 0) -> pd.DataFrame:
    """What `collect` returns where one head of four looks at the referent for its own words alone, and all the more the
    better the mask is."""
    rng, frames = np.random.default_rng(seed), []
    ious = torch.from_numpy(rng.random(60))
    inside = torch.zeros(60, 6, 6)
    for image in range(60):
        y, x = rng.integers(0, 4, 2)
        inside[image, y : y + 2, x : x + 2] = 1
    for source in ("own", "shuffled", "same image", "smooth"):
        maps = torch.from_numpy(rng.random((60, 4, 6, 6)))
        shown = inside if source == "own" else inside[torch.from_numpy(rng.permutation(60))]
        maps[:, head] += (1 + 4 * ious)[:, None, None] * shown
        found = scores(maps, inside)
        frame = pd.DataFrame({name: value.numpy().ravel() for name, value in found.items()})
        frames.append(
            frame.assign(expression=np.repeat(range(60), 4), image_id=np.repeat(range(60), 4),
                         head=np.tile(range(4), 60), point="p", source=source, iou=np.repeat(ious.numpy(), 4))
        )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def test_the_planted_head_alone_separates_from_its_nulls() -> None:
    rows = table(planted(2)).set_index(["head", "statistic"])
    for statistic in ("inside", "auc", "pointing"):
        for null in ("shuffled", "same image", "smooth"):
            assert rows.loc[(2, statistic), f"{null}: verdict"].startswith("separates: above")
        assert rows.loc[(2, statistic), "value"] > max(rows.loc[(h, statistic), "value"] for h in (0, 1, 3))
    verdicts = [rows.loc[(h, "inside"), "shuffled: verdict"] for h in (0, 1, 3)]
    assert verdicts.count("does not separate") >= 2
    one = rows.loc[(2, "pointing")]
    assert one["low"] <= one["value"] <= one["high"]
    related = rows.loc[(2, "inside")]
    assert related["iou: verdict"] == "rises with the IoU"
    assert 0.7 < related["iou: low"] < related["iou: correlation"] < related["iou: high"] <= 1
    assert related["iou, shuffled: verdict"].startswith("separates: above"), (
        "those of other words are not related to it"
    )
    others = [rows.loc[(head, "inside"), "iou: verdict"] for head in (0, 1, 3)]
    assert others.count("no relation shown") >= 2


def test_a_random_model_is_collected_over_a_split(make_config: MakeConfig) -> None:
    config = make_config(fusion__variant="l_dit")
    dataset = ReferringDataset(open_dataset(config), "val", config.backbone.image_size, config.data)
    model, tokenizer = built(make_config, "l_dit"), load_tokenizer(config.text_encoder, Path())
    found = collect(model, tokenizer, dataset, config, ["encoder.blocks[1].attn.word_to_image"])
    assert set(found["head"]) == {0, 1}
    assert len(found[found["source"] == "own"]) == 2 * len(dataset)
    assert set(found["source"]) >= {"own", "shuffled", "smooth"}
    assert found["auc"].between(0, 1).all()
    scored = evaluate(model, tokenizer, dataset, config, torch.device("cpu"))
    keys = scored["ref_id"].astype(str) + "/" + scored["sent_id"].astype(str)
    own = found[(found["source"] == "own") & (found["head"] == 1)].set_index("expression")["iou"]
    assert own[keys].tolist() == pytest.approx(scored["iou"].tolist()), "that of its evaluation"
    with pytest.raises(TraceError, match="no point"):
        collect(model, tokenizer, dataset, config, ["encoder.blocks[9].attn.word_to_image"])


def test_an_unknown_run_is_one_line(workbench: Callable[..., Any]) -> None:
    done = workbench("attention", "nothing")
    assert done.code == 2
    assert "a run is <setting id>/seed<N>" in done.err

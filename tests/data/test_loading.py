from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workbench.config import DataConfig, RefshapesRecipe, RunConfig
from workbench.data import masks, refshapes
from workbench.data.datasets import open_data, open_dataset, read_refer
from workbench.data.language import swap_left_right
from workbench.data.loading import ReferringDataset, evaluation_batches, steps_per_epoch, training_loader
from workbench.data.sampling import StepSampler
from workbench.data.transforms import (
    Placement,
    dilated_mask,
    place,
    place_image,
    place_mask,
    resize_image,
    restore_logits,
    target_of,
)
from workbench.errors import ConfigError, DataError


@pytest.fixture
def dataset(make_config: Callable[..., RunConfig]) -> ReferringDataset:
    config = make_config()
    return ReferringDataset(open_dataset(config), "train", 64, config.data)


def batches(dataset: ReferringDataset, **options: Any) -> list[dict[str, Any]]:
    return list(training_loader(dataset, DataConfig(), **{"batch_size": 5, "steps": 8, "seed": 1, **options}))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["sentence"] == other["sentence"] and all(torch.equal(one[k], other[k]) for k in ("pixels", "mask"))


def test_batches_depend_on_seed_and_step_alone(dataset: ReferringDataset) -> None:
    whole = batches(dataset)
    assert all(same(a, b) for a, b in zip(whole, batches(dataset), strict=True))
    assert all(same(a, b) for a, b in zip(whole[3:], batches(dataset, start=3), strict=True)), (
        "a resumed loader differs"
    )
    assert all(same(a, b) for a, b in zip(whole, batches(dataset, workers=2), strict=True)), (
        "workers change the batches"
    )
    assert not any(same(a, b) for a, b in zip(whole, batches(dataset, seed=2), strict=True))


def test_processes_share_a_batch_without_overlap(dataset: ReferringDataset) -> None:
    whole = [key for batch in StepSampler(100, 6, 4, seed=0) for key in batch]
    parts = [[k for b in StepSampler(100, 6, 4, seed=0, rank=rank, world=2) for k in b] for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(whole)


def test_every_pass_sees_everything_once(dataset: ReferringDataset) -> None:
    seen = [index for batch in StepSampler(10, 4, 10, seed=0) for index, _ in batch]
    passes = [seen[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert passes[0] != passes[1]


def test_a_pass_without_its_incomplete_batch_begins_with_a_new_one(dataset: ReferringDataset) -> None:
    steps = list(StepSampler(10, 4, 6, seed=0, drop_last=True))
    for first in (0, 2, 4):  # two batches a pass
        of_pass = [index for batch in steps[first : first + 2] for index, _ in batch]
        assert len(set(of_pass)) == 8
    assert steps[3:] == list(StepSampler(10, 4, 6, seed=0, start=3, drop_last=True))
    assert steps_per_epoch(dataset, DataConfig(drop_last=True), 7) == len(dataset) // 7
    with pytest.raises(ConfigError, match=r"data\.drop_last.*leaves nothing of \d+ examples"):
        steps_per_epoch(dataset, DataConfig(drop_last=True), len(dataset) + 1)


def test_an_epoch_of_referents_draws_one_expression_of_each(dataset: ReferringDataset) -> None:
    referents = [e.ref_id for e in dataset.expressions]
    count = len(set(referents))
    drawn = [i for batch in StepSampler(len(dataset), count, 2, 0, referents=referents) for i, _ in batch]
    first, second = drawn[:count], drawn[count:]
    assert sorted({referents[i] for i in first}) == sorted(set(referents))
    assert set(first) != set(second), "another pass draws other expressions"
    assert steps_per_epoch(dataset, DataConfig(epoch="referents"), 4) == count / 4
    assert steps_per_epoch(dataset, DataConfig(), 4) == len(dataset) / 4


def test_a_flip_mirrors_image_and_mask_and_swaps_the_words(make_config: Callable[..., RunConfig]) -> None:
    data = open_dataset(make_config())
    never, always = (ReferringDataset(data, "train", 64, DataConfig(horizontal_flip=p)) for p in (0.0, 1.0))
    index = next(i for i, e in enumerate(never.expressions) if " left" in e.sentence or "right" in e.sentence)
    plain, flipped = never[index, 0], always[index, 0]
    assert torch.equal(plain["pixels"].flip(-1), flipped["pixels"])
    assert torch.equal(plain["mask"].flip(-1), flipped["mask"])
    assert flipped["sentence"] == swap_left_right(plain["sentence"]) != plain["sentence"]


def test_evaluation_visits_every_expression_once_and_every_image_once(dataset: ReferringDataset) -> None:
    found = list(evaluation_batches(dataset, 7))
    expressions = [e.sent_id for batch in found for e in batch.expressions]
    assert sorted(expressions) == sorted(e.sent_id for e in dataset.expressions)
    assert sum(len(batch.pixels) for batch in found) == len({e.image_id for e in dataset.expressions})
    for batch in found:
        for expression, image in zip(batch.expressions, batch.image_of, strict=True):
            assert torch.equal(batch.pixels[image], dataset.square(expression))
    halves = [[e.sent_id for b in evaluation_batches(dataset, 7, rank, 2) for e in b.expressions] for rank in (0, 1)]
    assert sorted(halves[0] + halves[1]) == sorted(expressions)


def test_an_evaluation_batch_is_the_same_whoever_makes_it(dataset: ReferringDataset) -> None:
    def content(batch: Any) -> tuple[Any, ...]:
        return [e.sent_id for e in batch.expressions], batch.pixels.tolist(), batch.image_of.tolist()

    alone = [content(batch) for batch in evaluation_batches(dataset, 7)]
    assert [content(batch) for batch in evaluation_batches(dataset, 7, workers=2)] == alone
    shares = [[content(batch) for batch in evaluation_batches(dataset, 7, rank, 3)] for rank in range(3)]
    assert [shares[i % 3][i // 3] for i in range(len(alone))] == alone


def test_several_targets_are_one_mask_and_none_an_empty_one(tmp_path: Path) -> None:
    recipe = RefshapesRecipe(seed=1, train_images=20, eval_images=2, targets="any")
    config = DataConfig(recipe=recipe, horizontal_flip=0)
    data = open_data(config, tmp_path)
    dataset = ReferringDataset(data, "train", 64, config)
    whole = {row["ann_id"]: row["rle"] for row in data.objects.to_pylist()}
    counts = set()
    for index, expression in enumerate(dataset.expressions):
        parts = [masks.decode(whole[ann_id], 64, 64) for ann_id in expression.ann_ids]
        expected = np.clip(sum(parts, np.zeros((64, 64), dtype=np.uint8)), 0, 1)
        np.testing.assert_array_equal(dataset.mask(expression), expected)
        np.testing.assert_array_equal(dataset[index, 0]["mask"].numpy(), expected * 255)
        counts.add(len(parts))
    assert {0, 1, 2} <= counts


@pytest.mark.parametrize("padding", ["bottom_right", "centred"])
@pytest.mark.parametrize(("height", "width"), [(56, 80), (80, 56), (64, 64), (33, 97)])
def test_logits_come_back_to_the_original_size_in_place(height: int, width: int, padding: Any) -> None:
    placement = place(height, width, 64, padding)
    assert max(placement.height, placement.width) == 64
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[height // 4 : height // 2, width // 2 : width - 4] = 1
    square = target_of(place_mask(mask, placement, 64))
    assert square.sum() / 64**2 == pytest.approx(mask.mean() * placement.height * placement.width / 64**2, rel=0.02)
    back = restore_logits(square * 2 - 1, placement, 64, height, width) > 0
    assert back.shape == (height, width)
    overlap = (back.numpy() & (mask > 0)).sum() / (back.numpy() | (mask > 0)).sum()
    assert overlap > 0.9


def test_masks_travel_as_bytes_and_arrive_as_the_same_floats(dataset: ReferringDataset) -> None:
    """As they were made before: Pillow's bytes divided by 255, or zeros and ones where nothing is resized."""
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(target_of(every), torch.div(every, 255))
    batch = next(iter(training_loader(dataset, DataConfig(), 4, 1, seed=0)))
    assert batch["mask"].dtype == torch.uint8
    assert set(target_of(batch["mask"]).unique().tolist()) == {0.0, 1.0}, "a picture of the square's own size"


def test_the_square_is_zero_outside_the_image() -> None:
    placement = place(30, 60, 64, "centred")
    assert placement == Placement(16, 0, 32, 64)
    white = torch.full((3, 30, 60), 255, dtype=torch.uint8)
    square = place_image(resize_image(white, placement), placement, 64)
    assert square[:, :16].max() == square[:, 48:].max() == 0
    assert square[:, 16:48].min() == 255


def test_a_rectangular_set_loads(tmp_path: Path) -> None:
    recipe = RefshapesRecipe(seed=1, train_images=3, eval_images=2, width=80, height=56)
    data = read_refer(refshapes.ensure(tmp_path, recipe), "refshapes", "unc")
    example = ReferringDataset(data, "train", 64, DataConfig(horizontal_flip=0))[0, 0]
    assert example["pixels"].shape == (3, 64, 64)
    assert example["content"].tolist() == [0, 0, 45, 64]
    assert example["mask"][45:].sum() == 0


def test_unknown_data_sets_and_splits_list_the_known(make_config: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match=r"data\.dataset: unknown data set 'refcocoo' .*known: refshapes, refcoco"):
        open_dataset(make_config(data__dataset="refcocoo", data__recipe=None))
    with pytest.raises(DataError, match=r"no split 'tesst' \(did you mean 'testA'\?\); it has train"):
        open_dataset(make_config(evaluation__splits=["tesst"]))


@pytest.mark.parametrize(("radius", "score"), [(12, 0.843), (25, 0.939), (50, 0.972), (100, 0.985)])
def test_the_released_way_to_a_mask_grows_it(radius: int, score: float) -> None:
    y, x = torch.meshgrid(torch.arange(480), torch.arange(640), indexing="ij")
    disc = (x - 320) ** 2 + (y - 240) ** 2 <= radius**2
    placement = place(480, 640, 512, "bottom_right")
    seen = torch.nn.functional.interpolate(disc.float()[None, None], size=(384, 512), mode="bilinear")[0, 0]
    square = torch.zeros(512, 512)
    square[:384] = (seen > 0.5).float()

    def against_itself(found: torch.Tensor) -> float:
        return ((found & disc).sum() / (found | disc).sum()).item()

    assert against_itself(dilated_mask(square * 2 - 1, placement, 512, 480, 640, 0.0)) == pytest.approx(score, abs=3e-3)
    assert against_itself(restore_logits(square - 0.5, placement, 512, 480, 640) > 0) >= 0.98


def test_aligned_corners_are_those_of_the_released_upsampling() -> None:
    logits = torch.randn(16, 16)
    expected = torch.nn.UpsamplingBilinear2d(scale_factor=4)(logits[None, None])[0, 0]
    whole = Placement(0, 0, 64, 64)
    torch.testing.assert_close(restore_logits(logits, whole, 64, 64, 64, align_corners=True), expected)
    assert not torch.equal(restore_logits(logits, whole, 64, 64, 64), expected)

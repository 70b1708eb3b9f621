"""Batches for training and evaluation, a function of seed and step alone: not of workers, restarts or processes."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from workbench.config import DataConfig
from workbench.data.features import FeatureStore
from workbench.data.language import swap_left_right
from workbench.data.refer import ReferData, decode_mask, read_image
from workbench.data.transforms import Placement, place, place_mask, resize_image
from workbench.errors import DataError

CACHE_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Expression:
    """One row of a split, with all that is needed to load it."""

    split: str
    image_id: int
    ref_id: int
    ann_id: int
    sent_id: int
    sentence: str
    file_name: str
    height: int
    width: int
    category: str
    segmentation: str
    """COCO's polygons or RLE, as JSON."""


class ReferringDataset(Dataset[dict[str, Any]]):
    """The expressions of a split. Images and masks are decoded when asked for.

    Args:
        side: side of the model's square in pixels.
        cache: keep decoded images while all of the split's fit in `CACHE_BYTES`.
    """

    def __init__(self, data: ReferData, split: str, side: int, config: DataConfig, cache: bool = True) -> None:
        self.expressions = _join(data, data.split(split))
        self.side = side
        self._config = config
        self._folder = data.image_folder
        sizes = {e.image_id: e.height * e.width * 3 for e in self.expressions}
        self.features: FeatureStore | None = None
        """Where set, examples hold features of the frozen encoder in place of pixels."""
        self._cache: dict[int, NDArray[np.uint8]] | None = {} if cache and sum(sizes.values()) <= CACHE_BYTES else None

    def __len__(self) -> int:
        return len(self.expressions)

    def image(self, expression: Expression) -> NDArray[np.uint8]:
        """The original image, height×width×3."""
        if self._cache is not None and expression.image_id in self._cache:
            return self._cache[expression.image_id]
        image = read_image(self._folder / expression.file_name)
        if self._cache is not None:
            self._cache[expression.image_id] = image
        return image

    def mask(self, expression: Expression) -> NDArray[np.uint8]:
        """The referent's mask at the original size, height×width."""
        return decode_mask(json.loads(expression.segmentation), expression.height, expression.width)

    def placement(self, expression: Expression) -> Placement:
        """Where the image's content lies in the model's square."""
        return place(expression.height, expression.width, self.side, self._config.padding)

    def square(self, expression: Expression) -> Tensor:
        """The image in the model's square, 3×side×side uint8."""
        square = resize_image(self.image(expression), self.placement(expression), self.side)
        return torch.from_numpy(square).permute(2, 0, 1)

    def placed(self, expression: Expression, flipped: bool) -> tuple[Tensor, Tensor]:
        """The square 3×side×side uint8, mirrored if asked, and where its content lies (top, left, height, width)."""
        place, square = self.placement(expression), self.square(expression)
        left = self.side - place.left - place.width if flipped else place.left
        return square.flip(-1) if flipped else square, torch.tensor([place.top, left, place.height, place.width])

    def file_size(self, file_name: str) -> int:
        """Bytes of an image file; DataError when it is not there."""
        try:
            return (self._folder / file_name).stat().st_size
        except OSError as error:
            raise DataError(f"{self._folder / file_name}: {error.strerror}") from None

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """One training example, augmented by a seed.

        Args:
            key: (index of the expression, seed of its augmentation).
        """
        index, seed = key
        expression = self.expressions[index]
        flipped = bool(np.random.default_rng(seed).random() < self._config.horizontal_flip)
        mask = place_mask(self.mask(expression), self.placement(expression), self.side)
        example = {
            "mask": mask.flip(-1) if flipped else mask,
            "sentence": swap_left_right(expression.sentence) if flipped else expression.sentence,
        }
        if self.features is not None:
            return {**example, "features": self.features.read(expression.image_id, flipped)}
        pixels, content = self.placed(expression, flipped)
        return {**example, "pixels": pixels, "content": content}


class StepSampler(Sampler[list[tuple[int, int]]]):
    """The batches of steps `start` to `steps`: each pass a permutation of its own, cut into batches without a rest.

    Args:
        referents: for each expression the index of its referent; a pass then draws one expression of each.
        rank, world: this process takes every `world`-th example of a batch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        steps: int,
        seed: int,
        start: int = 0,
        referents: Sequence[int] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._groups = _groups(referents) if referents is not None else None
        self._size = len(self._groups) if self._groups is not None else size
        self._batch, self._steps, self._seed, self._start = batch_size, steps, seed, start
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        return self._steps - self._start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        passes: dict[int, NDArray[np.int64]] = {}
        for step in range(self._start, self._steps):
            batch = []
            for position in range(step * self._batch + self._rank, (step + 1) * self._batch, self._world):
                number, place_in_pass = divmod(position, self._size)
                if number not in passes:
                    passes = {k: v for k, v in passes.items() if k == number - 1}
                    passes[number] = self._order(number)
                batch.append((int(passes[number][place_in_pass]), _mixed(self._seed, position)))
            yield batch

    def _order(self, number: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self._seed, number])
        order = rng.permutation(self._size)
        if self._groups is None:
            return order
        return np.array([rng.choice(self._groups[i]) for i in order])


def _mixed(seed: int, position: int) -> int:
    return int(np.random.SeedSequence([seed, position]).generate_state(1)[0])


def _groups(referents: Sequence[int]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for index, referent in enumerate(referents):
        groups.setdefault(referent, []).append(index)
    return list(groups.values())


def steps_per_epoch(dataset: ReferringDataset, config: DataConfig, batch_size: int) -> float:
    """Batches in one pass, a fraction where the last is not full."""
    units = {e.ref_id for e in dataset.expressions} if config.epoch == "referents" else dataset.expressions
    return len(units) / batch_size


def training_loader(
    dataset: ReferringDataset,
    config: DataConfig,
    batch_size: int,
    steps: int,
    seed: int,
    start: int = 0,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    close_in_workers: int | None = None,
) -> DataLoader[dict[str, Any]]:
    """Batches from step `start` on: pixels B×3×S×S uint8, mask B×S×S, content B×4, and the list of sentences.

    Where the data set has features, they stand in place of pixels and content.

    Args:
        close_in_workers: a file descriptor that the workers must not inherit.
    """
    referents = [e.ref_id for e in dataset.expressions] if config.epoch == "referents" else None
    sampler = StepSampler(len(dataset), batch_size, steps, seed, start, referents, rank, world)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=None if close_in_workers is None else functools.partial(_close, close_in_workers),
        # The workers' own seeds are not used, but drawing one from the global state would disturb a resumed run.
        generator=torch.Generator().manual_seed(0),
    )


def _close(descriptor: int, worker: int) -> None:
    os.close(descriptor)


@dataclass(frozen=True)
class EvaluationBatch:
    """Expressions and the images they speak of, each image once.

    Attributes:
        pixels: I×3×S×S uint8, and content I×4 (top, left, height, width).
        image_of: for each expression the index of its image, E.
    """

    expressions: list[Expression]
    pixels: Tensor
    content: Tensor
    image_of: Tensor


def evaluation_batches(
    dataset: ReferringDataset, batch_size: int, rank: int = 0, world: int = 1
) -> Iterator[EvaluationBatch]:
    """Every expression of a split once, image by image; a process takes every `world`-th image."""
    by_image: dict[int, list[Expression]] = {}
    for expression in dataset.expressions:
        by_image.setdefault(expression.image_id, []).append(expression)
    waiting: list[list[Expression]] = []
    for group in list(by_image.values())[rank::world]:
        waiting.append(group)
        if sum(map(len, waiting)) >= batch_size:
            yield _evaluation_batch(dataset, waiting)
            waiting = []
    if waiting:
        yield _evaluation_batch(dataset, waiting)


def _evaluation_batch(dataset: ReferringDataset, groups: list[list[Expression]]) -> EvaluationBatch:
    placements = [dataset.placement(group[0]) for group in groups]
    return EvaluationBatch(
        [expression for group in groups for expression in group],
        torch.stack([dataset.square(group[0]) for group in groups]),
        torch.tensor([[p.top, p.left, p.height, p.width] for p in placements]),
        torch.tensor([i for i, group in enumerate(groups) for _ in group]),
    )


def _join(data: ReferData, rows: pa.Table) -> list[Expression]:
    images = {r["image_id"]: r for r in data.images.to_pylist()}
    objects = {r["ann_id"]: r for r in data.objects.to_pylist()}
    return [
        Expression(
            **row,
            file_name=images[row["image_id"]]["file_name"],
            height=images[row["image_id"]]["height"],
            width=images[row["image_id"]]["width"],
            category=objects[row["ann_id"]]["category"],
            segmentation=objects[row["ann_id"]]["segmentation"],
        )
        for row in rows.to_pylist()
    ]

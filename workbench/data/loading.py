"""Batches for training and evaluation, a function of seed and step alone: not of workers, restarts or processes."""

from __future__ import annotations

import copy
import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torchvision.io  # noqa: F401 - it takes seconds: here once, not in each worker at its first image
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from workbench.config import DataConfig
from workbench.data import masks
from workbench.data.augment import change_colours, draw
from workbench.data.features import FeatureStore
from workbench.data.images import read_pixels
from workbench.data.language import swap_left_right
from workbench.data.sampling import StepSampler
from workbench.data.tables import ReferData
from workbench.data.transforms import Placement, place, place_image, place_mask, resize_image
from workbench.errors import ConfigError, DataError

CACHE_BYTES = 2 * 1024**3
START_METHOD = "fork"
"""How loader workers are started: at once, with the libraries and tables of their parent process."""


@dataclass(frozen=True)
class Expression:
    """One row of a split, with all that is needed to load it."""

    split: str
    image_id: int
    ref_id: int
    ann_ids: tuple[int, ...]
    """Empty for a no-target expression."""
    sent_id: int
    sentence: str
    file_name: str
    height: int
    width: int
    category: str
    """Of the referent; of several, each once."""
    distractors: int
    """Other objects of a referent's category in the image; -1 where that is not known."""
    rle: bytes
    """The referents' mask, as COCO's compressed counts; several are united."""


class Expressions(Sequence[Expression]):
    """The expressions of a split, each made when it is asked for.

    Left out are those that refer to crowds alone where crowds are not part of masks: they have a target and no mask, so
    they can neither be learnt from nor scored.

    Args:
        images: a fixed sample: only those about so many of its images; None: all.
    """

    def __init__(self, data: ReferData, split: str, images: int | None = None) -> None:
        self._data = data
        self._rows = np.flatnonzero(pc.equal(data.expressions["split"], split).to_numpy(zero_copy_only=False))
        if len(self._rows) == 0:
            data.split(split)
        self._rows = self._rows[~without_mask(data.expressions)[self._rows]]
        self._columns = {name: data.expressions[name] for name in data.expressions.column_names}
        if images is not None:
            ids = self.column("image_id")
            self._rows = self._rows[np.isin(ids, np.random.default_rng(0).permutation(np.unique(ids))[:images])]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Expression: ...

    @overload
    def __getitem__(self, index: slice) -> list[Expression]: ...

    def __getitem__(self, index: int | slice) -> Expression | list[Expression]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = int(self._rows[index])
        values = {name: column[row].as_py() for name, column in self._columns.items()}
        images, objects = self._data.images, self._data.objects
        image, targets = values["image_row"], values["object_rows"]
        height, width = images["height"][image].as_py(), images["width"][image].as_py()
        parts = [self._data.counts(target, height, width) for target in targets]
        return Expression(
            values["split"],
            values["image_id"],
            values["ref_id"],
            tuple(values["ann_ids"]),
            values["sent_id"],
            values["sentence"],
            images["file_name"][image].as_py(),
            height,
            width,
            " + ".join(dict.fromkeys(objects["category"][target].as_py() for target in targets)),
            values["distractors"],
            masks.union(parts, height, width),
        )

    def column(self, name: str) -> NDArray[Any]:
        """One column of numbers, see `ReferData.expressions`."""
        return np.asarray(self._columns[name].to_numpy())[self._rows]

    def with_sentences(self, sentences: Sequence[str]) -> Expressions:
        """The same expressions with other sentences, one each."""
        changed = copy.copy(self)
        column = self._columns["sentence"].to_pylist()
        for row, sentence in zip(self._rows, sentences, strict=True):
            column[int(row)] = sentence
        changed._columns = {**self._columns, "sentence": pa.chunked_array([column])}
        return changed

    def sample(self, count: int) -> Expressions:
        """So many of the same expressions, spread over the split: those whose split:ref_id:sent_id has the smallest
        SHA-256. So a sample does not depend on the order of the split, and a smaller one is part of a larger one."""
        keys = zip(*(self.column(name).tolist() for name in ("split", "ref_id", "sent_id")), strict=True)
        digests = [hashlib.sha256(":".join(map(str, key)).encode()).digest() for key in keys]
        chosen = sorted(sorted(range(len(digests)), key=digests.__getitem__)[:count])
        changed = copy.copy(self)
        changed._rows = self._rows[chosen]
        return changed

    def one_of_each_image(self) -> list[Expression]:
        """For each image, in the order of their ids, its first expression."""
        _, first = np.unique(self.column("image_id"), return_index=True)
        return [self[int(index)] for index in first]


def without_mask(expressions: pa.Table) -> NDArray[np.bool_]:
    """Which expressions have a target but no mask, since they refer to crowds alone: N truth values."""
    targets, masks_there = (pc.list_value_length(expressions[name]).to_numpy() for name in ("ann_ids", "object_rows"))
    return np.asarray((targets > 0) & (masks_there == 0))


class ReferringDataset(Dataset[dict[str, Any]]):
    """The expressions of a split. Images and masks are decoded when asked for.

    Args:
        side: side of the model's square in pixels.
        cache: keep decoded images while all of the split's fit in `CACHE_BYTES`.
        images: see `Expressions`.
    """

    def __init__(
        self,
        data: ReferData,
        split: str,
        side: int,
        config: DataConfig,
        cache: bool = True,
        images: int | None = None,
    ) -> None:
        self.expressions = Expressions(data, split, images)
        self.side = side
        self._config = config
        self._folder = data.image_folder
        self.asked: dict[tuple[int, int], str] | None = None
        """Where set, the words that a model is evaluated with, by ref_id and sent_id, in place of their own."""
        self.features: FeatureStore | None = None
        """Where set, examples hold features of the frozen encoder in place of pixels."""
        shown = data.images.take(np.unique(self.expressions.column("image_row")))
        size = 3 * pc.sum(pc.multiply(shown["height"].cast("int64"), shown["width"].cast("int64"))).as_py()
        self._cache: dict[int, Tensor] | None = {} if cache and size <= CACHE_BYTES else None

    def __len__(self) -> int:
        return len(self.expressions)

    def words_of(self, expression: Expression) -> str:
        """The words that a model is to read when it is evaluated."""
        return expression.sentence if self.asked is None else self.asked[expression.ref_id, expression.sent_id]

    def image(self, expression: Expression) -> NDArray[np.uint8]:
        """The original image, height×width×3."""
        return self._pixels(expression).permute(1, 2, 0).contiguous().numpy()

    def _pixels(self, expression: Expression) -> Tensor:
        """The original image, 3×height×width uint8."""
        if self._cache is not None and expression.image_id in self._cache:
            return self._cache[expression.image_id]
        pixels = read_pixels(self._folder / expression.file_name, (expression.height, expression.width))
        if self._cache is not None:
            self._cache[expression.image_id] = pixels
        return pixels

    def mask(self, expression: Expression) -> NDArray[np.uint8]:
        """The referents' mask at the original size, height×width."""
        return masks.decode(expression.rle, expression.height, expression.width)

    def placement(self, expression: Expression) -> Placement:
        """Where the whole image is in the model's square, as in evaluation and figures."""
        return place(expression.height, expression.width, self.side, self._config.padding)

    def square(self, expression: Expression) -> Tensor:
        """The whole image in the model's square, 3×side×side uint8."""
        placement = self.placement(expression)
        return place_image(resize_image(self._pixels(expression), placement), placement, self.side)

    def placed(self, expression: Expression, flipped: bool) -> tuple[Tensor, Tensor]:
        """The square 3×side×side uint8, mirrored if asked, and where its content lies (top, left, height, width)."""
        square = self.square(expression)
        return square.flip(-1) if flipped else square, self._content(self.placement(expression), flipped)

    def _content(self, place: Placement, flipped: bool) -> Tensor:
        left = self.side - place.left - place.width if flipped else place.left
        return torch.tensor([place.top, left, place.height, place.width])

    def file_size(self, file_name: str) -> int:
        """Bytes of an image file; DataError if it is missing."""
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
        height, width = expression.height, expression.width
        box = masks.box_of(expression.rle, height, width)
        drawn = draw(self._config, seed, height, width, self.side, box)
        placement, flipped = drawn.placement, drawn.flipped
        mask = place_mask(self.mask(expression), placement, self.side, box)
        swap = self._config.augmentation.swap == "substrings"
        example = {
            "mask": mask.flip(-1) if flipped else mask,
            "sentence": swap_left_right(expression.sentence, swap) if flipped else expression.sentence,
        }
        if self.features is not None:
            return {**example, "features": self.features.read(expression.image_id, flipped)}
        content = change_colours(resize_image(self._pixels(expression), placement), drawn.colours)
        square = place_image(content, placement, self.side)
        pixels = square.flip(-1) if flipped else square
        return {**example, "pixels": pixels, "content": self._content(placement, flipped)}


def steps_per_epoch(dataset: ReferringDataset, config: DataConfig, batch_size: int) -> float:
    """Batches in one pass, fractional where the last is not full and is not left out.

    Raises:
        ConfigError: every batch would be left out.
    """
    referents = config.epoch == "referents"
    units = len(np.unique(dataset.expressions.column("ref_id"))) if referents else len(dataset)
    if config.drop_last and units < batch_size:
        raise ConfigError("data.drop_last", f"leaves nothing of {units} examples with a batch_size of {batch_size}")
    return batches(units, batch_size, config.drop_last)


def batches(units: int, batch_size: int, drop_last: bool) -> float:
    """How many batches a pass over so many examples has; fractional where an incomplete one is not left out."""
    return units // batch_size if drop_last else units / batch_size


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
    """Batches from step `start` on: pixels B×3×S×S uint8, mask B×S×S uint8, content B×4, and the list of sentences.

    Masks are soft, 255 inside; `transforms.target_of` makes floats of them, on the device that computes the loss.

    Where the data set has features, batches hold them in place of pixels and content.

    Args:
        close_in_workers: a file descriptor that the workers must not inherit.
    """
    referents = dataset.expressions.column("ref_id").tolist() if config.epoch == "referents" else None
    sampler = StepSampler(len(dataset), batch_size, steps, seed, start, referents, rank, world, config.drop_last)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        multiprocessing_context=START_METHOD if workers else None,
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
    """Expressions and the images they refer to, each image once.

    Attributes:
        pixels: I×3×S×S uint8, and content I×4 (top, left, height, width).
        image_of: for each expression the index of its image, E.
    """

    expressions: list[Expression]
    pixels: Tensor
    content: Tensor
    image_of: Tensor


def evaluation_batches(
    dataset: ReferringDataset, batch_size: int, rank: int = 0, world: int = 1, workers: int = 0
) -> Iterator[EvaluationBatch]:
    """Every expression of a split once, image by image; a process takes every `world`-th batch.

    What is in a batch does not depend on `world`, so that each mask comes out the same to the last bit.
    """
    batches = _Batches(dataset, batch_size, rank, world)
    workers = min(workers, len(batches))
    context = START_METHOD if workers else None
    yield from DataLoader(
        batches, batch_size=None, num_workers=workers, collate_fn=_as_it_is, multiprocessing_context=context
    )


class _Batches(Dataset[EvaluationBatch]):
    """This process's part of a split's batches, each made when a worker asks for it."""

    def __init__(self, dataset: ReferringDataset, batch_size: int, rank: int, world: int) -> None:
        self._dataset = dataset
        by_image: dict[int, list[int]] = {}
        for index, image_id in enumerate(dataset.expressions.column("image_id").tolist()):
            by_image.setdefault(image_id, []).append(index)
        batches: list[list[list[int]]] = [[]]
        for group in by_image.values():
            if sum(map(len, batches[-1])) >= batch_size:
                batches.append([])
            batches[-1].append(group)
        self._batches = batches[rank::world]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> EvaluationBatch:
        dataset = self._dataset
        groups = [[dataset.expressions[index] for index in group] for group in self._batches[number]]
        placements = [dataset.placement(group[0]) for group in groups]
        return EvaluationBatch(
            [expression for group in groups for expression in group],
            torch.stack([dataset.square(group[0]) for group in groups]),
            torch.tensor([[p.top, p.left, p.height, p.width] for p in placements]),
            torch.tensor([i for i, group in enumerate(groups) for _ in group]),
        )


def _as_it_is(batch: Any) -> Any:
    return batch

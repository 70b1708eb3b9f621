"""`workbench bench data`: reading, preparing and loading a data set as large as RefCOCO, with random content.

Figures:
    prepare_seconds, prepare_mib: `workbench data prepare` of full-size annotations (142,210 expressions, 196,771
        objects with polygons, 19,994 images), and the most memory the process had, its libraries included.
    open_seconds: opening what was prepared, its digest checked.
    first_batch_seconds: from opened tables to the first training batch of 64 at 512 px, with two loader workers and the
        libraries loaded.
    images_per_second_per_core: training examples decoded and augmented as released, for ViT-B at 512 px, by one process
        with one thread. It counts single examples: what it takes to put them together to batches is not in it.
    batches_per_second_0_workers, batches_per_second_1_workers, batches_per_second_2_workers: batches of 64 such
        examples from the loader that training uses, collated, and with workers also handed over to this process.
        Nothing is done with them, and the loader has run for a while before it is timed.
    bytes_speedup_0_workers, bytes_speedup_1_workers, bytes_speedup_2_workers: the same against a loader whose masks are
        floats before they are collated, rather than bytes until the device that computes the loss.
    memory_speedup_0_workers, memory_speedup_1_workers, memory_speedup_2_workers: the same against the same loader in a
        process that returns freed memory to the operating system, as glibc does unasked; runs and all the other figures
        of batches keep it (workbench/allocator.py).
    speedup: against a straightforward loader on the same examples and with the same draws: Pillow for the image and its
        augmentation, pycocotools for the polygons. Neither keeps images, and neither scales pixels to floats.
"""

from __future__ import annotations

import functools
import gc
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from pycocotools import mask as coco_mask
from torch import Tensor

from workbench.allocator import keep_freed_memory
from workbench.benchmarks import full_size
from workbench.benchmarks.race import Report, in_fresh_process, in_words, most_resident, race
from workbench.config import AugmentationConfig, DataConfig
from workbench.data.augment import draw
from workbench.data.datasets import find
from workbench.data.loading import ReferringDataset, training_loader
from workbench.data.pickles import load_plain
from workbench.data.prepare import prepare
from workbench.data.prepared import open_prepared, prepared_folder
from workbench.data.transforms import target_of

SIDE, BATCH, EXAMPLES, ROUNDS = 512, 64, 48, 7
WORKERS, TIMED_BATCHES, BATCH_ROUNDS, MEMORY_ROUNDS = (0, 1, 2), 4, 5, 3
CONFIG = DataConfig(
    dataset="refcoco",
    epoch="referents",
    padding="centred",
    augmentation=AugmentationConfig(
        scales=tuple(1 - step / 16 for step in range(7)), color_jitter=0.4, swap="substrings"
    ),
)


def run(device: torch.device, report: Report) -> dict[str, float]:
    """All figures; see the module."""
    with tempfile.TemporaryDirectory() as name:
        report("writing annotations and images of RefCOCO's size")
        folder = full_size.make(Path(name))
        results = in_fresh_process(functools.partial(_prepared, folder))
        report(", ".join(f"{figure} {value:.3g}" for figure, value in results.items()))
        results |= in_fresh_process(functools.partial(_opened, folder))
        report(", ".join(f"{figure} {value:.3g}" for figure, value in results.items()))
        seconds = in_fresh_process(functools.partial(_raced, folder))
        report(in_words(f"{EXAMPLES} training examples", seconds))
        results |= {
            "images_per_second_per_core": EXAMPLES / seconds["ours"],
            "speedup": seconds["straightforward"] / seconds["ours"],
        }
        results |= in_fresh_process(functools.partial(_batched, folder)) | _kept_memory(folder)
        report(", ".join(f"{figure} {value:.3g}" for figure, value in results.items() if "workers" in figure))
        return results


def _place(folder: Path) -> Path:
    return prepared_folder(folder.parent, folder.name, "unc")


def _prepared(folder: Path) -> dict[str, float]:
    began = time.perf_counter()
    prepare(find(folder, "refcoco", "unc"), _place(folder))
    return {"prepare_seconds": time.perf_counter() - began, "prepare_mib": most_resident()}


def _opened(folder: Path) -> dict[str, float]:
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        data = open_prepared(_place(folder))
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    dataset = ReferringDataset(data, "train", SIDE, CONFIG)
    next(iter(training_loader(dataset, CONFIG, BATCH, steps=100, seed=0, workers=2)))
    return {"open_seconds": statistics.median(seconds), "first_batch_seconds": time.perf_counter() - began}


def _raced(folder: Path) -> dict[str, float]:
    torch.set_num_threads(1)
    data = open_prepared(_place(folder))
    dataset = ReferringDataset(data, "train", SIDE, CONFIG, cache=False)
    keys = [(int(i), int(i)) for i in np.random.default_rng(0).permutation(len(dataset))[:EXAMPLES]]
    plain = StraightforwardLoader(folder)
    sentences = {dataset.expressions[index].sent_id: seed for index, seed in keys}

    def ours() -> None:
        for key in keys:
            dataset[key]

    def straightforward() -> None:
        for sent_id, seed in sentences.items():
            plain.example(sent_id, seed)

    # Otherwise the millions of objects of one contestant would slow the garbage collector for both.
    gc.freeze()
    try:
        return race({"ours": ours, "straightforward": straightforward}, ROUNDS, torch.device("cpu"))
    finally:
        gc.unfreeze()


class FloatMasks(ReferringDataset):
    """The same examples with masks of 32 bits a pixel, as the loss reads them."""

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """One training example, see `ReferringDataset`."""
        example = super().__getitem__(key)
        return {**example, "mask": target_of(example["mask"])}


def _batched(folder: Path) -> dict[str, float]:
    """Batches per second with each number of workers, and how many times as many as with masks of floats."""
    keep_freed_memory()
    torch.set_num_threads(1)
    data = open_prepared(_place(folder))
    kinds = {kind: kind(data, "train", SIDE, CONFIG, cache=False) for kind in (ReferringDataset, FloatMasks)}
    seconds: dict[tuple[int, type[ReferringDataset]], list[float]] = {
        (workers, kind): [] for workers in WORKERS for kind in kinds
    }
    gc.freeze()
    try:
        for number in range(BATCH_ROUNDS):
            for (workers, kind), times in seconds.items():
                times.append(_seconds_per_batch(kinds[kind], workers, number))
    finally:
        gc.unfreeze()
    ours, floats = (
        {workers: statistics.median(seconds[workers, kind]) for workers in WORKERS}
        for kind in (ReferringDataset, FloatMasks)
    )
    return {f"batches_per_second_{workers}_workers": 1 / ours[workers] for workers in WORKERS} | {
        f"bytes_speedup_{workers}_workers": floats[workers] / ours[workers] for workers in WORKERS
    }


def _kept_memory(folder: Path) -> dict[str, float]:
    """How many times as many batches per second a process gets that keeps freed memory, with each number of workers."""
    seconds: dict[tuple[bool, int], list[float]] = {}
    for number in range(MEMORY_ROUNDS):
        for kept in (True, False):
            # What a process once kept, it cannot lose again: each takes its turn as a new one.
            for workers, taken in in_fresh_process(functools.partial(_timed, folder, kept, number)).items():
                seconds.setdefault((kept, workers), []).append(taken)
    return {
        f"memory_speedup_{workers}_workers": statistics.median(seconds[False, workers])
        / statistics.median(seconds[True, workers])
        for workers in WORKERS
    }


def _timed(folder: Path, kept: bool, seed: int) -> dict[int, float]:
    if kept:
        keep_freed_memory()
    torch.set_num_threads(1)
    dataset = ReferringDataset(open_prepared(_place(folder)), "train", SIDE, CONFIG, cache=False)
    return {workers: _seconds_per_batch(dataset, workers, seed) for workers in WORKERS}


def _seconds_per_batch(dataset: ReferringDataset, workers: int, seed: int) -> float:
    """Of a loader that has filled its queues and goes on, so that as much is under way in the end as in the beginning.

    The first round's batches differ from the second's, and are the same for all contestants.
    """
    batches = iter(training_loader(dataset, CONFIG, BATCH, 10**6, seed, workers=workers))
    for _ in range(1 + 2 * workers):
        next(batches)
    began = time.perf_counter()
    for _ in range(TIMED_BATCHES):
        next(batches)
    return (time.perf_counter() - began) / TIMED_BATCHES


class StraightforwardLoader:
    """The released augmentation as usually written, with Pillow, pycocotools and dictionaries of annotations."""

    def __init__(self, folder: Path) -> None:
        instances = json.loads((folder / "instances.json").read_bytes())
        self._images = {image["id"]: image for image in instances["images"]}
        self._objects = {a["id"]: a for a in instances["annotations"]}
        refs = load_plain(folder / "refs(unc).p")
        self._refs = {s["sent_id"]: (ref, s["sent"]) for ref in refs for s in ref["sentences"]}
        self._folder = folder / "images"

    def example(self, sent_id: int, seed: int) -> tuple[Tensor, Tensor, str]:
        """Pixels 3×512×512 uint8, mask 512×512 and sentence."""
        ref, sentence = self._refs[sent_id]
        details = self._images[ref["image_id"]]
        drawn = draw(CONFIG, seed, details["height"], details["width"], SIDE, (0, 0, 0, 0))
        image = Image.open(self._folder / details["file_name"]).convert("RGB")
        polygons = self._objects[ref["ann_id"]]["segmentation"]
        parts = coco_mask.decode(coco_mask.frPyObjects(polygons, details["height"], details["width"]))
        mask = Image.fromarray((parts.sum(axis=2) > 0).astype(np.uint8) * 255)
        size = (drawn.placement.width, drawn.placement.height)
        image = image.resize(size, Image.Resampling.BILINEAR)
        mask = mask.resize(size, Image.Resampling.BILINEAR)
        enhancers: list[Any] = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
        for kind, factor in drawn.colours:
            image = enhancers[kind](image).enhance(factor)
        if drawn.flipped:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            mask = mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            sentence = sentence.replace("right", "\0").replace("left", "right").replace("\0", "left")
        left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
        square, target = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8), torch.zeros(SIDE, SIDE)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        square[:, top : top + size[1], left : left + size[0]] = pixels
        target[top : top + size[1], left : left + size[0]] = torch.from_numpy(np.array(mask)).float() / 255
        return square, target, sentence

"""The words' rows and columns of attention over a split, on disk: appended batch by batch, resumed where it ended.

A folder of safetensors files, each written as a whole, with a note of what all of them were recorded from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from workbench.analysis.points import TraceError, select
from workbench.analysis.trace import trace
from workbench.config import RunConfig
from workbench.data.loading import ReferringDataset, evaluation_batches
from workbench.evaluation.evaluate import mask_logits
from workbench.files import replacing, write_atomically
from workbench.models.referring_sam import ReferringSam
from workbench.models.text_encoder import Tokenizer
from workbench.results.folders import StoreError
from workbench.results.record import ExpressionKey
from workbench.validation import DamagedFile

NOTE = "recorded_from.json"
KEYS = "expressions"
PARTS = ("word_to_image", "image_to_word", "word_to_word", "mask_to_image")


class TextStore:
    """Recorded weights by expression.

    Args:
        folder: made where it is not there.
        source: what the weights are of, as plain JSON: the run, the points, the code.

    Raises:
        StoreError: the folder holds weights of something else.
        DamagedFile: one of its files cannot be read.
    """

    def __init__(self, folder: Path, source: Mapping[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(source, indent=1, sort_keys=True) + "\n"
        note = folder / NOTE
        if note.is_file() and note.read_text() != text:
            raise StoreError(
                f"{folder} holds attention that was recorded from something else ({NOTE}); remove it first"
            )
        if not note.is_file():
            write_atomically(note, text.encode())
        self._where: dict[ExpressionKey, tuple[Path, int]] = {}
        for file in sorted(folder.glob("*.safetensors")):
            for row, key in enumerate(_keys_of(file)):
                self._where[key] = file, row

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: object) -> bool:
        return key in self._where

    def __getitem__(self, key: ExpressionKey) -> dict[str, Tensor]:
        """By point what `Recording.values` is of one expression, in fp16; and `mask`, L, not 0 at its tokens."""
        if key not in self._where:
            raise StoreError(f"{self.folder}: nothing was recorded of {':'.join(map(str, key))}")
        file, row = self._where[key]
        try:
            with safe_open(file, "pt") as stored:
                return {name: stored.get_slice(name)[row] for name in stored.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError) as error:
            raise _damaged(file, error) from None

    def append(self, keys: Sequence[ExpressionKey], values: Mapping[str, Tensor]) -> None:
        """Add expressions, each once; values E×… by name. A reader sees all of them or none."""
        new = [number for number, key in enumerate(keys) if key not in self]
        if not new:
            return
        added = [keys[number] for number in new]
        text = json.dumps(added)
        file = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
        with replacing(file) as partial:
            save_file({name: value[new].cpu().contiguous() for name, value in values.items()}, partial, {KEYS: text})
        self._where |= {key: (file, row) for row, key in enumerate(added)}


def record_split(
    model: ReferringSam,
    tokenizer: Tokenizer,
    dataset: ReferringDataset,
    config: RunConfig,
    points: Sequence[str],
    store: TextStore,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Record every expression of a split that a store lacks; returns how many these were.

    Args:
        points: names or patterns of points of words; others that a pattern names are left out.
        step: called with how many expressions are there, and of how many.

    Raises:
        TraceError: no point of words is named.
    """
    names = [point.name for point in select(model, points) if point.part in PARTS]
    if not names:
        raise TraceError(f"{', '.join(points)}: no rows or columns of words; they are {', '.join(PARTS)}")
    device, before, done = next(model.parameters()).device, len(store), 0
    for batch in evaluation_batches(dataset, config.machine.evaluation_batch_size):
        keys = [ExpressionKey(e.split, e.ref_id, e.sent_id) for e in batch.expressions]
        if any(key not in store for key in keys):
            sentences = [e.sentence for e in batch.expressions]
            with torch.inference_mode(), trace(model, names) as seen:
                mask_logits(model, tokenizer, batch.pixels, batch.content, batch.image_of, sentences, config, device)
            values = {recording.point.name: recording.weights.half() for recording in seen}
            store.append(keys, {**values, "mask": tokenizer(sentences)[1]})
        done += len(keys)
        step(done, len(dataset))
    return len(store) - before


def _keys_of(file: Path) -> list[ExpressionKey]:
    try:
        with safe_open(file, "pt") as stored:
            return [ExpressionKey(*key) for key in json.loads((stored.metadata() or {})[KEYS])]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(file, error) from None


def _damaged(file: Path, error: Exception) -> DamagedFile:
    return DamagedFile(file, str(error)[:200], "remove it, and its expressions are recorded again")

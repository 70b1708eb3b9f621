"""Features of a frozen image encoder on disk: one row per image and flip, fp16, memory-mapped, shared by runs.

They are computed elsewhere (`workbench.training.features`). Several processes may fill one store at a time: each chunk
has a flag that is set after its data is written, so a flagged chunk is complete, and one without a flag is computed
again, to the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from workbench.errors import DataError

CHUNK = 16
"""Rows that are computed together; fixed, so that every run computes the same numbers."""


class FeatureStore:
    """A folder of features.

    Args:
        folder: the store's folder; its name holds the digest of what the features depend on.
        image_ids: of the images, in the store's order.
        flips: whether each image's mirror image has a row too.
    """

    def __init__(self, folder: Path, image_ids: Sequence[int], flips: bool) -> None:
        self.folder = folder
        self.image_ids = list(image_ids)
        self.flips = flips
        self._number = {image_id: i for i, image_id in enumerate(self.image_ids)}
        self._open: dict[str, NDArray[Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a memory map would be copied to a loader's worker

    def __len__(self) -> int:
        return len(self.image_ids) * (2 if self.flips else 1)

    def row(self, image_id: int, flipped: bool) -> int:
        """The row of an image's features."""
        return self._number[image_id] * 2 + flipped if self.flips else self._number[image_id]

    def image_of(self, row: int) -> tuple[int, bool]:
        """Image id and flip of a row."""
        return (self.image_ids[row // 2], bool(row % 2)) if self.flips else (self.image_ids[row], False)

    def read(self, image_id: int, flipped: bool) -> Tensor:
        """Features of one image, fp16."""
        return torch.from_numpy(self._map("features", "r")[self.row(image_id, flipped)].copy())

    def create(self, shape: tuple[int, ...], document: Mapping[str, Any]) -> None:
        """Make the empty files; nothing happens where they are already there.

        Args:
            shape: of one row.
            document: what the features depend on, stored for people who look into the folder.

        Raises:
            DataError: the disk has no room for it.
        """
        if self.folder.is_dir():
            return
        parent = self.folder.parent
        parent.mkdir(parents=True, exist_ok=True)
        needed, free = 2 * len(self) * int(np.prod(shape)), shutil.disk_usage(parent).free
        if needed > free:
            raise DataError(
                f"{parent}: cached features would take {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; "
                "set training.cache_features to false, or machine.data_root to a larger disk"
            )
        with tempfile.TemporaryDirectory(dir=parent, prefix=".making-") as name:
            place = Path(name) / "store"
            place.mkdir()
            open_memmap(place / "features.npy", "w+", np.float16, (len(self), *shape)).flush()
            with (place / "features.npy").open("r+b") as file:
                # Writing to a hole in a mapped file kills the process without a message where the disk is full.
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            open_memmap(place / "done.npy", "w+", np.uint8, (-(-len(self) // CHUNK),)).flush()
            (place / "features.json").write_text(json.dumps(dict(document), indent=1) + "\n")
            try:
                place.rename(self.folder)
            except OSError:
                if not self.folder.is_dir():  # otherwise another run made it first
                    raise

    def missing(self) -> Iterator[range]:
        """Rows of each unfinished chunk, checked again before each; processes begin at different chunks."""
        chunks = len(self._map("done", "r"))
        start = os.getpid() % chunks
        for number in [*range(start, chunks), *range(start)]:
            if not self._map("done", "r")[number]:
                yield range(number * CHUNK, min((number + 1) * CHUNK, len(self)))

    def write(self, rows: range, features: Tensor) -> None:
        """Store one chunk's features; DataError where they do not fit fp16."""
        half = features.to(torch.float16)
        if not torch.isfinite(half).all():
            raise DataError(
                f"{self.folder}: features of images {self.image_of(rows.start)[0]} and following do not fit fp16; "
                "set training.cache_features to false"
            )
        stored, done = self._map("features", "r+"), self._map("done", "r+")
        stored[rows.start : rows.stop] = half.cpu().numpy()
        stored.flush()  # type: ignore[attr-defined]
        done[rows.start // CHUNK] = 1
        done.flush()  # type: ignore[attr-defined]

    def finished(self) -> int:
        """The number of finished rows."""
        return min(len(self), CHUNK * int(self._map("done", "r").sum()))

    def _map(self, name: str, mode: Literal["r", "r+"]) -> NDArray[Any]:
        key = f"{name} {mode}"
        if key not in self._open:
            file = self.folder / f"{name}.npy"
            try:
                self._open[key] = open_memmap(file, mode)
            except (OSError, ValueError) as error:
                raise DataError(f"{file}: not readable ({error}); remove the folder to compute it again") from None
        return self._open[key]

"""Predictions as a folder of pictures, each the mask of one expression: `<sent_id>.png` or `<ref_id>-<sent_id>.png`."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workbench.data import masks
from workbench.data.images import image_size
from workbench.data.readers.items import in_words
from workbench.errors import DataError
from workbench.files import digest_of, open_file

GREY = ("1", "L", "P", "I", "I;16")
NAME = re.compile(r"(?:(\d{1,15})-)?(\d{1,15})\.png")


def read_mask_folder(folder: Path) -> list[dict[str, Any]]:
    """The predictions of a folder, in the form of a predictions file; a mask without pixels answers no-target.

    Raises:
        DataError: there is no mask, a name has no id, or a picture is damaged or no mask.
    """
    predictions: list[dict[str, Any]] = []
    for file in _pictures(folder):
        if not (name := NAME.fullmatch(file.name)):
            raise DataError(f"{file}: the name of a mask is its sent_id, as 17.png, or ref_id and sent_id, as 4-17.png")
        mask = _read(file)
        height, width = mask.shape
        segmentation = {"size": [height, width], "counts": masks.encode(mask).decode()} if mask.any() else None
        ref_id = {} if name[1] is None else {"ref_id": int(name[1])}
        predictions.append({"sent_id": int(name[2]), **ref_id, "segmentation": segmentation})
    if not predictions:
        raise DataError(
            f"{folder}: no masks are in it; one PNG per expression is expected, named by sent_id, as 17.png"
        )
    return predictions


def digest_of_masks(folder: Path) -> str:
    """SHA-256 over the pictures' names and contents."""
    digest = hashlib.sha256()
    for file in _pictures(folder):
        digest.update(f"{file.name} {digest_of(file)}\n".encode())
    return digest.hexdigest()


def _pictures(folder: Path) -> Iterator[Path]:
    yield from sorted(file for file in folder.iterdir() if file.suffix.lower() == ".png" and file.is_file())


def _read(file: Path) -> NDArray[np.bool_]:
    """Which pixels belong to the mask, height×width: those with the larger of at most two values, of which one is 0."""
    height, width = image_size(file)
    if height * width > masks.MOST_PIXELS:
        raise DataError(f"{file}: a mask of {height}×{width} pixels; at most {masks.MOST_PIXELS:,} in all are read")
    try:
        with warnings.catch_warnings(), open_file(file) as stream, Image.open(stream, formats=["PNG"]) as image:
            warnings.simplefilter("ignore")
            mode, pixels = image.mode, np.array(image)
    except Exception as error:  # Pillow raises many types of error for a broken file
        raise DataError(f"{file}: the mask cannot be decoded: {in_words(error)}") from None
    values = np.unique(pixels)
    if mode not in GREY or len(values) > 2 or (len(values) == 2 and values[0] != 0):
        held = f"{len(values)} values" if mode in GREY else f"colours ({mode})"
        raise DataError(f"{file}: a mask has one channel with 0 and one other value; this picture has {held}")
    return np.asarray(pixels != 0)

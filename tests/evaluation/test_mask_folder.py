from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data import fixtures
from workbench.data import masks
from workbench.data.datasets import find
from workbench.data.loading import Expressions
from workbench.data.readers import read
from workbench.data.tables import ReferData
from workbench.errors import DataError
from workbench.evaluation.mask_folder import digest_of_masks, read_mask_folder
from workbench.evaluation.predictions import score_predictions


@pytest.fixture
def data(tmp_path: Path) -> ReferData:
    return read(find(fixtures.write_grefcoco(tmp_path), "grefcoco", "unc"))


def test_pictures_score_as_the_same_masks_in_json(tmp_path: Path, data: ReferData) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    draw = np.random.default_rng(0)
    listed = []
    # Greys, black and white in one bit, and a palette: three ways to keep two values.
    forms: list[Callable[[Any], Image.Image]] = [
        lambda mask: Image.fromarray((255 * mask).astype(np.uint8)),
        lambda mask: Image.fromarray(mask.astype(bool)),
        lambda mask: Image.fromarray(mask.astype(np.uint8)).convert("P"),
    ]
    for i, expression in enumerate(Expressions(data, "val")):
        mask = masks.decode(expression.rle, expression.height, expression.width)
        mask = mask & (draw.random(mask.shape) < 0.9) if i % 3 else np.zeros_like(mask)
        listed.append({"sent_id": expression.sent_id, "segmentation": fixtures.compressed(mask) if i % 3 else None})
        name = f"{expression.ref_id}-{expression.sent_id}.png" if i % 2 else f"{expression.sent_id}.png"
        forms[i % 3 - 1](mask).save(folder / name)
    (folder / "notes.txt").write_text("not a mask")
    (tmp_path / "same.json").write_text(json.dumps(listed))
    of_pictures = score_predictions(data, folder, ["val"])
    assert of_pictures.equals(score_predictions(data, tmp_path / "same.json", ["val"]))
    assert 0 < of_pictures["iou"].mean() < 1
    before = digest_of_masks(folder)
    next(folder.glob("*.png")).write_bytes(b"")
    assert digest_of_masks(folder) != before


@pytest.mark.parametrize(
    ("name", "picture", "message"),
    [
        ("mask.png", Image.new("L", (8, 8)), r"mask\.png: the name of a mask is its sent_id, as 17\.png"),
        ("17.png", Image.new("RGB", (8, 8)), r"17\.png: a mask has one channel .*; this picture has colours \(RGB\)"),
        ("17.png", Image.linear_gradient("L"), r"17\.png: .* with 0 and one other value; this picture has 256 values"),
        ("17.png", Image.new("L", (8, 8), 255), None),
        ("17.png", None, r"17\.png: image cannot be decoded"),
    ],
)
def test_a_picture_that_is_no_mask_is_named(
    tmp_path: Path, name: str, picture: Image.Image | None, message: str | None
) -> None:
    if picture is None:
        (tmp_path / name).write_bytes(b"\x89PNG and no more")
    else:
        picture.save(tmp_path / name)
    if message is None:
        assert read_mask_folder(tmp_path)[0]["segmentation"]["size"] == [8, 8], "a mask of the whole picture"
        return
    with pytest.raises(DataError, match=message):
        read_mask_folder(tmp_path)


def test_an_empty_folder_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no masks are in it; one PNG per expression is expected, named by sent_id"):
        read_mask_folder(tmp_path)

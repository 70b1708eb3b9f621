"""Images as people have them: more bits, other sizes, links, and files that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data import fixtures
from workbench.data.images import find_image_folder, image_size, read_image, read_upright
from workbench.errors import DataError


def test_sixteen_bits_of_grey_are_scaled_to_eight(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 24 * 32).reshape(24, 32).round().astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    assert Image.open(tmp_path / "grey.png").mode == "I;16"
    expected = np.round(levels / 257.0)
    found = read_image(tmp_path / "grey.png")
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("read", [read_image, image_size])
def test_what_is_no_image_is_said_without_addresses(tmp_path: Path, read: Any) -> None:
    file = tmp_path / "mine.png"
    file.write_bytes(b"GIF89a or so")
    with pytest.raises(DataError) as raised:
        read(file)
    assert str(raised.value) == f"{file}: image cannot be decoded: it is none of JPEG, PNG, BMP, WEBP"


@pytest.mark.parametrize("orientation", [99, 0])
def test_a_turn_that_there_is_not_turns_nothing(tmp_path: Path, orientation: Any) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    pixels = np.random.default_rng(0).integers(0, 255, (3, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png", exif=exif)
    np.testing.assert_array_equal(read_upright(tmp_path / "one.png"), pixels)


def test_damaged_exif_turns_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (5, 3), "red").save(tmp_path / "one.jpg", exif=b"Exif\0\0" + b"no TIFF header")
    assert read_upright(tmp_path / "one.jpg").shape == (3, 5, 3)


def test_images_beside_what_a_linked_folder_leads_to_are_found(tmp_path: Path) -> None:
    fixtures.write_refcoco(tmp_path / "shared")
    (tmp_path / "data").mkdir()
    linked = tmp_path / "data" / "refcoco"
    linked.symlink_to(tmp_path / "shared" / "refcoco")
    assert find_image_folder(linked) == tmp_path / "shared" / "images" / "train2014"
    mine = tmp_path / "data" / "images" / "train2014"
    mine.mkdir(parents=True)
    assert find_image_folder(linked) == mine, "beside the link comes first"

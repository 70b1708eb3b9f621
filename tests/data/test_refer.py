from __future__ import annotations

import json
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from workbench.config import RefshapesRecipe
from workbench.data import masks, refshapes
from workbench.data.datasets import read_refer
from workbench.data.images import read_image
from workbench.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return refshapes.ensure(tmp_path, RefshapesRecipe(seed=5, train_images=3, eval_images=2))


def decode_mask(segmentation: Any, height: int, width: int) -> Any:
    return masks.decode(masks.to_rle(segmentation, height, width), height, width)


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_pickle_that_imports_is_refused_and_does_nothing(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "harm"
    (folder / "refs(unc).p").write_bytes(pickle.dumps([Hostile(target)]))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: refused: it wants to import pathlib"):
        read_refer(folder, "refshapes", "unc")
    assert not target.exists()


@pytest.mark.parametrize("cut", [1, 100, -1])
def test_a_truncated_pickle_is_named(folder: Path, cut: int) -> None:
    file = folder / "refs(unc).p"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: "):
        read_refer(folder, "refshapes", "unc")


def python2_pickle(value: Any) -> bytes:
    """Protocol 2 as Python 2 wrote it: strings as latin-1 bytes (SHORT_BINSTRING)."""
    if isinstance(value, str):
        raw = value.encode("latin1")
        return b"U" + bytes([len(raw)]) + raw
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"(" + b"".join(map(python2_pickle, value)) + b"l"
    return b"(" + b"".join(python2_pickle(k) + python2_pickle(v) for k, v in value.items()) + b"d"


def test_pickles_of_python_2_with_latin_1_strings_are_read(folder: Path) -> None:
    file = folder / "refs(unc).p"
    refs = pickle.loads(file.read_bytes())
    refs[0]["sentences"][0]["sent"] = "café on the left"
    file.write_bytes(b"\x80\x02" + python2_pickle(refs) + b".")
    data = read_refer(folder, "refshapes", "unc")
    assert data.expressions["sentence"][0].as_py() == "café on the left"
    assert len(data.expressions) == sum(len(ref["sentences"]) for ref in refs)


def test_a_missing_image_is_named(folder: Path) -> None:
    (folder / "images" / "COCO_train2014_000000000004.png").unlink()
    with pytest.raises(DataError, match=r"missing image COCO_train2014_000000000004\.png in .*images$"):
        read_refer(folder, "refshapes", "unc")


def test_missing_files_and_folders_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing file .*refs\(google\)\.p"):
        read_refer(folder, "refshapes", "google")
    with pytest.raises(DataError, match=r"missing file .*nowhere/instances\.json"):
        read_refer(tmp_path / "nowhere", "refcoco", "unc")
    shutil.rmtree(folder / "images")
    with pytest.raises(DataError, match="missing image folder"):
        read_refer(folder, "refshapes", "unc")


def test_images_are_found_where_coco_puts_them(folder: Path) -> None:
    target = folder.parent / "images" / "train2014"
    target.parent.mkdir()
    (folder / "images").rename(target)
    assert read_refer(folder, "refshapes", "unc").image_folder.resolve() == target.resolve()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_id", 999, "no image with id 999"),
        ("ann_id", 999, "no annotation with id 999"),
        ("sentences", 3, "sentences: a list is expected, not int"),
    ],
)
def test_a_reference_to_nowhere_is_named(folder: Path, field: str, value: object, message: str) -> None:
    file = folder / "refs(unc).p"
    refs = pickle.loads(file.read_bytes())
    refs[1][field] = value
    file.write_bytes(pickle.dumps(refs))
    with pytest.raises(DataError, match=message):
        read_refer(folder, "refshapes", "unc")


def test_broken_json_is_named(folder: Path) -> None:
    (folder / "instances.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"instances\.json: not readable as JSON"):
        read_refer(folder, "refshapes", "unc")
    (folder / "instances.json").write_text(json.dumps({"images": []}))
    with pytest.raises(DataError, match=r"instances\.json: annotations: a list is expected, not NoneType"):
        read_refer(folder, "refshapes", "unc")


def test_an_unknown_split_lists_the_known_and_test_is_not_testa(folder: Path) -> None:
    data = read_refer(folder, "refshapes", "unc")
    with pytest.raises(
        DataError, match=r"no split 'test' \(did you mean 'testA'\?\); it has train, val, testA, testB, testC"
    ):
        data.split("test")


def test_polygons_rle_and_compressed_rle_decode_alike_and_overlaps_unite() -> None:
    square = [10.0, 5.0, 20.0, 5.0, 20.0, 15.0, 10.0, 15.0]
    expected = np.zeros((30, 40), dtype=np.uint8)
    expected[5:15, 10:20] = 1
    np.testing.assert_array_equal(decode_mask([square], 30, 40), expected)
    compressed = coco_mask.encode(np.asfortranarray(expected))
    text = {"size": [30, 40], "counts": compressed["counts"].decode()}
    np.testing.assert_array_equal(decode_mask(text, 30, 40), expected)
    flat = expected.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    np.testing.assert_array_equal(decode_mask({"size": [30, 40], "counts": counts}, 30, 40), expected)
    shifted = [x + 5 if i % 2 == 0 else x for i, x in enumerate(square)]
    both = decode_mask([square, shifted], 30, 40)
    assert both.max() == 1
    assert both.sum() == 10 * 15


@pytest.mark.parametrize(
    "bad", [{"size": [9, 9], "counts": "11"}, {"counts": "x"}, 7, [["a"]], {"size": [30, 40], "counts": 5}]
)
def test_a_bad_segmentation_is_an_error_in_one_line(bad: object) -> None:
    with pytest.raises(DataError, match=r"^segmentation: "):
        decode_mask(bad, 30, 40)


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    file = tmp_path / "COCO_train2014_000000000009.png"
    file.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"000000000009\.png: image cannot be decoded"):
        read_image(file)

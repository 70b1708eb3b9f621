"""Reader of the RefCOCO family from its original files, `instances.json` and `refs(<split_by>).p`.

Nothing is executed from a pickle, and no image or mask is decoded before it is needed.
"""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco_mask

from workbench.errors import DataError

IMAGE_FOLDERS = ("images", "../images/train2014", "../images/mscoco/images/train2014", "../train2014")
"""Where images are looked for, relative to the annotations' folder."""


class PlainUnpickler(pickle.Unpickler):
    """Unpickles containers, strings and numbers; whatever wants to import something is an error."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        """Always refuses."""
        raise pickle.UnpicklingError(f"it wants to import {module_name}.{global_name}")


@dataclass(frozen=True)
class ReferData:
    """One data set as Arrow tables.

    Attributes:
        name: as in the configuration.
        folder: of the annotations.
        images: image_id, file_name, height, width.
        objects: ann_id, image_id, category, segmentation (JSON).
        expressions: split, image_id, ref_id, ann_id, sent_id, sentence; in the files' order.
        image_folder: where the image files lie.
    """

    name: str
    folder: Path
    images: pa.Table
    objects: pa.Table
    expressions: pa.Table
    image_folder: Path

    @property
    def splits(self) -> list[str]:
        """The splits' names, in the files' order."""
        return [str(split) for split in self.expressions["split"].unique().to_pylist()]

    def split(self, name: str) -> pa.Table:
        """The expressions of exactly that split; DataError lists the known ones when it is empty."""
        import pyarrow.compute as pc

        table = self.expressions.filter(pc.equal(self.expressions["split"], name))
        if len(table) == 0:
            raise DataError(f"{self.folder}: {self.name} has no split {name!r}; it has {', '.join(self.splits)}")
        return table


def read_refer(folder: Path, name: str, split_by: str) -> ReferData:
    """Read one data set.

    Args:
        folder: holds `instances.json` and `refs(<split_by>).p`; images are looked for in `IMAGE_FOLDERS`.

    Raises:
        DataError: a file or an image is missing, damaged, or a reference points nowhere; the message names it.
    """
    instances_file, refs_file = folder / "instances.json", folder / f"refs({split_by}).p"
    for file in (instances_file, refs_file):
        if not file.is_file():
            raise DataError(f"missing file {file} (annotations of {name}, split by {split_by})")
    instances, refs = _read_json(instances_file), _read_refs(refs_file)
    try:
        tables = _tables(instances, refs)
    except (KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        raise DataError(f"{folder}: not RefCOCO's form: {type(error).__name__}: {error}") from None
    return ReferData(name, folder, *tables, image_folder=_image_folder(folder, tables[0]["file_name"].to_pylist()))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not readable as JSON: {error}") from None
    if not isinstance(document, dict):
        raise DataError(f"{file}: an object with images, annotations and categories is expected")
    return document


def _read_refs(file: Path) -> list[dict[str, Any]]:
    try:
        # The originals were written by Python 2: their strings are latin-1 bytes.
        refs = PlainUnpickler(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise DataError(f"{file}: refused: {error}; only plain lists, dicts, strings and numbers are read") from None
    except Exception as error:  # a damaged pickle raises whatever its broken opcodes stumble over
        raise DataError(f"{file}: damaged pickle: {type(error).__name__}: {error}") from None
    if not isinstance(refs, list):
        raise DataError(f"{file}: a list of references is expected, not {type(refs).__name__}")
    return refs


def _tables(instances: dict[str, Any], refs: list[dict[str, Any]]) -> tuple[pa.Table, pa.Table, pa.Table]:
    images = pa.table(
        {
            "image_id": pa.array([i["id"] for i in instances["images"]], pa.int64()),
            "file_name": pa.array([i["file_name"] for i in instances["images"]], pa.string()),
            "height": pa.array([i["height"] for i in instances["images"]], pa.int32()),
            "width": pa.array([i["width"] for i in instances["images"]], pa.int32()),
        }
    )
    categories = {c["id"]: c["name"] for c in instances["categories"]}
    annotations = instances["annotations"]
    objects = pa.table(
        {
            "ann_id": pa.array([a["id"] for a in annotations], pa.int64()),
            "image_id": pa.array([a["image_id"] for a in annotations], pa.int64()),
            "category": pa.array([categories[a["category_id"]] for a in annotations], pa.string()),
            "segmentation": pa.array([json.dumps(a["segmentation"]) for a in annotations], pa.string()),
        }
    )
    known_images = set(images["image_id"].to_pylist())
    known_objects = set(objects["ann_id"].to_pylist())
    rows = []
    for ref in refs:
        if ref["image_id"] not in known_images:
            raise ValueError(f"ref_id {ref['ref_id']}: no image with id {ref['image_id']} in instances.json")
        if ref["ann_id"] not in known_objects:
            raise ValueError(f"ref_id {ref['ref_id']}: no annotation with id {ref['ann_id']} in instances.json")
        shared = (ref["split"], ref["image_id"], ref["ref_id"], ref["ann_id"])
        rows += [(*shared, sentence["sent_id"], sentence["sent"]) for sentence in ref["sentences"]]
    schema = pa.schema(
        [("split", pa.string()), ("image_id", pa.int64()), ("ref_id", pa.int64()), ("ann_id", pa.int64()),
         ("sent_id", pa.int64()), ("sentence", pa.string())]
    )  # fmt: skip
    columns: list[tuple[Any, ...]] = list(zip(*rows, strict=True)) if rows else [() for _ in schema]
    return (
        images,
        objects,
        pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema),
    )


def _image_folder(folder: Path, file_names: Iterable[str]) -> Path:
    found = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    if found is None:
        places = ", ".join(os.path.normpath(folder / name) for name in IMAGE_FOLDERS)
        raise DataError(f"missing image folder of {folder}; looked for {places}")
    with os.scandir(found) as entries:
        present = {entry.name for entry in entries}
    missing = [name for name in file_names if name not in present]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"missing image {missing[0]}{more} in {os.path.normpath(found)}")
    return found


def read_image(file: Path) -> NDArray[np.uint8]:
    """An image as height×width×3; DataError names a file that cannot be decoded."""
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"missing image {file.name} in {file.parent}") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: image cannot be decoded: {error}") from None


def to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """COCO's compressed RLE of polygons, plain RLE or compressed RLE; overlapping polygons are united."""
    try:
        if isinstance(segmentation, list):
            return dict(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
        size = [int(side) for side in segmentation["size"]]
        if size != [height, width]:
            raise ValueError(f"its size is {size}, the image's {[height, width]}")
        if isinstance(segmentation["counts"], list):
            return dict(coco_mask.frPyObjects(segmentation, height, width))
        return {"size": size, "counts": segmentation["counts"].encode("ascii")}
    except Exception as error:  # pycocotools raises Exception itself
        raise DataError(f"segmentation cannot be decoded: {error}") from None


def decode_mask(segmentation: Any, height: int, width: int) -> NDArray[np.uint8]:
    """A mask of zeros and ones, height×width."""
    return np.asarray(coco_mask.decode(to_rle(segmentation, height, width)))

"""The form that the released DIT code reads: `anns/<name>.json` and `masks/<name>/<mask_id>.npy` beside the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.data import masks
from workbench.data.readers.base import Reader, Source
from workbench.data.readers.items import in_words, items_of, list_of, read_json
from workbench.data.tables import Raw, whole
from workbench.errors import DataError
from workbench.files import check_file


class ReleasedReader(Reader):
    """{split: [{iid, bbox, cat_id, refs: [sentence, …], mask_id}]}; evaluation splits have one item per sentence."""

    form = "released"

    def source(self, folder: Path, name: str, split_by: str) -> Source:
        """One file of annotations and a folder of masks; the data set's own folder may be missing."""
        masks_of = folder.parent / "masks" / name
        return Source(name, split_by, self.form, folder, (folder.parent / "anns" / f"{name}.json",), masks_of)

    def read(self, source: Source) -> Raw:
        """Expressions and the masks they name; every mask is decoded, and kept as RLE."""
        file = source.files[0]
        if source.sentence != "sent":
            raise DataError(
                f"{file}: the released form has one text per sentence; data.sentence: {source.sentence} is not there"
            )
        document = read_json(file)
        if not isinstance(document, dict):
            raise DataError(f"{file}: an object of splits is expected, not {type(document).__name__}")
        raw = Raw(lists_all_objects=False)
        folder = source.mask_folder
        assert folder is not None
        if not folder.is_dir():
            raise DataError(f"missing folder {folder}, the masks of {file}")
        image_of_mask: dict[int, int] = {}
        sizes: dict[int, tuple[int, int]] = {}
        for split, items in document.items():
            for i, item in items_of(list_of(items, f"{file}: {split}"), f"{file.name}: {split}"):
                where = f"{file.name}: {split}[{i}]"
                image_id = whole(item["iid"], f"{where}: iid", 0, 10**12 - 1)
                mask_id = whole(item["mask_id"], f"{where}: mask_id", 0)
                if image_of_mask.setdefault(mask_id, image_id) != image_id:
                    raise DataError(f"{where}: mask_id {mask_id} is of another image, too: {image_of_mask[mask_id]}")
                for sentence in list_of(item["refs"], f"{where}: refs"):
                    raw.expressions.append(
                        (where, split, image_id, mask_id, (mask_id,), len(raw.expressions), sentence)
                    )
                if len(raw.objects) == len(image_of_mask):
                    continue
                mask = _read_mask(folder / f"{mask_id}.npy")
                height, width = mask.shape
                if sizes.setdefault(image_id, (height, width)) != (height, width):
                    raise DataError(
                        f"{where}: masks of image {image_id} differ: {sizes[image_id]} and {mask.shape} pixels"
                    )
                counts = {"size": [height, width], "counts": masks.encode(mask)}
                category = f"category {whole(item['cat_id'], f'{where}: cat_id')}"
                raw.objects.append((where, mask_id, image_id, category, False, item.get("bbox"), counts))
        raw.images = [
            (f"{file.name}: image {image_id}", image_id, f"COCO_train2014_{image_id:012d}.jpg", *size)
            for image_id, size in sizes.items()
        ]
        raw.notes.append("the released form lists only referents, so distractors are not counted")
        return raw


def _read_mask(file: Path) -> NDArray[Any]:
    """A mask height×width; values over 1, where summed polygons overlap, count as 1 later."""
    try:
        check_file(file)
        mask = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"missing mask {file}") from None
    except Exception as error:  # numpy raises many types of error for a broken header
        raise DataError(f"{file}: not readable as an array: {in_words(error)}") from None
    if not isinstance(mask, np.ndarray):
        raise DataError(f"{file}: one array is expected, not an archive")
    if mask.ndim == 3 and mask.shape[2] == 1:
        mask = mask[:, :, 0]
    if mask.ndim != 2 or mask.dtype.kind not in "buif" or not 0 < mask.size <= masks.MOST_PIXELS:
        raise DataError(f"{file}: a mask height×width of numbers is expected, not {mask.dtype} of shape {mask.shape}")
    array: NDArray[Any] = mask
    return array

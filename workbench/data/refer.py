"""Readers of referring data sets in their original files, and of the form that the released DIT code reads.

RefCOCO family: `instances.json` and `refs(<split_by>).p`. gRefCOCO: `instances.json` and `grefs(<split_by>).json`.
Released: `anns/<name>.json` and `masks/<name>/<mask_id>.npy`. Nothing is executed from any of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from workbench.data import masks
from workbench.data.pickles import load_plain
from workbench.data.tables import Progress, Raw, ReferData, assemble, whole
from workbench.errors import DataError, shown

Form = Literal["refs", "grefs", "released"]
IMAGE_FOLDERS = ("images", "../images/train2014", "../images/mscoco/images/train2014", "../images/coco", "../train2014")
"""Where images are looked for, relative to the annotations' folder."""


@dataclass(frozen=True)
class Source:
    """Where a data set's files lie.

    Attributes:
        files: the annotations, without masks.
        mask_folder: of the released form.
    """

    name: str
    split_by: str
    form: Form
    folder: Path
    files: tuple[Path, ...]
    mask_folder: Path | None = None


def find(folder: Path, name: str, split_by: str) -> Source:
    """The files of a data set: originals in its folder, else the released form beside it.

    Raises:
        DataError: there are neither; names what was looked for, and other splits' files that are there.
    """
    instances = folder / "instances.json"
    forms: tuple[tuple[Form, Path], ...] = (
        ("refs", folder / f"refs({split_by}).p"),
        ("grefs", folder / f"grefs({split_by}).json"),
    )
    for form, file in forms:
        if file.is_file() and instances.is_file():
            return Source(name, split_by, form, folder, (instances, file))
    released = folder.parent / "anns" / f"{name}.json"
    if released.is_file():
        mask_folder = folder.parent / "masks" / name
        return Source(name, split_by, "released", folder, (released,), mask_folder)
    wanted = forms[1][1] if name.startswith("g") else forms[0][1]
    missing = wanted if instances.is_file() else instances
    others = sorted(file.name for file in folder.glob("*refs(*).*"))
    also = f"; there is {', '.join(others)}, see data.split_by" if others and missing == wanted else ""
    raise DataError(f"missing file {missing} (annotations of {name}, split by {split_by}){also}")


def read(source: Source, progress: Progress | None = None, images: bool = True) -> ReferData:
    """Read a data set from its files.

    Args:
        images: False if nobody will look at the images, whose folder then need not be there.
        progress: called with (objects done, objects and images in all).

    Raises:
        DataError: a file is missing, damaged, not what its name says, or a reference points nowhere.
    """
    try:
        raw = _released(source) if source.form == "released" else _original(source)
    except (TypeError, ValueError, OverflowError) as error:  # say, a list where an id is expected
        raise DataError(f"{source.files[-1]}: not the form of {source.name}: {_named(error)}") from None
    except MemoryError:
        raise DataError(f"{source.files[-1]}: there is not enough memory to read it") from None
    image_folder = _image_folder(source.folder) if images else source.folder / IMAGE_FOLDERS[0]
    return assemble(raw, source.name, source.folder, image_folder, progress)


def read_refer(folder: Path, name: str, split_by: str) -> ReferData:
    """Read a data set from the files in a folder, see `find` and `read`; every image must be there."""
    data = read(find(folder, name, split_by))
    check_images_are_there(data)
    return data


def _original(source: Source) -> Raw:
    instances = read_json(source.files[0])
    if not isinstance(instances, dict):
        raise DataError(f"{source.files[0]}: an object with images, annotations and categories is expected")
    for part in ("images", "annotations", "categories"):
        _list(instances.get(part), f"{source.files[0]}: {part}")
    raw = Raw()
    where = source.files[0].name
    raw.images = [
        (f"{where}: images[{i}]", image["id"], image["file_name"], image["height"], image["width"])
        for i, image in _objects(instances["images"], f"{where}: images")
    ]
    categories = {
        whole(c["id"], f"{where}: categories[{i}]: id"): _text(c["name"], f"{where}: categories[{i}]: name")
        for i, c in _objects(instances["categories"], f"{where}: categories")
    }
    for i, a in _objects(instances["annotations"], f"{where}: annotations"):
        if whole(a["category_id"], f"{where}: annotations[{i}]: category_id") not in categories:
            raise DataError(f"{where}: annotations[{i}]: no category with id {a['category_id']}")
        crowd = bool(a.get("iscrowd", 0))
        segmentation = a["segmentation"]
        raw.objects.append(
            (f"{where}: annotations[{i}]", a["id"], a["image_id"], categories[a["category_id"]], crowd, a.get("bbox"),
             segmentation)
        )  # fmt: skip
    short = sum(
        isinstance(o[6], list) and any(isinstance(p, list) and len(p) < masks.POINTS for p in o[6]) for o in raw.objects
    )
    if short:
        raw.notes.append(f"{short} annotations hold polygons of fewer than three points, which are left out")
    refs_file = source.files[1]
    refs = _list(load_plain(refs_file) if source.form == "refs" else read_json(refs_file), str(refs_file))
    raw.without_crowds = source.form == "grefs"
    _refs(raw, refs, refs_file)
    return raw


def _refs(raw: Raw, refs: list[Any], file: Path) -> None:
    """References of RefCOCO (one ann_id) and gRefCOCO (a list of them, [-1] for none)."""
    # A small pickle can name one long list, or one long text, many times over.
    most, characters = file.stat().st_size, 0
    several, crowds = raw.without_crowds, {o[1] for o in raw.objects if o[4] and type(o[1]) is int}
    odd = {"point at crowds, which are left out of their masks": 0, "name a target twice, which counts once": 0,
           "contradict their own no_target; their ann_id is believed": 0}  # fmt: skip
    for _, ref in _objects(refs, file.name):
        where = f"{file.name}: ref_id {shown(ref['ref_id'])}"
        ann_ids = [ref["ann_id"]]
        if several:
            named = [whole(a, f"{where}: ann_id") for a in _list(ref["ann_id"], f"{where}: ann_id")]
            if not named:
                raise DataError(f"{where}: ann_id: is empty; [-1] means that nothing is meant")
            ann_ids = [] if named == [-1] else list(dict.fromkeys(named))
            for what, found in zip(
                odd,
                (
                    not crowds.isdisjoint(ann_ids),
                    len(ann_ids) < len(named) and bool(ann_ids),
                    ref.get("no_target") is not None and bool(ref.get("no_target")) != (not ann_ids),
                ),
                strict=True,
            ):
                odd[what] += found
        sentences = _list(ref["sentences"], f"{where}: sentences")
        if len(sentences) > most - len(raw.expressions):
            raise DataError(f"{file}: it names more sentences than it can hold")
        for j, sentence in _objects(sentences, f"{where}: sentences"):
            at = f"{where}: sentences[{j}]"
            characters += len(sentence["sent"]) if isinstance(sentence["sent"], str) else 0
            if characters > 16 * most:
                raise DataError(f"{file}: it names more text than it can hold")
            raw.expressions.append(
                (at, ref["split"], ref["image_id"], ref["ref_id"], ann_ids, sentence["sent_id"], sentence["sent"])
            )
    raw.notes += [f"{count} references {what}" for what, count in odd.items() if count]


def _released(source: Source) -> Raw:
    """{split: [{iid, bbox, cat_id, refs: [sentence, …], mask_id}]}; of evaluation splits an item a sentence."""
    file = source.files[0]
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
        for i, item in _objects(_list(items, f"{file}: {split}"), f"{file.name}: {split}"):
            where = f"{file.name}: {split}[{i}]"
            image_id = whole(item["iid"], f"{where}: iid", 0, 10**12 - 1)
            mask_id = whole(item["mask_id"], f"{where}: mask_id", 0)
            if image_of_mask.setdefault(mask_id, image_id) != image_id:
                raise DataError(f"{where}: mask_id {mask_id} is of another image, too: {image_of_mask[mask_id]}")
            for sentence in _list(item["refs"], f"{where}: refs"):
                raw.expressions.append((where, split, image_id, mask_id, (mask_id,), len(raw.expressions), sentence))
            if len(raw.objects) == len(image_of_mask):
                continue
            mask = _read_mask(folder / f"{mask_id}.npy")
            height, width = mask.shape
            if sizes.setdefault(image_id, (height, width)) != (height, width):
                raise DataError(f"{where}: masks of image {image_id} differ: {sizes[image_id]} and {mask.shape} pixels")
            counts = {"size": [height, width], "counts": masks.encode(mask)}
            category = f"category {whole(item['cat_id'], f'{where}: cat_id')}"
            raw.objects.append((where, mask_id, image_id, category, False, item.get("bbox"), counts))
    raw.images = [
        (f"{file.name}: image {image_id}", image_id, f"COCO_train2014_{image_id:012d}.jpg", *size)
        for image_id, size in sizes.items()
    ]
    raw.notes.append("the released form knows referents alone, so distractors are not counted")
    return raw


def _read_mask(file: Path) -> NDArray[Any]:
    """A mask height×width; values over 1, where summed polygons overlap, count as 1 later."""
    try:
        mask = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"missing mask {file}") from None
    except Exception as error:  # numpy raises whatever a broken header stumbles over
        raise DataError(f"{file}: not readable as an array: {_named(error)}") from None
    if not isinstance(mask, np.ndarray):
        raise DataError(f"{file}: one array is expected, not an archive")
    if mask.ndim == 3 and mask.shape[2] == 1:
        mask = mask[:, :, 0]
    if mask.ndim != 2 or mask.dtype.kind not in "buif" or not 0 < mask.size <= masks.MOST_PIXELS:
        raise DataError(f"{file}: a mask height×width of numbers is expected, not {mask.dtype} of shape {mask.shape}")
    found: NDArray[Any] = mask
    return found


def read_json(file: Path) -> Any:
    """A JSON document; DataError names a file that cannot be read."""
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not readable as JSON: {str(error)[:200]}") from None
    except MemoryError:
        raise DataError(f"{file}: there is not enough memory to read it") from None


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: a text is expected, not {shown(value)}")
    return value[:200]


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise DataError(f"{where}: a list is expected, not {type(value).__name__}")
    return list(value)


class _Item:
    """An object whose missing fields are named."""

    __slots__ = ("fields", "where")

    def __init__(self, fields: dict[str, Any], where: str) -> None:
        self.fields, self.where = fields, where

    def __getitem__(self, name: str) -> Any:
        try:
            return self.fields[name]
        except KeyError:
            raise DataError(f"{self.where}: field {name!r} is missing") from None

    def get(self, name: str, other: Any = None) -> Any:
        return self.fields.get(name, other)


def _objects(values: Sequence[Any], where: str) -> Iterable[tuple[int, _Item]]:
    for i, value in enumerate(values):
        if not isinstance(value, dict):
            raise DataError(f"{where}[{i}]: an object is expected, not {type(value).__name__}")
        yield i, _Item(value, f"{where}[{i}]")


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


def _image_folder(folder: Path) -> Path:
    # Without resolving "..": of the released form there may be no such folder.
    places = [Path(os.path.normpath(folder / name)) for name in IMAGE_FOLDERS]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise DataError(f"missing image folder of {folder}; looked for {', '.join(map(str, places))}")
    return found


def check_images_are_there(data: ReferData) -> None:
    """DataError names the first image that an expression needs and that is not in the folder."""
    with os.scandir(data.image_folder) as entries:
        present = {entry.name for entry in entries}
    rows = pc.unique(data.expressions["image_row"]).to_numpy()
    missing = [name for name in data.images["file_name"].take(np.sort(rows)).to_pylist() if name not in present]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"missing image {missing[0]}{more} in {data.image_folder}")

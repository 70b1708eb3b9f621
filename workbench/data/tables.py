"""A data set as three Arrow tables, whatever files it came from: images, objects and expressions.

Readers return what they read as `Raw`; `assemble` checks it and makes the tables. No image or mask is decoded here.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workbench.data import masks
from workbench.errors import DataError, shown
from workbench.registry import did_you_mean

FORMAT = 1
"""Incremented when the same files give other tables; part of every digest."""
Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""

IMAGES = pa.schema(
    [("image_id", pa.int64()), ("file_name", pa.string()), ("height", pa.int32()), ("width", pa.int32())]
)
OBJECTS = pa.schema(
    [("ann_id", pa.int64()), ("image_id", pa.int64()), ("category", pa.string()), ("crowd", pa.bool_()),
     ("box", pa.list_(pa.float64(), 4)), ("area", pa.int64()), ("rle", pa.binary())]
)  # fmt: skip
EXPRESSIONS = pa.schema(
    [("split", pa.string()), ("image_id", pa.int64()), ("ref_id", pa.int64()), ("ann_ids", pa.list_(pa.int64())),
     ("sent_id", pa.int64()), ("sentence", pa.string()), ("image_row", pa.int32()),
     ("object_rows", pa.list_(pa.int32())), ("distractors", pa.int32())]
)  # fmt: skip

LONGEST_SENTENCE = 2000
LARGEST_ID = 2**53
UNKNOWN = -1
"""Distractors that cannot be counted, because the files list only referents."""


@dataclass(frozen=True)
class ReferData:
    """One data set.

    Attributes:
        name: as in the configuration.
        folder: of the annotations.
        image_folder: where the image files are.
        images: image_id, file_name, height, width in pixels.
        objects: ann_id, image_id, category, crowd, box (x, y, width, height), area in pixels, rle (compressed counts).
        expressions: split, image_id, ref_id, ann_ids (empty: no-target), sent_id, sentence; in the files' order.
            Then image_row and object_rows, their places in the other tables, and distractors: other objects of a
            target's category in the image, -1 where unknown and for no-target expressions.
        digest: SHA-256 of all this.
        notes: what was left out or is unusual, one line per note.
        place: the folder that the tables are mapped from, if they are.
    """

    name: str
    folder: Path
    image_folder: Path
    images: pa.Table
    objects: pa.Table
    expressions: pa.Table
    digest: str
    notes: tuple[str, ...] = ()
    place: Path | None = None

    @property
    def splits(self) -> list[str]:
        """The splits' names, in the files' order."""
        return [str(split) for split in self.expressions["split"].unique().to_pylist()]

    def split(self, name: str) -> pa.Table:
        """The expressions of exactly that split; DataError lists the known ones when it is empty."""
        table = self.expressions.filter(pc.equal(self.expressions["split"], name))
        if len(table) == 0:
            raise DataError(f"{self.folder}: {self.name} {no_split(name, self.splits)}")
        return table

    def counts(self, row: int, height: int, width: int) -> bytes:
        """An object's mask as compressed RLE counts, checked again: pycocotools reads past the end of damaged ones."""
        try:
            return masks.checked_counts(self.objects["rle"][row].as_py(), height, width)
        except DataError as error:
            raise DataError(f"{self.place or self.folder}: annotation {self.objects['ann_id'][row]}: {error}") from None

    def image_file(self, row: int) -> Path:
        """The path of an image."""
        return self.image_folder / str(self.images["file_name"][row].as_py())


@dataclass
class Raw:
    """What a reader read, before `assemble` checks it; each item begins with its place in the file, for messages.

    Attributes:
        images: (where, id, file name, height, width).
        objects: (where, id, image id, category, crowd, box or None, segmentation or RLE counts).
        expressions: (where, split, image id, ref id, ann ids, sentence id, sentence).
        lists_all_objects: False if only referents are listed.
        without_crowds: annotations of crowds are left out of the targets' masks.
    """

    images: list[tuple[str, Any, Any, Any, Any]] = field(default_factory=list)
    objects: list[tuple[str, Any, Any, str, bool, Any, Any]] = field(default_factory=list)
    expressions: list[tuple[str, Any, Any, Any, Sequence[Any], Any, Any]] = field(default_factory=list)
    lists_all_objects: bool = True
    without_crowds: bool = False
    notes: list[str] = field(default_factory=list)


def assemble(raw: Raw, name: str, folder: Path, image_folder: Path, progress: Progress | None = None) -> ReferData:
    """Check what a reader read and make the tables of it.

    Args:
        progress: called with (objects done, objects and images in all).

    Raises:
        DataError: names the item: a wrong type, a duplicate id, a reference to nothing, a broken mask.
    """
    sizes: dict[int, tuple[int, int, int]] = {}
    image_rows: list[tuple[Any, ...]] = []
    for where, image_id, file_name, height, width in raw.images:
        whole(image_id, f"{where}: id")
        if image_id in sizes:
            raise DataError(f"{where}: image id {image_id} occurs twice")
        whole(height, f"{where}: height", 1, masks.MOST_PIXELS)
        whole(width, f"{where}: width", 1, masks.MOST_PIXELS // height)
        sizes[image_id] = (len(image_rows), height, width)
        image_rows.append((image_id, plain_name(file_name, f"{where}: file_name"), height, width))
    if not raw.expressions:
        raise DataError(f"{folder}: {name} holds no expressions")
    object_row, object_rows, present = _objects(raw, sizes, progress)
    rows = _expressions(raw, sizes, object_row, object_rows, present)
    try:
        images, objects = _table(IMAGES, image_rows), _table(OBJECTS, [row for row, _ in object_rows])
        expressions = _table(EXPRESSIONS, rows)
    except (UnicodeEncodeError, pa.ArrowException) as error:
        raise DataError(f"{folder}: a text or number of {name} cannot be stored: {error}") from None
    digest = digest_of_tables((images, objects, expressions))
    return ReferData(name, folder, image_folder, images, objects, expressions, digest, tuple(raw.notes))


def _objects(
    raw: Raw, sizes: dict[int, tuple[int, int, int]], progress: Progress | None
) -> tuple[dict[int, int], list[tuple[tuple[Any, ...], str]], dict[int, Counter[str]]]:
    """Row of each id, the rows, and how many of each category are in each image."""
    object_row: dict[int, int] = {}
    rows: list[tuple[tuple[Any, ...], str]] = []
    present: dict[int, Counter[str]] = {}
    count, total = len(raw.objects), len(raw.objects) + len(raw.images)
    raw.objects.reverse()
    while raw.objects:
        # Taken off one by one: polygons as Python's numbers are by far the largest thing in memory.
        where, ann_id, image_id, category, crowd, box, segmentation = raw.objects.pop()
        whole(ann_id, f"{where}: id")
        if ann_id in object_row:
            raise DataError(f"{where}: annotation id {ann_id} occurs twice")
        if whole(image_id, f"{where}: image_id") not in sizes:
            raise DataError(f"{where}: no image with id {image_id}")
        _, height, width = sizes[image_id]
        try:
            rle = masks.to_rle(segmentation, height, width)
        except DataError as error:
            raise DataError(f"{where} (annotation {ann_id}): {error}") from None
        object_row[ann_id] = len(rows)
        present.setdefault(image_id, Counter())[category] += not crowd
        pixels = masks.area(rle, height, width)
        rows.append(((ann_id, image_id, category, crowd, _box(box, where), pixels, rle), category))
        if progress and (len(rows) % 500 == 0 or len(rows) == count):
            progress(len(rows), total)
    return object_row, rows, present


def _expressions(
    raw: Raw,
    sizes: dict[int, tuple[int, int, int]],
    object_row: dict[int, int],
    objects: list[tuple[tuple[Any, ...], str]],
    present: dict[int, Counter[str]],
) -> list[tuple[Any, ...]]:
    rows = []
    for where, split, image_id, ref_id, ann_ids, sent_id, sentence in raw.expressions:
        if whole(image_id, f"{where}: image_id") not in sizes:
            raise DataError(f"{where}: no image with id {image_id}")
        if not isinstance(split, str) or not split or len(split) > 64:
            raise DataError(f"{where}: split: a name is expected, not {shown(split)}")
        whole(ref_id, f"{where}: ref_id")
        whole(sent_id, f"{where}: sent_id")
        if not isinstance(sentence, str) or len(sentence) > LONGEST_SENTENCE:
            what = f"{len(sentence):,} characters" if isinstance(sentence, str) else f"{type(sentence).__name__}"
            raise DataError(f"{where}: sentence: a text of at most {LONGEST_SENTENCE} characters, not {what}")
        targets = []
        for ann_id in ann_ids:
            row = object_row.get(ann_id) if type(ann_id) is int else None
            if row is None:
                raise DataError(f"{where}: no annotation with id {shown(ann_id)}")
            if objects[row][0][1] != image_id:
                raise DataError(f"{where}: annotation {ann_id} is of image {objects[row][0][1]}, not {image_id}")
            targets.append(row)
        distractors = UNKNOWN
        if raw.lists_all_objects and targets:
            kinds = {objects[row][1] for row in targets}
            target_count = sum(not objects[row][0][3] for row in targets)
            distractors = sum(present[image_id][kind] for kind in kinds) - target_count
        rows.append(
            (
                split,
                image_id,
                ref_id,
                list(ann_ids),
                sent_id,
                sentence,
                sizes[image_id][0],
                [row for row in targets if not (raw.without_crowds and objects[row][0][3])],
                distractors,
            )
        )
    return rows


def check_tables(images: pa.Table, objects: pa.Table, expressions: pa.Table) -> str | None:
    """What is impossible about tables from a file; None where they are valid."""
    for table in (images, objects, expressions):
        for name in table.column_names:
            column = table[name]
            inner = pc.list_flatten(column) if pa.types.is_list(column.type) else column
            if column.null_count or inner.null_count:
                return f"{name} has missing values"
    if len(expressions) == 0 or len(images) == 0:
        return "there are no expressions, or no images"
    height, width = (images[name].to_numpy().astype(np.int64) for name in ("height", "width"))
    if min(height.min(), width.min()) < 1 or (height * width).max() > masks.MOST_PIXELS:
        return "sizes of images"
    ids, of_objects = images["image_id"].to_numpy(), objects["image_id"].to_numpy()
    image_row = expressions["image_row"].to_numpy()
    object_rows = pc.list_flatten(expressions["object_rows"]).to_numpy()
    if not np.isin(of_objects, ids).all() or len(np.unique(ids)) < len(ids):
        return "image ids"
    if (
        image_row.min() < 0
        or image_row.max() >= len(ids)
        or (ids[image_row] != expressions["image_id"].to_numpy()).any()
    ):
        return "image_row"
    if len(object_rows) and (object_rows.min() < 0 or object_rows.max() >= len(objects)):
        return "object_rows"
    if len(pc.list_flatten(objects["box"])) != 4 * len(objects):
        return "box"
    names = images["file_name"]
    for part in ("/", "\\", "\0"):
        if pc.any(pc.match_substring(names, part)).as_py():
            return "file names"
    if pc.any(pc.is_in(names, pa.array(["", ".", ".."]))).as_py():
        return "file names"
    return None


def whole(value: Any, where: str, low: int = -LARGEST_ID, high: int = LARGEST_ID) -> int:
    """The value, if it is a whole number within these bounds; else DataError."""
    if type(value) is not int or not low <= value <= high:
        bounds = "" if high == LARGEST_ID else f" from {low:,} to {high:,}"
        raise DataError(f"{where}: a whole number{bounds} is expected, not {shown(value)}")
    return value


def no_split(name: str, splits: Sequence[str]) -> str:
    """What a message says of a split that a data set has not."""
    return f"has no split {name!r}{did_you_mean(name, splits)}; it has {', '.join(splits)}"


def plain_name(name: Any, where: str) -> str:
    """A name without folders; DataError for a path to another folder and for an invalid file name."""
    if not isinstance(name, str) or name in ("", ".", "..") or PurePath(name).name != name or "\\" in name:
        raise DataError(f"{where}: a name without folders is expected, not {shown(name)}")
    if "\0" in name or len(name.encode(errors="replace")) > 255 or name != name.encode(errors="replace").decode():
        raise DataError(f"{where}: {shown(name)} is not a file name")
    return name


def _box(box: Any, where: str) -> list[float]:
    if box is None:
        return [float("nan")] * 4
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(type(v) in (int, float) for v in box):
        raise DataError(f"{where}: bbox: four numbers x, y, width, height are expected, not {shown(box)}")
    try:
        return [float(value) for value in box]
    except OverflowError:
        raise DataError(f"{where}: bbox: {shown(box)} is too large") from None


def _table(schema: pa.Schema, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    columns: Iterable[Any] = zip(*rows, strict=True) if rows else [() for _ in schema]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema)


def digest_of_tables(tables: Sequence[pa.Table]) -> str:
    """SHA-256 over names, types and values, the same however the tables are chunked or were stored."""
    digest = hashlib.sha256(f"workbench data {FORMAT}".encode())
    for table in tables:
        for name in table.column_names:
            column = table[name].combine_chunks()
            if isinstance(column, pa.ChunkedArray):
                column = pa.concat_arrays(column.chunks)
            digest.update(f"{name} {column.type} {len(column)}".encode())
            _update(digest, column)
    return digest.hexdigest()


def _update(digest: Any, column: pa.Array) -> None:
    kind = column.type
    if pa.types.is_list(kind):
        digest.update(np.ascontiguousarray(column.value_lengths().to_numpy(zero_copy_only=False)))
        _update(digest, column.flatten())
    elif pa.types.is_fixed_size_list(kind):
        _update(digest, column.flatten())
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        offsets = np.frombuffer(column.buffers()[1], dtype=np.int32)[column.offset : column.offset + len(column) + 1]
        digest.update(np.ascontiguousarray(np.diff(offsets)))
        if len(column):
            digest.update(memoryview(column.buffers()[2] or b"")[offsets[0] : offsets[-1]])
    else:
        digest.update(np.ascontiguousarray(column.to_numpy(zero_copy_only=False)))

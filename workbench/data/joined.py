"""Several data sets as one, to train on together: splits by member, ids that do not collide, no leak between them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workbench.config.data import JOIN
from workbench.data.tables import EXPRESSIONS, IMAGES, LARGEST_ID, OBJECTS, ReferData, digest_of_tables
from workbench.errors import DataError, counted

Ids = NDArray[np.int64]


def joined(members: Mapping[str, ReferData], train_split: str) -> ReferData:
    """The members' training splits as one, and each member's other splits as `member/split`.

    Images are the same where folder and file name are, or where both have the same name of a COCO image. An image of
    any member's other splits is not trained on: the training expressions about it, of all members, are left out, and
    the notes say how many. The first member keeps its ids; those of later ones (image, referent, sentence) are shifted
    by one number each where they would collide.

    Raises:
        DataError: a member has no such training split, nothing is left to train on, or an image has two sizes.
    """
    folders = [Path(os.path.realpath(data.image_folder)) for data in members.values()]
    root = folders[0] if len(set(folders)) == 1 else Path(os.path.commonpath(folders))
    images = _Images(root)
    expressions, objects, rows_before = [], [], 0
    refs, sentences = _Ids(), _Ids()
    for (name, data), folder in zip(members.items(), folders, strict=True):
        if train_split not in data.splits:
            data.split(train_split)  # says which there are
        image_rows = images.add(name, data, folder)
        ids = images.ids()[image_rows]
        own = data.images["image_id"].to_numpy()
        objects.append(_set(data.objects, image_id=_mapped(data.objects["image_id"].to_numpy(), own, ids)))
        table = data.expressions.combine_chunks()
        rows = table["image_row"].to_numpy()
        splits = [split if split == train_split else f"{name}/{split}" for split in table["split"].to_pylist()]
        expressions.append(
            _set(
                table,
                split=splits,
                image_id=ids[rows],
                image_row=image_rows[rows],
                ref_id=refs.shifted(table["ref_id"].to_numpy()),
                sent_id=sentences.shifted(table["sent_id"].to_numpy()),
                object_rows=_shifted_lists(table["object_rows"], rows_before),
            )
        )
        rows_before += len(data.objects)
    kept, notes = _without_held_out(list(members), expressions, train_split)
    if not any(pc.any(pc.equal(table["split"], train_split)).as_py() for table in kept):
        raise DataError(f"{JOIN.join(members)}: every image of {train_split} is in another split of a member")
    tables = (images.table(), pa.concat_tables(objects), pa.concat_tables(kept).combine_chunks())
    notes += [f"{name}: {note}" for name, data in members.items() for note in data.notes]
    return ReferData(JOIN.join(members), root, root, *tables, digest_of_tables(tables), tuple(notes))


def _without_held_out(
    names: Sequence[str], tables: Sequence[pa.Table], train_split: str
) -> tuple[list[pa.Table], list[str]]:
    """The members' expressions without those trained on whose image is in another split, and what was left out."""
    trained = [pc.equal(table["split"], train_split).to_numpy() for table in tables]
    ids = [table["image_id"].to_numpy() for table in tables]
    held_out = np.unique(np.concatenate([own[~mine] for own, mine in zip(ids, trained, strict=True)]))
    kept, notes = [], []
    for name, table, mine, own in zip(names, tables, trained, ids, strict=True):
        dropped = mine & np.isin(own, held_out)
        kept.append(table.filter(pa.array(~dropped)))
        images = counted(len(np.unique(own[dropped])), "image")
        notes.append(
            f"{name}: {counted(int(dropped.sum()), 'expression')} about {images} left out of {train_split}, "
            "whose images are in another split of a member; "
            f"{counted(int((mine & ~dropped).sum()), 'expression')} left"
        )
    return kept, notes


@dataclass
class _Ids:
    """Ids of several members in turn, each shifted past those before where they could collide."""

    next: int | None = None

    def shifted(self, ids: Ids) -> Ids:
        shift = 0 if self.next is None else max(0, self.next - int(ids.min()))
        highest = int(ids.max()) + shift
        if highest > LARGEST_ID:
            raise DataError(f"ids up to {highest:,} would be needed, and {LARGEST_ID:,} is the largest")
        self.next = highest + 1 if self.next is None else max(self.next, highest + 1)
        return ids + shift


class _Images:
    """The images of all members, each once.

    Args:
        root: the folder that their names are relative to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._rows: list[tuple[int, str, int, int]] = []
        self._row_of: dict[tuple[str, str], int] = {}
        self._used: set[int] = set()

    def add(self, member: str, data: ReferData, folder: Path) -> Ids:
        """Add a member's images; for each of its rows, the row here."""
        columns = [data.images[name].to_pylist() for name in IMAGES.names]
        keys = [_same_image(folder, name) for name in columns[1]]
        new = [image_id for image_id, key in zip(columns[0], keys, strict=True) if key not in self._row_of]
        shift = max(self._used) + 1 - min(new) if self._used and not self._used.isdisjoint(new) else 0
        before = os.path.relpath(folder, self._root)
        rows = []
        for key, image_id, name, height, width in zip(keys, *columns, strict=True):
            row = self._row_of.setdefault(key, len(self._rows))
            if row == len(self._rows):
                self._rows.append((image_id + shift, name if before == "." else f"{before}/{name}", height, width))
                self._used.add(image_id + shift)
            elif self._rows[row][2:] != (height, width):
                there = "×".join(map(str, self._rows[row][2:]))
                raise DataError(f"{member}: {name} is {height}×{width}, and {there} in another data set of the list")
            rows.append(row)
        return np.array(rows, np.int64)

    def ids(self) -> Ids:
        return np.array([row[0] for row in self._rows], np.int64)

    def table(self) -> pa.Table:
        columns = zip(*self._rows, strict=True)
        return pa.table([pa.array(c, f.type) for c, f in zip(columns, IMAGES, strict=True)], IMAGES)


def _same_image(folder: Path, name: str) -> tuple[str, str]:
    """Equal for files that are the same image."""
    # refshapes names its files likewise, but they are PNG.
    return ("COCO" if re.fullmatch(r"COCO_(train|val)2014_\d{12}\.jpg", name) else str(folder), name)


def _mapped(values: Ids, own: Ids, new: Ids) -> Ids:
    """Each value, which is one of `own`, as the one at the same place in `new`."""
    order = np.argsort(own)
    mapped: Ids = new[order[np.searchsorted(own, values, sorter=order)]] if len(values) else values
    return mapped


def _shifted_lists(column: pa.ChunkedArray, shift: int) -> pa.Array:
    lists = pa.concat_arrays(column.chunks)
    lengths = pc.list_value_length(lists).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pc.add(lists.flatten(), pa.scalar(shift, pa.int32())))


def _set(table: pa.Table, **columns: object) -> pa.Table:
    """The table with other values in some of its columns, which keep their types."""
    schema = OBJECTS if "ann_id" in table.column_names else EXPRESSIONS
    for name, values in columns.items():
        place = table.column_names.index(name)
        column = values if isinstance(values, pa.Array) else pa.array(values, schema.field(name).type)
        table = table.set_column(place, schema.field(name), column)
    return table

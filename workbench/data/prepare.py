"""Preparing a data set: its files are checked and converted once, to the Arrow tables that `prepared` opens."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workbench.data import tables
from workbench.data.images import check_images_are_there, image_size
from workbench.data.prepared import (
    RECORD,
    TABLES,
    MaskFolder,
    PreparedRecord,
    SourceFile,
    listing,
    map_tables,
    open_prepared,
    stamp,
)
from workbench.data.readers import Source, read
from workbench.data.tables import Progress, ReferData
from workbench.errors import DataError
from workbench.files import digest_of, made_whole, write_atomically

SHOWN = 5


def prepare(source: Source, place: Path, progress: Progress | None = None) -> ReferData:
    """Check a data set's files and write its tables; what was there before is replaced as a whole.

    Args:
        place: see `prepared_folder`.
        progress: called with (objects and images done, both in all).

    Raises:
        DataError: the files are damaged, an image is missing or of another size, or the disk is full.
    """
    sources = tuple(SourceFile(**stamp(file, place), sha256=digest_of(file)) for file in source.files)
    masks: MaskFolder | None = None
    if source.mask_folder is not None:
        masks = listing(source.mask_folder, place)
    data = read(source, progress)
    check_images_are_there(data)
    check_sizes(data, progress)
    for before, file in zip(sources, source.files, strict=True):
        if stamp(file, place) != before.model_dump(exclude={"sha256"}):
            raise DataError(f"{file} changed while it was read; try again")
    record = PreparedRecord(
        format=tables.FORMAT,
        name=source.name,
        split_by=source.split_by,
        form=source.form,
        sentence=source.sentence,
        sources=sources,
        masks=masks,
        folder=os.path.relpath(source.folder, place),
        image_folder=os.path.relpath(data.image_folder, place),
        digest=data.digest,
        notes=data.notes,
        made=time.time(),
    )
    if _holds(place, data.digest):
        # Other jobs may have these tables mapped, so the same ones are not written again.
        write_atomically(place / RECORD, _as_json(record))
    else:
        _write(data, record, place)
    return open_prepared(place)


def _holds(place: Path, digest: str) -> bool:
    """Whether complete tables with this digest are stored there."""
    try:
        _, mapped = map_tables(place)
    except DataError:
        return False
    return tables.digest_of_tables(mapped) == digest


def check_sizes(data: ReferData, progress: Progress | None = None) -> None:
    """DataError names images whose headers contradict their annotations or cannot be read."""
    rows = np.sort(pc.unique(data.expressions["image_row"]).to_numpy())
    names, heights, widths = (data.images[c].take(rows).to_pylist() for c in ("file_name", "height", "width"))
    wrong: list[str] = []
    total = len(data.objects) + len(data.images)
    for done, (name, *size) in enumerate(zip(names, heights, widths, strict=True), start=1):
        try:
            size_of_file = image_size(data.image_folder / name)
        except DataError as error:
            wrong.append(str(error))
        else:
            if list(size_of_file) != size:
                wrong.append(f"{name} is {size_of_file[0]}×{size_of_file[1]}, its annotation says {size[0]}×{size[1]}")
        if progress and done % 200 == 0:
            progress(len(data.objects) + done, total)
    if wrong:
        more = f" (and {len(wrong) - SHOWN} more)" if len(wrong) > SHOWN else ""
        raise DataError(f"{data.image_folder}: " + "; ".join(wrong[:SHOWN]) + more)
    if progress:
        progress(total, total)


def _write(data: ReferData, record: PreparedRecord, place: Path) -> None:
    with made_whole(place, replace=True) as partial:
        for name, table in zip(TABLES, (data.images, data.objects, data.expressions), strict=True):
            with pa.OSFile(str(partial / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        (partial / RECORD).write_bytes(_as_json(record))


def _as_json(record: PreparedRecord) -> bytes:
    return (record.model_dump_json(indent=1) + "\n").encode()

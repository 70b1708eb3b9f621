"""Preparing a data set: its files are checked and converted once, to Arrow tables that open at once.

`<root>/prepared/<folder>-<split_by>/` holds images.arrow, objects.arrow, expressions.arrow and prepared.json, which
says what they were made from. Deleting it loses nothing: it is made anew from the original files.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workbench.data import tables
from workbench.data.images import image_size
from workbench.data.refer import Source, check_images_are_there, read
from workbench.data.tables import Progress, ReferData
from workbench.errors import DataError
from workbench.files import digest_of, made_whole, write_atomically

FOLDER = "prepared"
RECORD = "prepared.json"
TABLES = ("images", "objects", "expressions")
SHOWN = 5
LONGEST_PATH = 2000


class NotPrepared(DataError):
    """There are no tables of these files yet, or they are of other files."""


def prepared_folder(root: Path, folder_name: str, split_by: str) -> Path:
    """Where the tables of a data set lie."""
    return root / FOLDER / f"{folder_name}-{split_by}"


def prepare(source: Source, place: Path, progress: Progress | None = None) -> ReferData:
    """Check a data set's files and write its tables; what was there before is replaced as a whole.

    Args:
        place: see `prepared_folder`.
        progress: called with (objects and images done, both in all).

    Raises:
        DataError: the files are not what they should be, an image is missing or of another size, or the disk is full.
    """
    before = [{**_stamp(file, place), "sha256": digest_of(file)} for file in source.files]
    masks: dict[str, Any] | None = None
    if source.mask_folder is not None:
        masks = {**_listing(source.mask_folder), "folder": os.path.relpath(source.mask_folder, place)}
    data = read(source, progress)
    check_images_are_there(data)
    check_sizes(data, progress)
    for stamp, file in zip(before, source.files, strict=True):
        if _stamp(file, place).items() - stamp.items():
            raise DataError(f"{file} changed while it was read; try again")
    record = {
        "format": tables.FORMAT,
        "name": source.name,
        "split_by": source.split_by,
        "form": source.form,
        "sources": before,
        "masks": masks,
        "folder": os.path.relpath(source.folder, place),
        "image_folder": os.path.relpath(data.image_folder, place),
        "digest": data.digest,
        "notes": list(data.notes),
        "made": time.time(),
    }
    if _holds(place, data.digest):
        # Jobs elsewhere may have these tables mapped; the same ones need not be written again.
        write_atomically(place / RECORD, (json.dumps(record, indent=1) + "\n").encode())
    else:
        _write(data, record, place)
    return open_prepared(place)


def _holds(place: Path, digest: str) -> bool:
    """Whether whole tables of that content lie there."""
    try:
        _, found = _mapped(place)
    except DataError:
        return False
    return tables.digest_of_tables(found) == digest


def check_sizes(data: ReferData, progress: Progress | None = None) -> None:
    """DataError names images whose files' heads contradict their annotations, or that have no head."""
    rows = np.sort(pc.unique(data.expressions["image_row"]).to_numpy())
    names, heights, widths = (data.images[c].take(rows).to_pylist() for c in ("file_name", "height", "width"))
    wrong: list[str] = []
    total = len(data.objects) + len(data.images)
    for done, (name, *size) in enumerate(zip(names, heights, widths, strict=True), start=1):
        try:
            found = image_size(data.image_folder / name)
        except DataError as error:
            wrong.append(str(error))
        else:
            if list(found) != size:
                wrong.append(f"{name} is {found[0]}×{found[1]}, its annotation says {size[0]}×{size[1]}")
        if progress and done % 200 == 0:
            progress(len(data.objects) + done, total)
    if wrong:
        more = f" (and {len(wrong) - SHOWN} more)" if len(wrong) > SHOWN else ""
        raise DataError(f"{data.image_folder}: " + "; ".join(wrong[:SHOWN]) + more)
    if progress:
        progress(total, total)


def open_prepared(place: Path) -> ReferData:
    """Map a prepared data set's tables.

    Raises:
        NotPrepared: there are none, or the original files changed since.
        DataError: the tables are damaged.
    """
    record, found = _mapped(place)
    _check_sources(record, place)
    digest = tables.digest_of_tables(found)
    if digest != record["digest"]:
        # Somebody may have put other tables there between the two looks.
        record, found = _mapped(place)
        digest = tables.digest_of_tables(found)
    if digest != record["digest"]:
        raise DataError(f"{place}: its tables were changed or damaged; {_again(record)}")
    image_folder = Path(os.path.normpath(place / record["image_folder"]))
    folder = Path(os.path.normpath(place / record["folder"]))
    if not image_folder.is_dir():
        raise DataError(f"missing image folder {image_folder} of {place}")
    return ReferData(record["name"], folder, image_folder, *found, digest, tuple(record["notes"]), place)


def _mapped(place: Path) -> tuple[dict[str, Any], tuple[pa.Table, pa.Table, pa.Table]]:
    record = read_record(place)
    images, objects, expressions = (
        _map(place / f"{name}.arrow", schema) for name, schema in zip(TABLES, _schemas(), strict=True)
    )
    if wrong := tables.check_tables(images, objects, expressions):
        raise DataError(f"{place}: its tables are damaged ({wrong}); remove the folder, and it is made anew")
    return record, (images, objects, expressions)


def prepared_digest(place: Path) -> str:
    """The digest of a prepared data set, without opening its tables; raises as `open_prepared` does."""
    record = read_record(place)
    _check_sources(record, place)
    return str(record["digest"])


def read_record(place: Path) -> dict[str, Any]:
    """The content of prepared.json; NotPrepared where there is none, or one of another format."""
    file = place / RECORD
    for name in (file, *(place / f"{name}.arrow" for name in TABLES)):
        if name.exists() and not name.is_file():
            raise DataError(f"{name}: not a file; remove its folder, and it is made anew")
    try:
        record = json.loads(file.read_bytes())
        known = {"format", "name", "split_by", "sources", "folder", "image_folder", "digest", "notes"} <= record.keys()
    except FileNotFoundError:
        raise NotPrepared(f"{place}: not prepared") from None
    except (ValueError, AttributeError, RecursionError, NotADirectoryError) as error:
        raise DataError(f"{file}: damaged ({str(error)[:100]}); remove its folder, and it is made anew") from None
    texts = [record[k] for k in ("name", "split_by", "folder", "image_folder", "digest")] if known else [None]
    if known and isinstance(record["sources"], list):
        texts += [source.get("file") if isinstance(source, dict) else None for source in record["sources"]]
        texts += [record["masks"].get("folder")] if isinstance(record.get("masks"), dict) else []
    if not known or not all(isinstance(t, str) for t in texts) or not isinstance(record["sources"], list):
        raise DataError(f"{file}: damaged; remove its folder, and it is made anew")
    if not isinstance(record.get("masks"), dict | None) or record.get("form") not in ("refs", "grefs", "released"):
        raise DataError(f"{file}: damaged; remove its folder, and it is made anew")
    if not isinstance(record["notes"], list) or not all(isinstance(note, str) for note in record["notes"]):
        raise DataError(f"{file}: damaged; remove its folder, and it is made anew")
    for text in map(str, texts[2:4] + texts[5:]):
        if not _within(place, text):
            raise DataError(f"{file}: damaged: it leads elsewhere; remove its folder, and it is made anew")
    if record["format"] != tables.FORMAT:
        raise NotPrepared(f"{place}: prepared by another version")
    return dict(record)


def _within(place: Path, relative: str) -> bool:
    """Whether a path from a prepared set stays under its root, by name alone: links may lead anywhere."""
    try:
        os.fsencode(relative)
    except UnicodeEncodeError:
        return False
    path = Path(os.path.normpath(place.absolute() / relative))
    root = Path(os.path.normpath(place.parent.parent.absolute()))
    return "\0" not in relative and len(relative) <= LONGEST_PATH and path.is_relative_to(root)


def _stamp(file: Path, place: Path) -> dict[str, Any]:
    try:
        stat = file.stat()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    return {"file": os.path.relpath(file, place), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _check_sources(record: dict[str, Any], place: Path) -> None:
    """Files that are gone do not matter; those that are there must be the ones that were read."""
    for source in record["sources"]:
        file = Path(os.path.normpath(place / source["file"]))
        with contextlib.suppress(FileNotFoundError):
            stat = file.stat()
            same = (stat.st_size, stat.st_mtime_ns) == (source.get("bytes"), source.get("mtime_ns"))
            if not same and digest_of(file) != source.get("sha256"):
                raise NotPrepared(f"{file} changed since it was prepared; {_again(record)}")

    known = record.get("masks")
    if known is not None:
        folder = Path(os.path.normpath(place / str(known.get("folder"))))
        if folder.is_dir() and _listing(folder).items() - known.items():
            raise NotPrepared(f"{folder} changed since it was prepared; {_again(record)}")


def _listing(folder: Path) -> dict[str, int]:
    """How many masks a folder holds, how large they are together, and when the newest was written."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        stats = [entry.stat() for entry in entries if entry.name.endswith(".npy")]
    return {
        "count": len(stats),
        "bytes": sum(stat.st_size for stat in stats),
        "mtime_ns": max((stat.st_mtime_ns for stat in stats), default=0),
    }


def _again(record: dict[str, Any]) -> str:
    return f"make them anew: workbench data prepare {record['name']} --split-by {record['split_by']}"


def _schemas() -> tuple[pa.Schema, ...]:
    return tables.IMAGES, tables.OBJECTS, tables.EXPRESSIONS


def _map(file: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        if table.schema != schema:
            raise DataError(f"{file}: its columns are others; remove its folder, and it is made anew")
        table.validate(full=True)
    except FileNotFoundError:
        raise DataError(f"missing file {file}; remove its folder, and it is made anew") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"{file}: damaged ({why}); remove its folder, and it is made anew") from None
    return table.combine_chunks()


def _write(data: ReferData, record: dict[str, Any], place: Path) -> None:
    parts: Sequence[pa.Table] = (data.images, data.objects, data.expressions)
    with made_whole(place, replace=True) as partial:
        for name, table in zip(TABLES, parts, strict=True):
            with pa.OSFile(str(partial / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n")

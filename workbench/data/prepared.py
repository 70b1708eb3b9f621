"""Opens prepared data sets: memory-mapped Arrow tables, and the record of the files they were made from.

`<root>/prepared/<folder>-<split_by>/` holds images.arrow, objects.arrow, expressions.arrow and prepared.json. Deleting
it loses nothing: `workbench.data.prepare` makes it again from the original files.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import AfterValidator

from workbench.data import tables
from workbench.data.readers import readers
from workbench.data.tables import ReferData
from workbench.errors import DataError
from workbench.files import check_file, digest_of
from workbench.registry import unknown_name
from workbench.validation import DamagedFile, Mistake, Moment, Record, Whole
from workbench.validation import read_record as read_any_record

FOLDER = "prepared"
RECORD = "prepared.json"
TABLES = ("images", "objects", "expressions")
LONGEST_PATH = 2000
REMEDY = "remove its folder, and it is made again"


class NotPrepared(DataError):
    """There are no tables of these files yet, or the tables were made from other files."""


class SourceFile(Record):
    """One of the files that tables were made from; `file` is relative to the tables' folder."""

    file: str
    bytes: Whole
    mtime_ns: int
    sha256: str


class MaskFolder(Record):
    """A folder of masks that tables were made from: how many, how large together, and when the newest was written."""

    folder: str
    count: Whole
    bytes: Whole
    mtime_ns: int


def _known_form(form: str) -> str:
    if form not in readers:
        raise ValueError(unknown_name("form", form, list(readers)))
    return form


class PreparedRecord(Record):
    """The content of prepared.json; paths are relative to its folder.

    Attributes:
        format: see `tables.FORMAT`.
        form: of the reader that read the sources.
        sentence: the field that sentences were read from.
        sources: the annotations.
        masks: of a form that keeps them in files of their own.
        folder: of the annotations.
        digest: SHA-256 of the tables' content.
        notes: see `ReferData`.
    """

    format: int
    name: str
    split_by: str
    form: Annotated[str, AfterValidator(_known_form)]
    sentence: str = "sent"
    sources: tuple[SourceFile, ...]
    masks: MaskFolder | None = None
    folder: str
    image_folder: str
    digest: str
    notes: tuple[str, ...]
    made: Moment


class MappedData(ReferData):
    """A data set whose tables are mapped from a folder; it is pickled as the folder's name."""

    def __reduce__(self) -> Any:
        return open_prepared, (self.place,)


def prepared_folder(root: Path, folder_name: str, split_by: str, sentence: str = "sent") -> Path:
    """The folder of a data set's tables; those of another text than the cleaned one lie beside it."""
    return root / FOLDER / (f"{folder_name}-{split_by}" + ("" if sentence == "sent" else f"+{sentence}"))


def open_prepared(place: Path) -> MappedData:
    """Map a prepared data set's tables.

    Raises:
        NotPrepared: there are none, or the original files changed since.
        DataError: the tables are damaged.
    """
    record, mapped = map_tables(place)
    _check_sources(record, place)
    digest = tables.digest_of_tables(mapped)
    if digest != record.digest:
        # Another process may have replaced the tables between the two reads.
        record, mapped = map_tables(place)
        digest = tables.digest_of_tables(mapped)
    if digest != record.digest:
        raise DataError(f"{place}: its tables were changed or damaged; {_again(record)}")
    image_folder = Path(os.path.normpath(place / record.image_folder))
    folder = Path(os.path.normpath(place / record.folder))
    if not image_folder.is_dir():
        raise DataError(f"missing image folder {image_folder} of {place}")
    return MappedData(record.name, folder, image_folder, *mapped, digest, record.notes, place)


def map_tables(place: Path) -> tuple[PreparedRecord, tuple[pa.Table, pa.Table, pa.Table]]:
    """The record and the stored tables; raises as `open_prepared` does, but does not check the digest."""
    record = read_record(place)
    images, objects, expressions = (
        _map(place / f"{name}.arrow", schema) for name, schema in zip(TABLES, _schemas(), strict=True)
    )
    if wrong := tables.check_tables(images, objects, expressions):
        raise DataError(f"{place}: its tables are damaged ({wrong}); remove the folder, and it is made again")
    return record, (images, objects, expressions)


def prepared_digest(place: Path) -> str:
    """The digest of a prepared data set, without opening its tables; raises as `open_prepared` does."""
    record = read_record(place)
    _check_sources(record, place)
    return record.digest


def read_record(place: Path) -> PreparedRecord:
    """The content of prepared.json.

    Raises:
        NotPrepared: there is none, or it is of another version.
        DataError: it is damaged, or leads out of the root.
    """
    file = place / RECORD
    for name in (file, *(place / f"{name}.arrow" for name in TABLES)):
        if name.exists() and not name.is_file():
            raise DataError(f"{name}: not a file; {REMEDY}")
    try:
        record = read_any_record(file, PreparedRecord, REMEDY)
        _check_paths(record, file)
    except FileNotFoundError:
        raise NotPrepared(f"{place}: not prepared") from None
    except DamagedFile as error:
        raise DataError(str(error)) from None
    if record.format != tables.FORMAT:
        raise NotPrepared(f"{place}: prepared by another version")
    return record


def _check_paths(record: PreparedRecord, file: Path) -> None:
    paths = {"folder": record.folder, "image_folder": record.image_folder}
    paths |= {f"sources.{i}.file": source.file for i, source in enumerate(record.sources)}
    if record.masks is not None:
        paths["masks.folder"] = record.masks.folder
    for key, path in paths.items():
        if not _within(file.parent, path):
            raise DamagedFile(file, Mistake(key, "it leads elsewhere", "path"), REMEDY)


def _within(place: Path, relative: str) -> bool:
    """Whether a path from a prepared set stays under its root, judged only by name: links may lead anywhere."""
    path = Path(os.path.normpath(place.absolute() / relative))
    root = Path(os.path.normpath(place.parent.parent.absolute()))
    return "\0" not in relative and len(relative) <= LONGEST_PATH and path.is_relative_to(root)


def stamp(file: Path, place: Path) -> dict[str, Any]:
    """Name, size and time of a file, by which a change is noticed; DataError where it cannot be looked at."""
    try:
        stat = file.stat()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    return {"file": os.path.relpath(file, place), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def listing(folder: Path, place: Path) -> MaskFolder | None:
    """What a folder of masks holds; None where there is no such folder."""
    if not folder.is_dir():
        return None
    with os.scandir(folder) as entries:
        stats = [entry.stat() for entry in entries if entry.name.endswith(".npy")]
    return MaskFolder(
        folder=os.path.relpath(folder, place),
        count=len(stats),
        bytes=sum(stat.st_size for stat in stats),
        mtime_ns=max((stat.st_mtime_ns for stat in stats), default=0),
    )


def _check_sources(record: PreparedRecord, place: Path) -> None:
    """Source files may be missing; those that exist must be unchanged since they were read."""
    for source in record.sources:
        file = Path(os.path.normpath(place / source.file))
        with contextlib.suppress(FileNotFoundError):
            stat = file.stat()
            # A file of another size is another, and need not be read, which may take for ever.
            touched = stat.st_mtime_ns != source.mtime_ns
            if stat.st_size != source.bytes or (touched and digest_of(file) != source.sha256):
                raise NotPrepared(f"{file} changed since it was prepared; {_again(record)}")
    if record.masks is not None:
        folder = Path(os.path.normpath(place / record.masks.folder))
        if listing(folder, place) not in (None, record.masks):
            raise NotPrepared(f"{folder} changed since it was prepared; {_again(record)}")


def _again(record: PreparedRecord) -> str:
    return f"make them again: workbench data prepare {record.name} --split-by {record.split_by}"


def _schemas() -> tuple[pa.Schema, ...]:
    return tables.IMAGES, tables.OBJECTS, tables.EXPRESSIONS


def _map(file: Path, schema: pa.Schema) -> pa.Table:
    try:
        check_file(file)
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        if table.schema != schema:
            raise DataError(f"{file}: its columns are different; {REMEDY}")
        table.validate(full=True)
    except FileNotFoundError:
        raise DataError(f"missing file {file}; {REMEDY}") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0][:200]
        raise DataError(f"{file}: damaged ({why}); {REMEDY}") from None
    return table.combine_chunks()

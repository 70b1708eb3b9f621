"""What readers share: JSON documents, and items whose missing or wrong fields are named with their place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from workbench.data.pickles import load_plain
from workbench.errors import DataError, shown
from workbench.files import read_file

LONGEST_NAME = 200
MOST_BYTES = 16 << 30
"""Of a document of annotations or predictions."""


def read_json(file: Path) -> Any:
    """A JSON document; DataError names a file that cannot be read."""
    try:
        return json.loads(read_file(file, MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not readable as JSON: {str(error)[:200]}") from None
    except MemoryError:
        raise DataError(f"{file}: there is not enough memory to read it") from None


def read_references(file: Path) -> Any:
    """A list of references, in JSON or as a pickle of plain data; DataError names a file that cannot be read."""
    return load_plain(file) if file.suffix == ".p" else read_json(file)


class Item:
    """An object of a document; a field that is asked for and missing is a DataError that names it."""

    __slots__ = ("fields", "where")

    def __init__(self, fields: dict[str, Any], where: str) -> None:
        self.fields, self.where = fields, where

    def __getitem__(self, name: str) -> Any:
        try:
            return self.fields[name]
        except KeyError:
            raise DataError(f"{self.where}: field {name!r} is missing") from None

    def get(self, name: str, other: Any = None) -> Any:
        """A field that may be missing."""
        return self.fields.get(name, other)


def items_of(values: Sequence[Any], where: str) -> Iterable[tuple[int, Item]]:
    """The objects of a list with their numbers; DataError at the first that is no object."""
    for i, value in enumerate(values):
        if not isinstance(value, dict):
            raise DataError(f"{where}[{i}]: an object is expected, not {type(value).__name__}")
        yield i, Item(value, f"{where}[{i}]")


def list_of(value: Any, where: str) -> list[Any]:
    """The value, if it is a list; else DataError."""
    if not isinstance(value, list | tuple):
        raise DataError(f"{where}: a list is expected, not {type(value).__name__}")
    return list(value)


def text_of(value: Any, where: str) -> str:
    """The value, if it is a text, cut where it is longer than a name; else DataError."""
    if not isinstance(value, str):
        raise DataError(f"{where}: a text is expected, not {shown(value)}")
    return value[:LONGEST_NAME]


def in_words(error: Exception) -> str:
    """An error of another library in one line."""
    return f"{type(error).__name__}: {str(error)[:200]}"

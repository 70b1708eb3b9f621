"""Pickles of plain data: containers, strings and numbers, as Python 2 and 3 write them, and nothing else.

A pickle is a program. Before this one is run its instructions are looked through: one that could import, call or build
anything, or that claims more than the file holds, is refused by name.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

from workbench.errors import DataError

ALLOWED = frozenset(
    {
        "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE",
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
        "EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
        "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS",
        "GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE",
    }
)  # fmt: skip
IMPORTS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"})


class _NoImports(pickle.Unpickler):
    """A second lock: nothing that gets here asks for an import."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it wants to import {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to something outside")


def load_plain(file: Path) -> Any:
    """The content of a pickle of plain data; byte strings of Python 2 are read as latin-1.

    Raises:
        DataError: names the file, and what it tried or where it is damaged.
    """
    content = file.read_bytes()
    try:
        _look_through(content)
        return _NoImports(io.BytesIO(content), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise DataError(f"{file}: refused: {error}; only plain lists, dicts, strings and numbers are read") from None
    except Exception as error:  # a damaged pickle raises whatever its broken opcodes stumble over
        raise DataError(f"{file}: damaged pickle: {type(error).__name__}: {_short(error)}") from None


def _look_through(content: bytes) -> None:
    """pickletools checks every length against what is there; here, each opcode's name and memo number."""
    previous: Any = None
    before: Any = None
    argument: Any
    for opcode, argument, position in pickletools.genops(content):
        name = opcode.name
        if name not in ALLOWED:
            if name == "GLOBAL":
                raise pickle.UnpicklingError(f"it wants to import {str(argument).replace(' ', '.')}")
            if name == "STACK_GLOBAL":
                raise pickle.UnpicklingError(f"it wants to import {before}.{previous}")
            what = "import something" if name in IMPORTS else f"do {name}"
            raise pickle.UnpicklingError(f"it wants to {what} at byte {position}")
        # The memo is an array: a large number in a small file would claim gigabytes.
        if name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument) <= len(content):
            raise pickle.UnpicklingError(f"memo number {argument} at byte {position} is beyond the file's size")
        if isinstance(argument, str):
            before, previous = previous, argument


def _short(error: Exception) -> str:
    return (str(error).strip() or "no reason given").splitlines()[0][:200]

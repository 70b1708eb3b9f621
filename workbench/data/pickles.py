"""Pickles of plain data: lists, dicts, strings and numbers, as Python 2 and 3 write them, and nothing else.

A pickle is a program. Before it is run its instructions are checked: a pickle with one that could import, call or build
anything, or that claims more than the file holds, is refused, and the instruction is named.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

from workbench.errors import DataError
from workbench.files import read_file

ALLOWED = frozenset(
    {
        "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE",
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
        "EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS",
        "GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE",
    }
)  # fmt: skip
IMPORTS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"})

OPCODES = {ord(op.code): (op.name, 0 if op.arg is None else op.arg.n) for op in pickletools.opcodes}
"""By their byte: name, and how long the argument is, as pickletools has it."""
COUNTED = {
    pickletools.TAKEN_FROM_ARGUMENT1: (1, False),
    pickletools.TAKEN_FROM_ARGUMENT4: (4, True),
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, False),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, False),
}
"""Size in bytes of the length field before an argument, and whether it is signed."""


class _NoImports(pickle.Unpickler):
    """A second check: nothing that gets here asks for an import."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it wants to import {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to something outside")


def load_plain(file: Path) -> Any:
    """The content of a pickle of plain data; byte strings of Python 2 are read as latin-1.

    Raises:
        DataError: names the file, and what it tried or where it is damaged.
    """
    content = read_file(file)
    try:
        _check_opcodes(content)
        return _NoImports(io.BytesIO(content), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise DataError(f"{file}: refused: {error}; only plain lists, dicts, strings and numbers are read") from None
    except Exception as error:  # a damaged pickle raises many types of error
        raise DataError(f"{file}: damaged pickle: {type(error).__name__}: {_short(error)}") from None


def _check_opcodes(content: bytes) -> None:
    """Check each opcode's name, its length against the bytes that are left, and its memo number.

    Not by pickletools.genops, which reads the strings of Python 2 as ASCII; its table of opcodes is used.
    """
    position, size = 0, len(content)
    texts: list[bytes] = []
    while True:
        if position >= size:
            raise ValueError("it ends without STOP")
        opcode = OPCODES.get(content[position])
        if opcode is None:
            raise ValueError(f"unknown opcode {content[position : position + 1]!r} at byte {position}")
        name, kind = opcode
        begin, position = _argument(content, position + 1, kind)
        if name not in ALLOWED:
            raise pickle.UnpicklingError(_wish(name, content[begin : begin + 200], texts, begin - 1))
        if name == "STOP":
            return
        # The memo is an array: a large number in a small file would claim gigabytes.
        if name in ("PUT", "BINPUT", "LONG_BINPUT"):
            raw = content[begin:position]
            number = int(raw) if name == "PUT" else int.from_bytes(raw, "little")
            if not 0 <= number <= size:
                raise pickle.UnpicklingError(f"memo number {number} at byte {begin - 1} is beyond the file's size")
        elif "UNICODE" in name or "STRING" in name:
            texts = [*texts[-1:], content[begin : min(position, begin + 200)]]


def _argument(content: bytes, begin: int, kind: int) -> tuple[int, int]:
    """Where an argument's text begins and where the argument ends; ValueError where the file is shorter."""
    if kind >= 0:
        end = begin + kind
    elif kind == pickletools.UP_TO_NEWLINE:
        end = content.find(b"\n", begin) + 1
        if not end:
            raise ValueError(f"a line at byte {begin} does not end")
    else:
        width, signed = COUNTED[kind]
        count = int.from_bytes(content[begin : begin + width], "little", signed=signed)
        begin += width
        if count < 0:
            raise ValueError(f"a negative length at byte {begin}")
        end = begin + count
    if end > len(content):
        raise ValueError(f"at byte {begin}, {end - begin:,} bytes are announced and {len(content) - begin:,} there")
    return begin, end


def _wish(name: str, argument: bytes, texts: list[bytes], position: int) -> str:
    if name == "STACK_GLOBAL" and len(texts) == 2:
        return f"it wants to import {_text(texts[0])}.{_text(texts[1])}"
    if name in ("GLOBAL", "INST"):
        return f"it wants to import {'.'.join(map(_text, argument.split(chr(10).encode())[:2]))}"
    if "TUPLE" in name:
        # The data sets hold none, and one in itself many times over, as a key, would be hashed for ever.
        return f"it holds a tuple at byte {position}"
    return f"it wants to {'import something' if name in IMPORTS else f'do {name}'} at byte {position}"


def _text(raw: bytes) -> str:
    return raw.decode("latin1").strip()[:80]


def _short(error: Exception) -> str:
    return (str(error).strip() or "no reason given").splitlines()[0][:200]

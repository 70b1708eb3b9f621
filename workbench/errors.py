"""The errors a user can cause and fix; the command line prints them, a line for each mistake, and exits with 2."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar


class WorkbenchError(Exception):
    """Something the user can fix. Its message says what was wrong, where, and what would be right."""


class ConfigError(WorkbenchError):
    """A field of a configuration is wrong.

    `key` is the field's dotted name; whoever knows the file and the setting puts them in front.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key


class DataError(WorkbenchError):
    """A data file is missing, damaged or not what its name says."""


class CheckpointError(WorkbenchError):
    """A weights file is missing, damaged, or belongs to another model."""


class MissingCheckpoint(CheckpointError):
    """A weights file is not there."""


class DivergedError(WorkbenchError):
    """The loss became NaN or exploded; `step` is the first bad one."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class InterruptedRun(WorkbenchError):
    """A training was asked to stop (Ctrl-C, SIGTERM) and left a checkpoint to resume from."""


E = TypeVar("E", bound=WorkbenchError)


def with_more(error: E, lines: Iterable[str]) -> E:
    """The error of a first mistake, with the others that were found together with it as notes, a line each."""
    for line in lines:
        error.add_note(line)
    return error


def lines_of(error: BaseException) -> list[str]:
    """The mistakes that an error names, each with what would be right."""
    return [str(error), *getattr(error, "__notes__", ())]


def shown(value: object) -> str:
    """A value as a message shows it: short, and quickly made, whatever it is and however large or entangled."""
    if isinstance(value, str | bytes):
        return repr(value) if len(value) <= 60 else f"{value[:57]!r}… ({len(value):,} long)"
    if isinstance(value, bool) or value is None or isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() <= 128 else f"a number of {value.bit_length():,} bits"
    if isinstance(value, list | tuple):
        plain = len(value) <= 4 and all(isinstance(v, int | float | str) or v is None for v in value)
        return f"[{', '.join(map(shown, value))}]" if plain else f"a {type(value).__name__} of {len(value):,}"
    return f"a {type(value).__name__} of {len(value):,}" if isinstance(value, dict | set) else type(value).__name__


def counted(count: int, noun: str) -> str:
    """A number of things, such as `1 run` or `2,000 runs`; the noun is in the singular, and regular."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def is_plain(name: str) -> bool:
    """Whether a name can be that of one file or folder, and be shown: no folders in it, nothing that is not printed."""
    return name.isprintable() and name not in ("", ".", "..") and not {"/", "\\"} & set(name) and len(name) <= 200

"""What can stand in a file's place, and putting the file back afterwards as it was, its time and inode included."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

HUGE = 1 << 40


def _sparse(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(HUGE)


def _unreadable(file: Path) -> None:
    file.write_bytes(b"{}")
    file.chmod(0)


def _folder(file: Path) -> None:
    file.mkdir()
    (file / file.name).write_bytes(b"{}")


PLACES: dict[str, Callable[[Path], None]] = {
    "a pipe": os.mkfifo,
    "a socket": lambda file: os.mknod(file, stat.S_IFSOCK | 0o600),
    "a folder": _folder,
    "a link to itself": lambda file: file.symlink_to(file.name),
    "a link to nothing": lambda file: file.symlink_to("nowhere"),
    "a link to a pipe": lambda file: (os.mkfifo(f"{file}.pipe"), file.symlink_to(f"{file.name}.pipe"))[1],
    "an endless device": lambda file: file.symlink_to("/dev/zero"),
    "an empty device": lambda file: file.symlink_to("/dev/null"),
    "an empty file": lambda file: file.write_bytes(b"") and None,
    "a terabyte of holes": _sparse,
    "a file that may not be read": _unreadable,
}  # fmt: skip
"""Each puts one in a place where nothing is."""


def remove(place: Path) -> None:
    """Remove whatever is there."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    Path(f"{place}.pipe").unlink(missing_ok=True)


@contextlib.contextmanager
def replaced(file: Path, put: Callable[[Path], None], aside: Path) -> Iterator[None]:
    """Something else in a file's place for the length of the block; `aside` is a path for the file meanwhile."""
    there = os.path.lexists(file)
    if there:
        file.rename(aside)
    try:
        put(file)
        yield
    finally:
        remove(file)
        if there:
            aside.rename(file)

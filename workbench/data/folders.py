"""Folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from workbench.errors import DataError

TRIES = 10


@contextlib.contextmanager
def made_whole(place: Path, replace: bool = False) -> Iterator[Path]:
    """A folder to write into, which takes its place when the block ends well, and is gone when it does not.

    Of two makers at once one's stays.

    Args:
        replace: put it in the place of what is there; else what is there stays.

    Raises:
        DataError: it cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    except OSError as error:
        raise DataError(f"cannot write {place}: {error.strerror}") from None
    try:
        yield partial
        partial.chmod(0o755)
        _move(partial, place, replace)
    except OSError as error:
        raise DataError(f"cannot write {place}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, place: Path, replace: bool) -> None:
    old = partial.with_name(f"{partial.name}-old")
    for _ in range(TRIES if replace else 1):
        with contextlib.suppress(OSError):
            partial.rename(place)
            return
        if not replace and place.is_dir():
            return
        # Whoever has files of the old one open keeps them.
        with contextlib.suppress(FileNotFoundError):
            place.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    partial.rename(place)

"""Files and folders that are replaced as a whole, locked, and known by their content."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from workbench.errors import DataError

TRIES = 10


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path for a file's new content, which takes the file's place when the block ends well, and is gone when not.

    A reader sees the old or the new content, also after a crash.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.chmod(0o644)
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomically(file: Path, content: bytes) -> None:
    """Replace a file as a whole, see `replacing`."""
    with replacing(file) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def made_whole(place: Path, replace: bool = False) -> Iterator[Path]:
    """A folder to write into, which takes its place when the block ends well, and is gone when it does not.

    Where two processes make it at once, one of the two stays.

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


def lock(stream: IO[bytes], seconds: float) -> bool:
    """Lock a file for this process alone, waiting for it so long; whether it could be had."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def is_locked(file: Path) -> bool:
    """Whether a process holds the lock on a file; one that is not there is not locked."""
    try:
        with file.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def owner_of(path: Path) -> str:
    """The name of the user whose file or folder it is."""
    try:
        return path.owner()
    except KeyError:  # a user that this machine does not know
        return f"user {path.stat().st_uid}"


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

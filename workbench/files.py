"""Files and folders that are replaced as a whole, locked, known by their content, and read without waiting for a pipe.

Whatever others can put in a file's place is opened by `open_file`, or checked by `check_file` where a library opens it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from workbench.errors import DataError, WorkbenchError

TRIES = 10
MOST_BYTES = 1 << 30
"""Of a file that is read as a whole; none of ours comes near it, and a hole on the disk may claim to be any size."""


class Unreadable(WorkbenchError, OSError):
    """What stands in a file's place is none, or is too large.

    It is an OSError too, so that whoever says more about a file that cannot be read does so here as well.
    """

    def __init__(self, file: str | Path, why: str) -> None:
        super().__init__(errno.EINVAL, why, str(file))

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def open_file(file: Path, mode: str = "rb") -> IO[Any]:
    """Open a file as `open` does, but for a pipe, a socket, a device or a folder in its place, which may wait for ever.

    Raises:
        Unreadable: it is no file.
        OSError: it cannot be opened.
    """
    return open(file, mode, opener=_open_regular)


def _open_regular(file: str, flags: int) -> int:
    try:
        # Without waiting for a pipe's other end; for a file, the flag has no effect.
        descriptor = os.open(file, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a pipe that nobody reads
            check_file(Path(file))
        raise
    try:
        _check_mode(file, os.fstat(descriptor).st_mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_file(file: Path) -> None:
    """Before a library opens a file by its name: Unreadable where there is none but a pipe or another such thing.

    Raises:
        OSError: there is nothing.
    """
    _check_mode(file, file.stat().st_mode)


def _check_mode(file: str | Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        raise Unreadable(file, f"not a file but a {kinds.get(stat.S_IFMT(mode), 'device')}")


def read_file(file: Path, most: int = MOST_BYTES) -> bytes:
    """A file's whole content.

    Args:
        most: bytes that it may have.

    Raises:
        Unreadable: it is no file, or larger.
        OSError: it cannot be opened.
    """
    with open_file(file) as stream:
        if os.fstat(stream.fileno()).st_size > most:
            raise Unreadable(file, f"larger than {most >> 20:,} MiB")
        content: bytes = stream.read()
    return content


def write_text(file: Path, text: str) -> None:
    """Replace a file as a whole by a text in UTF-8, see `replacing`."""
    write_atomically(file, text.encode())


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
        _take_place(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _take_place(partial: Path, file: Path) -> None:
    try:
        partial.replace(file)
    except OSError as error:  # it would name the partial file
        raise OSError(error.errno, error.strerror, str(file)) from None


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
        raise DataError(f"cannot write {place}: {reason_of(error)}") from None
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
    """Whether a process holds the lock on a file; what is no file is not locked, and what may not be seen may be."""
    try:
        with open_file(file) as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError, Unreadable):
        return False
    except (BlockingIOError, PermissionError):
        return True
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    return False


def owner_of(path: Path) -> str:
    """The name of the user whose file or folder it is."""
    try:
        return path.owner()
    except KeyError:  # a user that this machine does not know
        return f"user {path.stat().st_uid}"


def reason_of(error: OSError) -> str:
    """Why the system refused something; where a user lacks a right, to what, and whose that is."""
    where = f": {error.filename}" if error.filename else ""
    denial = _denial(Path(str(error.filename))) if where and isinstance(error, PermissionError) else None
    return denial or f"{error.strerror or error}{where}"


def check_writable(folder: Path, remedy: str) -> None:
    """That this user may write in a folder, or make it: before something long is computed that is to be kept there.

    Args:
        remedy: what to do where not.

    Raises:
        WorkbenchError: not; names the folder that is closed, whose it is, and the remedy.
    """
    if not is_writable(folder):
        raise WorkbenchError(f"{_denial(folder)}; {remedy}")


def is_writable(folder: Path) -> bool:
    """Whether this user may write in a folder, or make it."""
    there = _nearest(folder)
    return not there.is_dir() or os.access(there, os.W_OK | os.X_OK)


def _nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that is there, as far as this user can see."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def _denial(path: Path) -> str | None:
    """What this user may not do at a path, and whose that is; None where it may do all."""
    there = _nearest(path)
    folder = there.is_dir()
    if there == path and not os.access(there, os.R_OK | (os.X_OK if folder else 0)):
        what = "read"
    elif folder and not os.access(there, os.X_OK):
        what = "look into"
    elif not os.access(there, os.W_OK):
        what = "write in" if folder else "write"
    elif there == path and not os.access(there.parent, os.W_OK):
        there, what = there.parent, "write in"
    else:
        return None
    status = there.stat()
    mine = status.st_uid == os.geteuid()
    whose = f": its mode is {status.st_mode & 0o777:o}" if mine else f", which belongs to {owner_of(there)}"
    return f"you may not {what} {there.absolute()}{whose}"


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    file: Any
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

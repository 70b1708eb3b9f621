"""Runs a task or its epilogue only if its files are those that were submitted; a batch script contains this text.

Whoever may write to the folder of submissions could replace the task and the code. Slurm keeps its own copy of the
batch script, and with it this text and the digests. It runs before the code that it checks, and therefore imports only
the standard library.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import pickle
import runpy
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

REFUSED = 77
"""The exit status of a job that was refused (EX_NOPERM)."""
MARK = ".tampered"
"""Ends the name of the file, beside a submission's folder, in which its jobs say that they were refused."""
CODE = "code"
TASK = "task.pkl"
OTHERS = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Tampered(Exception):
    """Something is not what was submitted, or others may change it."""


def files_of(folder: Path, prefix: str = "") -> dict[str, Path]:
    """All files in a folder but compiled ones, by their paths there, each behind `prefix`."""
    paths = ((file, file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    return {f"{prefix}{path.as_posix()}": file for file, path in paths if "__pycache__" not in path.parts}


def digest_of_files(files: Mapping[str, Path]) -> str:
    """SHA-256 of the names and contents of files."""
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{name}\0{content}\0".encode())
    return digest.hexdigest()


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A descriptor of a folder of this user's alone: it stays with that folder, whatever is put in its place.

    Raises:
        Tampered: it is not there, is another user's, or others may write it.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Tampered(f"{folder} cannot be opened ({error.strerror})") from None
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            raise Tampered(f"{folder} belongs to user {status.st_uid}, and not to the user {os.geteuid()} of the job")
        if status.st_mode & OTHERS_WRITE:
            raise Tampered(f"others may write {folder} (mode {stat.S_IMODE(status.st_mode):04o})")
        yield descriptor
    finally:
        os.close(descriptor)


def seal(folder: Path, code: Path, names: Iterable[str]) -> list[str]:
    """What a batch script carries of a submission: the folders, and the digests of the code and of files.

    Raises:
        Tampered: others may change one of the folders.
    """
    with opened(folder) as descriptor:
        files = [f"{name}={hashlib.sha256(_read(descriptor, folder, name)).hexdigest()}" for name in names]
    return [str(folder), str(code), f"{CODE}={digest_of_private(code)}", *files]


def digest_of_private(code: Path) -> str:
    """The digest of a copy of the code; Tampered where others may change it."""
    with opened(code) as descriptor:
        return _checked_digest(descriptor, code)


def main(arguments: Sequence[str]) -> int:
    """Check the sealed files, then run the action that the arguments name.

    Args:
        arguments: what `seal` returned, then `check`, `train`, or `epilogue` with the epilogue's own arguments.

    Returns:
        The exit status: REFUSED where something was tampered with, which is printed and left as a mark for `status`.
    """
    folder, code = Path(arguments[0]), Path(arguments[1])
    sealed = list(itertools.takewhile(lambda word: "=" in word, arguments[2:]))
    action, *rest = arguments[2 + len(sealed) :]
    digests = dict(word.split("=", 1) for word in sealed)
    try:
        with opened(folder) as submission, opened(code) as copy:
            task = _check(submission, folder, digests)
            _compare(f"the code in {code}", _checked_digest(copy, code), digests[CODE])
            if action != "check":
                _run_from(copy)
                _act(action, rest, task)
    except Tampered as tampering:
        message = f"{tampering}; it was refused, and nothing of it executed"
        logging.basicConfig(format="%(message)s")
        logging.error("error: %s", message)
        _mark(folder, message)
        return REFUSED
    return 0


def _check(submission: int, folder: Path, digests: dict[str, str]) -> bytes:
    """The pickled task, read once, after all files of a submission were compared."""
    content = {name: _read(submission, folder, name) for name in digests if name != CODE}
    for name, data in content.items():
        _compare(str(folder / name), hashlib.sha256(data).hexdigest(), digests[name])
    return content[TASK]


def _compare(what: str, digest: str, sealed: str) -> None:
    if digest != sealed:
        raise Tampered(
            f"{what} is not what was submitted (SHA-256 {digest[:12]}…; the batch script says {sealed[:12]}…)"
        )


def _read(descriptor: int, folder: Path, name: str) -> bytes:
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO must not hold it up
        with os.fdopen(os.open(name, flags, dir_fd=descriptor), "rb") as stream:
            return stream.read()
    except OSError as error:
        raise Tampered(f"{folder / name} cannot be read ({error.strerror})") from None


def _checked_digest(copy: int, code: Path) -> str:
    """The digest of the code behind a descriptor, in which nobody else may write."""
    root = Path(f"/proc/self/fd/{copy}")
    if os.fstat(copy).st_mode & OTHERS:  # else nobody else reaches what is inside, whatever its mode
        for path in root.rglob("*"):
            if path.lstat().st_mode & OTHERS_WRITE:
                raise Tampered(f"others may write {code / path.relative_to(root)}; chmod -R go-w {code}")
    try:
        return digest_of_files(files_of(root))
    except OSError as error:
        raise Tampered(f"{code} cannot be read ({error.strerror})") from None


def _run_from(copy: int) -> None:
    """Import from the folder that was checked, also in child processes, whatever lies in its place by then."""
    # The first is the same in all jobs, so that their messages are; the second holds in children that are not forks.
    own, for_children = f"/proc/self/fd/{copy}", f"/proc/{os.getpid()}/fd/{copy}"
    sys.path[:0] = [own, for_children]
    os.environ["PYTHONPATH"] = for_children


def _act(action: str, rest: Sequence[str], task: bytes) -> None:
    if action == "train":
        pickle.loads(task)()
    else:
        sys.argv[1:] = rest
        runpy.run_module("workbench.launch.epilogue", run_name="__main__")


def _mark(folder: Path, message: str) -> None:
    mark = folder.with_name(f"{folder.name}{MARK}")
    with contextlib.suppress(OSError):
        descriptor = os.open(mark, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"{os.environ.get('SLURM_ARRAY_TASK_ID', '0')} {message}\n")


def refusals(folder: Path) -> dict[int, str]:
    """By task, why jobs of a submission were refused, as their marks say."""
    from workbench.files import read_file  # jobs, which have no package before the check, do not ask this

    try:
        lines = read_file(folder.with_name(f"{folder.name}{MARK}")).decode(errors="replace").splitlines()
    except OSError:
        return {}
    marks = (line.partition(" ") for line in lines if line.isprintable())
    return {int(task): message for task, _, message in marks if task.isdecimal() and len(task) < 10}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What was checked or counted before, kept by all that it depends on, so that nobody waits for it again."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from workbench.files import digest_of, read_file, write_atomically

PACKAGE = Path(__file__).resolve().parent
LIBRARIES = ("torch", "transformers", "segment-anything", "accelerate")
VARIABLE = "WORKBENCH_CACHE"
SMALL = 1 << 20
"""Files under a mebibyte are read faster than what was noted of them."""
TICK = 10**9
"""Nanoseconds within which a file may change twice and show one time."""
_digests: dict[str, str] = {}


def folder() -> Path | None:
    """Where receipts are kept: in `WORKBENCH_CACHE`, else in the user's cache; None for a user without a home.

    It can be removed at any time.
    """
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(cache) / "dit-workbench"


def remembered(kind: str, inputs: Any, make: Callable[[], Any]) -> Any:
    """What `make` returns, from a receipt where the same was made before by the same code.

    Args:
        kind: what it is.
        inputs: all that it depends on but the code, as plain JSON.
        make: returns plain JSON. An error is raised, and not remembered.
    """
    text, place = json.dumps([kind, _stamp(), inputs], sort_keys=True), folder()
    if place is None:
        return make()
    file = place / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    # One that is damaged is none.
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        return json.loads(read_file(file))["value"]
    value = make()
    with contextlib.suppress(OSError):  # a cache that cannot be written is none
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps({"value": value}).encode())
    return value


def state_of(places: Iterable[Path]) -> list[Any]:
    """What shows that files changed, those in folders included: path, size and time of each; None where none is."""
    state: list[Any] = []
    for place in places:
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        state += [[str(file), *_stat(file)] for file in files]
    return state


def known_digest(file: Path) -> str:
    """The SHA-256 of a file's content, which is read once and again only when the file has changed.

    A process also remembers it by itself: the cache may be full or closed, and all runs of a grid ask for one file.
    """
    status, state = file.stat(), state_of([file.absolute()])
    key = json.dumps(state)
    if key in _digests:
        return _digests[key]
    digest: str = digest_of(file) if status.st_size < SMALL else remembered("digest", state, lambda: digest_of(file))
    if time.time_ns() - status.st_ctime_ns > TICK:
        _digests[key] = digest
    return digest


def _stat(file: Path) -> list[int] | list[None]:
    try:
        found = file.stat()
    except OSError:
        return [None]
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


@functools.cache
def _stamp() -> str:
    """What changes with the code: this package, file by file, and the versions of what it builds models with."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*")):
        if file.suffix != ".pyc" and file.is_file():
            digest.update(json.dumps([str(file), *_stat(file)]).encode())
    for library in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            digest.update(f"{library} {metadata.version(library)}\n".encode())
    return digest.hexdigest()

"""Copies of the package for jobs to run from: editing the package changes nothing in jobs that wait."""

from __future__ import annotations

import functools
import hashlib
import shutil
import tempfile
from pathlib import Path

from workbench.files import digest_of
from workbench.results.folders import SUBMISSIONS
from workbench.results.provenance import PACKAGE


def snapshot(results: Path) -> Path:
    """A copy of the package as it is now; the same files share one copy.

    Returns:
        The folder to put in front of PYTHONPATH.
    """
    name = f"code-{_digest_of_files()}"
    target = results.absolute() / SUBMISSIONS / name
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
        shutil.copytree(PACKAGE, partial / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        try:
            partial.rename(target)
        except OSError:
            shutil.rmtree(partial)
            if not target.is_dir():
                raise
    return target


@functools.cache
def _digest_of_files() -> str:
    """SHA-256 of the package's files as this process found them, 20 hex digits."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(PACKAGE).as_posix()}\0{digest_of(file)}\0".encode())
    return digest.hexdigest()[:20]

"""Copies of the package for jobs to run from: editing the package changes nothing in jobs that wait.

The file of published numbers goes with it, at the same place beside it, because jobs make tables too.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.grids.reference import REFERENCE, REFERENCE_NAME
from workbench.launch.guarded import Tampered, digest_of_files, digest_of_private, files_of
from workbench.results.folders import SUBMISSIONS
from workbench.results.provenance import PACKAGE


def snapshot(results: Path) -> Path:
    """A copy of the package as it is now; the same files share one copy, which is this user's alone.

    Returns:
        The folder to import the package from.

    Raises:
        WorkbenchError: the copy is not what it was, or others may change it.
    """
    digest = _digest_of_files()
    name = f"code-{digest[:20]}"
    target = results.absolute() / SUBMISSIONS / name
    if _is_anothers(target):
        target = target.with_name(f"{name}-{os.geteuid()}")
    if not target.is_dir():
        _copy_to(target)
    try:
        digest_of_copy = digest_of_private(target)
    except Tampered as tampering:
        raise WorkbenchError(f"the copy of the code cannot be used: {tampering}; remove it, and submit again") from None
    if digest_of_copy != digest:
        raise WorkbenchError(
            f"{target} does not hold the code as it is now: somebody changed that copy, or the package just now; "
            "remove it, and submit again"
        )
    return target


def _copy_to(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    shutil.copytree(PACKAGE, partial / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    if REFERENCE.is_file():
        (partial / REFERENCE_NAME).parent.mkdir(parents=True)
        shutil.copy(REFERENCE, partial / REFERENCE_NAME)
    try:
        partial.rename(target)
    except OSError:
        shutil.rmtree(partial)
        if not target.is_dir():
            raise


def _is_anothers(target: Path) -> bool:
    try:
        return target.stat().st_uid != os.geteuid()
    except FileNotFoundError:
        return False


@functools.cache
def _digest_of_files() -> str:
    """The digest of what is copied, as this process found it."""
    reference = {REFERENCE_NAME: REFERENCE} if REFERENCE.is_file() else {}
    return digest_of_files(files_of(PACKAGE, f"{PACKAGE.name}/") | reference)

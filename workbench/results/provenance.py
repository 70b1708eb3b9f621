"""Where a result comes from: code, packages, machine. Provenance, not identity: none of it enters a run's id."""

from __future__ import annotations

import functools
import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "segment-anything", "transformers", "accelerate", "numpy", "pillow", "pycocotools")


@functools.cache
def code_digest() -> str:
    """SHA-256 over the package's Python files, the first 12 hex digits."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(file.relative_to(PACKAGE).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def source() -> dict[str, Any]:
    """The commit this package lies in and a digest of the tree's difference from it, empty when there is none.

    Both are None outside a repository.
    """
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None
        if (diff := _git("diff", "HEAD")) is None
        else hashlib.sha256(diff.encode()).hexdigest()[:12] * bool(diff),
    }


def provenance(device: str, origin: dict[str, Any] | None = None) -> dict[str, Any]:
    """Code digest, package versions, host and device, and `origin` (the `source` of a submission; None: this one)."""
    import torch

    return {
        "code": code_digest(),
        **(origin or source()),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "host": platform.node(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else f"cpu ({platform.machine()})",
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

"""Memory that was freed stays with its process, for what needs as much next."""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""`mallopt`'s numbers of these two, in glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Let this process and those that it starts reuse freed memory, rather than give it back and ask for it again.

    A batch or a layer's activations are many MiB, and glibc gets such a block from the operating system each time,
    which clears it page by page: that takes longer than copying a batch's images into it.

    Nothing changes where the environment has settings of malloc (`MALLOC_…`, `GLIBC_TUNABLES`), or the C library is
    another.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, -1):
        # For loader processes that do not begin as a copy of this one.
        os.environ.update(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_=str(2**63 - 1))

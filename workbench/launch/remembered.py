"""Records of completed runs that were read before, so that a large grid's are not all read again for each status."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workbench import receipts
from workbench.files import read_file, write_atomically
from workbench.results.folders import RunFolder
from workbench.results.record import RunRecord

FORMAT = 1
"""Of what is kept; another one is not read."""
FEWEST = 100
"""Completed runs from which on this is kept: the records of fewer are read in no time."""


class CompletedRecords:
    """What the records of some settings' completed runs said, known by time, size and inode of their files.

    It is kept with the receipts of this user, and read only where nothing else can be in the file.

    Args:
        results: the results folder.
        settings: the ids of the settings, which stand for their configurations.
    """

    def __init__(self, results: Path, settings: Iterable[str]) -> None:
        cache, known_by = receipts.folder(), json.dumps([FORMAT, str(results.absolute()), sorted(settings)])
        name = f"completed-{hashlib.sha256(known_by.encode()).hexdigest()[:32]}.json"
        self._file = None if cache is None else cache / name
        self._kept = {} if self._file is None else _read(self._file)
        self._seen: dict[str, list[int]] = {}
        self._entries: dict[str, Any] = {}
        self._added = False

    def get(self, folder: RunFolder) -> RunRecord | None:
        """The record of a run without its documents; None where it must be read."""
        try:
            stat = os.stat(folder.record_file)  # noqa: PTH116 - ten thousand times
            self._seen[folder.name] = stamp = [stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_ctime_ns]
            known, text = self._kept[folder.name]
            record = RunRecord.model_validate_json(text) if known == stamp else None
        except (OSError, ValueError, LookupError, TypeError):
            return None
        if record is None or record.state != "completed":
            return None
        self._entries[folder.name] = [stamp, text]
        return record

    def add(self, folder: RunFolder, record: RunRecord) -> None:
        """Note a completed run's record, without its documents, that was read after `get` did not know it."""
        stamp = self._seen.get(folder.name)
        # A file may change twice within a tick and show one time.
        if stamp is not None and time.time_ns() - stamp[3] > receipts.TICK:
            self._entries[folder.name] = [stamp, record.model_dump_json(exclude_defaults=True)]
            self._added = True

    def keep(self) -> None:
        """Keep what is known for the next time, where that is worth a file."""
        entries = {**self._kept, **self._entries}
        if self._file is not None and self._added and len(entries) >= FEWEST:
            with contextlib.suppress(OSError):  # a cache that cannot be written is none
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._file, json.dumps(entries).encode())


def _read(file: Path) -> dict[str, Any]:
    """What is kept; nothing where it is damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        kept = json.loads(read_file(file))
        return kept if isinstance(kept, dict) else {}
    return {}

"""The file of published numbers, and the names of its methods; what tables show of it is in `workbench.paper`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from workbench.files import read_file
from workbench.registry import unknown_name

REFERENCE_NAME = "results/reference/ris_numbers.csv"
REFERENCE = Path(__file__).resolve().parents[2] / REFERENCE_NAME


def methods() -> list[str]:
    """The methods that have published numbers, each once."""
    rows = csv.DictReader(read_file(REFERENCE).decode().splitlines())
    return list(dict.fromkeys(row["method"] for row in rows))


def unknown_methods(names: Iterable[str], known: list[str]) -> Iterator[str]:
    """A line for each name that is none of the known methods."""
    for name in names:
        if name not in known:
            yield f"report.published: {unknown_name('published method', name, known)}"

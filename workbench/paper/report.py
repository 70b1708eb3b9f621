"""The report on a grid when its runs have ended: what its `then:` names, as files. Jobs are given it by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workbench.grids import Grid


def report(grid: Grid, results: Path, what: Sequence[str]) -> list[Path]:
    """Make the table or the figures of a grid, or both; returns the files that were written.

    Raises:
        StoreError: no run is completed.
    """
    # It is pickled into jobs by its name, so what it needs is loaded where it runs.
    from workbench.paper.artefacts import make_artefacts

    return make_artefacts(grid, results, what)

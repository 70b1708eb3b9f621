"""Learning curves under names that people know: `tensorboard/<grid>/<setting>/seed<N>`, links into the run folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from workbench.results.folders import TENSORBOARD, RunFolder


def name_curves(results: Path, grid: str, runs: Iterable[tuple[str, RunFolder]]) -> None:
    """Link each run's curves by grid, setting and seed, for TensorBoard to read.

    A run that two grids share has a link in each. A link may be there before the run has curves.

    Args:
        results: the results folder.
        grid: the grid's name.
        runs: the setting's name and the run.
    """
    for setting, folder in runs:
        link = results / TENSORBOARD / grid / setting.replace(os.sep, "_") / folder.path.name
        target = os.path.relpath(folder.tracker_folder, link.parent)
        if link.is_symlink() and str(link.readlink()) == target:
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        fresh = link.with_name(f".{link.name}-{os.getpid()}")
        fresh.symlink_to(target)
        fresh.replace(link)  # in one step, since other launchers may do the same

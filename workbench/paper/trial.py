"""Trying a fusion variant that a notebook defines, beside known ones, in a results folder that is removed later."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from IPython.display import Code

from workbench.errors import WorkbenchError
from workbench.models.fusion.base import Fusion, variants
from workbench.paper.browsing import GridView, Teller, project_folder, told
from workbench.results.folders import RunFolder

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

SHORT: dict[str, Any] = {
    "data": {"recipe": {"seed": 0, "train_images": 40, "eval_images": 12, "version": 2}},
    "training": {"steps": 6, "batch_size": 4},
    "validation": {"every": None},
    "evaluation": {"splits": ["val", "testA"]},
}
"""What makes the miniature so short that only the way is shown; its scores mean nothing."""


class Trial(Teller):
    """A variant and others to compare it with, on the miniature.

    Args:
        variant: the new class; it is registered under `name`, in place of an earlier version of itself.
        against: names of known variants; the first is the baseline.
        full: the whole miniature, two minutes a run; else runs of six steps on forty images.
        seeds: of each variant.

    Raises:
        WorkbenchError: `name` is that of one of the package's own variants.
    """

    def __init__(
        self,
        variant: type[Fusion],
        name: str,
        against: Sequence[str] = ("default", "l_dit"),
        full: bool = False,
        seeds: Sequence[int] = (1,),
    ) -> None:
        super().__init__()
        register(name, variant)
        self._folder = tempfile.TemporaryDirectory(prefix="workbench-trial-")
        self.name, self.full = name, full
        self.file = Path(self._folder.name) / f"{name}.yaml"
        self.file.write_text(yaml.safe_dump(_grid(name, against, full, seeds), sort_keys=False, allow_unicode=True))
        # A short trial's images are made in its own folder; those of the full miniature are the demo's.
        data_root = project_folder() / "data" if full else Path(self._folder.name) / "data"
        self.results = GridView(self.file, Path(self._folder.name) / "results", data_root=data_root)

    def text(self) -> Code:
        """The trial as a grid file, to keep as one in `ablations/`."""
        return Code(self.file.read_text(), language="yaml")

    @told
    def sizes(self) -> Styler:
        """What each variant adds: its rule and its weights, counted from the built models."""
        from workbench.models.build import check_config

        rows = []
        for name, config in self.results.grid.settings.items():
            fusion = check_config(config).fusion
            added = sum(parameter.numel() for parameter in fusion.parameters())
            rows.append({"variant": name, "rule": fusion.rule, "fused blocks": len(fusion.layers), "weights": added})
        return pd.DataFrame(rows).style.hide().format({"weights": "{:,}"})

    @told
    def train(self) -> pd.DataFrame:
        """Train and evaluate every run in this process, one after the other; returns how each ended."""
        from workbench.data.datasets import open_dataset
        from workbench.training.train import train

        runs = self.results.grid.runs()
        open_dataset(runs[0].config)
        for run in runs:
            try:
                train(run.config, run.seed, RunFolder.of(self.results.results, run.config, run.seed))
            except WorkbenchError as error:
                raise WorkbenchError(f"{run.setting} seed {run.seed}: {error}") from None
        frame: pd.DataFrame = self.results.runs()
        return frame

    def close(self) -> None:
        """Remove the folder; the end of the notebook's kernel does so too."""
        self._folder.cleanup()


def register(name: str, variant: type[Fusion]) -> None:
    """Enter a notebook's variant; the package's own are not replaced.

    Raises:
        WorkbenchError: the name is taken by a variant of the package.
    """
    if name in variants and variants[name].__module__.startswith("workbench."):
        raise WorkbenchError(f"{name} is one of the package's own variants; choose another name")
    variants.replace(name, variant)


def _grid(name: str, against: Sequence[str], full: bool, seeds: Sequence[int]) -> dict[str, Any]:
    return {
        "title": f"{name} beside {' and '.join(against)}"
        + ("" if full else ", six steps each: the scores mean nothing"),
        "base": {
            "preset": "refshapes-mini",
            **({} if full else SHORT),
            "machine": {"trackers": [], **({} if full else {"log_steps": 1})},
        },
        "settings": {variant: {"fusion.variant": variant} for variant in (*against, name)},
        "seeds": list(seeds),
        "baseline": against[0],
        "report": {"metrics": ["miou"], "examples": 3},
    }

"""A grid's results in a notebook: each method returns what Jupyter shows, or one sentence about what is missing."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import pandas as pd
import seaborn as sns
from IPython.display import Image, Markdown
from matplotlib.figure import Figure

from workbench.errors import WorkbenchError
from workbench.evaluation.breakdowns import BREAKDOWNS
from workbench.evaluation.metrics import metrics
from workbench.files import is_writable
from workbench.grids import Grid, load_grid
from workbench.grids.evaluated import Evaluated, evaluated
from workbench.paper.artefacts import draw_figure
from workbench.paper.breakdowns import breakdown_text
from workbench.paper.figures import figures
from workbench.paper.layer_subsets import draw_layers
from workbench.paper.layout import lay_out
from workbench.paper.render import markdown
from workbench.paper.style import PALETTE, new_figure, styled
from workbench.results.folders import RunFolder, StoreError
from workbench.results.frames import RunFolders, log_frame, runs_frame

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

GRID, PRESET, RESULTS, DATA = "WORKBENCH_GRID", "WORKBENCH_PRESET", "WORKBENCH_RESULTS", "WORKBENCH_DATA"
"""Variables of the environment that take the place of what a notebook names."""
SMOOTHED = 5
"""Readings of the loss that a curve's point is the mean of."""
MOST_GAINS = 10
KINDS = ("attribute", "place", "relation")
"""Of words, in the order of the bars."""


P = ParamSpec("P")


def told(method: Callable[P, Any]) -> Callable[P, Any]:
    """Decorator of a `Teller`'s methods: an error that the user can fix becomes a sentence in place of a traceback."""

    @functools.wraps(method)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return method(*args, **kwargs)
        except WorkbenchError as error:
            teller = args[0]
            assert isinstance(teller, Teller)
            return teller.tell(str(error))

    return inside


class Teller:
    """Says what is missing; the second time the same is missing, shortly."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def tell(self, sentence: str) -> Markdown:
        """The sentence, as Jupyter shows it."""
        again = sentence in self._said
        self._said.add(sentence)
        return Markdown("*Not available: see the sentence above.*" if again else f"**Not available:** {sentence}")


def project_folder(start: Path | None = None) -> Path:
    """The nearest folder above that has grids; where there is none, the one to start from."""
    start = (start or Path.cwd()).absolute()
    return next((place for place in (start, *start.parents) if (place / "ablations").is_dir()), start)


def open_grid(file: str | Path, results: str | Path | None = None, preset: str | None = None) -> GridView:
    """A grid's results, from a notebook in the project; the working folder becomes the project's.

    Args:
        file: the grid; the variable WORKBENCH_GRID takes its place, with the preset that WORKBENCH_PRESET names.
        results: folder of runs; without it WORKBENCH_RESULTS, or `results`.
        preset: another set-up than the grid's own, such as its miniature.
    """
    # The data folder that a grid names is relative to the project, and Jupyter begins beside the notebook.
    os.chdir(project_folder())
    folder = Path(results or os.environ.get(RESULTS) or "results")
    other = os.environ.get(GRID)
    return GridView(Path(other), folder, os.environ.get(PRESET)) if other else GridView(Path(file), folder, preset)


def picture(figure: Figure) -> Image:
    """A figure as Jupyter shows it, sharp on screens of twice the resolution."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=200)
    return Image(content.getvalue(), format="png", width=round(110 * figure.get_figwidth()))


class GridView(Teller):
    """What a notebook shows of a grid. Nothing is read before it is asked for.

    Args:
        file: the grid.
        results: folder of runs, tables and figures.
        preset: another set-up than the grid's own.
        data_root: folder of data sets; without it WORKBENCH_DATA, or the grid's own.
    """

    def __init__(self, file: Path, results: Path, preset: str | None = None, data_root: Path | None = None) -> None:
        super().__init__()
        self.file, self.results, self.preset, self._data_root = file, results, preset, data_root

    @property
    def command(self) -> str:
        """What trains its runs."""
        return f"workbench submit {self.file}" + (f" --preset {self.preset}" if self.preset else "")

    @functools.cached_property
    def grid(self) -> Grid:
        """The checked grid; GridError where it is wrong or not there."""
        root = str(self._data_root or os.environ.get(DATA) or "")
        return load_grid(self.file, {"data_root": root} if root else None, preset=self.preset)

    @functools.cached_property
    def stored(self) -> Evaluated:
        """Its completed runs; StoreError where there is none."""
        return evaluated(self.grid, RunFolders(self.results))

    @property
    def names(self) -> dict[str, str]:
        """The names of its settings, by their ids."""
        return {config.setting_id: name for name, config in self.grid.settings.items()}

    @functools.cached_property
    def expressions(self) -> pd.DataFrame:
        """Every evaluated expression of every completed run, with `setting`."""
        frames = [frame.assign(setting=name) for name, frame in self.stored.expressions.items()]
        return pd.concat(frames, ignore_index=True)

    @property
    def palette(self) -> dict[str, str]:
        """A colour for each setting."""
        return dict(zip(self.stored.expressions, cycle(PALETTE), strict=False))

    @told
    def runs(self) -> pd.DataFrame:
        """Each run that has begun: setting, seed, state, and what ended it."""
        frame = runs_frame(RunFolders(self.results), self.names)
        if frame.empty:
            raise StoreError(f"no run of {self.file} in {self.results}; train with: {self.command}")
        frame.insert(0, "setting", frame["setting_id"].map(self.names))
        columns = ["setting", "seed", "state", "message", "run"]
        return frame.drop_duplicates("run")[columns].fillna({"message": ""}).reset_index(drop=True)

    @told
    def table(self) -> Markdown:
        """The grid's table, as `workbench table` prints it."""
        return Markdown(markdown(lay_out(self.stored)))

    @told
    def metrics(self) -> Styler:
        """Every metric of every completed run, a row per split."""
        runs = self.stored.runs
        shown = ["setting", "seed", "split", "expressions", *(name for name in metrics if name in runs)]
        completed = runs.loc[runs["state"] == "completed", shown]
        return completed.style.format(precision=3, na_rep="–").format("{:.0f}", subset=["expressions"]).hide()

    @told
    @styled
    def by_kind(self) -> Image:
        """Mean IoU by what the words speak of, a panel per split; intervals over expressions and seeds."""
        splits = list(self.grid.splits)
        figure = new_figure(2.4)
        panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
        for axes, split in zip(panels, splits, strict=True):
            here = self.expressions[self.expressions["split"] == split]
            order = [kind for kind in KINDS if kind in set(here["kind"])]
            sns.barplot(
                here, x="kind", y="iou", hue="setting", palette=self.palette, errorbar=("ci", 95), seed=0, order=order,
                err_kws={"linewidth": 1}, saturation=1, ax=axes, legend=axes is panels[-1],
            )  # fmt: skip
            axes.set(title=split, xlabel="", ylabel="IoU")
            axes.tick_params(axis="x", rotation=30)
        sns.move_legend(panels[-1], "center left", bbox_to_anchor=(1, 0.5), frameon=False, title=None)
        return picture(figure)

    @told
    @styled
    def distribution(self) -> Image:
        """Of each setting the fraction of expressions at or below an IoU."""
        figure = new_figure(2.6)
        axes = figure.subplots()
        sns.ecdfplot(self.expressions, x="iou", hue="setting", palette=self.palette, ax=axes)
        axes.set(xlabel="IoU", ylabel="fraction of expressions at or below")
        sns.move_legend(axes, "upper left", frameon=False, title=None)
        return picture(figure)

    @told
    def breakdowns(self) -> Markdown:
        """The grid's metric by length, kind, size and distractors; one that the runs cannot give says why."""
        texts = []
        for by in BREAKDOWNS:
            try:
                texts.append(breakdown_text(self.stored.expressions, by, self.grid.report.metrics[0]))
            except StoreError as error:
                texts.append(f"No table by {BREAKDOWNS[by][0]}: {error}")
        return Markdown("\n\n".join(texts))

    @told
    def gains(self) -> Styler:
        """The expressions with the largest gain over the baseline, averaged over seeds."""
        baseline = self.grid.baseline or next(iter(self.stored.expressions))
        if baseline not in self.stored.expressions or len(self.stored.expressions) < 2:
            raise StoreError(
                f"no gains over {baseline!r} without completed runs of it and of another setting; train with: "
                f"{self.command}"
            )
        keys = ["split", "ref_id", "sent_id", "sentence"]
        pivot = self.expressions.pivot_table(index=keys, columns="setting", values="iou")
        others = [name for name in pivot.columns if name != baseline]
        pivot["gain"] = pivot[others].max(axis=1) - pivot[baseline]
        best = pivot.sort_values("gain", ascending=False).head(MOST_GAINS).reset_index()
        return best.style.format(precision=2, na_rep="–").hide()

    @told
    @styled
    def curves(self) -> Image:
        """The loss over the steps, the mean of five readings; of several seeds, mean and interval."""
        runs = self.stored.runs["run"].drop_duplicates()
        frame = log_frame([RunFolder(self.results, str(run)) for run in runs])
        frame["setting"] = frame["setting_id"].map(self.names)
        frame["loss"] = frame.groupby("run")["loss"].transform(
            lambda values: values.rolling(SMOOTHED, min_periods=1).mean()
        )
        figure = new_figure(2.6)
        axes = figure.subplots()
        sns.lineplot(
            frame, x="step", y="loss", hue="setting", palette=self.palette, seed=0, ax=axes,
            hue_order=list(self.palette),
        )  # fmt: skip
        axes.set(ylabel=f"loss (mean of {SMOOTHED} readings)")
        axes.legend(frameon=False)
        return picture(figure)

    @told
    def layers(self) -> Image:
        """Which blocks of the image encoder read words, by setting, and how many weights that adds. Needs no run."""
        return picture(draw_layers(self.grid))

    @told
    def figure(self, name: str) -> Image:
        """A figure as `workbench figure NAME` draws it; its files go to `<results>/<grid>/`, where one may."""
        if name not in figures:
            raise StoreError(f"no figure {name!r}; there are {', '.join(figures)}")
        out = self.results if is_writable(self.results / self.grid.name) else Path()
        png = next(file for file in draw_figure(name, self.stored, self.results, out=out) if file.suffix == ".png")
        return Image(str(png), width=800)

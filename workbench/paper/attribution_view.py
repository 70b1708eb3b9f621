"""Attributions of one run in a notebook: methods return what Jupyter shows, or what is missing."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import seaborn as sns
from IPython.display import Image

from workbench.analysis.attribution import Effort, Explanation, attribute
from workbench.analysis.attribution_frames import completeness_frame, faithfulness_frame, word_frame
from workbench.analysis.predictor import Predictor
from workbench.data.datasets import open_dataset
from workbench.data.loading import Expression, ReferringDataset
from workbench.paper.browsing import RESULTS, Teller, picture, project_folder, told
from workbench.paper.figures.attribution_panel import draw
from workbench.paper.fonts import drawable
from workbench.paper.style import PALETTE, new_figure, styled
from workbench.results.folders import StoreError
from workbench.results.frames import RunFolders, runs_frame

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

OVER_WORDS = ("word-gradients", "word-ablation", "word-shapley")
"""The methods that are compared over several sentences: those over patches take much longer."""
BASELINES = ("mask", "pad")
"""What may stand for an absent word, side by side."""
DRAWS = 20
"""Random attributions beside each."""
QUICK = Effort(steps=32, most_steps=32, orders=20)
"""Of each of several sentences."""


def open_attributions(
    run: str | None = None,
    split: str = "val",
    index: int = 2,
    target: str = "soft_iou",
    results: str | Path | None = None,
    draws: int = DRAWS,
) -> AttributionView:
    """Attributions of a run, from a notebook in the project; the working folder becomes the project's.

    Args:
        run: a run's id; without one, the last completed run.
        index: which of the split's expressions is explained.
        target: soft_iou, which takes the referent, or mask_logit: the mean logit inside the predicted mask.
        results: folder of runs; without it WORKBENCH_RESULTS, or `results`.
        draws: random attributions beside each.
    """
    os.chdir(project_folder())
    return AttributionView(Path(results or os.environ.get(RESULTS) or "results"), run, split, index, target, draws)


class AttributionView(Teller):
    """What a notebook shows of one run's attributions, read when asked for; see `open_attributions`."""

    def __init__(self, results: Path, run: str | None, split: str, index: int, target: str, draws: int = DRAWS) -> None:
        super().__init__()
        self.results, self.split, self.index, self.target, self.draws = results, split, index, target, draws
        self._run = run
        self._measured: dict[int, list[Explanation]] = {}

    @functools.cached_property
    def run(self) -> str:
        """The run's id; StoreError where none is completed."""
        if self._run is not None:
            return self._run
        completed = runs_frame(RunFolders(self.results), states=("completed",))
        if completed.empty:
            raise StoreError(f"no completed run in {self.results}; make some with: make demo")
        return str(completed["run"].iloc[-1])

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The run's model."""
        return Predictor.load(self.run, self.results)

    @functools.cached_property
    def dataset(self) -> ReferringDataset:
        """The split of the run's data set."""
        config = self.predictor.config
        return ReferringDataset(open_dataset(config), self.split, config.backbone.image_size, config.data)

    @property
    def expression(self) -> Expression:
        """The one that is explained; StoreError where the split has fewer."""
        count = len(self.dataset.expressions)
        if not 0 <= self.index < count:
            raise StoreError(f"no expression {self.index}: the split {self.split} has those from 0 to {count - 1}")
        return self.dataset.expressions[self.index]

    def explain(self, expression: Expression, **how: Any) -> Explanation:
        """Attributions of one expression; see `attribute`."""
        pixels, referent = self.dataset.image(expression), self.dataset.mask(expression) > 0
        return attribute(self.predictor, pixels, expression.sentence, target=self.target, referent=referent, **how)

    @functools.cached_property
    def explanation(self) -> Explanation:
        """The chosen expression by every method."""
        return self.explain(self.expression, draws=self.draws)

    @told
    def what(self) -> str:
        """The run and the sentence."""
        return f"{self.run} | {self.expression.sentence}"

    @told
    @styled
    def picture(self) -> Image:
        """Every method over words and patches, beside its faithfulness."""
        return picture(draw(self.dataset.image(self.expression), [self.explanation], self.predictor.name))

    @told
    def completeness(self) -> Styler:
        """Whether the values add up."""
        return completeness_frame([self.explanation]).style.format(precision=3)

    @told
    @styled
    def baselines(self) -> Image:
        """The values of the words, a panel for what stands for an absent one."""
        figure = new_figure(2.6)
        panels = figure.subplots(1, len(BASELINES), sharey=True)
        for panel, name in zip(panels, BASELINES, strict=True):
            one = self.explain(self.expression, methods=OVER_WORDS, word_baseline=name, draws=1)
            sns.barplot(
                word_frame([one]), x="place", y="value", hue="method", palette=PALETTE[1:4], ax=panel,
                legend="auto" if panel is panels[-1] else False,
            )  # fmt: skip
            panel.set(title=f"absent words are [{name.upper()}]", xlabel="", ylabel=f"attributed {self.target}")
            words = [drawable(word.text) for word in one.words]
            labels = panel.set_xticks(range(len(words)), [shown for shown, _ in words], rotation=45, ha="right")
            for label, (_, families) in zip(labels, words, strict=True):
                label.label1.set_fontfamily(families)
        sns.move_legend(panels[-1], "center left", bbox_to_anchor=(1, 0.5), frameon=False, title=None)
        return picture(figure)

    def _several(self, count: int) -> list[Explanation]:
        if count not in self._measured:
            how: dict[str, Any] = {"methods": OVER_WORDS, "effort": QUICK, "draws": self.draws}
            self._measured[count] = [self.explain(one, **how) for one in self.dataset.expressions[:count]]
        return self._measured[count]

    @told
    @styled
    def separated(self, count: int = 6) -> Image:
        """The fraction of the split's first sentences for which a measure tells a method from random attributions."""
        measured = faithfulness_frame(self._several(count))
        shown = measured.pivot_table(index="method", columns="measure", values="separates", aggfunc="mean")
        figure = new_figure(2.0)
        axes = figure.subplots()
        sns.heatmap(shown.astype(float), vmin=0, vmax=1, annot=True, fmt=".2f", cmap="viridis", ax=axes)
        title = f"better than random: fraction of {measured['sentence'].nunique()} sentences"
        axes.set(xlabel="", ylabel="", title=title)
        return picture(figure)

    @told
    def measured(self, count: int = 6) -> Styler:
        """The measures themselves, sentence by sentence."""
        frame = faithfulness_frame(self._several(count))
        return frame.drop(columns=["p", "separates"]).style.format(precision=3)

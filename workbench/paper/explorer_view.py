"""The explorer of attention as a widget: pictures, sentences, words, layers and heads to choose, runs side by side."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from workbench.analysis.explorer import ALL_BLOCKS, METHODS, Explorer, State, View, own_picture, pictures_of
from workbench.analysis.predictor import Predictor
from workbench.analysis.words import shortened
from workbench.errors import WorkbenchError
from workbench.paper.browsing import GridView, Teller, told
from workbench.paper.figures.panels import greyed, outline
from workbench.paper.fonts import drawable
from workbench.paper.style import ERROR, WIDTH, styled
from workbench.results.folders import StoreError

MEAN = "mean"
ALL = -1
"""In a choice, all words or heads: ipywidgets takes None for nothing chosen."""
COLOURS = "magma"
GAP, ABOVE, BELOW = 0.12, 0.25, 0.85
"""Inches between panels, above them for titles, and below for labels and the bar."""
SHARP = 110
"""Dots per inch: enough for a screen, and drawn in time."""


@styled
def draw(explorer: Explorer, state: State) -> Figure:
    """The picture, and a panel per run with its map, its prediction's outline and its IoU, on one scale."""
    picture, views = explorer.pictures[state.picture], explorer.view(state)
    height, width = picture.pixels.shape[:2]
    figure, axes, bar_axes = _panels(len(views) + 1, height / width)
    for panel in axes:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(False)
    axes[0].imshow(picture.pixels, interpolation="nearest")
    referent = picture.referents.get(state.sentence)
    if referent is not None:
        outline(axes[0], referent.astype(np.uint8))
    axes[0].set_title("picture" if referent is None else "picture, referent outlined")
    sentence, families = drawable(textwrap.shorten(state.sentence, 40, placeholder=" …"))
    axes[0].set_xlabel(sentence, fontfamily=families)
    top = max((float(view.map.max()) for view in views.values() if view.map is not None), default=1.0)
    scale = Normalize(0, max(top, 1e-6))
    for panel, (name, view) in zip(axes[1:], views.items(), strict=True):
        _panel(panel, name, view, picture.pixels, scale)
    words = explorer.words(state.sentence)
    word = "all words" if state.word is None else f"“{shortened(words[state.word].text)}”"
    head = "mean of heads" if state.head is None else f"head {state.head}"
    bar = figure.colorbar(ScalarMappable(scale, COLOURS), cax=bar_axes, orientation="horizontal")
    where = "all blocks" if state.method in ALL_BLOCKS else f"{state.layer}, {head}"
    label, families = drawable(f"{where}, {word}: {METHODS[state.method]}")
    bar.set_label(label, fontfamily=families)
    return figure


def _panels(count: int, aspect: float) -> tuple[Figure, list[Axes], Axes]:
    """Panels in a row and a bar below, at fixed places: an automatic layout takes longer than all the rest."""
    side = WIDTH / count - GAP
    tall = min(1.6, aspect) * side
    height = tall + ABOVE + BELOW
    figure = Figure(figsize=(WIDTH, height))
    row: list[Axes] = []
    for number in range(count):
        left = (GAP / 2 + number * (side + GAP)) / WIDTH
        row.append(figure.add_axes((left, BELOW / height, side / WIDTH, tall / height)))
    return figure, row, figure.add_axes((0.2, 0.42 / height, 0.6, 0.09 / height))


def _panel(panel: Any, name: str, view: View, pixels: np.ndarray[Any, Any], scale: Normalize) -> None:
    height, width = pixels.shape[:2]
    panel.imshow(greyed(pixels), interpolation="nearest")
    if view.map is not None:
        mapped = scale(view.map)
        coloured = mpl.colormaps[COLOURS](mapped)
        coloured[..., 3] = 0.25 + 0.75 * mapped
        panel.imshow(coloured, interpolation="nearest", extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    else:
        panel.text(0.5, 0.5, textwrap.fill(view.why, 18), transform=panel.transAxes, ha="center", va="center")
    panel.set_title(name)
    if view.mask.any():
        panel.contour(view.mask, [0.5], colors=ERROR, linewidths=1.2)
    panel.set_xlabel("prediction outlined" if view.iou is None else f"prediction's IoU {view.iou:.2f}")


class ExplorerView(Teller):
    """The widget; displayed in a notebook it answers to every choice. Its page in HTML shows the picture alone."""

    def __init__(self, explorer: Explorer) -> None:
        super().__init__()
        self.explorer, self.state = explorer, explorer.start()
        names = [(picture.name, number) for number, picture in enumerate(explorer.pictures)]
        wide = ipywidgets.Layout(width="48%")
        self.picture = ipywidgets.Dropdown(options=names, description="picture", layout=wide)
        self.sentence = ipywidgets.Combobox(
            value=self.state.sentence, options=self._sentences(), description="sentence", continuous_update=False,
            ensure_option=False, layout=wide,
        )  # fmt: skip
        self.word = ipywidgets.ToggleButtons(options=self._words(), description="word", style={"button_width": "auto"})
        self.layer = ipywidgets.SelectionSlider(
            options=explorer.layers, value=self.state.layer, description="layer", layout=wide
        )
        self.head = ipywidgets.SelectionSlider(options=self._heads(), description="head", layout=wide)
        self.method = ipywidgets.Dropdown(options=list(METHODS), description="shown", layout=wide)
        self.image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(width="100%", max_width="900px"))
        self.message = ipywidgets.Label()
        self._changing = False
        for widget in (self.picture, self.sentence, self.word, self.layer, self.head, self.method):
            widget.observe(self._changed, names="value")
        rows = [
            ipywidgets.HBox([self.picture, self.sentence]), self.word, ipywidgets.HBox([self.layer, self.head]),
            self.method, self.message, self.image,
        ]  # fmt: skip
        self.box = ipywidgets.VBox(rows)
        self._draw()

    def _sentences(self) -> tuple[str, ...]:
        return tuple(self.explorer.pictures[self.state.picture].referents)

    def _words(self) -> list[tuple[str, int]]:
        words = self.explorer.words(self.state.sentence)
        return [("all words", ALL), *((shortened(word.text), number) for number, word in enumerate(words))]

    def _heads(self) -> list[tuple[str, int]]:
        return [(MEAN, ALL), *((str(head), head) for head in range(self.explorer.heads(self.state)))]

    def _changed(self, change: Any) -> None:
        """Take over what was chosen; of another picture or sentence, the words and heads too."""
        if self._changing:
            return
        self._changing = True
        try:
            self._take(change.owner)
            unread = self.explorer.unread(self.state.sentence)
            self.message.value = f"not read: {unread}" if unread else ""
            self._draw()
        except WorkbenchError as error:
            self.message.value = str(error)
        finally:
            self._changing = False

    def _take(self, owner: Any) -> None:
        state = self.state
        if owner is self.picture:
            sentence = next(iter(self.explorer.pictures[owner.value].referents), state.sentence)
            self.state = State(owner.value, sentence, state.layer, method=state.method)
            self.sentence.options, self.sentence.value = self._sentences(), sentence
            self.word.options, self.head.options = self._words(), self._heads()
        elif owner is self.sentence:
            self.explorer.words(owner.value)  # an empty one is refused before anything changes
            self.state = State(state.picture, owner.value, state.layer, head=state.head, method=state.method)
            self.word.options = self._words()
        elif owner is self.layer:
            self.state = State(state.picture, state.sentence, owner.value, state.word, None, state.method)
            self.head.options = self._heads()
        else:
            word, head = (None if one.value == ALL else one.value for one in (self.word, self.head))
            self.state = State(state.picture, state.sentence, state.layer, word, head, self.method.value)

    def _draw(self) -> None:
        content = io.BytesIO()
        draw(self.explorer, self.state).savefig(content, format="png", dpi=SHARP, pil_kwargs={"compress_level": 1})
        self.image.value = content.getvalue()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and the picture of now for where no widget can be shown."""
        bundle: dict[str, Any] = dict(self.box._repr_mimebundle_(**kwargs))
        return {**bundle, "image/png": base64.b64encode(self.image.value).decode()}


class AttentionNotebook(GridView):
    """What the attention notebook shows of a grid."""

    @told
    def explore(
        self, settings: Sequence[str] = (), split: str | None = None, seed: int | None = None, pictures: int = 20,
        own: Sequence[str | Path] = (),
    ) -> ExplorerView:  # fmt: skip
        """The explorer of the grid's completed runs.

        Args:
            settings: some of the grid's; none: all that are completed.
            split: whose pictures; None: the grid's `report.figure_split`.
            seed: None: the lowest completed one of each setting.
            pictures: how many of the split.
            own: files of one's own, after those.
        """
        from workbench.data.datasets import open_dataset
        from workbench.data.loading import ReferringDataset

        stored, grid = self.stored, self.grid
        names = list(settings) or [name for name in grid.settings if stored.seeds(name)]
        predictors = {}
        for name in names:
            seeds = stored.seeds(name)
            if not seeds or (seed is not None and seed not in seeds):
                which = "" if seed is None else f" with seed {seed}"
                raise StoreError(f"no completed run of {name!r}{which}; train with: {self.command}")
            run = stored.run_of(name, min(seeds) if seed is None else seed)
            root = grid.settings[name].machine.checkpoint_root
            predictors[name] = Predictor.load(run, self.results, root)
        config = grid.settings[names[0]]
        dataset = ReferringDataset(
            open_dataset(config), split or grid.report.figure_split, config.backbone.image_size, config.data
        )
        shown = [*pictures_of(dataset, pictures), *(own_picture(Path(file)) for file in own)]
        return ExplorerView(Explorer(predictors, shown))


def open_attention(file: str | Path, results: str | Path | None = None, preset: str | None = None) -> AttentionNotebook:
    """A grid's runs, to look inside; see `browsing.open_grid`."""
    from workbench.paper.browsing import open_grid

    view = open_grid(file, results, preset)
    return AttentionNotebook(view.file, view.results, view.preset)

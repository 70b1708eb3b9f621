"""The gallery of expressions: each one's sentence, and the settings' predictions beside what is meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.data import masks
from workbench.errors import DataError, WorkbenchError
from workbench.evaluation.metrics import iou
from workbench.grids.evaluated import Evaluated
from workbench.paper.page.choice import GROUPS, choose, scores_of
from workbench.paper.page.thumbnails import Thumbnail, thumbnail
from workbench.results.folders import RunFolder
from workbench.results.record import KEY, ExpressionKey

if TYPE_CHECKING:
    from workbench.data.loading import Expression, ReferringDataset

PER_GROUP = 12
"""Expressions of a group on a page of one grid; several grids share them, and each has at least two."""
MOST_SETTINGS = 8
"""Predictions of an expression that are shown."""
PICTURE_BYTES = 4_000_000
"""Of all thumbnails on a page."""
Predictions = Mapping[ExpressionKey, str]


@dataclass(frozen=True)
class Panel:
    """A setting's prediction of an expression: IoU of the shown seed and over all, and a picture if there is one."""

    setting: str
    iou: str
    spread: str = ""
    picture: Thumbnail | None = None


@dataclass(frozen=True)
class Card:
    """An expression of the gallery.

    Attributes:
        groups: keys of `GROUPS` that it belongs to.
        picture: the image with the outline of what is meant; None where there is none.
    """

    key: ExpressionKey
    sentence: str
    kind: str
    category: str
    groups: Sequence[str]
    panels: Sequence[Panel]
    picture: Thumbnail | None = None

    @property
    def size(self) -> int:
        """Bytes that its pictures take on the page."""
        pictures = [self.picture, *(panel.picture for panel in self.panels)]
        return sum(len(picture.address) for picture in pictures if picture is not None)


@dataclass(frozen=True)
class Gallery:
    """The cards, what they can be filtered by, and what is not shown, one line each."""

    cards: Sequence[Card] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    splits: Sequence[str] = ()
    kinds: Sequence[str] = ()
    missing: Sequence[str] = ()
    shown_seeds: str = ""


def gallery(stored: Evaluated, results: Path | None, parts: int) -> Gallery:
    """The gallery of a grid.

    Args:
        results: the results folder; None: there is a summary alone, so nothing has a picture.
        parts: how many grids share the page.
    """
    names, missing = _settings(stored)
    frames = {name: stored.expressions[name] for name in names}
    seeds = _shown_seeds(stored, names)
    scores = scores_of(frames, stored.grid.splits)
    chosen = choose(scores, max(2, PER_GROUP // parts))
    rows = scores.loc[list(chosen)].iterrows()
    cards = [
        _card(key, row, groups, frames, seeds) for (key, groups), (_, row) in zip(chosen.items(), rows, strict=True)
    ]
    if results is not None and cards:
        cards, without = _with_pictures(cards, stored, results, seeds, PICTURE_BYTES // parts)
        missing += without
    return Gallery(
        cards,
        {name: text for name, text in GROUPS.items() if any(name in card.groups for card in cards)},
        [split for split in stored.grid.splits if any(card.key.split == split for card in cards)],
        sorted({card.kind for card in cards}),
        missing,
        _in_words(seeds) if any(card.picture for card in cards) else "",
    )


def _settings(stored: Evaluated) -> tuple[list[str], list[str]]:
    """The settings and models whose predictions are shown, the baseline first, and why others are not."""
    settings = stored.grid.settings
    evaluated = [name for name in (*settings, *stored.sources) if name in stored.expressions]
    first = stored.grid.baseline if stored.grid.baseline in evaluated else evaluated[0]
    data = settings[str(first)].data
    same = [name for name in evaluated if name not in settings or settings[name].data.same_set(data)]
    same.sort(key=lambda name: name != first)
    lines = []
    if other := [name for name in evaluated if name not in same]:
        lines.append(f"Expressions: not those of {', '.join(other)}, which have other data than {first}.")
    if left_out := same[MOST_SETTINGS:]:
        lines.append(f"Expressions: predictions of {', '.join(left_out)} are left out; {MOST_SETTINGS} are shown.")
    return same[:MOST_SETTINGS], lines


def _shown_seeds(stored: Evaluated, names: Sequence[str]) -> dict[str, int]:
    """The lowest seed that all settings have; if there is none, each one's lowest."""
    seeds = {name: stored.seeds(name) for name in names if stored.seeds(name)}
    common = set.intersection(*map(set, seeds.values()))
    return {name: min(common or own) for name, own in seeds.items()}


def _in_words(seeds: Mapping[str, int]) -> str:
    """The shown seeds; one for all is named once."""
    if len(set(seeds.values())) == 1:
        return f"seed {next(iter(seeds.values()))}"
    return ", ".join(f"{name} seed {seed}" for name, seed in seeds.items())


def _card(
    key: ExpressionKey,
    row: pd.Series[Any],
    groups: Sequence[str],
    frames: Mapping[str, pd.DataFrame],
    seeds: Mapping[str, int],
) -> Card:
    panels = [_panel(name, frame, key, seeds.get(name)) for name, frame in frames.items()]
    return Card(key, str(row["sentence"]), str(row["kind"]), str(row["category"]), groups, panels)


def _panel(name: str, frame: pd.DataFrame, key: ExpressionKey, seed: int | None) -> Panel:
    here = (frame["sent_id"] == key.sent_id) & (frame["ref_id"] == key.ref_id) & (frame["split"] == key.split)
    rows = frame[here]
    values = 100 * iou(rows["intersection"], rows["union"])
    shown = values[0] if seed is None else values[(rows["seed"] == seed).to_numpy()][0]
    spread = f"{len(values)} seeds: {values.mean():.0f} ± {values.std(ddof=1):.0f}" if len(values) > 1 else ""
    return Panel(name, f"IoU {shown:.0f}", spread)


def _with_pictures(
    cards: Sequence[Card], stored: Evaluated, results: Path, seeds: Mapping[str, int], room: int
) -> tuple[list[Card], list[str]]:
    """The cards with their pictures as far as there is room for, and what has none, one line each."""
    try:
        images = _Images(stored, next(iter(seeds)))
    except (WorkbenchError, OSError) as error:
        return list(cards), [f"Expressions: no images: {error}"]
    names = [panel.setting for panel in cards[0].panels]
    predictions = {name: _predictions(stored, results, name, seeds.get(name), cards) for name in names}
    drawn: list[Card] = []
    lines: dict[str, None] = {}
    for card in cards:
        try:
            image, truth = images.of(card.key)
        except (DataError, KeyError) as error:
            lines[f"Expressions: no image of {card.key.split} sent_id {card.key.sent_id}: {error}"] = None
            drawn.append(card)
            continue
        whole = _drawn(card, image, truth, predictions)
        lines |= {
            f"Expressions: masks of {panel.setting} are not stored, or damaged.": None
            for panel in whole.panels
            if panel.picture is None
        }
        if whole.size > room:
            lines["Expressions: the page has no room for the pictures of all."] = None
        drawn.append(whole if whole.size <= room else card)
        room -= drawn[-1].size
    return drawn, list(lines)


class _Images:
    """Images and referents' masks of a setting's data set; each split is opened once."""

    def __init__(self, stored: Evaluated, setting: str) -> None:
        # It loads torch, which a page without pictures need not wait for.
        from workbench.data.datasets import open_dataset

        self._config = stored.grid.settings[setting]
        self._data = open_dataset(self._config)
        self._splits: dict[str, tuple[ReferringDataset, dict[tuple[int, int], int]]] = {}

    def of(self, key: ExpressionKey) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The image and the mask; KeyError where there is no such expression, DataError where the image is missing."""
        dataset, places = self._split(key.split)
        expression: Expression = dataset.expressions[places[key.ref_id, key.sent_id]]
        return dataset.image(expression), dataset.mask(expression)

    def _split(self, name: str) -> tuple[ReferringDataset, dict[tuple[int, int], int]]:
        from workbench.data.loading import ReferringDataset

        if name not in self._splits:
            side, data = self._config.backbone.image_size, self._config.data
            dataset = ReferringDataset(self._data, name, side, data, cache=False)
            ids = (dataset.expressions.column(column).tolist() for column in ("ref_id", "sent_id"))
            self._splits[name] = dataset, {key: place for place, key in enumerate(zip(*ids, strict=True))}
        return self._splits[name]


def _predictions(
    stored: Evaluated, results: Path, name: str, seed: int | None, cards: Sequence[Card]
) -> dict[ExpressionKey, str]:
    """The stored masks of a setting's shown seed, or of another model, for the cards; none where they are damaged."""
    try:
        run = stored.scored[name] if seed is None else RunFolder(results, stored.run_of(name, seed))
        frame = run.expressions()
    except WorkbenchError:
        return {}
    if "prediction" not in frame:
        return {}
    frame = frame[frame["sent_id"].isin([card.key.sent_id for card in cards])]
    return {ExpressionKey(*key): str(mask) for *key, mask in frame[[*KEY, "prediction"]].itertuples(index=False)}


def _drawn(
    card: Card, image: NDArray[np.uint8], truth: NDArray[np.uint8], predictions: Mapping[str, Predictions]
) -> Card:
    panels = []
    for panel in card.panels:
        predicted = _decoded(predictions[panel.setting].get(card.key), *image.shape[:2])
        picture = None if predicted is None else thumbnail(image, truth, predicted)
        panels.append(replace(panel, picture=picture))
    return replace(card, picture=thumbnail(image, truth), panels=panels)


def _decoded(counts: str | None, height: int, width: int) -> NDArray[np.uint8] | None:
    """A mask; None where there is none, or where it is damaged."""
    try:
        return None if counts is None else masks.decode(masks.checked_counts(counts, height, width), height, width)
    except DataError:
        return None

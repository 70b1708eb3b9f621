"""Where language acts: how mIoU changes where a block's words are hidden, made alike, or those of another sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, SymmetricalLogLocator

from workbench.analysis.comparison import compare
from workbench.analysis.kept_maps import ALL, DECODER, METRIC, UNDISTURBED, Kept, about_map, file_of, of, read_map
from workbench.evaluation.metrics import metrics
from workbench.files import digest_of
from workbench.grids.evaluated import Evaluated
from workbench.paper.figures.bars import key_columns
from workbench.paper.figures.data import FigureData, label_of, width_of
from workbench.paper.figures.subsets import fused_layers
from workbench.paper.style import PAGE, PALETTE, SMALL, line_height, wrapped
from workbench.results.folders import RunFolder
from workbench.results.record import KEY

KINDS = {
    "hide_words": ("words hidden", PALETTE[2], "o"),
    "mean_words": ("words as their mean", PALETTE[1], "s"),
    "swap_words": ("another image's words", PALETTE[3], "D"),
    "heads_off": ("attention off", PALETTE[4], "^"),
    "heads_mean": ("attention as its mean", PALETTE[7], "v"),
}
"""What the key says of each kind, its colour and its mark."""
LINEAR = 1.0
"""Points up to which a scale that is logarithmic beyond is linear."""
PANEL = 1.45
"""Inches: the height of a panel."""


def obstacle(evaluated: Evaluated, results: Path) -> str | None:
    """It shows what a command has measured before, which may take long."""
    if kept_files(evaluated, results):
        return None
    split = evaluated.grid.report.figure_split
    return f"no run of it has been measured on {split}: workbench interventions RUN... --split {split}"


def kept_files(evaluated: Evaluated, results: Path) -> dict[str, str]:
    """SHA-256 of what the figure is drawn from, by run."""
    split = evaluated.grid.report.figure_split
    runs = [
        RunFolder(results, evaluated.run_of(setting, seed))
        for setting in evaluated.expressions
        for seed in evaluated.seeds(setting)
    ]
    return {run.name: digest_of(file_of(run, split)) for run in runs if about_map(run, split) is not None}


def data(evaluated: Evaluated, results: Path) -> FigureData:
    """By setting, kind and layer (ALL: all blocks together): the difference with its interval, as fractions."""
    grid, rows, counts, runs = evaluated.grid, list[dict[str, Any]](), dict[str, int](), dict[str, list[str]]()
    without = {}
    for setting in (name for name in grid.settings if name in evaluated.expressions):
        maps = _maps(evaluated, results, setting)
        if not maps:
            blind = fused_layers(grid.settings[setting])[0] == 0
            without[setting] = "reads no words in the image encoder" if blind else "not measured"
            continue
        frame = _common(maps)
        rows += _rows(setting, frame)
        counts[setting] = len(frame.drop_duplicates(KEY))
        runs[setting] = [kept.about["run"] for kept in maps.values()]
    return FigureData(
        {
            "metric": METRIC,
            "title": grid.title,
            "split": grid.report.figure_split,
            "settings": list(runs),
            "labels": {name: grid.label(name) for name in (*runs, *without)},
            "n": {name: max(row["seeds"] for row in rows if row["setting"] == name) for name in runs},
            "runs": runs,
            "expressions": counts,
            "without": without,
            "rows": rows,
        }
    )


def _maps(evaluated: Evaluated, results: Path, setting: str) -> dict[int, Kept]:
    split, maps = evaluated.grid.report.figure_split, {}
    for seed in evaluated.seeds(setting):
        kept = read_map(RunFolder(results, evaluated.run_of(setting, seed)), split)
        if kept is not None:
            maps[seed] = kept
    return maps


def _common(maps: Mapping[int, Kept]) -> pd.DataFrame:
    """The rows of the expressions that all seeds have; where there are none, those of the first seed."""
    frames = {seed: kept.rows[kept.rows["head"] == ALL] for seed, kept in maps.items()}
    keys = [pd.MultiIndex.from_frame(frame[KEY].drop_duplicates()) for frame in frames.values()]
    common = keys[0]
    for one in keys[1:]:
        common = common.intersection(one)
    if common.empty:
        common, frames = keys[0], dict(list(frames.items())[:1])
    parts = [
        frame[pd.MultiIndex.from_frame(frame[KEY]).isin(common)].assign(seed=seed, run=maps[seed].about["run"])
        for seed, frame in frames.items()
    ]
    return pd.concat(parts).sort_values(["seed", "image_id", *KEY], kind="stable", ignore_index=True)


def _rows(setting: str, frame: pd.DataFrame) -> list[dict[str, Any]]:
    undisturbed, rows = of(frame, UNDISTURBED, ALL, ALL), []
    changed = frame[frame["intervention"] != UNDISTURBED]
    for kind in (kind for kind in KINDS if kind in set(changed["intervention"])):
        of_kind = changed[changed["intervention"] == kind]
        for layer in sorted(set(of_kind["layer"])):
            of_layer = of(of_kind, kind, int(layer), ALL)
            difference = compare(of_layer, undisturbed[undisturbed["seed"].isin(set(of_layer["seed"]))], METRIC)
            interval = difference.interval
            if np.isfinite([interval.value, interval.low, interval.high]).all():
                rows.append(
                    {"setting": setting, "kind": kind, "layer": int(layer), "value": interval.value,
                     "low": interval.low, "high": interval.high, "seeds": difference.seeds, "images": difference.images}
                )  # fmt: skip
    return rows


def draw(figure_data: FigureData) -> list[Figure]:
    """The pages: a panel per setting, a line per kind over the blocks, and all blocks together at its right."""
    document = figure_data.document
    columns, width = width_of(document)
    across = min(len(document["settings"]), 4 if columns == 2 else 2)
    panel = (width - 0.6) / across - 0.1
    titles = {name: wrapped(label_of(document, name), panel, SMALL) for name in document["settings"]}
    text = wrapped(caption(document), width - 0.1, SMALL)
    around = 0.75 + line_height(SMALL) * (text.count("\n") + 1)
    pages: list[list[list[str]]] = [[]]
    for start in range(0, len(titles), across):
        row = document["settings"][start : start + across]
        if pages[-1] and around + _height([*pages[-1], row], titles) > PAGE:
            pages.append([])
        pages[-1].append(row)
    return [_page(document, page, titles, text, around, width) for page in pages]


def caption(document: Mapping[str, Any]) -> str:
    """What the marks are, of how many expressions and seeds, and which settings are not shown."""
    several = max(document["n"].values()) > 1
    expressions = sorted(set(document["expressions"].values()))
    label = metrics[document["metric"]].label
    parts = [
        f"{document['title']}: change of {label}, in points, where one block of the image encoder is changed; "
        "all: all of them together"
        + ("; dec.: what the mask decoder reads." if any(row["layer"] == DECODER for row in document["rows"]) else ".")
        + (f" Beyond ±{LINEAR:g} the scale is logarithmic." if _is_wide(document["rows"]) else ""),
        f"{document['split']}, {' to '.join(f'{n:,}' for n in dict.fromkeys((expressions[0], expressions[-1])))} "
        f"expressions; 95 % intervals over {'seeds and images' if several else 'images alone, of one seed'}.",
        *(f"{label_of(document, name)}: {why}." for name, why in document["without"].items()),
    ]
    return " ".join(parts)


def _height(rows: Sequence[Sequence[str]], titles: Mapping[str, str]) -> float:
    return sum(PANEL + line_height(SMALL) * max(titles[name].count("\n") + 1 for name in row) for row in rows)


def _page(
    document: Mapping[str, Any],
    rows: Sequence[Sequence[str]],
    titles: Mapping[str, str],
    text: str,
    around: float,
    width: float,
) -> Figure:
    figure = Figure(figsize=(width, around + _height(rows, titles)), layout="constrained")
    axes = figure.subplots(len(rows), max(map(len, rows)), squeeze=False, sharey=True)
    names = [name for row in rows for name in row]
    kinds = [kind for kind in KINDS if any(one["kind"] == kind for one in document["rows"])]
    places = _places(document["rows"])
    shown: dict[str, Any] = {}
    for panel, name in zip(axes.ravel(), names, strict=False):
        shown |= _panel(panel, [one for one in document["rows"] if one["setting"] == name], kinds, places)
        panel.set_title(titles[name], fontsize=SMALL)
        panel.tick_params(labelsize=SMALL)
    for panel in axes.ravel()[len(names) :]:
        panel.set_axis_off()
    if _is_wide(document["rows"]):
        ends = [100 * row[end] for row in document["rows"] for end in ("low", "high")]
        axes[0, 0].set_yscale("symlog", linthresh=LINEAR, linscale=1.5)
        axes[0, 0].set_ylim(min(-LINEAR, 1.5 * min(ends)), max(LINEAR, 1.5 * max(ends)))
        axes[0, 0].yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=LINEAR, subs=(1, 3)))
        axes[0, 0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    figure.supylabel(f"Δ{metrics[document['metric']].label} (points)", fontsize=SMALL)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=SMALL)
    figure.legend(
        shown.values(), shown, loc="outside upper left", ncols=key_columns(list(shown), width), frameon=False,
        fontsize=SMALL,
    )  # fmt: skip
    return figure


def _places(rows: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Where each layer stands: the blocks, then all together, then the mask decoder, as far as any row is of these."""
    depth = 1 + max((row["layer"] for row in rows), default=-1)
    places: dict[int, float] = {layer: float(layer) for layer in range(max(0, depth))}
    for layer in (ALL, DECODER):
        if any(row["layer"] == layer for row in rows):
            places[layer] = max(places.values(), default=-1.0) + max(1.5, 1 + 0.1 * depth)
    return places


def _is_wide(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the changes in the mask decoder are so large that those of blocks would not be seen beside them."""

    def reach(of_decoder: bool) -> float:
        ends = [(row["low"], row["high"]) for row in rows if (row["layer"] == DECODER) == of_decoder]
        return 100 * float(np.abs(ends).max(initial=0.0))

    return reach(True) > 5 * LINEAR and 0 < 5 * reach(False) < reach(True)


def _panel(
    axes: Axes, rows: Sequence[Mapping[str, Any]], kinds: Sequence[str], places: Mapping[int, float]
) -> dict[str, Any]:
    """Draws a setting; returns what the key shows, by its text."""
    shown: dict[str, Any] = {}
    blocks, end = [layer for layer in places if layer >= 0], max(places.values())
    axes.axhline(0, color="#999999", linewidth=0.8)
    for layer in (ALL, DECODER):
        if layer in places:
            before = max((place for place in places.values() if place < places[layer]), default=None)
            if before is not None:
                axes.axvline((before + places[layer]) / 2, color="#CCCCCC", linewidth=0.8, linestyle=":")
    for number, kind in enumerate(kinds):
        label, colour, mark = KINDS[kind]
        here = [row for row in rows if row["kind"] == kind]
        if not here:
            continue
        shift = (number - (len(kinds) - 1) / 2) * min(0.17, 0.02 * (end + 1))
        x = np.array([places[row["layer"]] for row in here]) + shift
        value, low, high = (np.array([100 * row[name] for row in here]) for name in ("value", "low", "high"))
        shown[label] = axes.errorbar(
            x, value, yerr=[value - low, high - value], fmt=mark, color=colour, markersize=3.5, elinewidth=0.8,
            capsize=1.5,
        )  # fmt: skip
        single = np.array([row["layer"] >= 0 for row in here])
        axes.plot(x[single], value[single], color=colour, linewidth=0.9)
    numbered = blocks[:: max(1, -(-len(blocks) // 4))]
    named = {ALL: "all", DECODER: "dec."}
    ticks = [*numbered, *(layer for layer in named if layer in places)]
    axes.set_xticks([places[layer] for layer in ticks], [named.get(layer, str(layer)) for layer in ticks])
    beside = max(0.6, 0.07 * len(blocks))
    axes.set_xlim(-beside, end + beside)
    axes.set_xlabel("block", fontsize=SMALL)
    return shown

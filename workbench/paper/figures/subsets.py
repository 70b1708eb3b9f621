"""A metric against the number of fused layers: which depth of fusion pays, and where the layers should lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from workbench.config import RunConfig
from workbench.evaluation.metrics import metrics
from workbench.grids.evaluated import Evaluated
from workbench.grids.merging import leaves
from workbench.paper.figures.bars import caption, key_columns
from workbench.paper.figures.data import FigureData, width_of
from workbench.paper.figures.scores import score_of
from workbench.paper.style import PALETTE, SMALL, wrapped

MARKERS = {"all": "o", "first": "<", "last": ">", "every": "D", "listed": "s", "none": "_"}
"""By where the fused layers lie."""
COLOURS = tuple(PALETTE[i] for i in (2, 1, 3, 4, 7))
DODGE, SIDES, BESIDE = 0.5, {"first": -0.06, "last": 0.06}, 0.05
"""In layers: over how many the lines of a panel are spread; how far marks lie beside their line, by rule, and those
of single seeds beside their mark. What is at one number of layers would hide each other."""


def obstacle(evaluated: Evaluated, results: Path) -> str | None:
    """A line needs two numbers of layers, and a colour of its own."""
    configs = {name: config for name, config in evaluated.grid.settings.items() if name in evaluated.expressions}
    fused = {name: fused_layers(config)[0] for name, config in configs.items()}
    if len(set(fused.values()) - {0}) < 2:
        return "its settings do not differ in the number of fused layers"
    lines = {line for name, line in lines_of(configs).items() if fused[name]}
    if len(lines) > len(COLOURS):
        return f"its settings make {len(lines)} lines, and {len(COLOURS)} can be told apart; --settings chooses"
    return None


def lines_of(configs: Mapping[str, RunConfig]) -> dict[str, str]:
    """By setting, the line that it belongs to.

    That is its variant, and where a variant has settings of the same layers, all else in which its settings differ: a
    line along which a learning rate changes too would show its effect as one of the layers.
    """
    lines = {}
    for variant in {config.fusion.variant: None for config in configs.values()}:
        own = {name: config for name, config in configs.items() if config.fusion.variant == variant}
        layers = {json.dumps(config.fusion.layers) for config in own.values()}
        fields = {name: dict(leaves(config.identity_document()["config"])) for name, config in own.items()}
        keys = {key: None for values in fields.values() for key in values if key != "fusion.layers"}
        varied = [key for key in keys if len({str(values.get(key)) for values in fields.values()}) > 1]
        for name, values in fields.items():
            more = [f"{key.rpartition('.')[2]}={values.get(key)}" for key in varied if len(layers) < len(own)]
            lines[name] = ", ".join([variant, *more])
    return lines


def fused_layers(config: RunConfig) -> tuple[int, str]:
    """How many layers of the image encoder read text, and by which rule: all, first, last, every, listed, none."""
    from workbench.models.build import check_config

    layers = check_config(config).image_encoder.fusion.layers
    rule = config.fusion.layers
    kind = rule if isinstance(rule, str) else next(iter(rule)) if isinstance(rule, dict) else "listed"
    return len(layers), kind if layers else "none"


def data(evaluated: Evaluated, results: Path) -> FigureData:
    """By setting and split: number of fused layers, rule, value and interval."""
    grid = evaluated.grid
    metric, splits = grid.report.metrics[0], grid.splits
    points = []
    lines = lines_of({name: config for name, config in grid.settings.items() if name in evaluated.expressions})
    for name, config in grid.settings.items():
        if name not in evaluated.expressions:
            continue
        frame = evaluated.expressions[name]
        layers, rule = fused_layers(config)
        for split in splits:
            if score := score_of(frame[frame["split"] == split], metric):
                point = {
                    "setting": name,
                    "variant": config.fusion.variant,
                    "line": lines[name],
                    "layers": layers,
                    "rule": rule,
                    "split": split,
                }
                points.append({**point, **score})
    settings = list(dict.fromkeys(point["setting"] for point in points))
    return FigureData(
        {
            "metric": metric,
            "title": grid.title,
            "splits": list(splits),
            "settings": settings,
            "labels": {name: grid.label(name) for name in settings},
            "n": {name: max(1, len(evaluated.seeds(name))) for name in settings},
            "points": points,
        }
    )


def draw(figure_data: FigureData) -> list[Figure]:
    """The picture: a panel per split, lines through the settings whose rule is all, first or last."""
    document = figure_data.document
    columns, width = width_of(document)
    across = min(len(document["splits"]), 4 if columns == 2 else 2)
    down = -(-len(document["splits"]) // across)
    figure = Figure(figsize=(width, 1.7 * down + 0.9), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    shown: dict[str, Any] = {}
    for panel, split in zip(axes, document["splits"], strict=False):
        shown |= _panel(panel, [point for point in document["points"] if point["split"] == split])
        panel.set_title(split, fontsize=SMALL)
        panel.tick_params(labelsize=SMALL)
    for panel in axes[len(document["splits"]) :]:
        panel.set_axis_off()
    text = f"{document['title']}, over the number of fused layers. {caption(document)}"
    figure.supylabel(f"{metrics[document['metric']].label} (%)", fontsize=SMALL)
    figure.supxlabel(wrapped(text, width - 0.1, SMALL), x=0.01, ha="left", fontsize=SMALL)
    figure.legend(
        shown.values(),
        shown,
        loc="outside upper left",
        ncols=key_columns(list(shown), width),
        frameon=False,
        fontsize=SMALL,
    )
    return [figure]


def _panel(axes: Any, points: list[dict[str, Any]]) -> dict[str, Any]:
    """Draws a split; returns what the key shows, by its text."""
    shown: dict[str, Any] = {}
    lines = list(dict.fromkeys(point["line"] for point in points if point["layers"]))
    for number, without in enumerate(point for point in points if not point["layers"]):
        style = (":", "-.", "--")[number % 3]
        line = axes.axhline(100 * without["value"], color="#999999", linestyle=style, linewidth=1)
        axes.axhspan(100 * without["low"], 100 * without["high"], color="#999999", alpha=0.12, linewidth=0)
        shown[f"{without['line']}, none fused"] = line
    for number, name in enumerate(lines):
        colour, own = COLOURS[number], [point for point in points if point["line"] == name]
        aside = DODGE * ((number + 0.5) / len(lines) - 0.5)
        for rule in dict.fromkeys(point["rule"] for point in own):
            here = sorted((p for p in own if p["rule"] == rule), key=lambda point: point["layers"])
            joined = here
            if rule in ("first", "last"):
                joined = sorted([*here, *(p for p in own if p["rule"] == "all")], key=lambda point: point["layers"])
            beside = aside + SIDES.get(rule, 0.0)
            x, y = [p["layers"] + beside for p in here], [100 * p["value"] for p in here]
            errors = [[100 * (p["value"] - p["low"]) for p in here], [100 * (p["high"] - p["value"]) for p in here]]
            drawn = axes.errorbar(
                x, y, yerr=errors, fmt=MARKERS[rule], color=colour, markersize=4, elinewidth=0.8, capsize=2
            )
            for point in here:
                values = [100 * value for value in point["seed_values"]] if len(point["seed_values"]) > 1 else []
                places = [point["layers"] + beside + BESIDE] * len(values)
                axes.plot(places, values, "o", color=colour, markersize=2, markeredgewidth=0)
            style = {"first": "--", "last": "-"}.get(rule, "")
            if style:
                through = [p["layers"] + aside for p in joined], [100 * p["value"] for p in joined]
                axes.plot(*through, style, color=colour, linewidth=1)
            shown[f"{name}, {rule}"] = drawn
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    return shown

"""Ranking against budget: the settings by score, best first, beside what their training costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from workbench.evaluation.metrics import metrics
from workbench.grids.evaluated import Evaluated
from workbench.paper.budget import NAMES, TOLERANCE, budgets
from workbench.paper.figures.data import FigureData, label_of, width_of
from workbench.paper.figures.scores import score_of
from workbench.paper.style import PAGE, PALETTE, SMALL, line_height, wrapped
from workbench.results.folders import StoreError

MOST_ROWS = 30
"""Settings on a page."""
NAME_WIDTH = 0.3
"""Of the figure's, which the names may take."""
FEWEST_FOR_TAU = 4
"""Settings from which a rank correlation says something."""
UNITS = ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"), (1.0, ""))


def obstacle(evaluated: Evaluated, results: Path) -> str | None:
    """There is nothing to compare where all cost the same."""
    return None if _differing(evaluated) else "its settings have the same budget"


def data(evaluated: Evaluated, results: Path) -> FigureData:
    """By setting: its score on the split of the grid's pictures, and the budgets in which settings differ."""
    grid = evaluated.grid
    metric, split, costs = grid.report.metrics[0], grid.report.figure_split, budgets(evaluated)
    fields = _differing(evaluated)
    rows = []
    for name in (name for name in grid.settings if name in evaluated.expressions):
        frame = evaluated.expressions[name]
        if score := score_of(frame[frame["split"] == split], metric):
            own = costs[name].as_dict()
            rows.append({"setting": name, "budget": {field: own[field] for field in fields}, **score})
    if not rows:
        raise StoreError(f"{grid.file}: report.figure_split: no setting has {metrics[metric].label} on {split!r}")
    rows.sort(key=lambda row: row["value"], reverse=metrics[metric].direction == "higher")
    return FigureData(
        {
            "metric": metric,
            "title": grid.title,
            "split": split,
            "labels": {row["setting"]: grid.label(row["setting"]) for row in rows},
            "baseline": grid.baseline,
            "fields": fields,
            "tau": {field: _tau(rows, field) for field in fields},
            "ranking": rows,
        }
    )


def _differing(evaluated: Evaluated) -> list[str]:
    """The budgets that are known of two evaluated settings or more, and not the same for all."""
    costs = [cost.as_dict() for name, cost in budgets(evaluated).items() if name in evaluated.expressions]
    found = []
    for field in NAMES:
        known = [value for cost in costs if (value := cost[field]) is not None]
        if len(known) > 1 and max(known) - min(known) > TOLERANCE * max(known):
            found.append(field)
    return found


def _tau(rows: Sequence[Mapping[str, Any]], field: str) -> float | None:
    """Kendall's rank correlation (tau-b) of score and budget; None of few settings."""
    pairs = [(row["value"], row["budget"][field]) for row in rows if row["budget"][field] is not None]
    if len(pairs) < FEWEST_FOR_TAU:
        return None
    tau = float(stats.kendalltau(*zip(*pairs, strict=True)).statistic)
    return None if tau != tau else round(tau, 6)


def draw(figure_data: FigureData) -> list[Figure]:
    """The picture: a line per setting; the score, then a panel per budget. In one column, a page per budget."""
    document = figure_data.document
    columns, width = width_of(document)
    fields = document["fields"]
    pages = [fields] if columns == 2 else [[field] for field in fields]
    rows = document["ranking"]
    names = [
        wrapped(f"{rank}. {label_of(document, row['setting'])}", NAME_WIDTH * width, SMALL)
        for rank, row in enumerate(rows, start=1)
    ]
    texts = [wrapped(_caption(document, page), width - 0.1, SMALL) for page in pages]
    return [
        _page(document, page, part, names[part], text, width)
        for page, text in zip(pages, texts, strict=True)
        for part in _parts(names, PAGE - _around(text))
    ]


def _height(name: str) -> float:
    """Inches that a setting takes."""
    return line_height(SMALL) * (name.count("\n") + 1) + 0.06


def _around(text: str) -> float:
    """Inches of a page that no setting takes."""
    return 0.9 + line_height(SMALL) * (text.count("\n") + 1)


def _parts(names: Sequence[str], room: float) -> list[slice]:
    """Which settings stand on each page."""
    parts, first, taken = [], 0, 0.0
    for number, name in enumerate(names):
        if number > first and (taken + _height(name) > room or number - first == MOST_ROWS):
            parts.append(slice(first, number))
            first, taken = number, 0.0
        taken += _height(name)
    return [*parts, slice(first, len(names))]


def _page(
    document: Mapping[str, Any], fields: Sequence[str], part: slice, names: Sequence[str], text: str, width: float
) -> Figure:
    rows, places = document["ranking"][part], _places(names)
    height = sum(_height(name) for name in names) + _around(text)
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(1, 1 + len(fields), squeeze=False, sharey=True, width_ratios=[1.4] + [1] * len(fields))[0]
    _scores(panels[0], document, rows, places)
    for panel, field in zip(panels[1:], fields, strict=True):
        _budget(panel, document, rows, places, field)
    for panel, share in zip(panels, [1.4] + [1] * len(fields), strict=True):
        inches = (1 - NAME_WIDTH) * width * share / (1.4 + len(fields))
        panel.set_xlabel(_in_lines(panel.get_xlabel(), 0.85 * inches), fontsize=SMALL)
    panels[0].set_yticks(places, names)
    panels[0].set_ylim(places[-1] + 0.8, places[0] - 0.8)
    for panel in panels:
        panel.tick_params(labelsize=SMALL)
        panel.tick_params(axis="y", length=0)
        panel.locator_params(axis="x", nbins=3)
        panel.grid(axis="y", color="#E4E4E4", linewidth=0.6)
        panel.set_axisbelow(True)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=SMALL)
    return figure


def _in_lines(text: str, width: float) -> str:
    return "\n".join(wrapped(line, width, SMALL) for line in text.split("\n"))


def _places(names: Sequence[str]) -> list[float]:
    """Where each setting stands, from above, in lines: a name of two takes more room than one of one."""
    places, above = [], 0.0
    for name in names:
        lines = name.count("\n") + 1
        places.append(above + lines / 2)
        above += lines + 0.4
    return places


def _scores(axes: Axes, document: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], places: list[float]) -> None:
    value, low, high = ([100 * row[key] for row in rows] for key in ("value", "low", "high"))
    errors = [[v - a for v, a in zip(value, low, strict=True)], [b - v for v, b in zip(value, high, strict=True)]]
    axes.errorbar(value, places, xerr=errors, fmt="none", ecolor="#555555", elinewidth=0.9, capsize=2)
    for row, x, y in zip(rows, value, places, strict=True):
        if len(row["seed_values"]) > 1:
            axes.plot(
                [100 * one for one in row["seed_values"]], [y] * len(row["seed_values"]), "o", markersize=2.5,
                markerfacecolor="white", markeredgecolor="#555555", markeredgewidth=0.6,
            )  # fmt: skip
        is_baseline = row["setting"] == document.get("baseline")
        axes.plot([x], [y], "s" if is_baseline else "o", color="#555555" if is_baseline else PALETTE[2], markersize=4.5)
    axes.set_xlabel(f"{metrics[document['metric']].label} on {document['split']} (%)", fontsize=SMALL)


def _budget(
    axes: Axes, document: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], places: list[float], field: str
) -> None:
    every = {row["setting"]: row["budget"][field] for row in document["ranking"]}
    most = max(value for value in every.values() if value is not None)
    unit, word = next(((unit, word) for unit, word in UNITS if most >= unit), UNITS[-1])
    for row, y in zip(rows, places, strict=True):
        if (value := row["budget"][field]) is not None:
            colour = PALETTE[0] if row["setting"] == document.get("baseline") else PALETTE[5]
            axes.barh([y], [value / unit], height=0.7, color=colour)
    if (of_baseline := every.get(str(document.get("baseline")))) is not None:
        axes.axvline(of_baseline / unit, color="#555555", linewidth=0.9, linestyle=":")
    axes.set_xlim(0, 1.05 * most / unit)
    tau = document["tau"].get(field)
    name = f"{NAMES[field]}" + (f" ({word})" if word else "")
    axes.set_xlabel(name + ("" if tau is None else f"\nτ = {tau:+.2f}".replace("-", "−")), fontsize=SMALL)


def _caption(document: Mapping[str, Any], fields: Sequence[str]) -> str:
    rows = document["ranking"]
    several = any(len(row["seed_values"]) > 1 for row in rows)
    over = "seeds and images; small marks: single seeds" if several else "images alone, of one seed"
    text = (
        f"{document['title']}: settings by {metrics[document['metric']].label} on {document['split']}, best first, "
        f"beside what their training costs. 95 % intervals over {over}."
    )
    if any(row["setting"] == document.get("baseline") for row in rows):
        text += f" Square, grey bar and dotted line: {label_of(document, str(document['baseline']))}, the baseline."
    if any(document["tau"].get(field) is not None for field in fields):
        text += " τ: Kendall's rank correlation of score and budget."
    return text

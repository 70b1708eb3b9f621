"""A metric by size of the referent, length of the sentence, kind of words, and others of the referent's class."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from workbench.evaluation.breakdowns import BREAKDOWNS
from workbench.evaluation.metrics import metrics
from workbench.grids.evaluated import Evaluated
from workbench.paper.figures.bars import caption, names_of
from workbench.paper.figures.data import FigureData, width_of
from workbench.paper.figures.dots import Group, dot_plot
from workbench.paper.figures.scores import score_of

ORDER = ("size", "length", "kind", "distractors")


def obstacle(evaluated: Evaluated, results: Path) -> str | None:
    """Runs of early versions did not store what expressions are sorted by."""
    if not _possible(evaluated):
        return "the runs were evaluated by an earlier version, which stored nothing to sort expressions by"
    split = evaluated.grid.report.figure_split
    if not any((frame["split"] == split).any() for frame in evaluated.expressions.values()):
        return f"nothing of {split}, the report's figure_split, was evaluated"
    return None


def _possible(evaluated: Evaluated) -> list[str]:
    needed = {"size": "target_area", "length": "sentence", "kind": "kind", "distractors": "distractors"}
    return [by for by in ORDER if all(needed[by] in frame for frame in evaluated.expressions.values())]


def data(evaluated: Evaluated, results: Path) -> FigureData:
    """By breakdown, bin and setting: value, interval and each seed's value, as fractions."""
    grid = evaluated.grid
    metric, split = grid.report.metrics[0], grid.report.figure_split
    rows = []
    for setting, whole in evaluated.expressions.items():
        frame = whole[whole["split"] == split]
        for by in _possible(evaluated):
            bins = BREAKDOWNS[by][1](frame)
            for place, name in enumerate(bins.cat.categories):
                if score := score_of(frame[bins == name], metric):
                    rows.append({"setting": setting, "by": by, "bin": str(name), "order": place, **score})
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    return FigureData(
        {
            "metric": metric,
            "split": split,
            "title": grid.title,
            "settings": settings,
            "labels": {name: grid.label(name) for name in settings},
            "baseline": grid.baseline,
            "n": {name: max(1, len(evaluated.seeds(name))) for name in settings},
            "scores": rows,
        }
    )


def draw(figure_data: FigureData) -> list[Figure]:
    """The pages: a line of panels per breakdown."""
    document = figure_data.document
    columns, width = width_of(document)
    groups = []
    for by in dict.fromkeys(row["by"] for row in document["scores"]):
        rows = [row for row in document["scores"] if row["by"] == by]
        bins = sorted({(row["order"], row["bin"]) for row in rows})
        counts = {name: max(row["expressions"] for row in rows if row["bin"] == name) for _, name in bins}
        panels = [f"{name} ({counts[name]:,})" for _, name in bins]
        scores = [{row["setting"]: row for row in rows if row["bin"] == name} for _, name in bins]
        most = len(panels) if columns == 2 else 2
        title = f"{metrics[document['metric']].label} by {BREAKDOWNS[by][0]}"
        groups += [
            Group("" if start else title, panels[start : start + most], scores[start : start + most])
            for start in range(0, len(panels), most)
        ]
    baseline = document.get("baseline")
    text = f"{document['title']}: {document['split']}. {caption(document)} In brackets the number of expressions."
    text += " Square and line: the baseline." if baseline in document["settings"] else ""
    return dot_plot(groups, names_of(document), baseline, text, width)

"""What the page shows of a grid, gathered from its evaluated runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workbench.grids import Grid
from workbench.grids.evaluated import Evaluated
from workbench.paper.layout import lay_out
from workbench.paper.page.gallery import Gallery, gallery
from workbench.paper.page.pictures import Picture, pictures
from workbench.paper.page.runs import SettingView, settings_of
from workbench.paper.page.summary import hours_taken, missing, sentences
from workbench.paper.page.tables import PublishedView, TableView, published_view, tables
from workbench.paper.render import notes


@dataclass(frozen=True)
class Part:
    """One grid on the page.

    Attributes:
        anchor: the beginning of the ids of all that belongs to it.
        file: the grid file's name.
        baseline: the setting that the others are compared with.
        labels: of settings that have one, what they are called.
        sentences: what was compared, and what is ahead by how much.
        missing: runs, figures and pictures that are not there, one line each, with the reason.
        notes: what the numbers and marks of the tables mean.
    """

    anchor: str
    title: str
    file: str
    baseline: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    sentences: Sequence[str] = ()
    missing: Sequence[str] = ()
    tables: Sequence[TableView] = ()
    published: PublishedView | None = None
    notes: Sequence[str] = ()
    settings: Sequence[SettingView] = ()
    pictures: Sequence[Picture] = ()
    gallery: Gallery | None = None


def part_of(
    number: int, parts: int, stored: Evaluated, results: Path, from_summary: bool = False, out: Path | None = None
) -> Part:
    """A grid's part of the page.

    Args:
        number: its place among the page's parts, from 0.
        parts: how many there are; they share the page's room for pictures.
        results: the results folder.
        from_summary: read no run folder, image or mask: there is a kept summary alone.
        out: where figures that are not up to date are drawn first; None: in the results folder.
    """
    anchor, table = f"g{number}", lay_out(stored)
    settings = settings_of(anchor, stored, None if from_summary else results)
    drawn, not_drawn = pictures(stored, results, from_summary, parts, out)
    expressions = gallery(stored, None if from_summary else results, parts)
    return Part(
        anchor=anchor,
        title=stored.grid.title,
        file=stored.grid.file.name,
        baseline=stored.grid.baseline,
        labels=stored.grid.labels,
        sentences=[*sentences(stored, table), hours_taken(settings)],
        missing=[*missing(stored, from_summary), *not_drawn, *expressions.missing],
        tables=tables(table, {setting.name: setting.anchor for setting in settings}),
        published=published_view(table),
        notes=notes(table),
        settings=settings,
        pictures=drawn,
        gallery=expressions,
    )


def empty_part(number: int, grid: Grid, reason: str) -> Part:
    """The part of a grid of which nothing is completed yet."""
    return Part(f"g{number}", grid.title, grid.file.name, missing=[reason])

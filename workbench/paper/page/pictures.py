"""The grid's figures inside the page, as PNG in data: addresses."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from workbench.errors import WorkbenchError
from workbench.files import open_file
from workbench.grids.evaluated import Evaluated
from workbench.paper.artefacts import current_files, draw_figure
from workbench.paper.figures import figures
from workbench.paper.page.thumbnails import data_address, encoded

FIGURE_BYTES = 5_000_000
"""Of all figures on a page."""
WIDEST = 1400
"""Pixels across; a wider figure is reduced."""


@dataclass(frozen=True)
class Picture:
    """A figure, its caption, and its size in pixels."""

    name: str
    caption: str
    address: str
    width: int
    height: int


def pictures(
    stored: Evaluated, results: Path, from_summary: bool, parts: int, out: Path | None = None
) -> tuple[list[Picture], list[str]]:
    """The figures of a grid, drawn first where they are not up to date; and a line for each that there is none of.

    Args:
        from_summary: only those that need no run folders.
        parts: how many grids share the page's room.
        out: in whose folder of the grid they are drawn, where that is not the results folder.
    """
    drawn, not_drawn, room = [], [], FIGURE_BYTES // parts
    for name, drawing in figures.items():
        if from_summary and drawing.needs_runs:
            not_drawn.append(f"Figure {name}: it needs the run folders.")
            continue
        try:
            files = current_files(name, stored, results) or current_files(name, stored, results, out=out)
            files = files or draw_figure(name, stored, results, from_summary, out=out)
        except WorkbenchError as error:
            why = str(error).removeprefix(f"{stored.grid.file}: no figure {name}: ")
            not_drawn.append(f"Figure {name}: {why}")
            continue
        pages = [file for file in files if file.suffix == ".png"]
        picture = _picture(name, pages)
        if len(picture.address) > room:
            not_drawn.append(f"Figure {name}: too large for this page; it is {pages[0].parent.name}/{pages[0].name}.")
            continue
        room -= len(picture.address)
        drawn.append(picture)
    return drawn, not_drawn


def _picture(name: str, pages: Sequence[Path]) -> Picture:
    """The first page of a figure; its caption says how many there are."""
    with open_file(pages[0]) as stream, Image.open(stream) as opened:
        image = opened.convert("RGB")
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    caption = _caption(name) + (f" Page 1 of {len(pages)}; all are in {name}.pdf." if len(pages) > 1 else "")
    return Picture(name, caption, data_address(encoded(image, "png"), "png"), image.width, image.height)


def _caption(name: str) -> str:
    """What the figure shows, as the module that draws it says in its first sentence."""
    module = inspect.getmodule(figures[name].draw)
    text = inspect.getdoc(module) if module is not None else None
    return (text or name).split("\n\n")[0].replace("\n", " ")

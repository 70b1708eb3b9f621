"""How every figure looks: sizes, fonts, colours that colour-blind readers can tell apart, and the note beside it."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from workbench.files import replacing, write_text

PALETTE = ("#999999", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#D55E00")
"""Okabe and Ito's colours; grey comes first, for a baseline."""
ERROR = "#D55E00"
PREDICTION = "#0072B2"
DARK = ("#0072B2",)
"""Colours of the palette that take white text."""
ROLES = {"image": "#A9D4EE", "words": "#F2B64A", "made": "#3FA37C", "decoder": "#DDA3C3", "added": "#B0568A"}
"""Of diagrams, light enough for black text but the last: image tokens, words, weights that make words into tokens, the
mask decoder, its layers past SAM's own."""
FROZEN = "#8C8C8C"
"""The hatching of what does not learn, on `PAPER`; so it is told by its pattern, not by its colour."""
PAPER = "#F4F4F4"
INK = "#333333"
"""Lines and edges of diagrams."""
WIDTHS = {1: 3.25, 2: 6.875}
"""Inches: one column and two of CVPR's page."""
WIDTH = WIDTHS[2]
PAGE = 8.8
"""Inches: the highest that a page of a figure may be."""
MARGIN = 0.05
"""Inches around all that is drawn."""
SMALL = 7
"""Points: of labels and captions; all else has 8."""

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "text.parse_math": False,  # sentences and names may hold dollars
    "pdf.fonttype": 42,
    "hatch.linewidth": 0.5,
}


P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorator: draw in this style, and leave the caller's as it was."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(RC):
            return draw(*args, **kwargs)

    return inside


def new_figure(height: float, images: bool = False) -> Figure:
    """An empty figure, `WIDTH`×height inches, laid out for axes of a fixed aspect (`images`) or for free ones."""
    return Figure(figsize=(WIDTH, height), layout="compressed" if images else "constrained")


def line_height(size: float) -> float:
    """Inches from one line of text to the next."""
    return 1.25 * size / 72


def text_width(text: str, size: float, families: tuple[str, ...] = ()) -> float:
    """Inches that a line of text takes in this style's font, or in those families."""
    return _points(text, families) * size / 10 / 72


@functools.lru_cache(maxsize=4096)
def _points(text: str, families: tuple[str, ...]) -> float:
    """At ten points. A space at the end counts as nothing, as where it is drawn."""
    font = FontProperties(family=list(families) or RC["font.family"], size=10)
    # The vertices hold the curves between them; the extents of each curve take ten times as long.
    return float(TextPath((0, 0), text, prop=font).vertices[:, 0].max()) if text.strip() else 0.0


def wrapped(text: str, width: float, size: float, families: tuple[str, ...] = ()) -> str:
    """A text in lines of at most `width` inches. See `text_width`.

    A word that is longer is broken after one of `_=/,`, as between a setting's field and its value, and only where that
    is not enough, between letters.
    """
    # On a screen, letters are moved to whole pixels, which makes lines up to two per cent longer.
    width = 0.98 * width
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if text_width(joined, size, families) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for part in re.split("(?<=[_=/,])", word):
            # Letter by letter, a part fills what is left of a line only where no line holds it whole.
            for piece in part if text_width(part, size, families) > width else [part]:
                if lines[-1] and text_width(lines[-1] + piece, size, families) > width:
                    lines.append("")
                lines[-1] += piece
    return "\n".join(lines)


def save_picture(pages: Figure | Sequence[Figure], folder: Path, name: str) -> list[Path]:
    """Write NAME.png, NAME-2.png and so on for further pages, and NAME.pdf of all; the same figure, the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    every = [pages] if isinstance(pages, Figure) else list(pages)
    pictures = [
        folder / (f"{name}-{number}.png" if number > 1 else f"{name}.png") for number in range(1, len(every) + 1)
    ]
    for stale in page_files(folder, name):
        if stale not in pictures:
            stale.unlink()
    file = folder / f"{name}.pdf"
    metadata = {"CreationDate": None, "Producer": None, "Creator": None}
    with replacing(file) as whole, PdfPages(whole, metadata=metadata) as document:
        for page, picture in zip(every, pictures, strict=True):
            with replacing(picture) as partial:
                page.savefig(partial, format="png", metadata={"Software": None})
            document.savefig(page)
    return [*pictures, file]


def page_files(folder: Path, name: str) -> list[Path]:
    """The PNG files of a figure's further pages that are there."""
    further = (folder / f"{name}-{number}.png" for number in itertools.count(2))
    return list(itertools.takewhile(Path.is_file, further))


def save(figure: Figure, folder: Path, name: str, source: Mapping[str, Any]) -> list[Path]:
    """Write NAME.png, NAME.pdf and NAME.json.

    Args:
        source: all that tells where the figure comes from, as plain JSON.
    """
    files = [*save_picture(figure, folder, name), folder / f"{name}.json"]
    write_text(files[-1], json.dumps(source, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return files

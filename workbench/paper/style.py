"""How every figure looks: sizes, fonts, colours that colour-blind readers can tell apart, and the note beside it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.figure import Figure

PALETTE = ("#999999", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#D55E00")
"""Okabe and Ito's colours; grey comes first, for a baseline."""
ERROR = "#D55E00"
PREDICTION = "#0072B2"
MAP = "viridis"
DARK = ("#0072B2",)
"""Colours of the palette that take white text."""
WIDTH = 7.0
"""Inches: the text width of a two-column page."""

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


def save_picture(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.pdf; the same figure writes the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.png", folder / f"{name}.pdf"]
    figure.savefig(files[0], metadata={"Software": None})
    figure.savefig(files[1], metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return files


def save(figure: Figure, folder: Path, name: str, source: Mapping[str, Any]) -> list[Path]:
    """Write NAME.png, NAME.pdf and NAME.json.

    Args:
        source: all that tells where the figure comes from, as plain JSON.
    """
    files = [*save_picture(figure, folder, name), folder / f"{name}.json"]
    files[-1].write_text(json.dumps(source, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return files

"""How every figure looks: sizes, fonts, colours that colour-blind readers can tell apart, and what is written beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

PALETTE = ("#999999", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#D55E00")
"""Okabe and Ito's colours; grey comes first, for a baseline."""
ERROR = "#D55E00"
MAP = "viridis"
WIDTH = 7.0
"""Inches: the text width of a two-column page."""

RC: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
}


def new_figure(height: float) -> Figure:
    """An empty figure, `WIDTH`×height inches; no window belongs to it."""
    with mpl.rc_context(dict(RC)):
        return Figure(figsize=(WIDTH, height), layout="constrained")


def save(figure: Figure, folder: Path, name: str, source: Mapping[str, Any]) -> list[Path]:
    """Write NAME.png, NAME.pdf and NAME.json; the same input writes the same bytes.

    Args:
        source: runs, images, expressions, scale: all that tells where the figure comes from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{ending}" for ending in ("png", "pdf", "json")]
    with mpl.rc_context(dict(RC)):
        figure.savefig(files[0], metadata={"Software": None})
        figure.savefig(files[1], metadata={"CreationDate": None, "Producer": None, "Creator": None})
    files[2].write_text(json.dumps(source, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return files

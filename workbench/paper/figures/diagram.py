"""What diagrams of models are drawn with, in inches from the top left: boxes, arrows, glyphs of parts, and the key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from workbench.paper.anatomy import Anatomy
from workbench.paper.style import FROZEN, INK, MARGIN, PAPER, ROLES, SMALL, line_height, text_width, wrapped

Point = tuple[float, float]
GLYPHS = {"projection": "s", "cross-attention": "D", "learned tokens": "o"}
"""By part of a fusion variant: the marker that stands for it."""
OTHER_GLYPHS = ("p", "^", "h", "v")
"""Of parts that only a new variant has."""
UNDRAWN = ("norm",)
"""Parts too small to have a glyph of their own."""
SWATCH = 0.17
"""Inches: the width of a swatch in the key."""


def glyph_of(part: str, parts: Sequence[str]) -> str:
    """The marker of a part among all that a figure shows."""
    others = [one for one in parts if one not in GLYPHS and one not in UNDRAWN]
    return GLYPHS.get(part) or OTHER_GLYPHS[others.index(part) % len(OTHER_GLYPHS)]


@dataclass(frozen=True)
class Look:
    """How a box is filled: its role's colour, or the hatching of what does not learn."""

    role: str
    frozen: bool = False

    @property
    def colour(self) -> str:
        """Of the face."""
        return PAPER if self.frozen else ROLES.get(self.role, "white")


class Canvas:
    """A figure to draw on."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height))
        self.width, self.height = width, height
        self._axes = self.figure.add_axes((0, 0, 1, 1))
        self._axes.set(xlim=(0, width), ylim=(height, 0))
        self._axes.set_axis_off()

    def box(self, left: float, top: float, width: float, height: float, look: Look, line: float = 0.6) -> None:
        """A rectangle with rounded corners."""
        corner = min(0.03, width / 4, height / 4)
        self._axes.add_patch(
            FancyBboxPatch(
                (left + corner, top + corner), width - 2 * corner, height - 2 * corner, linewidth=0,
                boxstyle=f"round,pad={corner},rounding_size={corner}", facecolor=look.colour, edgecolor=FROZEN,
                hatch="/////" if look.frozen else None, zorder=2,
            )
        )  # fmt: skip
        self._axes.add_patch(
            FancyBboxPatch(
                (left + corner, top + corner), width - 2 * corner, height - 2 * corner, linewidth=line,
                boxstyle=f"round,pad={corner},rounding_size={corner}", facecolor="none", edgecolor=INK, zorder=3,
            )
        )  # fmt: skip

    def cell(self, left: float, top: float, width: float, height: float, look: Look, line: float = 0.4) -> None:
        """A rectangle with sharp corners, for small things side by side."""
        self._axes.add_patch(
            Rectangle(
                (left, top), width, height, facecolor=look.colour, edgecolor=FROZEN, linewidth=0, zorder=4,
                hatch="//////" if look.frozen else None,
            )
        )  # fmt: skip
        self._axes.add_patch(
            Rectangle((left, top), width, height, facecolor="none", edgecolor=INK, linewidth=line, zorder=5)
        )

    def line(self, *points: Point, width: float = 0.8, above: bool = False) -> None:
        """A line through points, behind boxes or above them."""
        across, down = zip(*points, strict=True)
        self._axes.plot(
            across, down, color=INK, linewidth=width, zorder=6 if above else 1, solid_capstyle="butt",
            solid_joinstyle="round",
        )  # fmt: skip

    def arrow(self, start: Point, end: Point, width: float = 0.8, head: float = 5.0) -> None:
        """A straight arrow; its tip is at `end`."""
        self._axes.add_patch(
            FancyArrowPatch(
                start, end, arrowstyle="-|>", mutation_scale=head, linewidth=width, color=INK, shrinkA=0, shrinkB=0,
                joinstyle="miter", capstyle="butt", zorder=6,
            )
        )  # fmt: skip

    def glyph(self, x: float, y: float, marker: str, size: float, frozen: bool = False) -> None:
        """A part of a fusion variant: a marker of so many inches."""
        size *= 0.8 if marker == "D" else 1.0  # which is measured along its sides
        self._axes.plot(
            [x], [y], marker, markersize=72 * size, markerfacecolor=PAPER if frozen else ROLES["made"],
            markeredgecolor=FROZEN if frozen else INK, markeredgewidth=0.5, zorder=7, linestyle="none",
        )  # fmt: skip
        if frozen:  # markers have no hatching
            reach = 0.3 * size
            self._axes.plot([x - reach, x + reach], [y + reach, y - reach], color=FROZEN, linewidth=0.7, zorder=8)

    def text(
        self, x: float, y: float, text: str, size: float = SMALL, align: str = "center", down: str = "center",
        turned: bool = False, bold: bool = False,
    ) -> None:  # fmt: skip
        """A text at a point; `down` is center, top, bottom or baseline."""
        self._axes.text(
            x, y, text, fontsize=size, ha=align, va=down, rotation=90 if turned else 0, linespacing=1.1,
            weight="bold" if bold else "normal", zorder=9,
        )  # fmt: skip

    def backing(self, x: float, y: float, text: str, size: float = SMALL) -> None:
        """Paper behind a text that is to stand on hatching."""
        lines = text.split("\n")
        width, height = max(text_width(line, size) for line in lines) + 0.04, line_height(size) * len(lines)
        self._axes.add_patch(
            Rectangle((x - width / 2, y - height / 2), width, height, facecolor=PAPER, linewidth=0, zorder=8)
        )


@dataclass(frozen=True)
class Key:
    """One entry of the key: a box of a role, or a glyph, and what it means."""

    text: str
    role: str = ""
    glyph: str = ""
    frozen: bool = False

    @property
    def width(self) -> float:
        """In inches."""
        return SWATCH + 0.06 + text_width(self.text, SMALL) * 1.03 + 0.18


def key_of(anatomies: Sequence[Anatomy]) -> list[Key]:
    """What the figure's boxes and glyphs mean; only those that it has."""
    parts = parts_of(anatomies)
    made = [part for part in dict.fromkeys(("projection", *parts)) if part not in UNDRAWN]
    frozen = any(stage.is_frozen for anatomy in anatomies for stage in anatomy.stages.values())
    added = any(anatomy.added_decoder_layers for anatomy in anatomies)
    entries = [
        Key("image tokens of a block", "image"),
        Key("words that it reads beside them", "words") if any(anatomy.entries for anatomy in anatomies) else None,
        *(Key(_meaning(part, anatomies), glyph=glyph_of(part, parts)) for part in made),
        Key("mask decoder's layers", "decoder"),
        Key("those past SAM's own", "added") if added else None,
        Key("frozen", "image", frozen=True) if frozen else None,
    ]
    return [entry for entry in entries if entry is not None]


def parts_of(anatomies: Sequence[Anatomy]) -> list[str]:
    """The kinds of weights by which words become tokens, of all models of a figure."""
    return list(dict.fromkeys(part for anatomy in anatomies for part in anatomy.parts))


def _meaning(part: str, anatomies: Sequence[Anatomy]) -> str:
    if part != "cross-attention":
        return part
    readers = [entry.reads for anatomy in anatomies for entry in anatomy.entries if part in {*entry.own, *entry.shared}]
    to_image = ["image" in reads for reads in readers]
    return f"{part} to the image" if all(to_image) else part if any(to_image) else f"{part} to the last block's words"


def key_lines(entries: Sequence[Key], width: float) -> list[list[Key]]:
    """The entries in lines of at most so many inches."""
    lines: list[list[Key]] = [[]]
    for entry in entries:
        if lines[-1] and sum(one.width for one in (*lines[-1], entry)) > width:
            lines.append([])
        lines[-1].append(entry)
    return lines


class Foot:
    """The key and the caption, below everything on each page."""

    def __init__(self, entries: Sequence[Key], caption: str, width: float) -> None:
        self._lines = key_lines(entries, width - 2 * MARGIN)
        self._caption = wrapped(caption, width - 2 * MARGIN, SMALL)
        self.key_height = 0.16 * len(self._lines) + 0.06
        self.height = self.key_height + line_height(SMALL) * (self._caption.count("\n") + 1) + MARGIN

    def draw(self, canvas: Canvas, top: float) -> None:
        """From `top` on."""
        for number, line in enumerate(self._lines):
            y, x = top + 0.08 + 0.16 * number, MARGIN
            for entry in line:
                if entry.glyph:
                    canvas.glyph(x + SWATCH / 2, y, entry.glyph, 0.085)
                else:
                    canvas.cell(x, y - 0.05, SWATCH, 0.1, Look(entry.role, entry.frozen))
                canvas.text(x + SWATCH + 0.06, y, entry.text, align="left")
                x += entry.width
        canvas.text(MARGIN, top + self.key_height, self._caption, align="left", down="top")


def short_count(weights: int) -> str:
    """A number of weights in three digits or so: 590 k, 7.1 M, 307 M."""
    if weights < 1000:
        return str(weights)
    thousands = weights / 1000
    if thousands < 999.5:
        return f"{thousands:.3g} k"
    millions = weights / 1_000_000
    return f"{millions:.1f} M" if millions < 99.95 else f"{millions:.0f} M"

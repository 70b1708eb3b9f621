"""Text that can be drawn: fonts that have its characters, and a visible escape for each that no font here has."""

from __future__ import annotations

import functools
import unicodedata

from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font

from workbench.paper.style import RC, wrapped

FIRST = str(RC["font.family"])
BOXES = "Last Resort"
"""Fonts of this name have a box for every character."""


def drawable(text: str) -> tuple[str, list[str]]:
    """The text with ‹U+…› in place of what no font can draw, and the font families that it needs.

    The figures' own font comes first; of the machine's others, those are named that have what it lacks.
    """
    families, shown = [FIRST], []
    for character in text:
        family = _family_of(character)
        shown.append(f"‹U+{ord(character):04X}›" if family is None else character)
        if family is not None and family not in families:
            families.append(family)
    return "".join(shown), families


def fitted(text: str, width: float, size: float) -> str:
    """The text as `drawable` shows it, in lines of at most `width` inches."""
    shown, families = drawable(" ".join(text.split()))
    return wrapped(shown, width, size, tuple(families))


def families_of(text: str) -> list[str]:
    """The font families that a text needs, which `drawable` has shown or `fitted` put into lines."""
    return drawable(" ".join(text.split()))[1]


def is_right_to_left(text: str) -> bool:
    """Whether the first letter is of a script that is written from right to left."""
    directions = (unicodedata.bidirectional(character) for character in text)
    return next((direction in ("R", "AL") for direction in directions if direction in ("L", "R", "AL")), False)


@functools.cache
def _family_of(character: str) -> str | None:
    """The family of the first font that has a character; None where none has it, or it is invisible."""
    if character == " ":
        return FIRST
    if not character.isprintable():
        return None
    if ord(character) in _characters(findfont(FontProperties(family=FIRST))):
        return FIRST
    fonts = sorted({(font.name, font.fname) for font in fontManager.ttflist if BOXES not in font.name})
    return next((name for name, file in fonts if ord(character) in _characters(file)), None)


@functools.cache
def _characters(file: str) -> frozenset[int]:
    try:
        font = FT2Font(file)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):  # removed since it was listed, or of a kind that cannot be drawn
        return frozenset()

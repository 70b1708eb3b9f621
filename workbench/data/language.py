"""What the words of an expression tell: its mirror image, and whether it names places or relations."""

from __future__ import annotations

import re
from typing import Literal

_SWAP = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
_SIDE = re.compile(rf"\b({'|'.join(sorted(_SWAP, key=len, reverse=True))})\b")
_LETTERS = re.compile("(left|right)")
_RELATION = re.compile(
    r"\b((to the )?(left|right) of|above|below|under|over|beside|behind|between|near|in front of|"
    r"(next|closest|nearest) to)\b"
)
_PLACE = re.compile(
    r"\b(left|right|top|bottom|leftmost|rightmost|topmost|bottommost|highest|lowest|middle|center|centre|corner|"
    r"first|second|third|last|upper|lower|far|furthest)\b"
)


def swap_left_right(sentence: str, substrings: bool = False) -> str:
    """The sentence that fits the mirrored image.

    Args:
        substrings: exchange the letters wherever they occur, as the released code does, which turns bright into bleft.
    """
    pattern = _LETTERS if substrings else _SIDE
    return pattern.sub(lambda match: _SWAP[match[1]], sentence)


def expression_kind(sentence: str) -> Literal["attribute", "place", "relation"]:
    """`relation` to another object, absolute `place`, or only `attribute`; decided by words, so only approximate."""
    if _RELATION.search(sentence):
        return "relation"
    return "place" if _PLACE.search(sentence) else "attribute"


def length_of(sentence: str) -> int:
    """Number of words in an expression, separated by blanks."""
    return len(sentence.split())

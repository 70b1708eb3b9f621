"""What an expression of refshapes' second version asks for: its parts, who fits it, and by how much.

Reading a sentence back into its parts and answering it needs no picture, only the scene: this is what the shortcut
baselines of `workbench data probe` are made of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.data.scenes import COLOURS, NOUNS, PLACES, RADII, SHAPES, Shape

BETWEEN = 7.0
"""A shape is between two others if the way over it is at most this many pixels longer than the direct one."""

RELATIONS: dict[str, tuple[str, ...]] = {
    "nearest": ("nearest to", "closest to", "next to"),
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "between": ("between",),
}
SIDES: dict[str, tuple[int, int]] = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}
"""Relations that name a side: the axis (0 is x) and its direction."""
_RELATION_WORDS = {word: name for name, phrases in RELATIONS.items() for word in (phrases[0].split()[0],)} | {
    "closest": "nearest",
    "next": "nearest",
    "over": "above",
    "under": "below",
}
_PLACE_WORDS = {
    word: direction
    for direction, (_, _, phrasings) in PLACES.items()
    for phrasing in phrasings
    for word in phrasing.split()
    if word not in ("{}", "on", "at", "the", "to", "furthest")
}
Point = tuple[float, float]
ATTRIBUTES = frozenset((*RADII, *COLOURS, *SHAPES))


@dataclass(frozen=True)
class Query:
    """The parts of an expression.

    Attributes:
        head: size, colour and shape of the referent, as far as they are named.
        direction: a key of `PLACES`; the referent is the furthest of the head's shapes on that side.
        relation: a key of `RELATIONS`, to the anchors.
        anchors: the attributes of each.
    """

    head: tuple[str, ...]
    direction: str | None = None
    relation: str | None = None
    anchors: tuple[tuple[str, ...], ...] = ()

    @property
    def kind(self) -> str:
        """`attribute`, `place` or `relation`."""
        return "relation" if self.relation else "place" if self.direction else "attribute"


class Scene:
    """Shapes, and which of them have given attributes.

    Args:
        shapes: all of a picture's.
        half_planes: whether a side, as in "left of", is half of the picture, as in refshapes' first version, and not
            the quarter around that direction.
    """

    def __init__(self, shapes: Sequence[Shape], half_planes: bool = False) -> None:
        self.half_planes = half_planes
        self.shapes = tuple(shapes)
        self._attributes = [frozenset((s.size, s.colour, s.shape)) for s in shapes]
        self._matches: dict[tuple[str, ...], tuple[int, ...]] = {}

    def matches(self, attributes: tuple[str, ...]) -> tuple[int, ...]:
        """The indices of the shapes that have all of these attributes."""
        if attributes not in self._matches:
            named = frozenset(attributes)
            self._matches[attributes] = tuple(i for i, own in enumerate(self._attributes) if named <= own)
        return self._matches[attributes]


def slack(scene: Scene, query: Query) -> dict[int, float]:
    """By how many pixels each of the head's shapes fits the direction or relation; negative where it does not.

    Returns:
        Nothing where an anchor does not exist or is ambiguous; infinity for a query without direction or relation.
    """
    candidates = scene.matches(query.head)
    if query.direction is not None:
        axis, sign, _ = PLACES[query.direction]
        return _lead({i: sign * scene.shapes[i].position[axis] for i in candidates})
    if query.relation is None:
        return dict.fromkeys(candidates, math.inf)
    anchors = [scene.matches(attributes) for attributes in query.anchors]
    if any(len(anchor) != 1 for anchor in anchors):
        return {}
    indices = [anchor[0] for anchor in anchors]
    points = {i: scene.shapes[i].position for i in candidates if i not in indices}
    return _related(scene.half_planes, query.relation, points, [scene.shapes[i].position for i in indices])


def fitting(scene: Scene, query: Query) -> list[int]:
    """The shapes that a query fits; several where it is ambiguous."""
    return [i for i, by in slack(scene, query).items() if by > 0]


def parse(sentence: str) -> Query:
    """The parts of a sentence of refshapes.

    Raises:
        ValueError: a word that is not of the language.
    """
    words = [word for word in sentence.split() if word not in ("the", "of", *NOUNS)]
    for position, word in enumerate(words):
        following = words[position + 1 :]
        side = word == "to" and following[:1] in (["left"], ["right"]) and len(following) > 1
        bare_side = word in ("left", "right") and f"{word} of" in sentence
        if side or bare_side or (word in _RELATION_WORDS and word not in ("left", "right")):
            relation = following[0] if side else _RELATION_WORDS[word]
            tail = [w for w in (following[1:] if side else following) if w != "to"]
            return Query(_attributes(words[:position]), None, relation, _split(tail))
    directions = [_PLACE_WORDS[word] for word in words if word in _PLACE_WORDS]
    head = [word for word in words if word not in _PLACE_WORDS and word not in ("on", "at", "to", "furthest")]
    return Query(_attributes(head), directions[0] if directions else None)


def _split(words: list[str]) -> tuple[tuple[str, ...], ...]:
    if "and" not in words:
        return (_attributes(words),)
    middle = words.index("and")
    return _attributes(words[:middle]), _attributes(words[middle + 1 :])


def _attributes(words: Sequence[str]) -> tuple[str, ...]:
    for word in words:
        if word not in ATTRIBUTES:
            raise ValueError(f"{word!r} is not a word for a size, colour or shape of refshapes")
    return tuple(words)


def _lead(values: dict[int, float]) -> dict[int, float]:
    """How far each value lies above the greatest of the others."""
    return {
        i: value - max((other for j, other in values.items() if j != i), default=-math.inf)
        for i, value in values.items()
    }


def _related(half_planes: bool, relation: str, points: dict[int, Point], anchors: list[Point]) -> dict[int, float]:
    if relation == "nearest":
        return _lead({i: -math.dist(point, anchors[0]) for i, point in points.items()})
    if relation == "between":
        direct = math.dist(*anchors)
        return {
            i: BETWEEN + direct - sum(math.dist(point, anchor) for anchor in anchors) for i, point in points.items()
        }
    axis, sign = SIDES[relation]
    offsets = {i: (point[0] - anchors[0][0], point[1] - anchors[0][1]) for i, point in points.items()}
    return {i: sign * offset[axis] - (0.0 if half_planes else abs(offset[1 - axis])) for i, offset in offsets.items()}

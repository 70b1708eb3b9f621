"""How far one gets on refshapes without reading all of a sentence, and sentences of which one part is replaced.

A shortcut gives each shape of a scene a probability; its score on an expression is the probability of the referent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from workbench.data.paired_scenes import name_of, text_of
from workbench.data.queries import SIDES, Query, Scene, fitting
from workbench.data.scenes import COLOURS, HELD_OUT, PLACES, RADII, SHAPES, mask_of

Size = tuple[int, int]
"""Of the picture: width and height in pixels."""
Shortcut = Callable[[Scene, Query, Size], Sequence[int]]
"""The shapes that it cannot tell apart; it takes each with the same probability."""

Part = Literal["anchor", "attribute", "direction"]
PARTS: tuple[Part, ...] = ("anchor", "attribute", "direction")


def _all(scene: Scene, query: Query, size: Size) -> Sequence[int]:
    return range(len(scene.shapes))


def _largest(scene: Scene, query: Query, size: Size) -> Sequence[int]:
    areas = [int(mask_of(shape, *size).sum()) for shape in scene.shapes]
    return [i for i, area in enumerate(areas) if area == max(areas)]


def _central(scene: Scene, query: Query, size: Size) -> Sequence[int]:
    middle = np.array(size) / 2
    distances = [float(np.hypot(*(np.array(shape.position) - middle))) for shape in scene.shapes]
    return [int(np.argmin(distances))]


def _only(words: Sequence[str]) -> Shortcut:
    def solve(scene: Scene, query: Query, size: Size) -> Sequence[int]:
        return scene.matches(tuple(word for word in query.head if word in words))

    return solve


def _direction_only(scene: Scene, query: Query, size: Size) -> Sequence[int]:
    return _furthest(scene, range(len(scene.shapes)), query)


def _head_only(scene: Scene, query: Query, size: Size) -> Sequence[int]:
    return scene.matches(query.head)


def _no_anchor(scene: Scene, query: Query, size: Size) -> Sequence[int]:
    if query.relation is None:
        return fitting(scene, query)
    return _furthest(scene, scene.matches(query.head), query)


def _held_out(scene: Scene, query: Query, size: Size) -> Sequence[int]:
    held_out = [i for i, shape in enumerate(scene.shapes) if (shape.colour, shape.shape) in HELD_OUT]
    return held_out or range(len(scene.shapes))


def _furthest(scene: Scene, candidates: Sequence[int], query: Query) -> Sequence[int]:
    """The one that is furthest on the side that a query names; all of them where it names none."""
    if query.direction is not None:
        axis, sign, _ = PLACES[query.direction]
    elif query.relation in SIDES:
        axis, sign = SIDES[query.relation]
    else:
        return candidates
    return [max(candidates, key=lambda i: sign * scene.shapes[i].position[axis])]


SHORTCUTS: dict[str, Shortcut] = {
    "random object": _all,
    "largest object": _largest,
    "most central object": _central,
    "size word only": _only(tuple(RADII)),
    "colour word only": _only(tuple(COLOURS)),
    "shape word only": _only(SHAPES),
    "direction word only": _direction_only,
    "any held-out combination": _held_out,
}
"""Each ignores at least one part of every sentence."""
HEAD, NO_ANCHOR, FULL = "all but direction and anchor", "all but the anchor", "all that is written"
READERS: dict[str, Shortcut] = {
    HEAD: _head_only,
    NO_ANCHOR: _no_anchor,
    FULL: lambda scene, query, size: fitting(scene, query),
}
"""They read nearly all: the second ignores the anchor of a relation, and takes the furthest on the side it names."""


def probability(solver: Shortcut, scene: Scene, query: Query, target: int, size: Size) -> float:
    """How likely a solver takes the referent; shapes do not touch, so this is also its expected IoU."""
    chosen = solver(scene, query, size)
    return 1 / len(chosen) if target in chosen else 0.0


def replaced(rng: np.random.Generator, scene: Scene, query: Query, part: Part) -> tuple[Query, str] | None:
    """The query with another anchor, attribute or direction drawn at random, and its text; None where it has none."""
    changed = {"anchor": _other_anchor, "attribute": _other_attribute, "direction": _other_direction}[part](
        rng, scene, query
    )
    return None if changed is None else (changed, text_of(rng, changed))


def _other_anchor(rng: np.random.Generator, scene: Scene, query: Query) -> Query | None:
    names = [name for i in range(len(scene.shapes)) if (name := name_of(scene, i)) is not None]
    present = {scene.matches(anchor) for anchor in query.anchors}
    others = [name for name in names if scene.matches(name) not in present]
    if not query.anchors or len(others) < len(query.anchors):
        return None
    chosen = [others[i] for i in rng.permutation(len(others))[: len(query.anchors)]]
    return Query(query.head, None, query.relation, tuple(chosen))


def _other_attribute(rng: np.random.Generator, scene: Scene, query: Query) -> Query | None:
    options = []
    for place, word in enumerate(query.head):
        kind = next(words for words in (tuple(RADII), tuple(COLOURS), SHAPES) if word in words)
        seen = {value for shape in scene.shapes for value in (shape.size, shape.colour, shape.shape)}
        options += [(*query.head[:place], other, *query.head[place + 1 :]) for other in kind if other in seen - {word}]
    if not options:
        return None
    return Query(options[rng.integers(len(options))], query.direction, query.relation, query.anchors)


def _other_direction(rng: np.random.Generator, scene: Scene, query: Query) -> Query | None:
    if query.direction is not None:
        others = [direction for direction in PLACES if direction != query.direction]
        return Query(query.head, others[rng.integers(len(others))])
    if query.relation in SIDES:
        others = [side for side in SIDES if side != query.relation]
        return Query(query.head, None, others[rng.integers(len(others))], query.anchors)
    return None

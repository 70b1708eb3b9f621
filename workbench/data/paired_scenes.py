"""Expressions of refshapes' second version: in pairs that differ in one part and refer to different shapes.

A solver that does not read the part that differs gives both the same answer, so it is right for one at most. Besides,
every attribute that a sentence names is needed: without it, the head fits further shapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from workbench.data.queries import RELATIONS, Query, Scene, slack
from workbench.data.scenes import (
    COLOURS,
    HELD_OUT,
    MARGIN,
    NOUNS,
    PLACES,
    RADII,
    SHAPES,
    WORDS,
    Kind,
    Shape,
    place_shapes,
)

PAIRED_WORDS = sorted(
    {*WORDS, *" ".join(phrase for phrases in RELATIONS.values() for phrase in phrases).split(), "and"}
)
"""Every word of the language."""

Sentence = tuple[int, str]
"""The index of the shape that is referred to, and the text."""
Pair = tuple[tuple[int, Query], tuple[int, Query]]


def draw_paired_scene(rng: np.random.Generator, width: int, height: int, held_out: bool) -> list[Shape]:
    """Four to six shapes that do not touch, of two or three colours and two or three forms.

    Args:
        held_out: True puts at least two combinations of `HELD_OUT`, and others, into the scene; False admits none.
    """
    while True:
        shapes = rng.permutation(SHAPES)[: rng.integers(2, 4)]
        colours = rng.permutation(list(COLOURS))[: rng.integers(2, 4)]
        pairs = list(itertools.product(colours.tolist(), shapes.tolist()))
        if not held_out:
            pairs = [pair for pair in pairs if pair not in HELD_OUT]
        elif len(HELD_OUT.intersection(pairs)) < 2:
            continue
        scene = place_shapes(rng, pairs, int(rng.integers(4, 7)), width, height)
        combinations = {(s.colour, s.shape) for s in scene}
        if len(scene) >= 4 and (not held_out or (len(combinations & HELD_OUT) >= 2 and combinations - HELD_OUT)):
            return scene


def draw_pair(
    rng: np.random.Generator, shapes: list[Shape], kind: Kind, held_out: bool, single: bool = False
) -> tuple[Sentence, Sentence] | None:
    """Two sentences of that kind with different referents; None where the scene has none.

    Args:
        held_out: at least one of them names colour and shape of a combination of `HELD_OUT`.
        single: attributes may be named alone, where that is enough.
    """
    scene = Scene(shapes)
    if kind == "attribute":
        groups = _attribute_pairs(scene, 1 if single else 2)
    else:
        groups = {"place": _place_pairs, "relation": _relation_pairs}[kind](scene)
    if held_out:
        groups = [[pair for pair in group if any(_names_held_out(scene, *query) for query in pair)] for group in groups]
    groups = [group for group in groups if group]
    if not groups:
        return None
    group = groups[rng.integers(len(groups))]
    first, second = group[rng.integers(len(group))]
    return (first[0], text_of(rng, first[1])), (second[0], text_of(rng, second[1]))


def _names_held_out(scene: Scene, target: int, query: Query) -> bool:
    combination = (scene.shapes[target].colour, scene.shapes[target].shape)
    return combination in HELD_OUT and set(combination) <= set(query.head)


def _heads(scene: Scene) -> list[tuple[str, ...]]:
    """Attributes that fit some shape, each of them needed: without it, more shapes fit."""
    heads: dict[tuple[str, ...], None] = {}
    for shape in scene.shapes:
        for count in (1, 2, 3):
            for head in itertools.combinations((shape.size, shape.colour, shape.shape), count):
                fits = len(scene.matches(head))
                if all(len(scene.matches(head[:i] + head[i + 1 :])) > fits for i in range(count)):
                    heads[head] = None
    return list(heads)


def clear_referent(scene: Scene, query: Query) -> int | None:
    """The one shape that a query fits by at least `MARGIN` pixels while all others fail by as many; None without it."""
    by = slack(scene, query)
    fits = [i for i, pixels in by.items() if pixels > 0]
    return fits[0] if len(fits) == 1 and all(abs(pixels) >= MARGIN for pixels in by.values()) else None


def _attribute_pairs(scene: Scene, least: int) -> list[list[Pair]]:
    """Two heads of so many attributes or more that share all but one of them: colour, shape or size."""
    unique = [(head, fits[0]) for head in _heads(scene) if len(head) >= least and len(fits := scene.matches(head)) == 1]
    by_class: dict[str, list[Pair]] = {}
    for (head, target), (other_head, other) in itertools.combinations(unique, 2):
        differing = [(a, b) for a, b in zip(head, other_head, strict=False) if a != b]
        if len(head) == len(other_head) and len(differing) == 1 and _class(differing[0][0]) == _class(differing[0][1]):
            pair = ((target, Query(head)), (other, Query(other_head)))
            by_class.setdefault(_class(differing[0][0]), []).append(pair)
    return list(by_class.values())


def _place_pairs(scene: Scene) -> list[list[Pair]]:
    """The same head with two directions."""
    pairs: list[Pair] = []
    for head in _heads(scene):
        if len(scene.matches(head)) > 1:
            queries = [Query(head, direction=direction) for direction in PLACES]
            pairs += _different(scene, queries)
    return [pairs]


def _relation_pairs(scene: Scene) -> list[list[Pair]]:
    """The same head and relation with other anchors, none of them a referent of the two; a group per relation."""
    anchors = [names for i in range(len(scene.shapes)) if (names := name_of(scene, i)) is not None]
    groups = []
    for relation in RELATIONS:
        pairs: list[Pair] = []
        for head in _heads(scene):
            if len(scene.matches(head)) > 1:
                count = 2 if relation == "between" else 1
                queries = [Query(head, None, relation, chosen) for chosen in itertools.permutations(anchors, count)]
                pairs += [
                    pair for pair in _different(scene, queries) if not _anchors(scene, pair) & {p[0] for p in pair}
                ]
        groups.append(pairs)
    return groups


def _different(scene: Scene, queries: list[Query]) -> Iterator[Pair]:
    """Pairs of queries that refer clearly, and to different shapes."""
    clear = [(target, query) for query in queries if (target := clear_referent(scene, query)) is not None]
    return ((a, b) for a, b in itertools.permutations(clear, 2) if a[0] != b[0])


def _anchors(scene: Scene, pair: Pair) -> set[int]:
    return {scene.matches(names)[0] for _, query in pair for names in query.anchors}


def name_of(scene: Scene, index: int) -> tuple[str, ...] | None:
    """The shortest attributes that fit this shape alone, colour and shape before size; None where there are none."""
    shape = scene.shapes[index]
    options = (
        (shape.shape,), (shape.colour,), (shape.size,), (shape.colour, shape.shape), (shape.size, shape.shape),
        (shape.size, shape.colour), (shape.size, shape.colour, shape.shape),
    )  # fmt: skip
    return next((names for names in options if scene.matches(names) == (index,)), None)


def _class(word: str) -> str:
    return "size" if word in RADII else "colour" if word in COLOURS else "shape"


def text_of(rng: np.random.Generator, query: Query) -> str:
    """A sentence for a query, its wording drawn at random."""
    phrase = _noun_phrase(rng, query.head)
    if query.direction is not None:
        phrasings = PLACES[query.direction][2]
        phrase = phrasings[rng.integers(len(phrasings))].format(phrase)
    elif query.relation is not None:
        phrases = RELATIONS[query.relation]
        anchors = " and ".join(f"the {_noun_phrase(rng, names)}" for names in query.anchors)
        phrase = f"{phrase} {phrases[rng.integers(len(phrases))]} {anchors}"
    return f"the {phrase}" if rng.random() < 0.4 else phrase


def _noun_phrase(rng: np.random.Generator, attributes: tuple[str, ...]) -> str:
    noun = () if attributes and attributes[-1] in SHAPES else (NOUNS[rng.integers(len(NOUNS))],)
    return " ".join((*attributes, *noun))

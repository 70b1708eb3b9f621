"""The scenes of refshapes: coloured shapes on a plain background, their exact masks, and sentences that fit just one.

This module makes shapes and sentences; `refshapes` writes them to disk in RefCOCO's format.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "green": (44, 150, 60),
    "blue": (40, 90, 200),
    "yellow": (240, 205, 40),
    "purple": (140, 70, 180),
    "orange": (245, 130, 30),
}
RADII = {"small": (5.0, 6.0), "large": (9.0, 10.5)}
"""Half the height of a shape, in pixels."""
HELD_OUT = frozenset({("red", "triangle"), ("blue", "cross"), ("green", "circle"), ("yellow", "square")})
"""Combinations of colour and shape that only testC shows."""

MARGIN = 3.0
"""By how many pixels a place or a relation must hold for the referent and fail for every other candidate."""

Kind = Literal["attribute", "place", "relation"]
KINDS: tuple[Kind, ...] = ("attribute", "place", "relation")

PLACES: dict[str, tuple[int, int, tuple[str, ...]]] = {
    # direction: (axis, sign, phrasings); axis 0 is x, and sign -1 means the smallest wins.
    "left": (0, -1, ("leftmost {}", "{} on the left", "left {}", "{} furthest to the left")),
    "right": (0, 1, ("rightmost {}", "{} on the right", "right {}", "{} furthest to the right")),
    "top": (1, -1, ("topmost {}", "{} at the top", "top {}", "highest {}")),
    "bottom": (1, 1, ("bottommost {}", "{} at the bottom", "bottom {}", "lowest {}")),
}
RELATIONS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "left": (0, -1, ("left of", "to the left of")),
    "right": (0, 1, ("right of", "to the right of")),
    "above": (1, -1, ("above", "over")),
    "below": (1, 1, ("below", "under")),
}
NOUNS = ("object", "thing")
WORDS = sorted(
    {
        *SHAPES, *COLOURS, *RADII, *NOUNS, "the",
        *" ".join(phrase for _, _, phrases in (*PLACES.values(), *RELATIONS.values()) for phrase in phrases)
        .replace("{}", "").split(),
    }
)  # fmt: skip
"""Every word of the language."""


@dataclass(frozen=True)
class Shape:
    """One object: `x`, `y` is its centre and `radius` half its height, in pixels."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float

    @property
    def position(self) -> tuple[float, float]:
        """Centre (x, y)."""
        return self.x, self.y


def mask_of(shape: Shape, width: int, height: int) -> NDArray[np.bool_]:
    """Pixels whose centre lies inside the shape, height×width."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    x, y, r = x - shape.x, y - shape.y, shape.radius
    if shape.shape == "circle":
        inside = x**2 + y**2 <= r**2
    elif shape.shape == "square":
        inside = np.maximum(abs(x), abs(y)) <= 0.88 * r
    elif shape.shape == "triangle":
        inside = (y <= r * 0.8) & (2 * abs(x) <= (y + r) * 1.1)
    else:
        arm = 0.36 * r
        inside = (np.minimum(abs(x), abs(y)) <= arm) & (np.maximum(abs(x), abs(y)) <= r)
    return np.asarray(inside, dtype=np.bool_)


def draw_scene(rng: np.random.Generator, width: int, height: int, held_out: bool) -> list[Shape]:
    """Three to six shapes that do not touch, alike enough that words are needed to tell them apart.

    Args:
        held_out: True puts at least one combination of `HELD_OUT` into the scene, False admits none.
    """
    while True:
        shapes = rng.permutation(SHAPES)[: rng.integers(2, 4)]
        colours = rng.permutation(list(COLOURS))[: rng.integers(2, 4)]
        pairs = list(itertools.product(colours.tolist(), shapes.tolist()))
        if not held_out:
            pairs = [pair for pair in pairs if pair not in HELD_OUT]
        elif not HELD_OUT.intersection(pairs):
            continue
        placed = place_shapes(rng, pairs, int(rng.integers(3, 7)), width, height)
        if len(placed) >= 3 and (not held_out or any((o.colour, o.shape) in HELD_OUT for o in placed)):
            return placed


def place_shapes(
    rng: np.random.Generator, pairs: list[tuple[str, str]], count: int, width: int, height: int
) -> list[Shape]:
    """Up to `count` shapes that do not touch, each of one of these pairs of colour and shape."""
    placed: list[Shape] = []
    for _ in range(count):
        colour, shape = pairs[rng.integers(len(pairs))]
        size = ("small", "large")[rng.integers(2)]
        radius = float(rng.uniform(*RADII[size]))
        for _ in range(20):
            x = float(rng.uniform(radius + 1, width - radius - 1))
            y = float(rng.uniform(radius + 1, height - radius - 1))
            if all(np.hypot(x - o.x, y - o.y) > 1.15 * (radius + o.radius) for o in placed):
                placed.append(Shape(shape, colour, size, x, y, radius))
                break
    return placed


def paint(rng: np.random.Generator, scene: list[Shape], width: int, height: int) -> NDArray[np.uint8]:
    """The picture of a scene, height×width×3: a background with a gradient, each shape slightly off its colour."""
    ground = rng.integers(70, 190, 3) // 3 + rng.integers(40, 110)
    slope = rng.uniform(-25, 25, 2)
    y, x = np.mgrid[0:height, 0:width]
    picture = ground + (slope[0] * (x / width - 0.5) + slope[1] * (y / height - 0.5))[..., None]
    for shape in scene:
        picture[mask_of(shape, width, height)] = np.array(COLOURS[shape.colour]) + rng.integers(-18, 19, 3)
    return np.asarray(picture.round().clip(0, 255), dtype=np.uint8)


def describe(rng: np.random.Generator, scene: list[Shape], target: int, kind: Kind) -> str | None:
    """A sentence of that kind which fits the target and nothing else in the scene; None when there is none."""
    phrase = {"attribute": _attribute, "place": _place, "relation": _relation}[kind](rng, scene, target)
    if phrase is None:
        return None
    return f"the {phrase}" if rng.random() < 0.4 else phrase


def _phrases(shape: Shape, noun: str) -> list[tuple[str, tuple[str, ...]]]:
    """Every noun phrase that fits a shape, with the attributes it names."""
    phrases = []
    for use_size, use_colour, use_shape in itertools.product((False, True), repeat=3):
        words = [shape.size] * use_size + [shape.colour] * use_colour + [shape.shape if use_shape else noun]
        named = (shape.size,) * use_size + (shape.colour,) * use_colour + (shape.shape,) * use_shape
        phrases.append((" ".join(words), named))
    return phrases


def _matches(shape: Shape, named: tuple[str, ...]) -> bool:
    return set(named) <= {shape.size, shape.colour, shape.shape}


def _choose(rng: np.random.Generator, scene: list[Shape], target: int, unique: bool) -> tuple[str, list[int]] | None:
    """A noun phrase for the target that fits only it (unique) or also others, and which shapes it fits."""
    options = []
    for words, named in _phrases(scene[target], NOUNS[rng.integers(len(NOUNS))]):
        fits = [i for i, shape in enumerate(scene) if _matches(shape, named)]
        if (len(fits) == 1) == unique:
            options.append((words, fits))
    return options[rng.integers(len(options))] if options else None


def _attribute(rng: np.random.Generator, scene: list[Shape], target: int) -> str | None:
    chosen = _choose(rng, scene, target, unique=True)
    return chosen[0] if chosen else None


def _place(rng: np.random.Generator, scene: list[Shape], target: int) -> str | None:
    chosen = _choose(rng, scene, target, unique=False)
    if chosen is None:
        return None
    words, fits = chosen
    for direction in rng.permutation(list(PLACES)):
        axis, sign, phrasings = PLACES[direction]
        ahead = [
            sign * (scene[target].position[axis] - scene[other].position[axis]) for other in fits if other != target
        ]
        if min(ahead) >= MARGIN:
            return phrasings[rng.integers(len(phrasings))].format(words)
    return None


def _relation(rng: np.random.Generator, scene: list[Shape], target: int) -> str | None:
    chosen = _choose(rng, scene, target, unique=False)
    if chosen is None:
        return None
    words, fits = chosen
    for anchor in rng.permutation(len(scene)):
        if anchor == target:
            continue
        named = _choose(rng, scene, int(anchor), unique=True)
        if named is None:
            continue
        for relation in rng.permutation(list(RELATIONS)):
            axis, sign, phrasings = RELATIONS[relation]
            ahead = {i: sign * (scene[i].position[axis] - scene[anchor].position[axis]) for i in fits if i != anchor}
            others = [distance for i, distance in ahead.items() if i != target]
            # At least one other candidate must be ruled out by the relation, or naming it would be redundant.
            if others and ahead[target] >= MARGIN and max(others) <= -MARGIN:
                return f"{words} {phrasings[rng.integers(len(phrasings))]} the {named[0]}"
    return None


def describe_several(rng: np.random.Generator, scene: list[Shape]) -> tuple[str, list[int]] | None:
    """A sentence for two shapes or more, and their indices; it names what they share, or one after the other."""
    groups = []
    for target in range(len(scene)):
        for _, named in _phrases(scene[target], NOUNS[0]):
            fits = [i for i, shape in enumerate(scene) if _matches(shape, named)]
            if named and 2 <= len(fits) < len(scene) and (named, fits) not in groups:
                groups.append((named, fits))
    if groups and rng.random() < 0.5:
        named, fits = groups[rng.integers(len(groups))]
        noun = named[-1] if named[-1] in SHAPES else NOUNS[rng.integers(len(NOUNS))]
        words = [*(word for word in named if word != noun), _plural(noun)]
        starts = ("all", "both", "the two") if len(fits) == 2 else ("all", "all the")
        return f"{starts[rng.integers(len(starts))]} {' '.join(words)}", fits
    pair = [int(i) for i in rng.permutation(len(scene))[:2]]
    phrases = [_choose(rng, scene, target, unique=True) for target in pair]
    if phrases[0] is None or phrases[1] is None:
        return None
    return f"the {phrases[0][0]} and the {phrases[1][0]}", sorted(pair)


def describe_nothing(rng: np.random.Generator, scene: list[Shape], held_out: bool) -> str | None:
    """A sentence that fits no shape, though its colour and its shape each occur in the scene where possible.

    Args:
        held_out: whether combinations of `HELD_OUT` may be named.
    """
    colours, shapes = {o.colour for o in scene}, {o.shape for o in scene}
    present = {(o.colour, o.shape) for o in scene}
    near = sorted(set(itertools.product(colours, shapes)) - present)
    far = sorted(set(itertools.product(COLOURS, SHAPES)) - present)
    options = [pair for pair in (near or far) if held_out or pair not in HELD_OUT]
    if not options:
        return None
    colour, shape = options[rng.integers(len(options))]
    size = [("small", "large")[rng.integers(2)]] if rng.random() < 0.3 else []
    return " ".join([*(["the"] if rng.random() < 0.4 else []), *size, colour, shape])


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"

from __future__ import annotations

import numpy as np
import pytest

from workbench.data.language import expression_kind, swap_left_right
from workbench.data.scenes import (
    COLOURS,
    HELD_OUT,
    KINDS,
    RADII,
    RELATIONS,
    SHAPES,
    WORDS,
    Kind,
    Shape,
    describe,
    draw_scene,
    mask_of,
)


def noun_fits(words: list[str], shape: Shape) -> bool:
    return all(w in ("object", "thing", shape.size, shape.colour, shape.shape) for w in words)


def meaning(sentence: str, scene: list[Shape]) -> list[int]:
    """Whom a sentence fits: an interpreter of the language, written apart from its maker."""
    words = [w for w in sentence.split() if w != "the"]
    for relation, (axis, sign, phrases) in RELATIONS.items():
        for phrase in sorted(phrases, key=len, reverse=True):
            marks = [w for w in phrase.split() if w != "the"]
            for i in range(1, len(words)):
                if words[i : i + len(marks)] != marks or (relation in ("left", "right") and "of" not in marks):
                    continue
                head, tail = words[:i], words[i + len(marks) :]
                anchors = [k for k, s in enumerate(scene) if noun_fits(tail, s)]
                assert len(anchors) == 1, f"the anchor of {sentence!r} is ambiguous"
                place = scene[anchors[0]].position[axis]
                return [
                    k
                    for k, s in enumerate(scene)
                    if k != anchors[0] and noun_fits(head, s) and sign * (s.position[axis] - place) > 0
                ]
    directions = {"left leftmost": (0, -1), "right rightmost": (0, 1), "top topmost highest": (1, -1)}
    directions["bottom bottommost lowest"] = (1, 1)
    extremes = {word: direction for names, direction in directions.items() for word in names.split()}
    places = [w for w in words if w in extremes]
    noun = [w for w in words if w not in extremes and w not in ("on", "at", "furthest", "to")]
    fits = [k for k, s in enumerate(scene) if noun_fits(noun, s)]
    if not places:
        return fits
    axis, sign = extremes[places[0]]
    return [max(fits, key=lambda k: sign * scene[k].position[axis])]


@pytest.mark.parametrize("kind", KINDS)
def test_every_sentence_fits_its_referent_and_nothing_else(kind: Kind) -> None:
    rng, found = np.random.default_rng(0), 0
    for _ in range(400):
        scene = draw_scene(rng, 64, 64, held_out=False)
        for target in range(len(scene)):
            sentence = describe(rng, scene, target, kind)
            if sentence is None:
                continue
            found += 1
            assert meaning(sentence, scene) == [target], (sentence, scene)
            assert set(sentence.split()) <= set(WORDS)
            assert expression_kind(sentence) == kind
            mirrored = [Shape(s.shape, s.colour, s.size, 64 - s.x, s.y, s.radius) for s in scene]
            assert meaning(swap_left_right(sentence), mirrored) == [target], sentence
    assert found > 300


def test_scenes_hold_out_combinations() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        assert not HELD_OUT & {(s.colour, s.shape) for s in draw_scene(rng, 64, 64, held_out=False)}
        assert HELD_OUT & {(s.colour, s.shape) for s in draw_scene(rng, 64, 64, held_out=True)}


def test_masks_are_inside_do_not_touch_and_differ_by_shape() -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        scene = draw_scene(rng, 80, 60, held_out=False)
        masks = [mask_of(s, 80, 60) for s in scene]
        assert all(m.any() and not m[0].any() and not m[:, -1].any() for m in masks)
        assert sum(m.astype(int) for m in masks).max() == 1  # type: ignore[union-attr]
    areas = [mask_of(Shape(s, "red", "large", 32, 32, 10), 64, 64).sum() for s in SHAPES]
    assert len(set(areas)) == len(SHAPES)
    assert mask_of(Shape("square", "red", "large", 32, 32, 10), 64, 64).sum() == 18**2


def test_the_language_is_as_rich_as_promised() -> None:
    assert len(SHAPES) >= 4
    assert len(COLOURS) >= 6
    assert len(RADII) >= 2
    (small, large) = RADII.values()
    assert small[1] < large[0]
    assert all(colour in COLOURS and shape in SHAPES for colour, shape in HELD_OUT)


@pytest.mark.parametrize(
    ("sentence", "swapped"),
    [
        ("the left one", "the right one"),
        ("Leftover man right of the leftmost car", "Leftover man left of the rightmost car"),
        ("left, then right", "right, then left"),
    ],
)
def test_flip_swaps_whole_words(sentence: str, swapped: str) -> None:
    assert swap_left_right(sentence) == swapped
    assert swap_left_right(swapped) == sentence


def test_kinds_of_real_sentences() -> None:
    kinds = [expression_kind(s) for s in ("man in red", "guy on far left", "chair next to the man", "bottom pizza")]
    assert kinds == ["attribute", "place", "relation", "place"]

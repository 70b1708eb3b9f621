from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from workbench.config import RefshapesRecipe
from workbench.data.language import expression_kind, swap_left_right
from workbench.data.paired_scenes import PAIRED_WORDS, draw_pair, draw_paired_scene
from workbench.data.queries import Scene, parse
from workbench.data.refshapes import SPLITS, scenes_of
from workbench.data.scenes import HELD_OUT, KINDS, Kind, Shape

NOUNS = ("object", "thing")


def named(words: list[str], scene: list[Shape]) -> list[int]:
    wanted = [w for w in words if w not in NOUNS]
    return [i for i, s in enumerate(scene) if all(w in (s.size, s.colour, s.shape) for w in wanted)]


def away(one: Shape, other: Shape) -> float:
    return math.dist((one.x, one.y), (other.x, other.y))


def meaning(sentence: str, scene: list[Shape]) -> list[int]:
    """Whom a sentence fits: an interpreter of the language, written apart from the one that the package has."""
    words = [w for w in sentence.split() if w not in ("the", "to", "of")]
    if "between" in words:
        cut, both = words.index("between"), words.index("and")
        [first], [second] = named(words[cut + 1 : both], scene), named(words[both + 1 :], scene)
        a, b = scene[first], scene[second]
        heads = [i for i in named(words[:cut], scene) if i not in (first, second)]
        return [i for i in heads if away(scene[i], a) + away(scene[i], b) - away(a, b) < 7]
    for mark in ("nearest", "closest", "next"):
        if mark in words:
            [anchor] = named(words[words.index(mark) + 1 :], scene)
            heads = [i for i in named(words[: words.index(mark)], scene) if i != anchor]
            return [min(heads, key=lambda i: away(scene[i], scene[anchor]))]
    sides = {"left": 180, "right": 0, "above": 90, "over": 90, "below": 270, "under": 270}
    related = " of the " in sentence or any(w in words for w in ("above", "over", "below", "under"))
    if related:
        cut = next(i for i, w in enumerate(words) if w in sides)
        [anchor] = named(words[cut + 1 :], scene)
        a = scene[anchor]
        fits = []
        for i in named(words[:cut], scene):
            angle = math.degrees(math.atan2(a.y - scene[i].y, scene[i].x - a.x)) % 360
            apart = abs((angle - sides[words[cut]] + 180) % 360 - 180)
            if i != anchor and apart < 45:
                fits.append(i)
        return fits
    ends = {
        "left leftmost": lambda s: s.x, "right rightmost": lambda s: -s.x,
        "top topmost highest": lambda s: s.y, "bottom bottommost lowest": lambda s: -s.y,
    }  # fmt: skip
    by_word = {word: key for names, key in ends.items() for word in names.split()}
    places = [w for w in words if w in by_word]
    heads = named([w for w in words if w not in by_word and w not in ("on", "at", "furthest")], scene)
    return [min(heads, key=lambda i: by_word[places[0]](scene[i]))] if places else heads


def pairs(kind: Kind, held_out: bool = False, scenes: int = 300) -> list[tuple[list[Shape], list[tuple[int, str]]]]:
    rng, drawn = np.random.default_rng(0), []
    for _ in range(scenes):
        scene = draw_paired_scene(rng, 64, 64, held_out)
        if pair := draw_pair(rng, scene, kind, held_out):
            drawn.append((scene, list(pair)))
    return drawn


@pytest.mark.parametrize("kind", KINDS)
def test_sentences_of_a_pair_fit_one_shape_each_and_not_the_same(kind: Kind) -> None:
    drawn = pairs(kind)
    assert len(drawn) > 60
    for scene, pair in drawn:
        assert pair[0][0] != pair[1][0]
        for target, sentence in pair:
            assert meaning(sentence, scene) == [target], (sentence, scene)
            assert set(sentence.split()) <= set(PAIRED_WORDS)
            assert expression_kind(sentence) == kind
            mirrored = [Shape(s.shape, s.colour, s.size, 64 - s.x, s.y, s.radius) for s in scene]
            assert meaning(swap_left_right(sentence), mirrored) == [target], sentence


def test_the_sentences_of_a_pair_differ_in_one_part() -> None:
    for kind in KINDS:
        for _, ((_, one), (_, other)) in pairs(kind, scenes=100):
            a, b = parse(one), parse(other)
            if kind == "attribute":
                assert len(set(a.head) - set(b.head)) == len(set(b.head) - set(a.head)) == 1
            else:
                assert (a.head, a.relation) == (b.head, b.relation)
                assert (a.direction != b.direction) is (kind == "place")
                assert (a.anchors != b.anchors) is (kind == "relation")


def test_every_attribute_is_needed() -> None:
    for kind in KINDS:
        for scene, pair in pairs(kind, scenes=100):
            for _, sentence in pair:
                head = list(parse(sentence).head)
                fits = len(named(head, scene))
                assert len(head) >= (2 if kind == "attribute" else 1)
                assert (fits == 1) is (kind == "attribute")
                for word in head:
                    assert len(named([w for w in head if w != word], scene)) > fits


def test_held_out_combinations_are_asked_about_beside_seen_ones() -> None:
    drawn = [one for kind in KINDS for one in pairs(kind, held_out=True, scenes=100)]
    targets = []
    for scene, pair in drawn:
        combinations = {(s.colour, s.shape) for s in scene}
        assert len(combinations & HELD_OUT) >= 2
        assert combinations - HELD_OUT
        held_out = [(scene[t].colour, scene[t].shape) in HELD_OUT for t, _ in pair]
        assert any(held_out)
        targets += held_out
    assert 0.5 < np.mean(targets) < 0.95
    rng = np.random.default_rng(1)
    for _ in range(100):
        assert not HELD_OUT & {(s.colour, s.shape) for s in draw_paired_scene(rng, 64, 64, False)}


def test_the_scenes_of_a_split_are_those_of_its_images() -> None:
    recipe = RefshapesRecipe(seed=3, train_images=4, eval_images=3, version=2)
    ids = [image for split in SPLITS for image, _ in scenes_of(recipe, split)]
    assert ids == list(range(1, 17))
    [(_, one), (_, other)] = itertools.islice(scenes_of(recipe, "val"), 2)
    assert one != other
    assert Scene(one).matches(()) == tuple(range(len(one)))

from __future__ import annotations

import math

import pytest

from workbench.data.queries import Query, Scene, fitting, parse, slack
from workbench.data.scenes import Shape


def shape(colour: str, form: str, x: float, y: float, size: str = "small") -> Shape:
    return Shape(form, colour, size, x, y, 5.0 if size == "small" else 10.0)


SCENE = Scene(
    [
        shape("red", "circle", 10, 10),
        shape("red", "circle", 50, 12, "large"),
        shape("blue", "circle", 30, 50),
        shape("green", "square", 30, 30),
        shape("red", "square", 52, 40),
    ]
)


@pytest.mark.parametrize(
    ("sentence", "query"),
    [
        ("the large red circle", Query(("large", "red", "circle"))),
        ("red thing", Query(("red",))),
        ("leftmost circle", Query(("circle",), "left")),
        ("the circle on the right", Query(("circle",), "right")),
        ("left red circle", Query(("red", "circle"), "left")),
        ("circle furthest to the left", Query(("circle",), "left")),
        ("lowest object", Query((), "bottom")),
        ("circle to the left of the green square", Query(("circle",), None, "left", (("green", "square"),))),
        ("circle right of the small thing", Query(("circle",), None, "right", (("small",),))),
        ("the circle under the square", Query(("circle",), None, "below", (("square",),))),
        ("circle next to the cross", Query(("circle",), None, "nearest", (("cross",),))),
        ("circle closest to the red thing", Query(("circle",), None, "nearest", (("red",),))),
        (
            "the circle between the red square and the green square",
            Query(("circle",), None, "between", (("red", "square"), ("green", "square"))),
        ),
    ],
)
def test_sentences_are_read_back(sentence: str, query: Query) -> None:
    assert parse(sentence) == query


def test_a_word_that_is_not_of_the_language_is_named() -> None:
    with pytest.raises(ValueError, match="'pink' is not a word for a size, colour or shape"):
        parse("the pink circle")


@pytest.mark.parametrize(
    ("query", "indices"),
    [
        (Query(("red", "circle")), [0, 1]),
        (Query(("circle",), "left"), [0]),
        (Query(("circle",), "bottom"), [2]),
        (Query(("circle",), None, "nearest", (("green",),)), [2]),
        (Query(("circle",), None, "below", (("green",),)), [2]),
        (Query(("circle",), None, "right", (("green",),)), [1]),  # 20 right and 18 above
        (Query(("circle",), None, "above", (("green",),)), []),  # 20 left and 20 above: on the border of two quarters
        (Query(("green",), None, "between", (("large", "red"), ("blue",))), [3]),
        (Query(("circle",), None, "left", (("circle", "blue"),)), []),
        (Query(("circle",), None, "left", (("red", "circle"),)), []),  # an ambiguous anchor
        (Query(("cross",)), []),
    ],
)
def test_who_fits(query: Query, indices: list[int]) -> None:
    assert fitting(SCENE, query) == indices


def test_slack_is_in_pixels() -> None:
    assert slack(SCENE, Query(("circle",), "left")) == {0: 20.0, 1: -40.0, 2: -20.0}
    nearest = slack(SCENE, Query(("red",), None, "nearest", (("green",),)))
    assert nearest[4] == pytest.approx(math.hypot(20, 18) - math.hypot(22, 10))
    # On the straight line between its anchors, so the way over it is no longer.
    assert slack(SCENE, Query(("green",), None, "between", (("large", "red"), ("blue",))))[3] == pytest.approx(
        7 - (math.hypot(20, 18) + 20 - math.hypot(20, 38))
    )

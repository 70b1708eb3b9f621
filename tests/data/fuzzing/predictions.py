"""Predictions that `evaluate` reads."""

from __future__ import annotations

import random

from tests.data.fuzzing.cases import Case, evaluable, kind, predictions
from tests.data.fuzzing.damages import WRONG, WRONG_IN_JSON, bend, hurt
from tests.data.fuzzing.masks import bad_segmentation
from tests.data.fuzzing.writing import as_json, put


@kind(110)
def bytes_of_predictions(rng: random.Random, seed: int) -> Case:
    return Case("evaluate", "refcoco", evaluable(hurt(rng, as_json(predictions()))))


@kind(160)
def structure_of_predictions(rng: random.Random, seed: int) -> Case:
    bent = as_json(bend(rng, predictions(), (*WRONG, *WRONG_IN_JSON)))
    more = ((), ("--name", "mine"), ("--split", "val"), ("--by", "length", "--by", "distractors"))[seed % 4]
    return Case("evaluate", "refcoco", evaluable(bent), more=more)


@kind(110)
def segmentations_of_predictions(rng: random.Random, seed: int) -> Case:
    document = put(predictions(), (rng.randrange(6), "segmentation"), bad_segmentation(rng))
    return Case("evaluate", "refcoco", evaluable(as_json(document)))

"""Each form of a data set's files: its bytes, then its structure."""

from __future__ import annotations

import functools
import json
import pickle
import random

from tests.data import fixtures
from tests.data.fuzzing.cases import (
    ANNS,
    GREFS,
    IMAGES,
    INSTANCES,
    PRISTINE,
    Case,
    instances,
    kind,
    of_file,
    of_refs,
    often_prepare,
    refs,
)
from tests.data.fuzzing.damages import WRONG, WRONG_IN_JSON, WRONG_IN_PICKLES, bend, hurt, slim
from tests.data.fuzzing.writing import as_json, as_pickle

PICKLES = (*fixtures.PICKLES.values(), *(functools.partial(pickle.dumps, protocol=p) for p in (0, 1, 4)))


@kind(260)
def bytes_of_refs(rng: random.Random, seed: int) -> Case:
    return of_refs(often_prepare(rng), hurt(rng, PICKLES[seed % len(PICKLES)](refs())))


@kind(250)
def structure_of_refs(rng: random.Random, seed: int) -> Case:
    bent = bend(rng, slim(refs()), (*WRONG, *WRONG_IN_PICKLES))
    return of_refs(often_prepare(rng), as_pickle(bent, (0, 1, 2, 4)[seed % 4]))


@kind(120)
def bytes_of_instances(rng: random.Random, seed: int) -> Case:
    return of_file(often_prepare(rng), "refs", INSTANCES, hurt(rng, PRISTINE["refs"][INSTANCES]))


@kind(240)
def structure_of_instances(rng: random.Random, seed: int) -> Case:
    return of_refs(often_prepare(rng), document=bend(rng, slim(instances()), (*WRONG, *WRONG_IN_JSON)))


@kind(80)
def bytes_of_grefs(rng: random.Random, seed: int) -> Case:
    return of_file(often_prepare(rng), "grefs", GREFS, hurt(rng, PRISTINE["grefs"][GREFS]))


@kind(160)
def structure_of_grefs(rng: random.Random, seed: int) -> Case:
    bent = bend(rng, slim(fixtures.grefs(IMAGES)), (*WRONG, *WRONG_IN_JSON))
    return of_file(often_prepare(rng), "grefs", GREFS, as_json(bent))


@kind(70)
def bytes_of_anns(rng: random.Random, seed: int) -> Case:
    return of_file(often_prepare(rng), "released", ANNS, hurt(rng, PRISTINE["released"][ANNS]))


@kind(150)
def structure_of_anns(rng: random.Random, seed: int) -> Case:
    bent = bend(rng, json.loads(PRISTINE["released"][ANNS]), (*WRONG, *WRONG_IN_JSON))
    return of_file(often_prepare(rng), "released", ANNS, as_json(bent))


@kind(100)
def bytes_of_masks(rng: random.Random, seed: int) -> Case:
    file = f"masks/refcoco/{seed % 9}.npy"
    content = PRISTINE["released"][file]
    # The head is where an array's size is said.
    content = hurt(rng, content[:128]) + content[128:] if rng.random() < 0.7 else hurt(rng, content)
    return of_file(often_prepare(rng), "released", file, content)

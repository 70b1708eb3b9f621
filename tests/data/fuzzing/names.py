"""Names that lead elsewhere."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator

from tests.data.fuzzing.cases import ANNS, INSTANCES, PRISTINE, Case, evaluable, instances, kind, of_file, pristine
from tests.data.fuzzing.damages import CLIMBING
from tests.data.fuzzing.writing import as_json, put


def _climbing_cases() -> Iterator[Case]:
    for i, name in enumerate(CLIMBING):
        document = as_json(put(instances(), ("images", 0, "file_name"), name))
        yield of_file("prepare", "refs", INSTANCES, document, refused=True)
        yield of_file("prepare", "grefs", "grefcoco/instances.json", document, refused=True)
        document = as_json(put(json.loads(PRISTINE["released"][ANNS]), ("train", 0, ("iid", "mask_id")[i % 2]), name))
        yield of_file("prepare", "released", ANNS, document, refused=True)
        if "\0" not in name:
            yield Case("evaluate", "refcoco", evaluable(), True, ("--name", name))
            yield Case("check", name, pristine("refs"), True)
        if "\0" not in name and name:
            yield Case(("prepare", "check", "evaluate")[i % 3], "refcoco", evaluable(), True, ("--split-by", name))
    for number in (-1, -11, 10**12, 10**400, 2**63):
        document = as_json(put(json.loads(PRISTINE["released"][ANNS]), ("train", 0, "iid"), number))
        yield of_file("prepare", "released", ANNS, document, refused=True)


@functools.cache
def _climbing() -> list[Case]:
    return list(_climbing_cases())


@kind(lambda: len(_climbing()), more=False)
def climbing_names(rng: random.Random, seed: int) -> Case:
    return _climbing()[seed]

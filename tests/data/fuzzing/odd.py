"""Files that are not there, or are something else; things that are there twice."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import replace

from tests.data.fuzzing.cases import (
    ANNS,
    GREFS,
    PLACE,
    PREDICTIONS,
    PRISTINE,
    REFS,
    Case,
    evaluable,
    images,
    instances,
    kind,
    of_file,
    of_refs,
    predictions,
    pristine,
    ref_with,
    refs,
    sentence_with,
)
from tests.data.fuzzing.writing import as_json, as_pickle, put


def _odd_cases() -> Iterator[Case]:
    for form, name in (("refs", "refcoco"), ("grefs", "grefcoco"), ("released", "refcoco")):
        every = pristine(form)
        for file in [file for file in every if "masks" not in file or file.endswith("/0.npy")]:
            rest = {other: content for other, content in every.items() if other != file}
            yield Case("prepare", name, rest)
            yield Case("check", name, rest | {file + "/": b""})
            yield Case("prepare", name, rest | {file: b""})
    for file in PRISTINE["prepared"]:
        rest = {other: content for other, content in evaluable().items() if other != file}
        yield Case("check", "refcoco", rest)
        yield Case("check", "refcoco", rest | {file + "/": b""})
        yield Case("check", "refcoco", rest | {file: b""})
    everything = pristine("refs")
    yield Case("prepare", "refcoco", everything | {"prepared": b"no folder"}, True)
    yield Case("prepare", "refcoco", everything | {PLACE: b"no folder"})
    yield Case("check", "refcoco", everything | {PLACE: b"no folder"})
    yield Case("check", "refcoco", everything | {"prepared": b"no folder"})
    yield Case("evaluate", "refcoco", images() | PRISTINE["prepared"], True)
    yield Case("evaluate", "refcoco", images() | PRISTINE["prepared"] | {PREDICTIONS + "/": b""}, True)
    no_images = {f: c for f, c in everything.items() if not f.startswith("images/")}
    yield Case("prepare", "refcoco", no_images, True)
    yield Case("prepare", "refcoco", no_images | {"images/train2014": b"no folder"}, True)
    yield Case("check", "refcoco", no_images, True)
    # Nothing in it, and nothing that is meant.
    empty = {"images": [], "annotations": [], "categories": []}
    for command in ("prepare", "check"):
        yield of_refs(command, as_pickle([]))
        yield of_refs(command, as_pickle([]), empty)
        yield of_refs(command, document=empty)
        yield of_refs(command, as_pickle([ref_with(sentences=[])]))
        nobody = [ref | {"ann_id": [-1]} for ref in refs()]
        for document in (nobody, []):
            yield of_file(command, "grefs", GREFS, as_json(document))
        for text in (b"{}", b'{"train": []}', b'{"train": [], "val": []}'):
            yield of_file(command, "released", ANNS, text)
    # Names that a message has to bear.
    for name in ("two\nlines.jpg", "two\rlines.jpg", "\x1b[2J.jpg", "\ud800.jpg", "\u2028.jpg", "x" * 251 + ".jpg"):
        yield of_refs("prepare", document=put(instances(), ("images", 0, "file_name"), name), refused=True)
        yield of_refs("check", document=put(instances(), ("images", 0, "file_name"), name))
    for split in ("two\nlines", "\x1b[2J", "\ud800", "x" * 5000, "x" * 64, "a/../b", ""):
        for item in ([], 1, [{"iid": 1}], [{"iid": "x"}]):
            yield of_file("prepare", "released", ANNS, as_json({split: item}))
    many = [ref_with(ref_id=i, split=f"{i:064}", sentences=[sentence_with(sent_id=i)]) for i in range(1000)]
    yield of_refs("prepare", as_pickle(many))
    yield of_refs("check", as_pickle(many))
    some = as_json([{"sent_id": i, "segmentation": None} for i in range(500, 1000)])
    unprepared = pristine("refs") | {REFS: as_pickle(many), PREDICTIONS: some}
    yield Case("evaluate", "refcoco", unprepared)
    yield Case("evaluate", "refcoco", unprepared, True, ("--split", "nothing"))
    # Published numbers, which `prepare` compares with.
    good = b"dataset,split,metric,value,source\nrefcoco,val,refs,1,somewhere\n"
    for text in (good[:50], good.replace(b",1,", b",x,"), b"\xff\xfe", good + b"refcoco,\0,refs,1,x\n", b"x" * 200_000,
                 good + b'"' + b"y" * 200_000, good + b"\r\r,\n", good.replace(b",1,", b"," + b"9" * 5000 + b","),
                 good.replace(b"val", b"two\nlines"), b""):  # fmt: skip
        case = Case("prepare", "refcoco", everything)
        yield replace(case, results={"reference/dataset_statistics.csv": text})
    yield replace(Case("prepare", "refcoco", everything), results={"reference/dataset_statistics.csv/": b""})
    # The same thing twice.
    for part, at in (("images", 1), ("annotations", 1), ("categories", 1)):
        document = instances()
        document[part][at]["id"] = document[part][0]["id"]
        yield of_refs("prepare", document=document)
        document[part].append(document[part][0])
        yield of_refs("check", document=document)
    for key in ("ref_id", "ann_id", "image_id"):
        yield of_refs("check", as_pickle([ref | {key: refs()[0][key]} for ref in refs()]))
    twice = [*refs(), *refs()]
    yield of_refs("prepare", as_pickle(twice))
    yield of_refs("check", as_pickle(twice))
    yield Case("evaluate", "refcoco", evaluable(as_json([*predictions(), *predictions()])), True)
    repeated = pristine("refs") | {REFS: as_pickle(twice)}
    yield Case("evaluate", "refcoco", repeated | {PREDICTIONS: as_json(predictions())})


@functools.cache
def _odd() -> list[Case]:
    return list(_odd_cases())


@kind(lambda: len(_odd()), more=False)
def odd_things(rng: random.Random, seed: int) -> Case:
    return _odd()[seed]

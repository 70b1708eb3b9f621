"""What RefCOCO's and gRefCOCO's files have in common: `instances.json`, and references with their sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from workbench.data import masks
from workbench.data.readers.base import Source
from workbench.data.readers.items import Item, items_of, list_of, read_json, text_of
from workbench.data.tables import Raw, whole
from workbench.errors import DataError, counted, shown

INSTANCES = "instances.json"
Targets = Callable[[Item, str], Sequence[Any]]
"""The annotation ids that a reference names, from the reference and its place."""


def read_instances(file: Path) -> Raw:
    """Images and objects of an `instances.json`, no expressions yet."""
    instances = read_json(file)
    if not isinstance(instances, dict):
        raise DataError(f"{file}: an object with images, annotations and categories is expected")
    for part in ("images", "annotations", "categories"):
        list_of(instances.get(part), f"{file}: {part}")
    raw = Raw()
    where = file.name
    raw.images = [
        (f"{where}: images[{i}]", image["id"], image["file_name"], image["height"], image["width"])
        for i, image in items_of(instances["images"], f"{where}: images")
    ]
    categories = {
        whole(category["id"], f"{where}: categories[{i}]: id"): text_of(
            category["name"], f"{where}: categories[{i}]: name"
        )
        for i, category in items_of(instances["categories"], f"{where}: categories")
    }
    short = 0
    for i, annotation in items_of(instances["annotations"], f"{where}: annotations"):
        at = f"{where}: annotations[{i}]"
        category_id = whole(annotation["category_id"], f"{at}: category_id")
        if category_id not in categories:
            raise DataError(f"{at}: no category with id {category_id}")
        crowd, segmentation = bool(annotation.get("iscrowd", 0)), annotation["segmentation"]
        raw.objects.append(
            (at, annotation["id"], annotation["image_id"], categories[category_id], crowd, annotation.get("bbox"),
             segmentation)
        )  # fmt: skip
        polygons = segmentation if isinstance(segmentation, list) else []
        short += any(isinstance(polygon, list) and len(polygon) < masks.POINTS for polygon in polygons)
    if short:
        raw.notes.append(f"{counted(short, 'annotation')} with polygons of fewer than three points, which are left out")
    return raw


def add_references(raw: Raw, document: Any, source: Source, targets: Targets) -> None:
    """The sentences of a list of references become expressions, after the objects have been read."""
    file, field = source.files[-1], source.sentence
    # A small pickle can name one long list, or one long text, many times over.
    most, characters = file.stat().st_size, 0
    for _, ref in items_of(list_of(document, str(file)), file.name):
        where = f"{file.name}: ref_id {shown(ref['ref_id'])}"
        ann_ids = targets(ref, where)
        sentences = list_of(ref["sentences"], f"{where}: sentences")
        if len(sentences) > most - len(raw.expressions):
            raise DataError(f"{file}: it names more sentences than it can hold")
        for j, sentence in items_of(sentences, f"{where}: sentences"):
            at = f"{where}: sentences[{j}]"
            text = sentence[field]
            characters += len(text) if isinstance(text, str) else 0
            if characters > 16 * most:
                raise DataError(f"{file}: it names more text than it can hold")
            raw.expressions.append(
                (at, ref["split"], ref["image_id"], ref["ref_id"], ann_ids, sentence["sent_id"], text)
            )

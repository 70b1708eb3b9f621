"""gRefCOCO: `instances.json` and `grefs(<split_by>).json` or `.p`, with any number of targets per expression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.data.readers.base import Reader, Source
from workbench.data.readers.items import Item, list_of, read_references
from workbench.data.readers.originals import INSTANCES, add_references, read_instances
from workbench.data.tables import Raw, whole
from workbench.errors import DataError, counted

NO_TARGET = [-1]


class GrefsReader(Reader):
    """Each reference names annotations, -1 where it has no target; crowds are left out of masks.

    `ann_id` is a list as published; a bare number is one annotation, as public code takes it (`grefer.py` of GRES). The
    references may also be a pickle, which is read where there is no JSON.
    """

    form = "grefs"

    def source(self, folder: Path, name: str, split_by: str) -> Source:
        """Two files in the data set's folder."""
        pickled = folder / f"grefs({split_by}).p"
        published = folder / f"grefs({split_by}).json"
        refs = pickled if pickled.is_file() and not published.is_file() else published
        return Source(name, split_by, self.form, folder, (folder / INSTANCES, refs))

    def of_any_split(self, folder: Path) -> list[str]:
        """Every `grefs(*).json` and `grefs(*).p`."""
        return [file.name for pattern in ("grefs(*).json", "grefs(*).p") for file in folder.glob(pattern)]

    def read(self, source: Source) -> Raw:
        """Objects, then references; what is unusual about these is counted in the notes."""
        instances, refs = source.files
        raw = read_instances(instances)
        raw.without_crowds = True
        crowds = {item[1] for item in raw.objects if item[4] and type(item[1]) is int}
        odd = dict.fromkeys(("crowds", "crowds_alone", "twice", "contradiction"), 0)

        def targets(ref: Item, where: str) -> list[Any]:
            given = ref["ann_id"]
            listed = [given] if type(given) is int else list_of(given, f"{where}: ann_id")
            named = [whole(ann_id, f"{where}: ann_id") for ann_id in listed]
            if not named:
                raise DataError(f"{where}: ann_id: is empty; [-1] marks a no-target expression")
            ann_ids = [] if named == NO_TARGET else list(dict.fromkeys(named))
            odd["crowds"] += not crowds.isdisjoint(ann_ids) and not crowds.issuperset(ann_ids)
            odd["crowds_alone"] += bool(ann_ids) and crowds.issuperset(ann_ids)
            odd["twice"] += 0 < len(ann_ids) < len(named)
            odd["contradiction"] += ref.get("no_target") is not None and bool(ref.get("no_target")) != (not ann_ids)
            return ann_ids

        add_references(raw, read_references(refs), source, targets)
        raw.notes += [f"{counted(count, 'reference')} {_ODD[kind]}" for kind, count in odd.items() if count]
        return raw


_ODD = {
    "crowds": "to crowds among others, which are left out of the mask",
    "crowds_alone": "to crowds alone: without a mask, neither trained on nor scored",
    "twice": "with a target named twice, which counts once",
    "contradiction": "with an ann_id that contradicts no_target; the ann_id is used",
}

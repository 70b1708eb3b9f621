"""gRefCOCO as published: `instances.json` and `grefs(<split_by>).json`, with any number of targets per expression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.data.readers.base import Reader, Source
from workbench.data.readers.items import Item, list_of, read_json
from workbench.data.readers.originals import INSTANCES, add_references, read_instances
from workbench.data.tables import Raw, whole
from workbench.errors import DataError

NO_TARGET = [-1]


class GrefsReader(Reader):
    """Each reference names a list of annotations, [-1] where it has no target; crowds are left out of masks."""

    form = "grefs"

    def source(self, folder: Path, name: str, split_by: str) -> Source:
        """Two files in the data set's folder."""
        return Source(name, split_by, self.form, folder, (folder / INSTANCES, folder / f"grefs({split_by}).json"))

    def of_any_split(self, folder: Path) -> list[str]:
        """Every `grefs(*).json`."""
        return [file.name for file in folder.glob("grefs(*).json")]

    def read(self, source: Source) -> Raw:
        """Objects, then references; what is unusual about these is counted in the notes."""
        instances, refs = source.files
        raw = read_instances(instances)
        raw.without_crowds = True
        crowds = {item[1] for item in raw.objects if item[4] and type(item[1]) is int}
        odd = dict.fromkeys(("crowds", "twice", "contradiction"), 0)

        def targets(ref: Item, where: str) -> list[Any]:
            named = [whole(ann_id, f"{where}: ann_id") for ann_id in list_of(ref["ann_id"], f"{where}: ann_id")]
            if not named:
                raise DataError(f"{where}: ann_id: is empty; [-1] marks a no-target expression")
            ann_ids = [] if named == NO_TARGET else list(dict.fromkeys(named))
            odd["crowds"] += not crowds.isdisjoint(ann_ids)
            odd["twice"] += 0 < len(ann_ids) < len(named)
            odd["contradiction"] += ref.get("no_target") is not None and bool(ref.get("no_target")) != (not ann_ids)
            return ann_ids

        add_references(raw, read_json(refs), refs, targets)
        raw.notes += [f"{count} references {_ODD[kind]}" for kind, count in odd.items() if count]
        return raw


_ODD = {
    "crowds": "point at crowds, which are left out of their masks",
    "twice": "name a target twice, which counts once",
    "contradiction": "contradict their own no_target; their ann_id is used",
}

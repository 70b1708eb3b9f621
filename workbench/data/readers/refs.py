"""RefCOCO, RefCOCO+ and RefCOCOg as published: `instances.json` and a pickle `refs(<split_by>).p`."""

from __future__ import annotations

from pathlib import Path

from workbench.data.pickles import load_plain
from workbench.data.readers.base import Reader, Source
from workbench.data.readers.originals import INSTANCES, add_references, read_instances
from workbench.data.tables import Raw


class RefsReader(Reader):
    """Each reference names one annotation, its `ann_id`."""

    form = "refs"

    def source(self, folder: Path, name: str, split_by: str) -> Source:
        """Two files in the data set's folder."""
        return Source(name, split_by, self.form, folder, (folder / INSTANCES, folder / f"refs({split_by}).p"))

    def of_any_split(self, folder: Path) -> list[str]:
        """Every `refs(*).p`."""
        return [file.name for file in folder.glob("refs(*).p")]

    def read(self, source: Source) -> Raw:
        """Objects, then references."""
        instances, refs = source.files
        raw = read_instances(instances)
        add_references(raw, load_plain(refs), source, lambda ref, where: [ref["ann_id"]])
        return raw

"""How much a data set holds, by split, beside what was published about it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from workbench.data.tables import ReferData
from workbench.errors import DataError

STATISTICS = Path("reference") / "dataset_statistics.csv"
"""The file of published numbers, relative to the results folder."""
PUBLISHED_AS = {
    ("refcoco", "unc"): "refcoco",
    ("refcoco", "google"): "refcoco-google",
    ("refcoco+", "unc"): "refcoco+",
    ("refcocog", "google"): "refcocog-google",
    ("refcocog", "umd"): "refcocog-umd",
    ("grefcoco", "unc"): "grefcoco",
}
WHOLE = "all"
UNITS = ("refs", "images", "expressions", "objects", "multi-target expressions", "no-target expressions")


@dataclass(frozen=True)
class Published:
    """One published number."""

    split: str
    unit: str
    value: int
    source: str


def counts(data: ReferData) -> dict[str, dict[str, int]]:
    """For each split, and for `all`, how many of each of `UNITS`: referents, images, expressions, distinct target
    objects, and expressions with several targets or with none."""
    by_split = {split: _counted(data.split(split)) for split in data.splits}
    return {**by_split, WHOLE: _counted(data.expressions)}


def _counted(table: pa.Table) -> dict[str, int]:
    targets = pc.list_value_length(table["ann_ids"])
    numbers = (
        pc.count_distinct(table["ref_id"]),
        pc.count_distinct(table["image_id"]),
        pa.scalar(len(table)),
        pc.count_distinct(pc.list_flatten(table["ann_ids"])),
        pc.sum(pc.greater(targets, 1)),
        pc.sum(pc.equal(targets, 0)),
    )
    return {unit: int(number.as_py() or 0) for unit, number in zip(UNITS, numbers, strict=True)}


def published(file: Path, name: str, split_by: str) -> list[Published]:
    """The published numbers of a data set; an empty list where there are none. DataError: the file is damaged."""
    wanted = PUBLISHED_AS.get((name, split_by))
    if wanted is None or not file.is_file():
        return []
    try:
        with file.open(newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if row["dataset"] == wanted]
        return [Published(row["split"], row["metric"], int(row["value"]), row["source"]) for row in rows]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{file}: not the table of published numbers: {error}") from None


def differences(counted: Mapping[str, Mapping[str, int]], published_numbers: list[Published]) -> list[str]:
    """Each published number that differs from the files, in words with its source."""
    lines = []
    for number in published_numbers:
        value = counted.get(number.split, {}).get(number.unit, 0)
        if value != number.value:
            lines.append(
                f"{number.split}: {value:,} {number.unit}, published {number.value:,} ({value - number.value:+,}); "
                f"source: {number.source}"
            )
    return lines

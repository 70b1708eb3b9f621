"""A run's causal map on disk, `interventions_<split>.parquet` among its artefacts, and the table of its numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.analysis.comparison import compare
from workbench.evaluation.metrics import metrics
from workbench.files import replacing
from workbench.results.expressions import read_table
from workbench.results.folders import RunFolder
from workbench.validation import DamagedFile

UNDISTURBED = "none"
ALL = -1
"""Stands for all heads of a block, and for all chosen blocks together."""
DECODER = -2
"""Stands for the mask decoder in place of a block of the image encoder."""
METRIC = "miou"
REMEDY = "make it again: workbench interventions"
_ABOUT = b"workbench"


@dataclass(frozen=True)
class Kept:
    """A run's causal map.

    Attributes:
        about: run, split, rule of the choice, changes at the points, the run's end and the code's digest.
    """

    rows: pd.DataFrame
    about: dict[str, Any]

    @property
    def table(self) -> pd.DataFrame:
        """See `table`."""
        changes = {(kind, layer, head): change for kind, layer, head, change in self.about["changes"]}
        return table(self.rows, changes)

    @property
    def undisturbed(self) -> float:
        """The mIoU of the same expressions without an intervention."""
        return metrics[METRIC].value(self.rows[self.rows["intervention"] == UNDISTURBED])


def file_of(folder: RunFolder, split: str) -> Path:
    """Where a run's map of a split is kept."""
    return folder.artefact("interventions", split, ".parquet")


def write_map(folder: RunFolder, kept: Kept) -> list[Path]:
    """Keep a map beside its run: the rows as Parquet, which carries `about` in its metadata, and the table as CSV."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    file = file_of(folder, kept.about["split"])
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = arrow.Table.from_pandas(kept.rows, preserve_index=False)
    about = {**(columns.schema.metadata or {}), _ABOUT: json.dumps(kept.about).encode()}
    with replacing(file) as partial:
        parquet.write_table(columns.replace_schema_metadata(about), partial, write_page_checksum=True)
    with replacing(file.with_suffix(".csv")) as partial:
        kept.table.to_csv(partial, index=False)
    return [file, file.with_suffix(".csv")]


def about_map(folder: RunFolder, split: str) -> dict[str, Any] | None:
    """What a run's kept map is about; None where there is none, or the run was trained again since.

    Raises:
        DamagedFile: it cannot be read.
    """
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    file = file_of(folder, split)
    if not file.is_file():
        return None
    try:
        about: dict[str, Any] = json.loads((parquet.read_schema(file).metadata or {})[_ABOUT])
    except (KeyError, ValueError, OSError, arrow.ArrowException):
        raise DamagedFile(file, "it does not say what it is about", REMEDY) from None
    return about if about.get("finished") == folder.record().finished else None


def read_map(folder: RunFolder, split: str) -> Kept | None:
    """A run's kept map; None and errors as of `about_map`."""
    about = about_map(folder, split)
    return None if about is None else Kept(read_table(file_of(folder, split), REMEDY), about)


def table(rows: pd.DataFrame, changes: Mapping[tuple[str, int, int], float]) -> pd.DataFrame:
    """Of each intervention the mean difference of IoU from the undisturbed run, a fraction, with its 95 % interval.

    Args:
        rows: of one run; see `causal_map.CausalMap`.
        changes: see `causal_map.CausalMap`.
    """
    undisturbed = of(rows, UNDISTURBED, ALL, ALL)
    table_rows = []
    changed = rows.loc[rows["intervention"] != UNDISTURBED, ["intervention", "layer", "head", "point"]]
    for values in changed.drop_duplicates().to_numpy().tolist():
        kind, layer, head, point = values
        difference = compare(of(rows, kind, layer, head), undisturbed, METRIC)
        interval = difference.interval
        table_rows.append(
            {"intervention": kind, "point": point, "layer": layer, "head": head, "delta": interval.value,
             "low": interval.low, "high": interval.high, "images": difference.images, "expressions": len(undisturbed),
             "change_at_point": changes.get((kind, layer, head), float("nan")),
             "verdict": _verdict(interval.low, interval.high)}
        )  # fmt: skip
    return pd.DataFrame(table_rows)


def of(rows: pd.DataFrame, kind: str, layer: int, head: int) -> pd.DataFrame:
    """The rows of one intervention, in the order of the expressions."""
    here = (rows["intervention"] == kind) & (rows["layer"] == layer) & (rows["head"] == head)
    return rows[here].reset_index(drop=True)


def _verdict(low: float, high: float) -> str:
    if not low <= high:
        return "not known"
    if high < 0:
        return "falls"
    return "rises" if low > 0 else "no difference shown"

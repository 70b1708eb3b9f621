"""Scores of masks that other models made: `results/scored/<name>/`, a record beside the scored expressions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import is_plain, shown
from workbench.files import write_atomically
from workbench.results.expressions import check_counts, read_expressions, write_expressions
from workbench.results.folders import StoreError
from workbench.results.record import counts_in
from workbench.validation import JsonObject, Moment, Record, Whole, read_record

if TYPE_CHECKING:
    import pandas as pd

SCORED = "scored"
REMEDY = "remove its folder and score the predictions again"
_SCORE = "score.json"
_EXPRESSIONS = "expressions.parquet"


class PredictionFile(Record):
    """The file that the masks came from."""

    file: str
    sha256: str


class ScoreRecord(Record):
    """What was scored, on what, and the metrics by split."""

    name: str = ""
    dataset: JsonObject
    predictions: PredictionFile
    no_target_area: Whole
    metrics: dict[str, dict[str, float]]
    code: str | None = None
    made: Moment = 0.0

    @property
    def source(self) -> str:
        """Where the masks came from, as a table says it."""
        return f"{self.predictions.file}, SHA-256 {self.predictions.sha256[:12]}, no_target_area {self.no_target_area}"


class ScoredFolder:
    """Masks of another model, scored by this code.

    Args:
        results: the results folder.
        name: of the model, as tables show it; StoreError for one that is no plain name.
    """

    def __init__(self, results: Path, name: str) -> None:
        if not is_plain(name):
            raise StoreError(f"{shown(name)} is no name of a model: one without folders is expected")
        self.name = name
        self.path = results / SCORED / name

    @property
    def expressions_file(self) -> Path:
        """`expressions.parquet`."""
        return self.path / _EXPRESSIONS

    @property
    def record_file(self) -> Path:
        """`score.json`."""
        return self.path / _SCORE

    def exists(self) -> bool:
        """Whether there is a record, readable or not."""
        return self.record_file.exists()

    def record(self) -> ScoreRecord:
        """What was scored.

        Raises:
            StoreError: there is nothing.
            DamagedFile: it cannot be read; names the field.
        """
        try:
            return read_record(self.record_file, ScoreRecord, REMEDY)
        except FileNotFoundError:
            raise StoreError(
                f"no scores of {self.name!r} in {self.path.parent}; make them with: "
                f"workbench evaluate --predictions FILE --name {self.name}"
            ) from None

    def expressions(self) -> pd.DataFrame:
        """One row per scored expression; DamagedFile where they cannot be read, or the record counts others."""
        file = self.expressions_file
        frame = read_expressions(file, REMEDY)
        check_counts(file, frame, counts_in(self.record().metrics), self.record_file, REMEDY)
        return frame

    def write(self, record: ScoreRecord, frame: pd.DataFrame) -> None:
        """Store both; the record comes last, so that what has one is whole."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.record_file.unlink(missing_ok=True)
        write_expressions(self.path / _EXPRESSIONS, frame)
        document = record.model_dump(mode="json")
        write_atomically(self.record_file, json.dumps(document, indent=1, allow_nan=False).encode())

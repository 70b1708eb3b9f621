"""The one way from runs to a DataFrame: by setting ids, with every seed that exists.

Run folders or a kept summary of them are the source. Both give the same frames, so whatever is made from them is the
same to the byte.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from workbench.results.expressions import check_counts
from workbench.results.folders import AGAIN, RunFolder, StoreError, all_runs, seeds_of
from workbench.results.index import indexed_rows
from workbench.results.record import RunId, RunRecord
from workbench.results.scored import ScoredFolder
from workbench.validation import DamagedFile, Mistake

if TYPE_CHECKING:
    import pandas as pd

TEXTS = ("run", "setting_id", "state", "split", "dataset", "code", "codes", "kind", "message")
NUMBERS = ("finished", "training_seconds", "seconds", "gpu_hours", "steps", "processes", "expressions")
COLUMNS = ["run", "setting_id", "seed", "state", "split", *TEXTS[4:], *NUMBERS]
PREDICTION = "prediction"
"""The column of predicted masks, which are most of what a run's expressions take on disk."""


class ResultsSource(Protocol):
    """Where frames come from."""

    def runs(self, settings: Collection[str] | None = None) -> pd.DataFrame:
        """One row per run, or per split of a completed one; of these settings alone, where they are given."""

    def expressions(self, run: str, masks: bool = False) -> pd.DataFrame:
        """One row per evaluated expression of a run, with the predicted masks if they are asked for."""

    def expressions_file(self, run: str) -> Path:
        """Where a run's expressions are, for messages."""

    def record_file(self, run: str) -> Path:
        """Where a run's metrics are, for messages."""

    def scored(self, name: str) -> ScoredFolder:
        """The scores of another model."""


class RunFolders:
    """The run folders of a results folder as a source of frames."""

    def __init__(self, results: Path) -> None:
        self.results = results

    def runs(self, settings: Collection[str] | None = None) -> pd.DataFrame:
        """See `ResultsSource`; without settings, every run, through the index."""
        if settings is None:
            return typed_frame(indexed_rows(self.results, self._rows, COLUMNS))
        run_ids = [RunId(name, seed) for name in dict.fromkeys(settings) for seed in seeds_of(self.results, name)]
        return typed_frame(_frame([row for run in run_ids for row in self._rows(str(run))]))

    def _rows(self, run: str) -> list[dict[str, Any]]:
        try:
            return run_rows(RunId.parse(run), RunFolder(self.results, run).record(), self.results)
        except DamagedFile as damage:
            return [{**_names(RunId.parse(run)), "state": "damaged", "message": str(damage)}]

    def expressions(self, run: str, masks: bool = False) -> pd.DataFrame:
        """See `ResultsSource`.

        Raises:
            StoreError: the run has none.
            DamagedFile: the file is damaged, or holds other expressions than the record counts.
        """
        folder = RunFolder(self.results, run)
        frame = folder.expressions()
        check_counts(folder.expressions_file, frame, folder.record().counts, folder.record_file, AGAIN)
        return frame if masks else frame.drop(columns=PREDICTION, errors="ignore")

    def expressions_file(self, run: str) -> Path:
        """See `ResultsSource`."""
        return RunFolder(self.results, run).expressions_file

    def record_file(self, run: str) -> Path:
        """See `ResultsSource`."""
        return RunFolder(self.results, run).record_file

    def scored(self, name: str) -> ScoredFolder:
        """See `ResultsSource`."""
        return ScoredFolder(self.results, name)


def runs_frame(
    source: ResultsSource,
    settings: Collection[str] | None = None,
    *,
    seeds: Collection[int] | None = None,
    states: Collection[str] | None = None,
    codes: Collection[str] | None = None,
    datasets: Collection[str] | None = None,
) -> pd.DataFrame:
    """Runs, by setting id and seed; a completed run has a row per split.

    Args:
        settings: setting ids; None: all that the source has. Each filter left out lets everything pass.
        codes: digests of what computed the run.
        datasets: names of data sets.

    Returns:
        run, setting_id, seed, state (as the record says it; `damaged` where it cannot be read), split, the metrics as
        fractions and `expressions`, their number; dataset; code, and codes, joined by commas, for all that took part;
        steps, training_seconds, seconds (with the evaluation), gpu_hours, processes, finished (seconds of the epoch);
        kind, what the speed depends on, as JSON; message, what ended or damaged the run.
    """
    frame = source.runs(settings)
    for column, wanted in (("seed", seeds), ("state", states), ("code", codes), ("dataset", datasets)):
        if wanted is not None:
            frame = frame[frame[column].isin(list(wanted))]
    return frame.reset_index(drop=True)


def expressions_frame(source: ResultsSource, runs: Sequence[str], masks: bool = False) -> pd.DataFrame:
    """The evaluated expressions of several runs, with their `run`, setting_id and seed; raises as the source does."""
    import pandas as pd

    frames = []
    for run in runs:
        run_id = RunId.parse(run)
        frame = source.expressions(run, masks)
        frames.append(frame.assign(run=run, setting_id=run_id.setting_id, seed=run_id.seed))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def log_frame(folders: Sequence[RunFolder], kind: str = "step") -> pd.DataFrame:
    """The events of a kind in the logs of several runs, with their run, setting_id and seed."""
    import pandas as pd

    rows = []
    for folder in folders:
        run = {"run": folder.name, "setting_id": folder.id.setting_id, "seed": folder.id.seed}
        rows += [{**run, **event.details()} for event in folder.log().events if event.event == kind]
    return pd.DataFrame(rows)


def run_rows(run: RunId, record: RunRecord, results: Path) -> list[dict[str, Any]]:
    """The rows of a run.

    Raises:
        DamagedFile: it is completed and lacks its metrics or its identity, or its seed is another folder's.
    """
    shared = {
        **_names(run),
        **{name: getattr(record, name) for name in NUMBERS if hasattr(record, name)},
        "state": record.state,
        "dataset": _text(_section(record.config, "data").get("dataset")),
        "code": None if record.provenance is None else record.provenance.code,
        "codes": ",".join(record.codes),
        "kind": kind_of(record.config) if record.config else None,
        "message": None if record.error is None else record.error.message,
    }
    file = RunFolder(results, str(run)).record_file
    if record.seed not in (None, run.seed):
        raise DamagedFile(file, Mistake("seed", f"{record.seed} is not that of its folder", "value_error"))
    if record.state != "completed":
        return [shared]
    for field in ("metrics", "identity"):
        if not getattr(record, field):
            raise DamagedFile(file, Mistake(field, "is required of a completed run", "missing"))
    return [{**values, **shared, "split": split} for split, values in record.metrics.items()]


def kind_of(config: Mapping[str, Any]) -> str:
    """What the speed of a run and the length of an epoch depend on, out of an identity's configuration, as JSON."""
    fields = {
        "backbone": ("name", "image_size", "attention", "decoder_depth"),
        "data": ("dataset", "split_by", "recipe"),
        "fusion": ("variant", "layers"),
        "evaluation": ("splits",),
        "text_encoder": ("name",),
        "training": ("batch_size", "precision", "cache_features", "freeze", "epochs"),
    }
    chosen = {name: [_section(config, name).get(key) for key in keys] for name, keys in fields.items()}
    return json.dumps(chosen, sort_keys=True)


def damaged_records(results: Path) -> list[str]:
    """One line per record of the results folder that cannot be read."""
    frame = runs_frame(RunFolders(results), states=("damaged",))
    return [str(message) for message in frame["message"]]


def _names(run: RunId) -> dict[str, Any]:
    return {"run": str(run), "setting_id": run.setting_id, "seed": run.seed}


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])))


def typed_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The same types wherever a frame comes from, also where a column is empty; by setting, seed and split's order."""
    texts = dict.fromkeys(TEXTS, "string")
    numbers = {name: "float64" for name in frame.columns if name not in (*TEXTS, "seed")}
    typed = frame.astype({**texts, **numbers, "seed": "int64"})
    return typed.sort_values(["setting_id", "seed"], kind="stable", ignore_index=True)


__all__ = [
    "ResultsSource", "RunFolders", "StoreError", "all_runs", "damaged_records", "expressions_frame", "kind_of",
    "log_frame", "run_rows", "runs_frame", "typed_frame",
]  # fmt: skip

"""What is stored of a grid's runs: which are completed, with which seeds, and their evaluated expressions."""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.evaluation.metrics import metrics
from workbench.results.folders import AGAIN, RunFolder, StoreError
from workbench.results.frames import ResultsSource, RunFolders, expressions_frame, runs_frame
from workbench.results.provenance import code_digest
from workbench.results.record import KEY, RunId
from workbench.results.scored import REMEDY, SCORED, ScoredFolder
from workbench.results.summary import write_summary
from workbench.validation import DamagedFile, Mistake

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from workbench.grids.grid import Grid

CHECKED = ("miou", "oiou")
"""Metrics that a run's expressions must still give."""
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Incomplete:
    """A run that is expected, or has a record, and is not completed; or damaged scores of another model.

    Attributes:
        state: as its record says it, `damaged`, `new` where there is none, or `untuned` of a setting that has no runs
            yet, since its values are still to be chosen.
        message: what ended or damaged it.
    """

    setting: str
    seed: int | None
    run: str
    state: str
    message: str | None

    def __str__(self) -> str:
        # The whole message, because nothing else says where the damaged file is.
        why = f": {self.message}" if self.state == "damaged" else ""
        name = self.setting if self.seed is None else f"{self.setting} seed {self.seed}"
        state = {"new": "not begun", "untuned": "waits for its trials"}.get(self.state, self.state)
        return f"{name} ({state}{why})"


@dataclass(frozen=True)
class Evaluated:
    """A grid's completed runs.

    Attributes:
        runs: as `runs_frame` gives them, of all the grid's settings, with `setting`, the name in the grid.
        expressions: evaluated expressions by setting and by the names in `report.models`, with run and seed.
        incomplete: runs that are expected or have a record and are not completed.
        scored: of each name in `report.models`, the folder of its scores.
        sources: of each name in `report.models`, where its masks came from.
    """

    grid: Grid
    runs: pd.DataFrame
    expressions: Mapping[str, pd.DataFrame]
    incomplete: Sequence[Incomplete]
    scored: Mapping[str, ScoredFolder]
    sources: Mapping[str, str]

    def seeds(self, setting: str) -> tuple[int, ...]:
        """The completed seeds of a setting; none for predictions of another model."""
        frame = self.expressions.get(setting)
        return () if frame is None or "seed" not in frame else tuple(sorted(int(seed) for seed in set(frame["seed"])))

    def part(self, name: str, split: str) -> pd.DataFrame | None:
        """A setting's expressions of a split, None where there are none."""
        return self._parts.get((name, split))

    @functools.cached_property
    def _parts(self) -> dict[tuple[str, str], pd.DataFrame]:
        # Once for all metrics: taking rows out of a frame with text takes longer than what is computed of them.
        return {
            (name, str(split)): part
            for name, frame in self.expressions.items()
            for split, part in frame.groupby("split", sort=False, observed=True)
        }

    def run_of(self, setting: str, seed: int) -> str:
        """The id of a run."""
        return str(RunId(self.grid.settings[setting].setting_id, seed))

    @property
    def other_code(self) -> list[str]:
        """The settings of which a completed run was trained or evaluated, in part, by other code than this."""
        completed = self.runs[self.runs["state"] == "completed"]
        other = set(completed["setting"][completed["codes"] != code_digest()])
        return [name for name in self.grid.settings if name in other]

    @property
    def fewer_seeds(self) -> dict[str, int]:
        """The settings with fewer completed seeds than another one has, and how many they have."""
        counts = {name: len(self.seeds(name)) for name in self.grid.settings if name in self.expressions}
        most = max(counts.values(), default=0)
        return {name: count for name, count in counts.items() if count < most}

    def write_summary(self, folder: Path) -> Path:
        """Keep all this as Parquet files, from which the same tables and bars can be made; returns the folder."""
        frames = {
            str(run): part.drop(columns=["run", "setting_id", "seed"]).reset_index(drop=True)
            for name in self.grid.settings
            if name in self.expressions
            for run, part in self.expressions[name].groupby("run", sort=False)
        }
        write_summary(folder, self.runs.drop(columns="setting"), frames, list(self.scored.values()))
        return folder


def without_runs(grid: Grid) -> Evaluated:
    """The same for a grid without stored runs, or where they are not needed."""
    import pandas as pd

    return Evaluated(grid, pd.DataFrame(columns=["run", "setting", "seed", "state", "finished"]), {}, [], {}, {})


def evaluated(grid: Grid, source: ResultsSource, seeds: Sequence[int] | None = None) -> Evaluated:
    """What is stored of a grid, every seed of its settings that exists.

    Args:
        seeds: only these.

    Raises:
        StoreError: no run is completed, or predictions of another model were scored on other expressions.
    """
    waiting = grid.waiting
    settings = {name: config for name, config in grid.settings.items() if name not in waiting}
    names = {config.setting_id: name for name, config in settings.items()}
    runs = runs_frame(source, list(names), seeds=seeds)
    if isinstance(source, RunFolders):
        runs = _without_other_configurations(grid, runs, source)
    expressions: dict[str, pd.DataFrame] = {}
    incomplete = [Incomplete(setting, None, "", "untuned", None) for setting in waiting]
    for setting, config in settings.items():
        own = runs[runs["setting_id"] == config.setting_id].drop_duplicates("run").set_index("seed")
        expected = set(grid.seeds if seeds is None else seeds) | set(own.index)
        frames = []
        for seed in sorted(int(seed) for seed in expected):
            run = str(RunId(config.setting_id, seed))
            state, message = ("new", None) if seed not in own.index else _state_and_message(own.loc[seed])
            if state == "completed":
                try:
                    frames.append(expressions_frame(source, [run]))
                    continue
                except (DamagedFile, StoreError) as error:
                    state, message = "damaged", str(error)
                    runs = _without_metrics(runs, run, message)
            incomplete.append(Incomplete(setting, seed, run, state, message))
        if frames:
            expressions[setting] = _joined(frames)
    runs = _leave_out_other_expressions(grid, runs, expressions, incomplete)
    runs = _leave_out_other_metrics(source, runs, expressions, incomplete)
    if not expressions:
        causes = "; ".join(map(str, [run for run in incomplete if run.state != "new"][:3]))
        raise StoreError(
            f"{grid.file}: no completed run yet{causes and f' ({causes})'}; train with: "
            f"workbench submit {grid.argument}"
        )
    runs = runs.assign(setting=runs["setting_id"].map(names))
    scored = {name: source.scored(name) for name in grid.report.models}
    sources = _add_scored(grid, scored, expressions, incomplete)
    sound = {name: folder for name, folder in scored.items() if name in sources}
    return Evaluated(grid, runs, expressions, incomplete, sound, sources)


def _recorded(runs: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """The metrics of each run by split, out of the frame of runs."""
    names = [name for name in CHECKED if name in runs]
    recorded: dict[str, dict[str, dict[str, float]]] = {}
    for row in runs[["run", "split", *names]].to_dict("records"):
        values = {name: float(row[name]) for name in names if row[name] == row[name]}
        recorded.setdefault(str(row["run"]), {})[str(row["split"])] = values
    return recorded


def _check_metrics(
    file: Path, parts: Mapping[str, pd.DataFrame], recorded: Mapping[str, Mapping[str, float]], record: Path,
    remedy: str,
) -> None:  # fmt: skip
    """DamagedFile where expressions do not give the metrics that were computed from them when they were stored.

    Args:
        parts: the expressions by split, without a split that has none.
        record: the file that says so; which of the two is damaged, nobody can tell.
    """
    for split, values in recorded.items():
        for name in values.keys() & set(CHECKED):
            value = metrics[name].value(parts[split]) if split in parts else math.nan
            if not abs(value - values[name]) < TOLERANCE:
                label = metrics[name].label
                message = f"{label} of {split} is {value:.6f}, but {record} says {values[name]:.6f}"
                raise DamagedFile(file, Mistake("intersection", message, "metric"), remedy)


def _without_other_configurations(grid: Grid, runs: pd.DataFrame, source: RunFolders) -> pd.DataFrame:
    """Mark runs as damaged whose folder holds another configuration than its name says."""
    documents = {config.setting_id: config.identity_document() for config in grid.settings.values()}
    sound = runs[runs["state"] != "damaged"].drop_duplicates("run")
    for run, setting_id in zip(sound["run"], sound["setting_id"], strict=True):
        try:
            folder = RunFolder(source.results, run)
            folder.check_identity(folder.record(), documents[setting_id])
        except (StoreError, DamagedFile) as error:
            runs = _without_metrics(runs, run, str(error))
    return runs


def _state_and_message(row: Any) -> tuple[str, str | None]:
    import pandas as pd

    return str(row["state"]), None if pd.isna(row["message"]) else str(row["message"])


def _without_metrics(runs: pd.DataFrame, run: str, message: str) -> pd.DataFrame:
    """The frame of the runs with one marked as damaged, as if its record were."""
    import pandas as pd

    kept = ["run", "setting_id", "seed", "dataset", "code", "codes", "kind"]
    row = runs[runs["run"] == run].iloc[:1][kept].assign(state="damaged", message=message)
    order = runs["run"].drop_duplicates().tolist()
    joined = pd.concat([runs[runs["run"] != run], row], ignore_index=True).astype(runs.dtypes)
    place = joined["run"].map({name: place for place, name in enumerate(order)})
    return joined.iloc[place.argsort(kind="stable")].reset_index(drop=True)


def _leave_out_other_expressions(
    grid: Grid, runs: pd.DataFrame, expressions: dict[str, pd.DataFrame], incomplete: list[Incomplete]
) -> pd.DataFrame:
    """Take out runs that were evaluated on other expressions than most runs on the same data set: one is damaged."""
    signatures: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    columns = ["image_id", *KEY[1:], "sentence"]
    columns += _in_all(expressions.values(), "target_area", "no_target")
    for setting, frame in expressions.items():
        data = grid.settings[setting].data
        data_set = repr((data.dataset, data.split_by, data.recipe, data.sha256, data.members))
        rows = _row_hashes(frame[columns])
        of_runs: dict[Any, Any] = dict(frame.groupby(["run", "split"], sort=False).indices)
        for (run, split), places in of_runs.items():
            signature = hashlib.sha256(np.sort(rows[places]).tobytes()).hexdigest()
            signatures.setdefault((data_set, str(split)), {})[setting, str(run)] = signature
    for (_, split), by_run in signatures.items():
        [(usual, _)] = Counter(by_run.values()).most_common(1)
        for (setting, run), signature in by_run.items():
            if signature != usual and run in set(runs.loc[runs["state"] == "completed", "run"]):
                message = f"{run} was evaluated on other expressions of {split} than other runs on the same data set"
                runs = _leave_out(setting, run, message, runs, expressions, incomplete)
    return runs


def _row_hashes(frame: pd.DataFrame) -> NDArray[np.uint64]:
    """A number for each row, the same for the same values, however wide the integers are that hold them."""
    import pandas as pd

    whole = {name: "int64" for name in frame if pd.api.types.is_integer_dtype(frame[name])}
    return np.asarray(pd.util.hash_pandas_object(frame.astype(whole), index=False), dtype=np.uint64)


def _leave_out_other_metrics(
    source: ResultsSource, runs: pd.DataFrame, expressions: dict[str, pd.DataFrame], incomplete: list[Incomplete]
) -> pd.DataFrame:
    """Take out runs whose expressions do not give the metrics that were computed from them when they were stored."""
    recorded = _recorded(runs)
    for setting, frame in list(expressions.items()):
        parts: dict[str, dict[str, pd.DataFrame]] = {}
        for (run, split), part in frame.groupby(["run", "split"], sort=False):
            parts.setdefault(str(run), {})[str(split)] = part
        for run, of_run in parts.items():
            try:
                _check_metrics(source.expressions_file(run), of_run, recorded[run], source.record_file(run), AGAIN)
            except DamagedFile as damage:
                runs = _leave_out(setting, run, str(damage), runs, expressions, incomplete)
    return runs


def _leave_out(
    setting: str,
    run: str,
    message: str,
    runs: pd.DataFrame,
    expressions: dict[str, pd.DataFrame],
    incomplete: list[Incomplete],
) -> pd.DataFrame:
    """Take a damaged run out of the expressions; returns the frame of the runs that says so."""
    incomplete.append(Incomplete(setting, RunId.parse(run).seed, run, "damaged", message))
    frame = expressions[setting]
    expressions[setting] = frame[frame["run"] != run].reset_index(drop=True)
    if expressions[setting].empty:
        del expressions[setting]
    return _without_metrics(runs, run, message)


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(frames, ignore_index=True)


def _add_scored(
    grid: Grid,
    scored: Mapping[str, ScoredFolder],
    expressions: dict[str, pd.DataFrame],
    incomplete: list[Incomplete],
) -> dict[str, str]:
    """Put the scores of `report.models` to the others; returns where each model's masks came from."""
    sources = {}
    compared = grid.baseline if grid.baseline in expressions else next(iter(expressions))
    for name, folder in scored.items():
        if name in grid.settings:
            raise StoreError(f"{grid.file}: report.models: {name!r} is a setting's name")
        try:
            record, frame = folder.record(), folder.expressions()
            parts = {str(split): part for split, part in frame.groupby("split", sort=False)}
            _check_metrics(folder.expressions_file, parts, record.metrics, folder.record_file, REMEDY)
        except DamagedFile as damage:
            incomplete.append(Incomplete(name, None, f"{SCORED}/{name}", "damaged", str(damage)))
            continue
        for split in grid.splits:
            of_model, of_runs = (part[part["split"] == split] for part in (frame, expressions[compared]))
            if len(of_model) and len(of_runs) and not _same_expressions(of_model, of_runs):
                raise StoreError(
                    f"{grid.file}: report.models: {name!r} was scored on another {split} than the runs of {compared!r}"
                )
        expressions[name] = frame.drop(columns="prediction", errors="ignore").assign(run=f"{SCORED}/{name}")
        sources[name] = record.source
    return sources


def _in_all(frames: Collection[pd.DataFrame], *columns: str) -> list[str]:
    """The columns that every run of these frames has.

    Runs made before there was a column lack it; beside one of these, the column of the others has another type.
    """
    return [name for name in columns if all(name in frame and not frame[name].isna().any() for frame in frames)]


def _same_expressions(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two frames hold the same expressions with the same ground truth."""
    columns = ["image_id", *KEY[1:], "sentence"]
    columns += _in_all([one, other], "target_area")
    first, second = (frame[columns].drop_duplicates().reset_index(drop=True) for frame in (one, other))
    return first.equals(second)

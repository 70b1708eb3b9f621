"""The runs of a grid and of the grids that it begins from, the state of each, and which of them are to be trained."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.config import BUILTIN, SHIPPED_BERTS, RunConfig
from workbench.errors import MissingCheckpoint
from workbench.grids import Grid, Run, with_absolute_paths
from workbench.launch.remembered import CompletedRecords
from workbench.launch.states import Look, RunState, forgiving, look_at_queue, run_states
from workbench.launch.submissions import Warn
from workbench.results.folders import RunFolder, StoreError, begun, seeds_of
from workbench.results.record import FAILED, RunId, RunRecord, State
from workbench.validation import DamagedFile


@dataclass(frozen=True)
class PlannedRun:
    """A run and what is known of it."""

    run: Run
    folder: RunFolder
    run_state: RunState

    @property
    def state(self) -> State:
        """Its state."""
        return self.run_state.state


@dataclass(frozen=True)
class Stage:
    """The runs of one grid, of those that a submission is about."""

    grid: Grid
    runs: list[Run]


def stages(grid: Grid) -> list[Stage]:
    """The grid's runs, and before them those that they begin from, and the trials of settings not tuned yet."""
    ordered: list[Stage] = []

    def visit(grid: Grid, runs: list[Run]) -> None:
        below: dict[Path, tuple[Grid, list[Run]]] = {}
        for setting, need in grid.needs.items():
            needed = grid.needed([run for run in runs if run.setting == setting])
            known = below.setdefault(need.grid.file.resolve(), (need.grid, []))[1]
            known += [run for run in needed if run.id not in {other.id for other in known}]
        for other, needed in below.values():
            if needed:
                visit(other, needed)
        seen = {run.id for stage in ordered for run in stage.runs}
        ordered.append(Stage(grid, [run for run in runs if run.id not in seen]))

    if (trials := grid.trials) is not None:
        visit(trials, trials.runs())
    visit(grid, grid.runs())
    return ordered


def runs_of(grid: Grid) -> list[Run]:
    """All runs of a grid, those that it begins from first."""
    return [run for stage in stages(grid) for run in stage.runs]


def with_existing_seeds(grid: Grid, results: Path) -> list[Run]:
    """The grid's runs, and those of every other seed of its settings that has a record."""
    planned = runs_of(grid)
    known, waiting = {run.id for run in planned}, grid.waiting
    extra = [
        Run(name, config, seed, str(RunId(setting_id, seed)))
        for name, config in grid.settings.items()
        if name not in waiting
        for setting_id in [config.setting_id]
        # Ten thousand folders of planned runs are listed in an instant; a look into each takes longer.
        if not results.is_dir() or begun(results, [setting_id]) - known
        for seed in seeds_of(results, setting_id)
    ]
    return planned + [run for run in extra if run.id not in known]


def plan(grid: Grid, results: Path, look: Look | None = None, warn: Warn | None = None) -> list[PlannedRun]:
    """Every run of a grid and its state, trials that it waits for first; see `plan_runs`."""
    trials = grid.trials
    return plan_runs([*([] if trials is None else trials.runs()), *grid.runs()], results, look, warn)


def plan_runs(
    runs: Sequence[Run], results: Path, look: Look | None = None, warn: Warn | None = None
) -> list[PlannedRun]:
    """The state of each run; one whose folder holds another configuration is damaged.

    Args:
        look: how the scheduler is asked, once, if any of them was submitted to one; None: the queue, if it answers.
        warn: called with a line for each damaged submission, which is left out; None: it is an error.

    Raises:
        CheckpointError: a run was begun with other weights than the file of that name holds now.
        DamagedFile: a submission cannot be read.
    """
    folders, others, completed = [], dict[str, str](), dict[str, RunRecord]()
    documents: dict[str, dict[str, Any]] = {}
    settings = {run.id.partition("/")[0] for run in runs}
    there, known = begun(results, settings), CompletedRecords(results, settings)
    for run in runs:
        folder = RunFolder(results, run.id)
        folders.append(folder)
        if run.id not in there:
            continue
        shipped = _has_shipped_weights(run.config)
        if shipped and (before := known.get(folder)) is not None:
            completed[run.id] = before
            continue
        try:
            record = folder.record()
            if record.identity is not None:
                setting_id = run.id.partition("/")[0]
                if setting_id not in documents:
                    documents[setting_id] = run.config.identity_document()
                folder.check_identity(record, documents[setting_id])
            if not shipped:
                _check_weights(run, record)
            if record.state == "completed":
                completed[run.id] = record.without_documents()
                if shipped:
                    known.add(folder, completed[run.id])
        except DamagedFile:
            pass  # its state says so
        except StoreError as error:
            others[run.id] = str(error)
    known.keep()
    states = run_states(folders, results, look or forgiving(look_at_queue), warn, completed, there)
    planned = [PlannedRun(*parts) for parts in zip(runs, folders, states, strict=True)]
    return [
        replace(p, run_state=RunState("damaged", "damaged", others[p.run.id])) if p.run.id in others else p
        for p in planned
    ]


def _has_shipped_weights(config: RunConfig) -> bool:
    return config.backbone.checkpoint in (None, BUILTIN) and config.text_encoder.name in SHIPPED_BERTS


def _check_weights(run: Run, record: RunRecord) -> None:
    """Shipped weights are part of the identity; others only by name, so their content is compared here."""
    config, provenance = run.config, record.provenance
    if provenance is None:
        return
    from workbench.models.build import check_digests

    # A table can be made where the weights are not; a training checks them again.
    with contextlib.suppress(MissingCheckpoint):
        check_digests(config, provenance.digests(), run.id)


def to_train(planned: Sequence[PlannedRun], retry: Collection[str] | bool = False) -> list[PlannedRun]:
    """What a submission trains: finished runs are skipped, queued and running ones left alone, failed ones need
    asking for.

    Args:
        retry: the failure classes asked for, and then nothing else is taken; True stands for all beside the rest.
    """
    skipped: tuple[State, ...] = ("completed", "running", "queued")
    open_runs = [p for p in planned if p.state not in skipped]
    if isinstance(retry, bool):
        return [p for p in open_runs if retry or p.state not in FAILED]
    return [p for p in open_runs if p.run_state.cause in retry]


def with_waiting(grid: Grid, planned: Sequence[PlannedRun], chosen: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The chosen runs, and those that wait in a queue to begin from one of them: their tasks would come too early."""
    ids = {p.run.id for p in chosen}
    waiting = {p.run.id for p in planned if p.state == "queued"}
    for stage in stages(grid):
        # The earlier stages come first.
        ids |= {run.id for run in stage.runs if run.id in waiting and ids & {n.id for n in stage.grid.needed([run])}}
    return [p for p in planned if p.run.id in ids]


def job_document(config: RunConfig, threads: int) -> dict[str, Any]:
    """A configuration as a job gets it: plain values, absolute paths, and `threads` where it leaves them open."""
    config = with_absolute_paths(config)
    machine = config.machine.model_copy(update={"threads": config.machine.threads or threads})
    return config.model_copy(update={"machine": machine}).model_dump(mode="json")

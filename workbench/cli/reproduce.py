"""The command that makes all results of the grids: runs, tables, figures, report and notebooks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.notebooks import NOTEBOOKS, run_all
from workbench.cli.options import (
    RESULTS,
    CheckpointRoot,
    DataRoot,
    Json,
    Preset,
    Results,
    app,
    load_grid_file,
    print_json,
    print_rows,
    print_written,
    warn,
)
from workbench.cli.report import report_file, write_report
from workbench.cli.runs import ProfileFile, Workers, submit_grid
from workbench.errors import WorkbenchError, counted
from workbench.files import check_writable

if TYPE_CHECKING:
    from workbench.grids import Grid
    from workbench.launch.plan import PlannedRun

ABLATIONS = Path("ablations")


@dataclass(frozen=True)
class _Planned:
    """A grid, its runs with their states, and those that are to be trained and that no grid before it has."""

    grid: Grid
    runs: list[PlannedRun]
    to_train: list[PlannedRun]


@app.command()
def reproduce(
    grids: Annotated[
        list[Path] | None, typer.Argument(metavar="[GRID]...", help="Grids; by default all in ablations/.")
    ] = None,
    submit: Annotated[
        bool, typer.Option("--submit", help="Train what is missing, then make tables, figures, report and notebooks.")
    ] = False,
    preset: Preset = None,
    profile: ProfileFile = None,
    workers: Workers = None,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
    as_json: Json = False,
) -> None:
    """Print which results of the grids exist, which runs are missing and their cost; with --submit, make them all."""
    if as_json and submit:
        raise WorkbenchError("--json prints the plan; with --submit, leave it out")
    files = grids or sorted(ABLATIONS.glob("*.yaml"))
    if not files:
        raise WorkbenchError(f"no grids in {ABLATIONS.absolute()}; name one, or run this in the project's top folder")
    plans = _plans([load_grid_file(file, data_root, checkpoint_root, preset=preset) for file in files], results)
    if as_json:
        print_json(_document(plans, results))
        return
    _print_plans(plans, results)
    page = report_file([planned.grid for planned in plans], results)
    print(f"report: {page} {'exists' if page.is_file() else 'is not made yet'}")
    if not submit:
        print(
            "nothing was changed; with --submit, this command trains, then makes tables, figures, report and notebooks"
        )
        return
    check_writable(results, "name a folder of your own with --results")
    plans, failed = _train(plans, results, profile, workers)
    if profile is not None and any(planned.to_train for planned in plans) and _on_cluster(profile):
        print("when the runs have ended, the same command makes tables, figures, report and notebooks")
    else:
        failed += _artefacts(plans, results)
        failed += _report([planned.grid for planned in plans], results)
        if NOTEBOOKS.is_dir():
            failed += _notebooks(results, data_root)
    if failed:
        raise WorkbenchError(f"{counted(len(failed), 'step')} failed: {'; '.join(failed)}")


def _plans(grids: list[Grid], results: Path) -> list[_Planned]:
    """What is to be done for each grid; a run that several grids share is trained for the first."""
    from workbench.launch.plan import plan_runs, runs_of, to_train
    from workbench.launch.states import forgiving, look_at_queue

    look = forgiving(look_at_queue, warn)
    planned_before: set[str] = set()
    plans = []
    for grid in grids:
        runs = plan_runs(runs_of(grid), results, look, warn)
        missing = [planned for planned in to_train(runs) if planned.run.id not in planned_before]
        planned_before |= {planned.run.id for planned in missing}
        plans.append(_Planned(grid, runs, missing))
    return plans


def _document(plans: list[_Planned], results: Path) -> dict[str, Any]:
    """Of each grid its runs by state, those to train, what they would cost, and what was made of it."""
    from workbench.launch.cost import expected_cost
    from workbench.paper.figures import figures

    grids = []
    for planned in plans:
        folder, cost = results / planned.grid.name, expected_cost(planned.to_train, results)
        grids.append(
            {
                "grid": planned.grid.file,
                "states": dict(Counter(run.state for run in planned.runs)),
                "to_train": [run.run.id for run in planned.to_train],
                "hours": cost.hours if cost.known else None,
                "runs_of_known_cost": cost.known,
                "table": (folder / "table.md").is_file(),
                "figures": [name for name in figures if (folder / f"{name}.json").is_file()],
            }
        )
    return {"results": results.absolute(), "grids": grids}


def _print_plans(plans: list[_Planned], results: Path) -> None:
    from workbench.launch.cost import Cost, expected_cost
    from workbench.paper.figures import figures

    rows, costs = [], []
    for planned in plans:
        folder = results / planned.grid.name
        drawn = sum((folder / f"{name}.json").is_file() for name in figures)
        states = Counter(run.state for run in planned.runs)
        costs.append(expected_cost(planned.to_train, results))
        rest = ", ".join(f"{n} {state}" for state, n in states.items() if state not in ("completed", "new"))
        rows.append(
            (
                planned.grid.name,
                len(planned.runs),
                states["completed"],
                rest or "–",
                len(planned.to_train),
                str(costs[-1]) if planned.to_train else "–",
                "yes" if (folder / "table.md").is_file() else "no",
                f"{drawn} of {len(figures)}",
            )
        )
    print_rows(("grid", "runs", "completed", "other states", "to train", "cost", "table", "figures"), rows)
    missing = sum(cost.runs for cost in costs)
    if missing:
        total = Cost(sum(c.hours for c in costs), sum(c.known for c in costs), missing, any(c.gpu for c in costs))
        print(f"\n{counted(missing, 'run')} to train in all; {total}")
    else:
        print("\nnothing to train")
    if any(run.state in ("failed", "diverged", "cancelled", "damaged") for planned in plans for run in planned.runs):
        print("runs that failed before are left alone; to try them again: workbench retry GRID")


def _train(
    plans: list[_Planned], results: Path, profile: Path | None, workers: int | None
) -> tuple[list[_Planned], list[str]]:
    """Submit each grid that misses runs, or waits for its trials; one that fails does not stop the others.

    Returns:
        The plans, their grids with what trials chose, and what failed.
    """
    ended, failed = [], []
    for planned in plans:
        grid = planned.grid
        if planned.to_train or grid.waiting:
            try:
                grid = submit_grid(grid, results, profile, workers, retry=False, dry_run=False)
            except WorkbenchError as error:
                failed.append(f"{planned.grid.name}: {error}")
        ended.append(replace(planned, grid=grid))
    return ended, failed


def _on_cluster(profile: Path) -> bool:
    from workbench.launch.profiles import load_profile

    return load_profile(profile).backend == "slurm"


def _artefacts(plans: list[_Planned], results: Path) -> list[str]:
    """Tables and figures of every grid that has a completed run."""
    from workbench.paper.artefacts import make_artefacts
    from workbench.results.folders import RunFolder

    failed = []
    for planned in plans:
        ids = [run.id for run in planned.grid.runs()]
        if not any(RunFolder(results, run).state() == "completed" for run in ids):
            print(f"{planned.grid.name}: no table and no figures: none of its runs is completed")
            continue
        try:
            print_written(make_artefacts(planned.grid, results, ("table", "figure")))
        except WorkbenchError as error:
            failed.append(f"{planned.grid.name}: {error}")
    return failed


def _report(grids: list[Grid], results: Path) -> list[str]:
    """One page of all grids; a grid without a completed run has a sentence there, and where all are so, no page."""
    from workbench.results.folders import StoreError

    try:
        file, size = write_report(grids, results)
        print(f"wrote {file} ({size / 1e6:.1f} MB)")
    except StoreError:
        print("no report: none of the runs is completed")
    except WorkbenchError as error:
        return [f"report: {error}"]
    return []


def _notebooks(results: Path, data_root: Path | None) -> list[str]:
    from workbench.paper.notebooks import find_notebooks

    return run_all(find_notebooks(NOTEBOOKS), results / "notebooks", results, data_root=data_root)

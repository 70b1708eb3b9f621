"""Commands that train: plan, submit, retry and train."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli import outputs
from workbench.cli.options import (
    RESULTS,
    CheckpointRoot,
    DataRoot,
    GridFile,
    Json,
    Results,
    app,
    load_grid_file,
    machine_of,
    preparing,
    print_rows,
    progress_of,
    warn,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from workbench.grids import Grid

ProfileFile = Annotated[
    Path | None,
    typer.Option(
        envvar="WORKBENCH_PROFILE", help="What a run may use, e.g. slurm/dev.yaml; without one, this machine."
    ),
]
Only = Annotated[str | None, typer.Option(help="Only the settings whose names match, e.g. 'l_dit*'.")]
Seeds = Annotated[str | None, typer.Option(help="In place of the grid's own, e.g. 0-4 or 0,2.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Most trainings at once, on this machine.")]


@app.command()
def plan(
    grid: GridFile,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
    as_json: Json = False,
) -> None:
    """Check a grid and list its runs with their ids and states. Changes nothing."""
    from workbench.grids import check_grid
    from workbench.launch.plan import plan as make_plan

    loaded = load_grid_file(grid, data_root, checkpoint_root)
    check_grid(loaded, weights=False)
    planned = make_plan(loaded, results)
    if as_json:
        runs = [{"run": p.run.id, "setting": p.run.setting, "seed": p.run.seed, "state": p.state} for p in planned]
        print(json.dumps({"title": loaded.title, "runs": runs}, indent=1))
        return
    print_rows(("setting", "seed", "state", "run"), [(p.run.setting, p.run.seed, p.state, p.run.id) for p in planned])


@app.command()
def submit(
    grid: GridFile,
    profile: ProfileFile = None,
    workers: Workers = None,
    only: Only = None,
    seeds: Seeds = None,
    dry_run: DryRun = False,
    retry_failed: Annotated[bool, typer.Option(help="Also run what failed, diverged or was cancelled before.")] = False,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
) -> None:
    """Train what is not trained yet. On a cluster it returns at once; here, Ctrl-C saves checkpoints."""
    loaded = _chosen_grid(grid, only, seeds, data_root, checkpoint_root)
    _submit(loaded, results, profile, workers, retry_failed, dry_run)


@app.command()
def retry(
    grid: GridFile,
    kinds: Annotated[
        str | None, typer.Option("--class", help="Failure classes, e.g. out_of_memory,node_failure; without it, all.")
    ] = None,
    profile: ProfileFile = None,
    workers: Workers = None,
    only: Only = None,
    seeds: Seeds = None,
    dry_run: DryRun = False,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
) -> None:
    """Take up again what failed, by the class of failure; it resumes from its last checkpoint."""
    from workbench.errors import WorkbenchError
    from workbench.failures import CLASSES
    from workbench.registry import unknown_name

    wanted = list(CLASSES) if kinds is None else [kind.strip() for kind in kinds.split(",")]
    for kind in wanted:
        if kind not in CLASSES:
            raise WorkbenchError(f"--class: {unknown_name('failure class', kind, list(CLASSES))}")
    loaded = _chosen_grid(grid, only, seeds, data_root, checkpoint_root)
    _submit(loaded, results, profile, workers, wanted, dry_run)


def _chosen_grid(
    file: Path, only: str | None, seeds: str | None, data_root: Path | None, checkpoint_root: Path | None
) -> Grid:
    from workbench.grids import parse_seeds

    loaded = load_grid_file(file, data_root, checkpoint_root)
    if only is None and seeds is None:
        return loaded
    return loaded.narrowed(only, None if seeds is None else parse_seeds(seeds))


def _submit(
    grid: Grid,
    results: Path,
    profile_file: Path | None,
    workers: int | None,
    retry: Collection[str] | bool,
    dry_run: bool,
) -> None:
    from workbench.errors import WorkbenchError
    from workbench.launch.plan import plan_runs, to_train
    from workbench.launch.profiles import Profile, load_profile
    from workbench.launch.states import forgiving, look_at_queue
    from workbench.launch.submit import stages, submit_to_slurm

    profile = Profile(name="here", backend="local") if profile_file is None else load_profile(profile_file)
    if profile.backend == "slurm" and workers is not None:
        raise WorkbenchError(f"--workers belongs to this machine; of {profile_file} it is 'parallel'")
    if dry_run or profile.backend == "local":
        look = forgiving(look_at_queue, warn)
        planned = plan_runs([run for stage in stages(grid) for run in stage.runs], results, look)
        chosen = to_train(planned, retry)
        _say_plan(grid, planned, chosen, results)
        if not dry_run:
            _run_here(grid, results, chosen, workers or profile.workers)
        return
    outcome = submit_to_slurm(
        grid, results, profile, retry, _prepare, lambda plan: _say_plan(grid, plan.planned, plan.chosen, results)
    )
    for made in outcome.made:
        count = len(made.submission.runs)
        print(f"handed over as job {made.array_id}: {count} runs, at most {min(count, profile.parallel)} at once")
    for report in outcome.reports:
        then = " and ".join(report.submission.manifest["then"])
        name = Path(report.submission.grid).stem
        print(f"handed over as job {report.array_id}: {then} of {name}, when its runs have ended")
    if not outcome.made:
        print("nothing to hand over")
    _say_what_waits(outcome.planned, outcome.chosen, grid)
    print(f"to follow it: workbench status {grid.file} --seeds {','.join(map(str, grid.seeds))} --watch")


def _say_plan(grid: Grid, planned: list[Any], chosen: list[Any], results: Path) -> None:
    from workbench.launch.submit import expected_cost

    counts = {state: sum(p.state == state for p in planned) for state in dict.fromkeys(p.state for p in planned)}
    print(f"{grid.title}: {len(planned)} runs ({', '.join(f'{n} {s}' for s, n in counts.items())})")
    if chosen:
        print(f"{len(chosen)} runs to train; {expected_cost(chosen, results)}")


def _say_what_waits(planned: list[Any], chosen: list[Any], grid: Grid) -> None:
    from workbench.results.folders import FAILED

    taken = {p.run.id for p in chosen}
    left = [p for p in planned if p.state in FAILED and p.run.id not in taken]
    if left:
        kinds = sorted({p.run_state.cause or p.state for p in left})
        print(f"{len(left)} failed before and are left alone; to take them up: "
              f"workbench retry {grid.file} --class {','.join(kinds)}")  # fmt: skip


def _prepare(grid: Grid) -> None:
    """What must hold before runs are handed over: models that fit together, weights and data in their places."""
    from workbench.data.datasets import open_dataset
    from workbench.grids import check_grid

    check_grid(grid)
    for config in {c.data: c for c in grid.settings.values()}.values():
        with progress_of(f"data set {config.data.dataset}", "images") as step:
            open_dataset(config, step)


def _run_here(grid: Grid, results: Path, chosen: list[Any], workers: int) -> None:
    from workbench.errors import WorkbenchError
    from workbench.launch import plan as submission
    from workbench.launch.submit import stages
    from workbench.results.folders import FAILED

    taken = {p.run.id for p in chosen}
    for stage in stages(grid):
        part = [p for p in chosen if p.run.id in {run.id for run in stage.runs} & taken]
        if part:
            _prepare(stage.grid)
            print(f"logs in {_run_locally(part, results, workers)}")
    after = submission.plan(grid, results)
    if any(p.state == "completed" for p in after):
        for what in grid.then:
            machine = next(iter(grid.settings.values())).machine
            roots = machine.data_root, machine.checkpoint_root
            if what == "table":
                outputs.table(grid.file, results=results, data_root=roots[0])
            else:
                outputs.figure(outputs.FigureName.all, grid.file, False, results, *roots)
    if elsewhere := [p for p in after if p.state in ("running", "queued")]:
        print(f"{len(elsewhere)} runs are being trained by other processes; see: workbench status {grid.file}")
    if failed := [p for p in after if p.state not in ("completed", "running", "queued")]:
        lines = "; ".join(f"{p.run.setting} seed {p.run.seed} {_why(p)}" for p in failed)
        hint = "; to run them again: --retry-failed" if any(p.state in FAILED for p in failed) else ""
        raise WorkbenchError(f"{len(failed)} of {len(after)} runs are not completed: {lines}{hint}")


def _why(planned: Any) -> str:
    message = planned.run_state.message
    return f"{planned.state} ({message})" if message else str(planned.state)


def _run_locally(chosen: list[Any], results: Path, workers: int) -> Path:
    from workbench.cli.progress import SubmissionProgress
    from workbench.launch import plan as submission
    from workbench.launch.local import run_locally, visible_gpus

    # Not more threads than cores, or the jobs would fight over them.
    threads = max(1, (os.cpu_count() or 1) // min(workers, len(chosen)))
    for planned in chosen:
        planned.folder.set_aside_damage()
    folder = submission.job_folder(results)
    made = submission.jobs(chosen, results, threads)
    print(f"{len(made)} runs to train, {min(workers, len(made))} at once")
    with SubmissionProgress(chosen) as progress:
        run_locally(made, folder, submission.snapshot(results), workers, visible_gpus(), progress.tick)
    return folder


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A preset, or a grid with --setting.", show_default=False)],
    setting: Annotated[str | None, typer.Option(help="Which setting of a grid.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
) -> None:
    """Train one run in the foreground."""
    import signal

    from workbench.errors import WorkbenchError
    from workbench.grids import is_preset, load_preset
    from workbench.registry import unknown_name
    from workbench.results.folders import RunFolder

    if is_preset(config):
        with preparing() as progress:
            chosen = load_preset(config, machine_of(data_root, checkpoint_root), progress)
    else:
        grid = load_grid_file(config, data_root, checkpoint_root)
        if setting is None or setting not in grid.settings:
            raise WorkbenchError(f"{config}: --setting: {unknown_name('setting', setting, list(grid.settings))}")
        chosen = grid.settings[setting]
    from workbench.data.datasets import open_dataset
    from workbench.models.build import check_config, check_weights
    from workbench.training.train import train as train_run

    check_config(chosen)
    check_weights(chosen)
    with progress_of(f"data set {chosen.data.dataset}", "images") as step:
        open_dataset(chosen, step)
    folder = RunFolder.of(results, chosen, seed)
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: stopping.append(received))
    print(f"run {folder.name}")
    with progress_of("training", "steps") as step:

        def report(event: dict[str, Any]) -> None:
            if event["event"] == "step":
                step(event["step"], event["steps"])

        train_run(chosen, seed, folder, lambda: bool(stopping), report)
    for split, metrics in folder.record()["metrics"].items():
        shown = [f"{label} {100 * metrics[m]:.2f}" for m, label in (("miou", "mIoU"), ("oiou", "oIoU")) if m in metrics]
        print(f"{split}: {', '.join(shown)}")

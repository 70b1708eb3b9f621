"""Commands that train: plan, submit, retry and train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.documents import run_document, submission_document
from workbench.cli.options import (
    RESULTS,
    Changes,
    CheckpointRoot,
    DataRoot,
    GridFile,
    Json,
    Only,
    Preset,
    Results,
    app,
    changes_of,
    complete_setting,
    load_grid_file,
    machine_of,
    preparing,
    print_json,
    print_rows,
    progress_of,
    state_of,
    warn,
)
from workbench.cli.submitting import (
    incomplete,
    print_begun,
    print_ended,
    print_plan,
    print_submitted,
    print_tasks,
    print_waiting,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from workbench.config import RunConfig
    from workbench.grids import Grid
    from workbench.launch.profiles import Profile
    from workbench.launch.submit import SubmissionOutcome

ProfileFile = Annotated[
    Path | None,
    typer.Option(
        envvar="WORKBENCH_PROFILE", help="Where and with what to train, e.g. slurm/dev.yaml; without one, this machine."
    ),
]
Seeds = Annotated[str | None, typer.Option(help="Use these in place of the grid's own, e.g. 0-4 or 0,2.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done and change nothing.")]
Workers = Annotated[int | None, typer.Option(min=1, help="At most this many trainings at once, on this machine.")]


@app.command()
def plan(
    grid: GridFile,
    profile: ProfileFile = None,
    preset: Preset = None,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Check a grid and list its runs with their ids and states, and what they need on a GPU. Changes nothing."""
    from workbench.grids import check_grid
    from workbench.launch.plan import plan as make_plan
    from workbench.launch.plan import plan_runs, runs_of, to_train
    from workbench.launch.room import check_room, needs

    profile_used = _profile(profile)
    loaded = load_grid_file(grid, data_root, checkpoint_root, changes, preset)
    check_grid(loaded, weights=False)
    planned = make_plan(loaded, results, warn=warn)
    runs_planned = [p.run for p in planned]
    memory = needs(runs_planned, profile_used.processes)
    if as_json:
        bytes_of = [{"settings": n.settings, "total": n.memory.total, **vars(n.memory)} for n in memory]
        runs = [run_document(run) for run in planned]
        print_json({"title": loaded.title, "results": results.absolute(), "runs": runs, "gpu_memory_bytes": bytes_of})
    else:
        print_rows(
            ("setting", "seed", "state", "run"),
            [(p.run.setting, p.run.seed, state_of(p.state, p.run_state.cause), p.run.id) for p in planned],
        )
        if profile_used.tasks_of > 1:
            known = plan_runs(runs_of(loaded), results, warn=warn) if loaded.needs else planned
            print_tasks(loaded, known, to_train(planned), profile_used)
        print_waiting(loaded)
        print("\nmemory of a GPU that a run needs, in each process:" if profile_used.processes > 1 else
              "\nmemory of a GPU that a run needs:")  # fmt: skip
        print("\n".join(f"  {need}" for need in memory))
        if not results.is_absolute():
            print(f"\nresults in {results.absolute()}")
    check_room(runs_planned, profile_used, memory)


@app.command("config")
def show_config(
    config: Annotated[Path, typer.Argument(help="A grid, or a preset.", show_default=False)],
    setting: Annotated[
        str | None,
        typer.Argument(help="Which setting of the grid.", show_default=False, autocompletion=complete_setting),
    ] = None,
    preset: Preset = None,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Print one setting's configuration in full: presets, overrides and defaults resolved, and its id."""
    chosen, _ = _configuration(config, setting, data_root, checkpoint_root, changes, preset)
    document = chosen.model_dump(mode="json")
    if as_json:
        print_json({"id": chosen.setting_id, "config": document})
        return
    import yaml

    print(f"# {chosen.setting_id}")
    print(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120), end="")


def _configuration(
    file: Path,
    setting: str | None,
    data_root: Path | None,
    checkpoint_root: Path | None,
    changes: list[str] | None,
    preset: str | None,
) -> tuple[RunConfig, str]:
    """A preset's configuration, or that of a grid's setting; and what the preset or grid is called."""
    from workbench.errors import WorkbenchError
    from workbench.grids import is_preset, load_preset
    from workbench.registry import unknown_name

    if is_preset(file):
        if setting is not None:
            raise WorkbenchError(f"{file}: a preset has no settings; leave {setting!r} out")
        if preset is not None:
            raise WorkbenchError(
                f"{file}: --preset is for grids, and this is a preset itself; name the file of {preset!r}"
            )
        with preparing() as progress:
            return load_preset(file, machine_of(data_root, checkpoint_root), progress, changes_of(changes)), file.stem
    grid = load_grid_file(file, data_root, checkpoint_root, changes, preset)
    if setting is None:
        raise WorkbenchError(f"{file}: name a setting of the grid: {', '.join(grid.settings)}")
    if setting not in grid.settings:
        raise WorkbenchError(f"{file}: --setting: {unknown_name('setting', setting, list(grid.settings))}")
    if setting in grid.waiting:
        assert grid.tuning is not None
        warn(
            f"{setting!r} is not tuned yet: {', '.join(grid.tuning.config.fields)} as the grid states it, which need "
            f"not be what its trials choose; first: workbench submit {grid.argument}"
        )
    return grid.settings[setting], grid.name


@app.command()
def submit(
    grid: GridFile,
    profile: ProfileFile = None,
    workers: Workers = None,
    preset: Preset = None,
    only: Only = None,
    seeds: Seeds = None,
    dry_run: DryRun = False,
    retry_failed: Annotated[
        bool, typer.Option(help="Also train runs that failed, diverged or were cancelled before.")
    ] = False,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Train what is not trained yet. With a cluster's profile it returns at once; here, Ctrl-C saves and ends."""
    loaded = _chosen_grid(grid, only, seeds, data_root, checkpoint_root, changes, preset)
    submit_grid(loaded, results, profile, workers, retry_failed, dry_run, as_json)


@app.command()
def retry(
    grid: GridFile,
    kinds: Annotated[
        str | None, typer.Option("--class", help="Only these failure classes, e.g. out_of_memory,node_failure.")
    ] = None,
    profile: ProfileFile = None,
    workers: Workers = None,
    preset: Preset = None,
    only: Only = None,
    seeds: Seeds = None,
    dry_run: DryRun = False,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
    as_json: Json = False,
) -> None:
    """Train failed runs again, from their last checkpoints; --class chooses them by why they failed."""
    from workbench.errors import WorkbenchError
    from workbench.failures import CLASSES
    from workbench.registry import unknown_name

    wanted = list(CLASSES) if kinds is None else [kind.strip() for kind in kinds.split(",")]
    for kind in wanted:
        if kind not in CLASSES:
            raise WorkbenchError(f"--class: {unknown_name('failure class', kind, list(CLASSES))}")
    loaded = _chosen_grid(grid, only, seeds, data_root, checkpoint_root, preset=preset)
    submit_grid(loaded, results, profile, workers, wanted, dry_run, as_json)


def _chosen_grid(
    file: Path,
    only: str | None,
    seeds: str | None,
    data_root: Path | None,
    checkpoint_root: Path | None,
    changes: list[str] | None = None,
    preset: str | None = None,
) -> Grid:
    from workbench.grids import parse_seeds

    loaded = load_grid_file(file, data_root, checkpoint_root, changes, preset)
    if only is None and seeds is None:
        return loaded
    return loaded.narrowed(only, None if seeds is None else parse_seeds(seeds))


def submit_grid(
    grid: Grid,
    results: Path,
    profile_file: Path | None,
    workers: int | None,
    retry: Collection[str] | bool,
    dry_run: bool,
    as_json: bool = False,
) -> Grid:
    """Train what is to be trained of a grid, and say what became of it; see `submit`.

    Where it is tuned, trials come first. On this machine the runs with what was chosen follow at once.

    Returns:
        The grid, with what its trials chose.
    """
    from workbench.errors import WorkbenchError
    from workbench.launch.tuning import choose

    while True:
        grid = grid if dry_run else choose(grid, results)
        outcome = _submit_once(grid, results, profile_file, workers, retry, dry_run, as_json)
        failed = None if dry_run else incomplete(grid, outcome)
        chosen = grid if dry_run or failed else choose(grid, results)
        more, grid = len(chosen.waiting) < len(grid.waiting), chosen
        if not more:
            break
    if as_json:
        # Of a grid with trials, what was submitted last, which names the trials too.
        print_json({"dry_run": dry_run, "results": results.absolute(), "waiting": list(grid.waiting),
                    **submission_document(outcome)})  # fmt: skip
    if failed:
        raise WorkbenchError(failed)
    if not as_json:
        print_waiting(grid)
    return grid


def _submit_once(
    grid: Grid,
    results: Path,
    profile_file: Path | None,
    workers: int | None,
    retry: Collection[str] | bool,
    dry_run: bool,
    as_json: bool,
) -> SubmissionOutcome:
    from workbench.cli.progress import SubmissionProgress
    from workbench.errors import WorkbenchError
    from workbench.grids import check_grid
    from workbench.launch import submit as launch
    from workbench.launch.plan import stages
    from workbench.paper.report import report

    profile = _profile(profile_file)
    if profile.backend == "slurm" and workers is not None:
        raise WorkbenchError(f"--workers belongs to this machine; of {profile_file} it is 'parallel'")
    request = launch.Request(
        results, profile, _prepare, report, retry,
        lambda outcome: None if as_json else print_plan(grid, outcome, results), warn, SubmissionProgress,
        lambda chosen, at_once: None if as_json else print_begun(chosen, at_once), workers,
    )  # fmt: skip
    if dry_run:
        outcome = launch.dry_run(grid, request)
        for stage in stages(grid) if outcome.chosen else ():
            check_grid(stage.grid)
    else:
        outcome = launch.submit(grid, request)
    if not as_json and not dry_run:
        if profile.backend == "slurm":
            print_submitted(grid, outcome, profile.parallel)
        else:
            print_ended(grid, outcome)
    return outcome


def _profile(file: Path | None) -> Profile:
    from workbench.launch.profiles import Profile, load_profile

    return Profile(name="here", backend="local") if file is None else load_profile(file)


def _prepare(grid: Grid) -> None:
    """What must hold before runs are submitted: models that fit together, weights and data in their places."""
    from workbench.data.datasets import open_dataset
    from workbench.grids import check_grid

    check_grid(grid)
    for config in {c.data: c for c in grid.settings.values()}.values():
        with progress_of(f"data set {config.data.dataset}", "objects and images") as step:
            data = open_dataset(config, step)
        for note in data.notes if config.data.members else ():
            print(f"{data.name}: {note}")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A preset, or a grid with --setting.", show_default=False)],
    setting: Annotated[
        str | None, typer.Option(help="The setting of the grid to train.", autocompletion=complete_setting)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the run.")] = 0,
    preset: Preset = None,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Train one run in the foreground."""
    import signal

    from workbench.results.curves import name_curves
    from workbench.results.folders import RunFolder

    chosen, name = _configuration(config, setting, data_root, checkpoint_root, changes, preset)
    from workbench.data.datasets import open_dataset
    from workbench.models.build import check_config, check_weights
    from workbench.training.train import train as train_run

    check_config(chosen)
    check_weights(chosen)
    with progress_of(f"data set {chosen.data.dataset}", "objects and images") as step:
        open_dataset(chosen, step)
    folder = RunFolder.of(results, chosen, seed)
    if "tensorboard" in chosen.machine.trackers:
        name_curves(results, name, [(setting or "train", folder)])
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: stopping.append(received))
    if not as_json:
        print(f"run {folder.name} in {folder.path.absolute()}", flush=True)
    with progress_of("training", "steps") as step:

        def report(event: dict[str, Any]) -> None:
            if event["event"] == "step":
                step(event["step"], event["steps"])

        train_run(chosen, seed, folder, lambda: bool(stopping), report)
    if as_json:
        print_json({"run": folder.name, "folder": folder.path.absolute(), "metrics": folder.record().metrics})
        return
    for split, metrics in folder.record().metrics.items():
        shown = [f"{label} {100 * metrics[m]:.2f}" for m, label in (("miou", "mIoU"), ("oiou", "oIoU")) if m in metrics]
        print(f"{split}: {', '.join(shown)}")

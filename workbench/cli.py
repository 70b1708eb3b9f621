"""The `workbench` command: parses, calls, prints. Heavy libraries load inside the commands that use them."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from workbench.launch.grid import Grid

app = typer.Typer(
    help="Ablations and attention maps of Deep Instruction Tuning for Segment Anything.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Make data sets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

GridFile = Annotated[Path, typer.Argument(help="A grid, e.g. ablations/demo.yaml.", show_default=False)]
Results = Annotated[Path, typer.Option(envvar="WORKBENCH_RESULTS", help="Folder of runs, tables and figures.")]
DataRoot = Annotated[
    Path | None, typer.Option(envvar="WORKBENCH_DATA", help="Folder of data sets; stands over the grid's own.")
]
CheckpointRoot = Annotated[
    Path | None, typer.Option(envvar="WORKBENCH_CHECKPOINTS", help="Folder of SAM's and BERT's weights.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
RESULTS = Path("results")


class FigureName(StrEnum):
    """The figures; `all` makes each."""

    bars = "bars"
    predictions = "predictions"
    attention = "attention"
    all = "all"


class PretrainedName(StrEnum):
    """What `pretrain` can make."""

    vit_mini = "vit_mini"
    bert_mini = "bert_mini"


def main() -> None:
    """Entry point: what the user can mend is one line and exit code 2."""
    from workbench.errors import WorkbenchError

    try:
        app()
    except WorkbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


@app.command()
def plan(
    grid: GridFile,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
    as_json: Json = False,
) -> None:
    """Check a grid and list its runs with their ids and states. Changes nothing."""
    from workbench.launch.grid import check_grid
    from workbench.launch.submission import plan as make_plan

    loaded = _grid(grid, data_root, checkpoint_root)
    check_grid(loaded, weights=False)
    planned = make_plan(loaded, results)
    if as_json:
        runs = [{"run": p.run.id, "setting": p.run.setting, "seed": p.run.seed, "state": p.state} for p in planned]
        print(json.dumps({"title": loaded.title, "runs": runs}, indent=1))
        return
    _print_rows(("setting", "seed", "state", "run"), [(p.run.setting, p.run.seed, p.state, p.run.id) for p in planned])


@app.command()
def submit(
    grid: GridFile,
    workers: Annotated[int, typer.Option(min=1, help="Most trainings at once.")] = 1,
    retry_failed: Annotated[bool, typer.Option(help="Also run what failed or diverged before.")] = False,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
) -> None:
    """Train what is not trained yet, on this machine. Ctrl-C saves checkpoints; submit again to go on."""
    from workbench.data.datasets import open_dataset
    from workbench.errors import WorkbenchError
    from workbench.launch import submission
    from workbench.launch.grid import check_grid
    from workbench.store import FAILED

    loaded = _grid(grid, data_root, checkpoint_root)
    planned = submission.plan(loaded, results)
    chosen = submission.to_train(planned, retry_failed)
    counts = {state: sum(p.state == state for p in planned) for state in dict.fromkeys(p.state for p in planned)}
    print(f"{loaded.title}: {len(planned)} runs ({', '.join(f'{n} {s}' for s, n in counts.items())})")
    if chosen:
        check_grid(loaded)
        for config in {c.data: c for c in loaded.settings.values()}.values():
            with _progress(f"data set {config.data.dataset}", "images") as step:
                open_dataset(config, step)
        print(f"logs in {_run_locally(chosen, results, workers)}")
    after = submission.plan(loaded, results)
    if elsewhere := [p for p in after if p.state == "running"]:
        print(f"{len(elsewhere)} runs are being trained by other processes; see: workbench status {grid}")
    if failed := [p for p in after if p.state not in ("completed", "running")]:
        lines = "; ".join(f"{p.run.setting} seed {p.run.seed} {_why(p)}" for p in failed)
        hint = "; to run them again: --retry-failed" if any(p.state in FAILED for p in failed) else ""
        raise WorkbenchError(f"{len(failed)} of {len(planned)} runs are not completed: {lines}{hint}")


def _why(planned: Any) -> str:
    error = (planned.folder.record().get("error") or {}).get("message")
    return f"{planned.state} ({error})" if error else str(planned.state)


def _run_locally(chosen: list[Any], results: Path, workers: int) -> Path:
    from workbench.launch import submission
    from workbench.launch.local import run_locally, visible_gpus

    # Not more threads than cores, or the jobs would fight over them.
    threads = max(1, (os.cpu_count() or 1) // min(workers, len(chosen)))
    folder = submission.job_folder(results)
    made = submission.jobs(chosen, results, threads)
    print(f"{len(made)} runs to train, {min(workers, len(made))} at once")
    from workbench.progress import SubmissionProgress

    with SubmissionProgress(chosen) as progress:
        run_locally(made, folder, submission.snapshot(results), workers, visible_gpus(), progress.tick)
    return folder


@app.command()
def status(grid: GridFile, results: Results = RESULTS, as_json: Json = False) -> None:
    """Where each run stands: state, step, speed, time left, and what went wrong."""
    from workbench.launch.status import statuses
    from workbench.launch.submission import plan as make_plan

    found = statuses(make_plan(_grid(grid), results))
    if as_json:
        print(json.dumps([s.as_dict() for s in found], indent=1))
        return
    rows = [
        (
            s.setting,
            s.seed,
            s.state,
            f"{s.step or 0}/{'?' if s.steps is None else s.steps}",
            f"{s.rate:.0f} expr/s" if s.rate else "–",
            _duration(s.seconds_left),
            s.error or "",
        )
        for s in found
    ]
    _print_rows(("setting", "seed", "state", "step", "speed", "left", "error"), rows)


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
    from workbench.launch.grid import is_preset, load_preset
    from workbench.registry import unknown_name
    from workbench.store import RunFolder

    if is_preset(config):
        chosen = load_preset(config, _machine(data_root, checkpoint_root))
    else:
        grid = _grid(config, data_root, checkpoint_root)
        if setting is None or setting not in grid.settings:
            raise WorkbenchError(f"{config}: --setting: {unknown_name('setting', setting, list(grid.settings))}")
        chosen = grid.settings[setting]
    from workbench.data.datasets import open_dataset
    from workbench.models.build import check_config, check_weights
    from workbench.training.train import train as train_run

    check_config(chosen)
    check_weights(chosen)
    with _progress(f"data set {chosen.data.dataset}", "images") as step:
        open_dataset(chosen, step)
    folder = RunFolder.of(results, chosen, seed)
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: stopping.append(received))
    print(f"run {folder.name}")
    with _progress("training", "steps") as step:

        def report(event: dict[str, Any]) -> None:
            if event["event"] == "step":
                step(event["step"], event["steps"])

        train_run(chosen, seed, folder, lambda: bool(stopping), report)
    for split, metrics in folder.record()["metrics"].items():
        print(f"{split}: mIoU {100 * metrics['miou']:.2f}, oIoU {100 * metrics['oiou']:.2f}")


@app.command()
def table(grid: GridFile, results: Results = RESULTS) -> None:
    """Print the grid's table and write it as table.md and table.csv, with a JSON of where it comes from."""
    from workbench.paper.tables import make_table

    loaded = _grid(grid)
    made = make_table(loaded, results)
    print(made.text())
    for file in made.write(results / loaded.name):
        print(f"wrote {file}")


@app.command()
def figure(
    name: Annotated[FigureName, typer.Argument(show_default=False)],
    grid: GridFile,
    redraw: Annotated[bool, typer.Option(help="Draw also what is up to date.")] = False,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
) -> None:
    """Draw a figure of a grid's completed runs as PNG and PDF, with a JSON of where it comes from."""
    from workbench.paper.figures import current_files, figures

    loaded = _grid(grid, data_root, checkpoint_root)
    for one in figures if name is FigureName.all else [name.value]:
        if not redraw and (files := current_files(one, loaded, results)):
            print(f"{files[0]} is up to date")
            continue
        for file in figures[one](loaded, results):
            print(f"wrote {file}")


@data_app.command("make")
def data_make(
    name: Annotated[str, typer.Argument(help="refshapes")],
    root: Annotated[Path, typer.Option(envvar="WORKBENCH_DATA", help="Folder of data sets.")] = Path("data"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    train_images: Annotated[int, typer.Option(min=1)] = 5000,
    eval_images: Annotated[int, typer.Option(min=1, help="Images of each other split.")] = 150,
    width: Annotated[int, typer.Option(min=48)] = 64,
    height: Annotated[int, typer.Option(min=48)] = 64,
) -> None:
    """Write a procedural data set in RefCOCO's form; the same options write the same bytes."""
    from workbench.config import RefshapesRecipe
    from workbench.data import refshapes
    from workbench.errors import DataError

    if name != "refshapes":
        raise DataError(f"{name!r} cannot be made; known: refshapes")
    recipe = RefshapesRecipe(seed=seed, width=width, height=height, train_images=train_images, eval_images=eval_images)
    with _progress("refshapes", "images") as step:
        folder = refshapes.ensure(root, recipe, step)
    print(folder)


@app.command()
def pretrain(
    name: Annotated[PretrainedName, typer.Argument(show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write the weights into.")] = Path("checkpoints"),
    root: Annotated[Path, typer.Option(envvar="WORKBENCH_DATA", help="Folder of data sets.")] = Path("data"),
    steps: Annotated[int | None, typer.Option(min=1, help="Other than the shipped recipe's.")] = None,
) -> None:
    """Remake the shipped weights: vit_mini from clicks and boxes, bert_mini from masked words."""
    from dataclasses import replace

    from workbench.training import pretrain as recipes

    maker, recipe = {
        PretrainedName.vit_mini: (recipes.pretrain_sam, recipes.VIT_MINI),
        PretrainedName.bert_mini: (recipes.pretrain_bert, recipes.BERT_MINI),
    }[name]
    with _progress(name.value, "steps") as step:
        report = maker(out, root, replace(recipe, steps=steps or recipe.steps), step)
    print(json.dumps(report, indent=1))


@app.command()
def import_released(
    file: Annotated[Path, typer.Argument(help="A checkpoint of the released DIT code.", show_default=False)],
    variant: Annotated[str, typer.Option(help="Our name of its variant; see `workbench variants`.")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("checkpoints"),
    decoder_heads: Annotated[int, typer.Option(min=1, help="Of the mask decoder; no tensor shows it.")] = 8,
    fusion_heads: Annotated[int, typer.Option(min=1, help="Of the cross-attention variants.")] = 8,
    text_heads: Annotated[int, typer.Option(min=1, help="Of BERT.")] = 12,
) -> None:
    """Turn a released checkpoint into ours, and write a configuration that evaluates it."""
    from workbench.models.importing import import_checkpoint

    imported = import_checkpoint(file, variant, out, decoder_heads, fusion_heads, text_heads)
    print(imported.summary())
    for key in imported.unused:
        print(f"unused: {key}")
    for written in imported.files:
        print(f"wrote {written}")


@app.command("variants")
def list_variants(
    backbone: Annotated[str, typer.Option(help="vit_mini, vit_b, vit_l or vit_h.")] = "vit_b",
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page of the documentation instead.")] = False,
) -> None:
    """List the fusion variants with their rules, sources and costs, counted from the built models."""
    from workbench.models.catalog import as_markdown, catalog

    rows = catalog(backbone)
    if as_json:
        print(json.dumps([row.as_dict() for row in rows], indent=1))
    elif markdown:
        print(as_markdown(backbone, rows), end="")
    else:
        header = ("setting", "new parameters", "trainable", "GFLOPs", "rule", "released as")
        _print_rows(
            header,
            [
                (r.name, f"{r.fusion_parameters:,}", f"{r.trainable_parameters / 1e6:.1f} M", f"{r.gflops:.1f}", r.rule,
                 r.source)
                for r in rows
            ],
        )  # fmt: skip


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="attention, encoder or reuse.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one flat JSON object and nothing else.")] = False,
    write_policy: Annotated[
        Path | None, typer.Option(help="With `attention`: write the fastest choices as this machine's policy table.")
    ] = None,
) -> None:
    """Race this code against what it replaces, turn by turn, and print speed-ups."""
    import torch

    from workbench.benchmarks import benchmarks
    from workbench.errors import WorkbenchError

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if write_policy is None:
        found = benchmarks[name](device, report)
    elif name == "attention":
        found = _bench_and_write_policy(device, report, write_policy)
    else:
        raise WorkbenchError(f"--write-policy belongs to the benchmark attention, not to {name}")
    if as_json:
        print(json.dumps({figure: float(f"{number:.4g}") for figure, number in found.items()}))
    else:
        _print_rows(("figure", "number"), [(figure, f"{number:.2f}") for figure, number in found.items()])


def _bench_and_write_policy(device: Any, report: Any, file: Path) -> dict[str, float]:
    from workbench.benchmarks.attention import figures, measure, policy_of
    from workbench.models import attention_policy

    measured = measure(device, report)
    attention_policy.write_policy(file, policy_of(measured, device))
    report(f"wrote {file}; to use it: export {attention_policy.VARIABLE}={file.absolute()}")
    return figures(measured, device, report)


@app.command()
def lab(
    port: Annotated[int, typer.Option(help="Port on loopback.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open JupyterLab on the notebooks, on loopback alone and behind a token."""
    from workbench.errors import WorkbenchError

    notebooks = Path("notebooks")
    if not notebooks.is_dir():
        raise WorkbenchError(f"no folder {notebooks.absolute()}; run this in the project's top folder")
    command = [
        sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
        f"--ServerApp.open_browser={browser}", "--ServerApp.root_dir=.", "--LabApp.default_url=/lab/tree/notebooks",
        *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
    ]  # fmt: skip
    os.execv(sys.executable, command)


def _machine(data_root: Path | None, checkpoint_root: Path | None) -> dict[str, Any]:
    given = {"data_root": data_root, "checkpoint_root": checkpoint_root}
    return {name: str(path) for name, path in given.items() if path is not None}


def _grid(file: Path, data_root: Path | None = None, checkpoint_root: Path | None = None) -> Grid:
    from workbench.launch.grid import load_grid

    return load_grid(file, _machine(data_root, checkpoint_root))


def _progress(what: str, unit: str) -> Any:
    from workbench.progress import StepProgress

    return StepProgress(what, unit)


def _duration(seconds: float | None) -> str:
    from workbench.progress import duration

    return duration(seconds)


def _print_rows(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    texts = [header, *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(header))]
    for row in texts:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

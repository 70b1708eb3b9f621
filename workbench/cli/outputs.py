"""Commands that show results: figure, summarise, and evaluate, which scores masks made elsewhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.data import DATA, Root, SplitBy, open_named
from workbench.cli.options import (
    RESULTS,
    CheckpointRoot,
    DataRoot,
    GridFile,
    Json,
    Preset,
    Results,
    app,
    changes_of,
    complete_setting,
    load_grid_file,
    print_json,
    print_rows,
    print_written,
    progress_of,
    warn,
    writable,
)

if TYPE_CHECKING:
    from workbench.grids.evaluated import Evaluated


class FigureName(StrEnum):
    """The figures; `all` makes each."""

    schemes = "schemes"
    pipeline = "pipeline"
    bars = "bars"
    by = "by"
    subsets = "subsets"
    budget = "budget"
    curves = "curves"
    predictions = "predictions"
    failures = "failures"
    attention = "attention"
    layers = "layers"
    interventions = "interventions"
    all = "all"


class Breakdown(StrEnum):
    """What expressions can be grouped by."""

    length = "length"
    kind = "kind"
    size = "size"
    distractors = "distractors"


By = Annotated[
    list[Breakdown] | None,
    typer.Option(help="Also group results by the expressions' length or kind, or the referents' size or distractors."),
]


From = Annotated[
    Path | None, typer.Option("--from", help="Read a summary written by `summarise` in place of the run folders.")
]
Seeds = Annotated[str | None, typer.Option(help="Only these seeds, e.g. 0-4; without it, every seed that exists.")]


@app.command()
def summarise(
    grid: GridFile,
    out: Annotated[Path | None, typer.Option(help="Folder to write; by default <results>/<grid>/summary.")] = None,
    seeds: Seeds = None,
    preset: Preset = None,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Keep what the grid's table and bars need as Parquet files; `table --from FOLDER` makes them without the runs."""
    stored = stored_of(grid, seeds, None, results, data_root, None, preset)
    name = stored.grid.name
    folder = stored.write_summary(out or writable(results, name) / name / "summary")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if as_json:
        print_written([folder], as_json, bytes=size)
    else:
        print(f"wrote {folder.absolute()} ({size / 2**20:.1f} MB)")


def stored_of(
    grid: Path,
    seeds: str | None,
    summary: Path | None,
    results: Path,
    data_root: Path | None,
    checkpoint_root: Path | None,
    preset: str | None = None,
) -> Evaluated:
    """What is stored of a grid, with a warning for each damaged run."""
    from workbench.grids import parse_seeds
    from workbench.grids.evaluated import evaluated
    from workbench.results.summary import source_of

    loaded = load_grid_file(grid, data_root, checkpoint_root, preset=preset)
    stored = evaluated(loaded, source_of(results, summary), None if seeds is None else parse_seeds(seeds))
    for run in stored.incomplete:
        if run.state == "damaged":
            warn(str(run.message))
    return stored


@app.command()
def evaluate(
    predictions: Annotated[
        Path,
        typer.Option(
            help="JSON, a list of {sent_id, segmentation}, masks in COCO's RLE; or a folder of <sent_id>.png.",
            show_default=False,
        ),
    ],
    dataset: Annotated[str, typer.Option(help="refcoco, refcoco+, refcocog, grefcoco, or a folder under the root.")],
    name: Annotated[
        str | None, typer.Option(help="Store the scores under this name, for a grid's report.models.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Only these splits; by default all that the file has predictions for.")
    ] = None,
    split_by: SplitBy = None,
    no_target_area: Annotated[
        int, typer.Option(min=0, help="A mask with fewer pixels than this answers no-target.")
    ] = 0,
    by: By = None,
    root: Root = DATA,
    results: Results = RESULTS,
    as_json: Json = False,
) -> None:
    """Score another model's masks with the same code, so that it can stand in the same tables."""
    from workbench.data.tables import plain_name
    from workbench.errors import WorkbenchError
    from workbench.evaluation.metrics import metrics
    from workbench.evaluation.predictions import metrics_of, score_predictions, store_scores
    from workbench.files import check_writable
    from workbench.paper.breakdowns import breakdown_text
    from workbench.results.scored import ScoredFolder

    if name is not None:
        plain_name(name, "--name")
        check_writable(
            ScoredFolder(results, name).path, "leave out --name, or name a folder of your own with --results"
        )
    if split and len(set(split)) < len(split):
        raise WorkbenchError(f"--split {split[0]}: a split is named twice")
    data, wanted = open_named(dataset, root, split_by)
    with progress_of(f"scoring {predictions.name}", "expressions") as step:
        frame = score_predictions(data, predictions, split or (), no_target_area, step)
    values = metrics_of(frame)
    if name is not None:
        store_scores(ScoredFolder(results, name), data, wanted, predictions, frame, no_target_area)
    if as_json:
        print_json(values)
        return
    names = [metric for metric in metrics if any(metric in of_split for of_split in values.values())]
    rows = [("expressions", *(f"{of_split['expressions']:,}" for of_split in values.values()))]
    for metric in names:
        cells = (f"{100 * of_split[metric]:.2f}" if metric in of_split else "–" for of_split in values.values())
        rows.append((metrics[metric].label, *cells))
    print_rows((f"{data.name} ({wanted}), in per cent", *values), rows)
    for breakdown in by or []:
        for metric in ("miou", "giou") if "giou" in names else ("miou",):
            print("\n" + breakdown_text({name or predictions.stem: frame}, breakdown.value, metric), end="")
    if name is not None:
        print(f"stored as {name!r}; a grid shows it with report: {{models: [{name}]}}")


@app.command()
def figure(
    name: Annotated[FigureName, typer.Argument(help="Which figure; all draws each.", show_default=False)],
    grid: Annotated[Path | None, typer.Argument(help="A grid, e.g. ablations/demo.yaml.", show_default=False)] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="Draw this fusion variant, e.g. l_dit, instead of a grid (only schemes and pipeline)."),
    ] = None,
    backbone: Annotated[str, typer.Option(help="With --variant: vit_mini, vit_b, vit_l or vit_h.")] = "vit_b",
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "-o", "--override", metavar="KEY=VALUE", help="With --variant: set a field, e.g. fusion.layers=[6,7,8]."
        ),
    ] = None,
    redraw: Annotated[bool, typer.Option(help="Draw again even if the files are up to date.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            help="Show only this setting: a name, label or shell pattern. Repeat for more; the order is kept.",
            autocompletion=complete_setting,
        ),
    ] = None,
    expressions: Annotated[
        list[str] | None,
        typer.Option(
            help="Which expressions to show: how many, or split:ref_id:sent_id (repeat for more). By default, by rule."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Show masks and maps of this seed; by default the lowest that all have.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="That pictures, bins, layers and interventions are of; else the report's.")
    ] = None,
    columns: Annotated[int | None, typer.Option(min=1, max=2, help="Of a page: the figure's width.")] = None,
    file_name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Name of the written files; by default the figure's.")
    ] = None,
    seeds: Seeds = None,
    summary: From = None,
    preset: Preset = None,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
    as_json: Json = False,
) -> None:
    """Draw a figure of a grid's completed runs, or of its models, as PNG and PDF, with the data it shows."""
    from workbench.data.tables import plain_name
    from workbench.errors import WorkbenchError
    from workbench.grids.evaluated import without_runs
    from workbench.paper.artefacts import draw_figures, obstacle, with_report
    from workbench.paper.figures import figures

    if file_name is not None:
        plain_name(file_name, "--as")
        if name is FigureName.all:
            raise WorkbenchError("--as names the files of one figure, not of all")
    of_results = name is FigureName.all or figures[name.value].needs_results
    if grid is None or variant is not None:
        stored = _of_variant(name, grid, variant, backbone, changes, of_results)
        file_name = file_name or f"{name.value}-{variant}"
    elif changes:
        raise WorkbenchError("-o is for --variant; a grid's settings are in its file")
    elif of_results:
        stored = stored_of(grid, seeds, summary, results, data_root, checkpoint_root, preset)
    else:
        stored = without_runs(load_grid_file(grid, data_root, checkpoint_root, preset=preset))
    stored = with_report(stored, settings=settings, expressions=expressions, seed=seed, split=split, columns=columns)
    out = writable(results, stored.grid.name)
    left_out: dict[str, str] = {}
    names = [name.value]
    if name is FigureName.all:
        left_out = {kind: why for kind in figures if (why := obstacle(kind, stored, results))}
        names = [kind for kind in figures if kind not in left_out]
    drawn: list[Path] = []
    current: list[Path] = []
    for made in draw_figures(names, stored, results, summary is not None, file_name, out, redraw):
        (drawn if made.is_new else current).extend(made.files)
        if made.is_new:
            lines = [f"wrote {file.absolute()}" for file in made.files]
        else:
            lines = [f"{made.files[0].absolute()} is up to date"]
        for line in () if as_json else lines:
            print(line, flush=True)
    if as_json:
        print_written(drawn, as_json, up_to_date=[file.absolute() for file in current], left_out=left_out)
    else:
        for kind, why in left_out.items():
            print(f"no {kind}: {why}")


def _of_variant(
    name: FigureName, grid: Path | None, variant: str | None, backbone: str, changes: list[str] | None, of_results: bool
) -> Evaluated:
    """What is drawn of a variant that no grid file has."""
    from workbench.errors import WorkbenchError
    from workbench.grids.evaluated import without_runs
    from workbench.paper.artefacts import variant_grid

    if variant is None:
        raise WorkbenchError(f"{name.value}: name a grid, such as ablations/demo.yaml")
    if grid is not None or of_results:
        raise WorkbenchError("--variant is for schemes and pipeline, in place of a grid")
    return without_runs(variant_grid(variant, backbone, changes_of(changes)))

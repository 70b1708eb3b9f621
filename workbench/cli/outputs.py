"""Commands that show results: table, figure, and evaluate, which scores masks made elsewhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.data import DATA, Root, SplitBy, open_named
from workbench.cli.options import (
    RESULTS,
    CheckpointRoot,
    DataRoot,
    GridFile,
    Json,
    Results,
    app,
    load_grid_file,
    print_rows,
    progress_of,
)


class FigureName(StrEnum):
    """The figures; `all` makes each."""

    bars = "bars"
    predictions = "predictions"
    attention = "attention"
    all = "all"


class Breakdown(StrEnum):
    """What expressions can be sorted by."""

    length = "length"
    kind = "kind"
    size = "size"
    distractors = "distractors"


By = Annotated[
    list[Breakdown] | None,
    typer.Option(help="Also by the expressions' length or kind of words, or their referents' size or distractors."),
]


@app.command()
def table(
    grid: GridFile,
    by: By = None,
    results: Results = RESULTS,
    data_root: DataRoot = None,
) -> None:
    """Print the grid's table and write it as table.md and table.csv, with a JSON of where it comes from."""
    from workbench.paper.breakdowns import breakdown_text, write_breakdown
    from workbench.paper.tables import gather, make_table

    loaded = load_grid_file(grid, data_root)
    made = make_table(loaded, results)
    print(made.text())
    files = made.write(results / loaded.name)
    frames = gather(loaded, results).frames if by else {}
    for name in by or []:
        text = breakdown_text(frames, name.value, loaded.report.metrics[0])
        print(text)
        files.append(write_breakdown(text, results / loaded.name, name.value))
    for file in files:
        print(f"wrote {file}")


@app.command()
def evaluate(
    predictions: Annotated[
        Path, typer.Option(help="JSON: a list of {sent_id, segmentation}, masks in COCO's RLE.", show_default=False)
    ],
    dataset: Annotated[str, typer.Option(help="refcoco, refcoco+, refcocog, grefcoco, or a folder under the root.")],
    name: Annotated[
        str | None, typer.Option(help="Keep the scores under this name, for a grid's report.models.")
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="Else every split that the file speaks of.")] = None,
    split_by: SplitBy = None,
    no_target_area: Annotated[int, typer.Option(min=0, help="Masks of fewer pixels answer that nothing is meant.")] = 0,
    by: By = None,
    root: Root = DATA,
    results: Results = RESULTS,
    as_json: Json = False,
) -> None:
    """Score anybody's masks by the same code, so that other models enter the same tables."""
    import json

    from workbench.data.tables import plain_name
    from workbench.errors import WorkbenchError
    from workbench.evaluation.metrics import METRIC_NAMES
    from workbench.evaluation.predictions import metrics_of, score_predictions, store_scores
    from workbench.paper.breakdowns import breakdown_text
    from workbench.results.folders import ScoredFolder

    if name is not None:
        plain_name(name, "--name")
    if split and len(set(split)) < len(split):
        raise WorkbenchError(f"--split {split[0]}: a split is named twice")
    data, wanted = open_named(dataset, root, split_by)
    with progress_of(f"scoring {predictions.name}", "expressions") as step:
        frame = score_predictions(data, predictions, split or (), no_target_area, step)
    metrics = metrics_of(frame)
    if name is not None:
        store_scores(ScoredFolder(results, name), data, wanted, predictions, frame, no_target_area)
    if as_json:
        print(json.dumps(metrics, indent=1))
        return
    names = [metric for metric in METRIC_NAMES if any(metric in found for found in metrics.values())]
    rows = [("expressions", *(f"{found['expressions']:,}" for found in metrics.values()))]
    for metric in names:
        rows.append(
            (METRIC_NAMES[metric], *(f"{100 * f[metric]:.2f}" if metric in f else "–" for f in metrics.values()))
        )
    print_rows((f"{data.name} ({wanted}), in per cent", *metrics), rows)
    for breakdown in by or []:
        for metric in ("miou", "giou") if "giou" in names else ("miou",):
            print("\n" + breakdown_text({name or predictions.stem: frame}, breakdown.value, metric), end="")
    if name is not None:
        print(f"stored as {name!r}; a grid shows it with report: {{models: [{name}]}}")


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

    loaded = load_grid_file(grid, data_root, checkpoint_root)
    for one in figures if name is FigureName.all else [name.value]:
        if not redraw and (files := current_files(one, loaded, results)):
            print(f"{files[0]} is up to date")
            continue
        for file in figures[one](loaded, results):
            print(f"wrote {file}")

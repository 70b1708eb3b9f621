"""The commands that look inside models: whether tracing is exact, where words look, where language acts."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.options import (
    RESULTS,
    CheckpointRoot,
    Commands,
    DataRoot,
    Json,
    Results,
    app,
    print_json,
    print_rows,
    print_written,
    progress_of,
)
from workbench.errors import counted

if TYPE_CHECKING:
    from workbench.analysis.kept_maps import Kept

tracing = typer.Typer(
    cls=Commands, help="Check how exactly attention is recorded.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(tracing, name="trace")


@tracing.callback()
def _trace() -> None:
    """Check how exactly attention is recorded."""


@tracing.command()
def verify(
    run: Annotated[
        str | None, typer.Argument(help="A run, or a file of weights as for `predict`.", show_default=False)
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help="A fusion variant on vit_mini with random weights, or 'all'.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(help="Also put the table into this Markdown file, between its marks, as in docs/inside.md."),
    ] = None,
    results: Results = RESULTS,
    checkpoint_root: CheckpointRoot = None,
    as_json: Json = False,
) -> None:
    """Compare traced weights, changed outputs and gradients with fp64, by layout and precision."""
    import torch

    from workbench.analysis.verify import as_markdown, put_into
    from workbench.analysis.verify import verify as verify_model
    from workbench.errors import WorkbenchError

    if (run is None) == (not variant):
        raise WorkbenchError("name either a run or --variant")
    torch.manual_seed(0)
    rows = {}
    for name, model, side in _models(run, variant, results, checkpoint_root):
        rows[name] = verify_model(model, side)
    table = as_markdown(rows)
    if as_json:
        print_json({name: [vars(verdict) for verdict in verdicts] for name, verdicts in rows.items()})
    else:
        print(table, end="")
    if into is not None:
        put_into(into, table)


@app.command()
def attention(
    runs: Annotated[list[str], typer.Argument(help="Trained runs, <setting id>/seed<N>.", show_default=False)],
    split: Annotated[str, typer.Option(help="A split of the run's data set.")] = "val",
    images: Annotated[int | None, typer.Option(min=2, help="Only this many images, always the same sample.")] = None,
    points: Annotated[
        list[str] | None,
        typer.Option(
            help="Names or patterns of points, e.g. 'encoder.blocks[*].attn.word_to_image'. By default every "
            "image_to_word (how much each place attends to the words, which reaches the mask) and each whole block."
        ),
    ] = None,
    expressions: Annotated[
        int, typer.Option(min=0, help="Also write the maps themselves, for this many expressions.")
    ] = 8,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Which maps: heads (the default), mean, gradient_weighted, gradient_input, rollout or "
            "gradient_rollout; repeat for more."
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Also keep the words' rows and columns for every expression, for analyses of your own."
        ),
    ] = False,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Measure where words look, layer by layer and head by head, and write maps and statistics beside each run."""
    from workbench.analysis.beside import check_beside, keep_attention, write_attention

    check_beside(runs, results)
    header = ("run", "point", "head", "statistic", "mean", "95 % interval", "against shuffled words", "with IoU")
    rows, documents = [], []
    for name in runs:
        written = write_attention(name, results, data_root, split, images, points, expressions, method or ["heads"])
        rows += [(name, *row) for row in written.best]
        files = written.statistics.absolute(), written.maps.absolute()
        document = {
            "run": name, "split": split, "expressions": written.expressions, "files": files,
            "best": [dict(zip(header[1:], row, strict=True)) for row in written.best],
        }  # fmt: skip
        if not as_json:
            print(f"{name}: {counted(written.expressions, 'expression')} of {split}; {files[0]}, {files[1]}")
        if keep:
            with progress_of(f"recording {name}", "expressions") as step:
                added, folder = keep_attention(name, results, data_root, split, images, points, step)
            document |= {"kept": folder.absolute(), "added": added}
            if not as_json:
                print(f"{name}: {counted(added, 'expression')} added to {folder.absolute()}")
        documents.append(document)
    if as_json:
        print_json({"runs": documents})
    else:
        print_rows(header, rows)


class InterventionKind(StrEnum):
    """What can be done to a block."""

    hide_words = "hide_words"
    mean_words = "mean_words"
    swap_words = "swap_words"
    heads_off = "heads_off"
    heads_mean = "heads_mean"


@app.command()
def interventions(
    runs: Annotated[list[str], typer.Argument(help="Trained runs, <setting id>/seed<N>.", show_default=False)],
    split: Annotated[str, typer.Option(help="A split of the run's data set.")] = "val",
    kind: Annotated[
        list[InterventionKind] | None,
        typer.Option(
            help="hide_words: nothing attends to words. mean_words: all words become their mean. swap_words: the words "
            "of another image's sentence. heads_off, heads_mean: the attention's output becomes zero, or its mean over "
            "the image. Repeat for more; by default the three that change words.",
            show_default=False,
        ),
    ] = None,
    points: Annotated[
        list[str] | None,
        typer.Option(help="Names or patterns of blocks, e.g. 'encoder.blocks[2].attn', or decoder; else all of them."),
    ] = None,
    heads: Annotated[
        bool, typer.Option("--heads", help="Also change each head alone, with kinds that take heads.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=2, help="Only this many expressions, spread over the split by a hash of their keys."),
    ] = None,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Measure where language acts: by how much a split's IoU changes with one block, or the mask decoder, changed.

    The rows of every expression (Parquet) and the table (CSV) are kept beside each run.
    """
    import json

    from workbench.analysis.beside import check_beside
    from workbench.analysis.causal_map import POINTS, Request, check_runs, map_run
    from workbench.analysis.interventions import OF_WORDS

    kinds: Any = tuple(dict.fromkeys(one.value for one in kind)) if kind else OF_WORDS
    request = Request(split, kinds, tuple(points or POINTS), heads, limit)
    check_beside(runs, results)
    check_runs(runs, request, results)
    documents = []
    for run in runs:
        with progress_of(f"intervening in {run}", "masks") as step:
            kept, files = map_run(run, request, results, data_root, step)
        if as_json:
            rows = json.loads(kept.table.to_json(orient="records", double_precision=15))
            documents.append(
                {
                    **kept.about,
                    "undisturbed": kept.undisturbed,
                    "rows": rows,
                    "files": [file.absolute() for file in files],
                }
            )
        else:
            _print_map(kept)
            print_written(files)
    if as_json:
        print_json(documents)


def _print_map(kept: Kept) -> None:
    """Differences in points, with their intervals."""
    from workbench.analysis.kept_maps import ALL, DECODER

    about = kept.about
    which = about["chosen"] if about["expressions"] == about["of"] else f"of {about['of']:,}: {about['chosen']}"
    print(
        f"{about['run']}: {about['expressions']:,} expressions of {about['split']} ({which}); "
        f"mIoU {100 * kept.undisturbed:.2f} undisturbed"
    )
    table: list[dict[str, Any]] = kept.table.to_dict("records")  # type: ignore[assignment]
    rows = [
        (
            row["intervention"],
            {ALL: "together", DECODER: "decoder"}.get(row["layer"], row["layer"]),
            "all" if row["head"] < 0 else row["head"],
            f"{100 * row['delta']:+.2f}",
            f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f}",
            row["verdict"],
            f"{row['change_at_point']:.1e}",
        )
        for row in table
    ]
    print_rows(("intervention", "block", "head", "ΔmIoU", "95 % interval", "mIoU", "change at the point"), rows)


def _models(run: str | None, variants: list[str] | None, results: Any, checkpoint_root: Any) -> Any:
    from workbench.analysis.predictor import Predictor

    if run is not None:
        predictor = Predictor.load(run, results, checkpoint_root or Path("checkpoints"))
        yield predictor.name, predictor.model, predictor.config.backbone.image_size
        return
    from workbench.config import RunConfig
    from workbench.models.build import build_model
    from workbench.models.fusion import variants as known

    assert variants
    for name in list(known) if variants == ["all"] else variants:
        settings: dict[str, Any] = {"variant": name}
        if "projector" in known[name].reads:
            settings["projector"] = {"init": "default"}
        if "cross_attention" in known[name].reads:
            settings["cross_attention"] = {"width": 32, "heads": 4}
        config = RunConfig.parse({"fusion": settings, "training": {"steps": 1, "batch_size": 1}})
        yield name, build_model(config), config.backbone.image_size + config.backbone.image_size // 8

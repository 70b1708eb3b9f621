"""The commands that look inside of models: what tracing is worth, attention of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    progress_of,
)
from workbench.errors import counted

tracing = typer.Typer(cls=Commands, help="Recording of attention.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(tracing, name="trace")


@tracing.callback()
def _trace() -> None:
    """Recording of attention: what it is worth."""


@tracing.command()
def verify(
    run: Annotated[
        str | None, typer.Argument(help="A run or a file of weights, as for `predict`.", show_default=False)
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help="A fusion variant on vit_mini with random weights, or 'all'.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Put the table between the marks of this Markdown file too, see docs/inside.md.")
    ] = None,
    results: Results = RESULTS,
    checkpoint_root: CheckpointRoot = None,
    as_json: Json = False,
) -> None:
    """Compare what tracing reads, writes and differentiates with fp64: a table of layouts and precisions."""
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
    split: Annotated[str, typer.Option(help="Of the run's data set.")] = "val",
    images: Annotated[int | None, typer.Option(min=2, help="Only so many images, a fixed sample.")] = None,
    points: Annotated[
        list[str] | None,
        typer.Option(
            help="Names or patterns of points, e.g. 'encoder.blocks[*].attn.word_to_image'. Else every image_to_word "
            "(how much each place attends to the words, which is what reaches the mask) and each block as a whole."
        ),
    ] = None,
    expressions: Annotated[int, typer.Option(min=0, help="Of so many of them, the maps themselves too.")] = 8,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Of these maps: heads, mean, gradient_weighted, gradient_input, rollout, gradient_rollout; several "
            "times. Else heads."
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the words' rows and columns of every expression too, for own analyses.")
    ] = False,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Measure where words look, layer by layer and head by head, and write maps and statistics beside each run."""
    from workbench.analysis.beside import keep_attention, write_attention

    header = ("run", "point", "head", "statistic", "mean", "95 % interval", "against shuffled words")
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

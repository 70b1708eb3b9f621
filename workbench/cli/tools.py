"""Commands around the runs: weights, variants, benchmarks, notebooks."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.options import Json, app, print_json, print_rows, print_written, progress_of

if TYPE_CHECKING:
    from workbench.models.variant_table import VariantRow


class PretrainedName(StrEnum):
    """What `pretrain` can make."""

    vit_mini = "vit_mini"
    bert_mini = "bert_mini"
    bert_mini2 = "bert_mini2"
    referring_mini = "referring_mini"
    relating_mini = "relating_mini"


@app.command()
def pretrain(
    name: Annotated[PretrainedName, typer.Argument(help="Which weights.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write the weights into.")] = Path("checkpoints"),
    root: Annotated[Path, typer.Option(envvar="WORKBENCH_DATA", help="Folder of data sets.")] = Path("data"),
    steps: Annotated[
        int | None, typer.Option(min=1, help="Train for this many steps in place of the recipe's.")
    ] = None,
) -> None:
    """Train the shipped weights anew: vit_mini on clicks and boxes, a BERT on masked words, referring_mini on both.

    relating_mini goes on from referring_mini and learns the anchors of relations; the demo's runs begin from weights
    that it keeps on the way.
    """
    from dataclasses import replace

    from workbench.training import pretrain as recipes
    from workbench.training.pretrain_referring import STEPS, pretrain_referring

    if name == PretrainedName.referring_mini:
        with progress_of(name.value, "steps") as step:
            print_json(pretrain_referring(out, root, steps or STEPS, step))
        return
    if name == PretrainedName.relating_mini:
        from workbench.training.pretrain_relations import RECIPE, pretrain_relations

        with progress_of(name.value, "steps") as step:
            print_json(pretrain_relations(out, root, replace(RECIPE, steps=steps or RECIPE.steps), step))
        return
    maker, recipe = {
        PretrainedName.vit_mini: (recipes.pretrain_sam, recipes.VIT_MINI),
        PretrainedName.bert_mini: (recipes.pretrain_bert, recipes.BERT_MINI),
        PretrainedName.bert_mini2: (recipes.pretrain_bert, recipes.BERT_MINI2),
    }[name]
    with progress_of(name.value, "steps") as step:
        report = maker(out, root, replace(recipe, steps=steps or recipe.steps), step)
    print_json(report)


@app.command()
def import_released(
    file: Annotated[Path, typer.Argument(help="A checkpoint of the released DIT code.", show_default=False)],
    variant: Annotated[str, typer.Option(help="Its fusion variant, as `workbench variants` names it.")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("checkpoints"),
    decoder_heads: Annotated[
        int, typer.Option(min=1, help="Attention heads of the mask decoder, which the file does not say.")
    ] = 8,
    fusion_heads: Annotated[int, typer.Option(min=1, help="Attention heads of a cross-attention variant.")] = 8,
    text_heads: Annotated[int, typer.Option(min=1, help="Attention heads of BERT.")] = 12,
    as_json: Json = False,
) -> None:
    """Convert a checkpoint of the released code, and write a configuration that evaluates it."""
    from workbench.models.importing import import_checkpoint

    imported = import_checkpoint(file, variant, out, decoder_heads, fusion_heads, text_heads)
    if not as_json:
        print(imported.summary())
        for key in imported.unused:
            print(f"unused: {key}")
    print_written(imported.files, as_json, summary=imported.summary(), unused=imported.unused)


@app.command("variants")
def list_variants(
    backbone: Annotated[str, typer.Option(help="vit_mini, vit_b, vit_l or vit_h.")] = "vit_b",
    as_json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print docs/variants.md, the page on them, instead.")
    ] = False,
    recount: Annotated[
        bool, typer.Option("--recount", help="Count again from built models, and store the counts in the package.")
    ] = False,
) -> None:
    """List the fusion variants with their rules, sources and costs, counted from the built models."""
    from workbench.models.variant_table import page, shipped

    if recount:
        from workbench.models import catalog

        catalog.recount()
    table = shipped(backbone)
    if table is None:
        from workbench.models.catalog import table_of

        table = table_of(backbone)
    if as_json:
        print_json([row.as_dict() for row in table.rows])
    elif markdown:
        print(page(table), end="")
    else:
        _print_variants(table.rows)


def _print_variants(rows: Sequence[VariantRow]) -> None:
    """Numbers in columns, and what is text below them, as wide as the terminal, or as 80 characters without one."""
    width = max(60, min(shutil.get_terminal_size((80, 24)).columns, 120))
    setting_width = width - 34

    def lines_of(text: str, room: int, indent: str = "") -> list[str]:
        return textwrap.wrap(text, room, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)

    print(f"{'setting':<{setting_width}}{'new parameters':>16}{'trainable':>11}{'GFLOPs':>7}")
    for row in rows:
        first, *rest = lines_of(row.name, setting_width)
        trainable = f"{row.trainable_parameters / 1e6:.1f} M"
        print(f"{first:<{setting_width}}{row.fusion_parameters:>16,}{trainable:>11}{row.gflops:>7.1f}")
        for line in rest:
            print(line)
        for label, text in (("rule", row.rule), ("released as", row.source)):
            for line in lines_of(f"{label}: {text}", width - 4, "  "):
                print(f"    {line}")


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="attention, data, encoder, launch, reuse or trace.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one flat JSON object and nothing else.")] = False,
    write_policy: Annotated[
        Path | None,
        typer.Option(help="With `attention`: write the fastest choices to this file, as this machine's policy."),
    ] = None,
    fake_scheduler: Annotated[
        bool, typer.Option("--fake-scheduler", help="With `launch`: use a stand-in for Slurm, even if a Slurm answers.")
    ] = False,
) -> None:
    """Time this code and what it replaces, taking turns, and print the speed-ups."""
    import torch

    from workbench.benchmarks import benchmarks
    from workbench.errors import WorkbenchError

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if fake_scheduler:
        if name != "launch":
            raise WorkbenchError(f"--fake-scheduler belongs to the benchmark launch, not to {name}")
        from workbench.benchmarks.launch import run

        figures = run(report, fake=True)
    elif write_policy is None:
        figures = benchmarks[name](device, report)
    elif name == "attention":
        figures = _bench_and_write_policy(device, report, write_policy)
    else:
        raise WorkbenchError(f"--write-policy belongs to the benchmark attention, not to {name}")
    if as_json:
        print(json.dumps({figure: float(f"{number:.4g}") for figure, number in figures.items()}))
    else:
        print_rows(("figure", "number"), [(figure, f"{number:.2f}") for figure, number in figures.items()])


def _bench_and_write_policy(device: Any, report: Any, file: Path) -> dict[str, float]:
    from workbench.benchmarks.attention import figures, measure, policy_of
    from workbench.models import attention_policy

    measured = measure(device, report)
    attention_policy.write_policy(file, policy_of(measured, device))
    report(f"wrote {file.absolute()}; to use it: export {attention_policy.VARIABLE}={file.absolute()}")
    return figures(measured, device, report)


@app.command()
def lab(
    port: Annotated[int, typer.Option(help="Port on loopback.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Whether to open a browser.")] = True,
) -> None:
    """Open JupyterLab on the notebooks, only on loopback and protected by a token."""
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

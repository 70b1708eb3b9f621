"""Commands on data sets: make, prepare, check, show and probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from workbench.cli.options import (
    RESULTS,
    Commands,
    Json,
    Preset,
    Results,
    app,
    preparing,
    print_json,
    print_rows,
    print_written,
    progress_of,
)
from workbench.errors import counted

if TYPE_CHECKING:
    from workbench.data.tables import ReferData

data_app = typer.Typer(
    cls=Commands, help="Make, prepare, check and look at data sets.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(data_app, name="data")

Name = Annotated[
    str, typer.Argument(help="refcoco, refcoco+, refcocog, grefcoco, or a folder under the root.", show_default=False)
]
Root = Annotated[Path, typer.Option(envvar="WORKBENCH_DATA", help="Folder of data sets.")]
SplitBy = Annotated[
    str | None, typer.Option(help="Who split it: unc, google or umd; by default umd for refcocog, else unc.")
]
Text = Annotated[
    Literal["sent", "raw"], typer.Option(help="Which text to read: sent (cleaned) or raw (as it was written).")
]
DATA = Path("data")


@data_app.command("make")
def data_make(
    name: Annotated[str, typer.Argument(help="refshapes, the only one so far.")],
    root: Root = DATA,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the images and expressions.")] = 0,
    train_images: Annotated[int, typer.Option(min=1, help="Images to train on.")] = 5000,
    eval_images: Annotated[int, typer.Option(min=1, help="Images of each other split.")] = 150,
    width: Annotated[int, typer.Option(min=48, max=4096, help="Width of the images, in pixels.")] = 64,
    height: Annotated[int, typer.Option(min=48, max=4096, help="Height of the images, in pixels.")] = 64,
    version: Annotated[
        int, typer.Option(min=1, max=2, help="Version of the recipe; the first can be solved by shortcuts.")
    ] = 2,
    any_targets: Annotated[
        bool, typer.Option("--any-targets", help="Add expressions with several targets or none, in gRefCOCO's form.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a procedural data set in RefCOCO's form; the same options write the same bytes."""
    from workbench.config import RefshapesRecipe
    from workbench.data import refshapes
    from workbench.errors import DataError
    from workbench.registry import did_you_mean

    if name != "refshapes":
        raise DataError(f"{name!r} cannot be made{did_you_mean(name, ['refshapes'])}; known: refshapes")
    recipe = RefshapesRecipe(
        seed=seed, width=width, height=height, train_images=train_images, eval_images=eval_images,
        targets="any" if any_targets else "one", version=cast(Literal[1, 2], version),
    )  # fmt: skip
    with progress_of("refshapes", "images") as step:
        folder = refshapes.ensure(root, recipe, step)
    if as_json:
        print_json({"folder": folder.absolute()})
    else:
        print(folder)


@data_app.command("prepare")
def data_prepare(
    name: Name,
    root: Root = DATA,
    split_by: SplitBy = None,
    sentence: Text = "sent",
    results: Results = RESULTS,
    as_json: Json = False,
) -> None:
    """Check a data set's files, convert them once, and compare their counts with the published ones."""
    from workbench.data import counts
    from workbench.data.prepare import prepare
    from workbench.data.prepared import prepared_folder

    source = _source(name, root, split_by, sentence)
    place = prepared_folder(root, source.folder.name, source.split_by, sentence)
    with progress_of(f"preparing {name}", "objects and images") as step:
        data = prepare(source, place, step)
    counted_here = counts.counts(data)
    file = results / counts.STATISTICS
    known = counts.published(file, source.name, source.split_by)
    differing = counts.differences(counted_here, known)
    if as_json:
        print_json(
            {"name": data.name, "split_by": source.split_by, "form": source.form, "folder": source.folder.absolute(),
             "counts": counted_here, "published": [vars(number) for number in known], "differences": differing,
             "notes": list(data.notes), "sha256": data.digest, "files": [place.absolute()]}
        )  # fmt: skip
        return
    units = [unit for unit in counts.UNITS if counted_here[counts.WHOLE][unit] or unit in counts.UNITS[:3]]
    print(f"{data.name} ({source.split_by}), read from its {source.form} form in {source.folder}")
    rows = [(split, *(f"{row[unit]:,}" for unit in units)) for split, row in counted_here.items()]
    print_rows(("split", *units), rows)
    if known:
        print(f"{len(known) - len(differing)} of {len(known)} published counts are met ({file})")
    else:
        print(f"no counts are published for it ({file})" if file.is_file() else f"no published numbers at {file}")
    for line in differing:
        print(f"differs: {line}")
    for note in data.notes:
        print(f"note: {note}")
    print(f"sha256 {data.digest}")
    print_written([place])


@data_app.command("check")
def data_check(
    name: Name,
    root: Root = DATA,
    split_by: SplitBy = None,
    sentence: Text = "sent",
    text_encoder: Annotated[
        str | None,
        typer.Option(help="Count this encoder's tokens; by default bert_mini2 for refshapes, else bert-base-uncased."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=3, help="Longest sentence; by default 18 for bert_mini2, 14 for bert_mini, else 20."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Name every case, not only the first few.")] = False,
    checkpoint_root: Annotated[
        Path, typer.Option(envvar="WORKBENCH_CHECKPOINTS", help="Folder of SAM's and BERT's weights.")
    ] = Path("checkpoints"),
    as_json: Json = False,
) -> None:
    """Decode every image and check every expression; exits with 1 if something is wrong."""
    from workbench.data.check import SHOWN, check

    data, _ = open_named(name, root, split_by, sentence)
    # The second one also knows every word of refshapes' first version.
    encoder = text_encoder or ("bert_mini2" if data.name == "refshapes" else "bert-base-uncased")
    limit = max_tokens or {"bert_mini": 14, "bert_mini2": 18}.get(encoder, 20)
    lengths, why = _lengths_of(encoder, checkpoint_root)
    with progress_of(f"checking {name}", "images") as step:
        findings = check(data, lengths, limit, step)
    wrong = sum(finding.count for finding in findings if finding.wrong)
    if as_json:
        shown = [{**vars(f), "examples": list(f.examples if every else f.examples[:SHOWN])} for f in findings]
        print_json(
            {"name": data.name, "expressions": len(data.expressions), "wrong": wrong, "findings": shown,
             "notes": list(data.notes), "not_checked": [why] if why else []}
        )  # fmt: skip
        raise typer.Exit(1 if wrong else 0)
    for finding in findings:
        print(f"{'wrong' if finding.wrong else 'note'}: {finding.text(None if every else SHOWN)}")
    for note in data.notes:
        print(f"note: {note}")
    if why:
        print(f"not checked: sentences over {limit} tokens, for {why}")
    print(f"{data.name}: {counted(len(data.expressions), 'expression')}, {counted(wrong, 'problem')}")
    if wrong:
        raise typer.Exit(1)


@data_app.command("show")
def data_show(
    name: Name,
    index: Annotated[int, typer.Option(help="Number of the referent, from 0, in the files' order.")],
    split: Annotated[str | None, typer.Option(help="Count within this split.")] = None,
    root: Root = DATA,
    split_by: SplitBy = None,
    sentence: Text = "sent",
    results: Results = RESULTS,
    as_json: Json = False,
) -> None:
    """Draw one referent: its image, its mask, and the sentences that refer to it."""
    from workbench.paper.examples import show_referent

    data, _ = open_named(name, root, split_by, sentence)
    stem = "-".join([data.folder.name, *([split] if split else []), str(index)])
    print_written(show_referent(data, index, results / "data", stem, split), as_json)


@data_app.command("probe")
def data_probe(
    name: Annotated[
        str | None,
        typer.Argument(help="A data set or a folder under the root; left out with --grid.", show_default=False),
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(help="Probe this grid's data set, and its completed runs with changed sentences.")
    ] = None,
    preset: Preset = None,
    root: Root = DATA,
    split_by: SplitBy = None,
    results: Results = RESULTS,
    as_json: Json = False,
) -> None:
    """Score solvers that read none or only part of a sentence; with --grid, also runs whose sentences are changed."""
    import json

    from workbench.analysis import probe
    from workbench.errors import DataError

    if (name is None) == (grid is None):
        raise DataError("name either a data set or, with --grid, a grid")
    if preset is not None and grid is None:
        raise DataError("--preset takes the place of a grid's own; name the grid with --grid")
    if grid is not None:
        loaded, (config, data) = _grid_and_data(grid, None if root == DATA else root, preset)
        recipe, splits = config.data.recipe, list(config.evaluation.splits)
    else:
        assert name is not None
        data, _ = open_named(name, root, split_by)
        recipe, splits = refshapes_recipe(data), [split for split in data.splits if split != "train"]
    baselines = probe.baseline_table(data, recipe, splits)
    runs = [] if grid is None else _probed_runs(loaded, data, results)
    if as_json:
        tables = {"baselines": json.loads(baselines.to_json()), "runs": runs}
        print_json(tables)
        return
    print_rows(
        ("mIoU", *splits),
        [(solver, *(f"{100 * row[split]:.1f}" for split in splits)) for solver, row in baselines.iterrows()],
    )
    if runs:
        print()
        header = ("setting", "seeds", "replaced", "split", "n", "as written", "replaced", "falls by", "ideal reader")
        records: list[Any] = probe.over_seeds(runs).to_dict("records")
        print_rows(header, [_probed_row(row) for row in records])


def _grid_and_data(grid: Path, root: Path | None, preset: str | None) -> tuple[Any, tuple[Any, ReferData]]:
    from workbench.cli.options import load_grid_file
    from workbench.data.datasets import open_dataset
    from workbench.errors import DataError

    loaded = load_grid_file(grid, root, preset=preset)
    first = next(iter(loaded.settings.values()))
    for setting, config in loaded.settings.items():
        if not config.data.same_set(first.data):
            raise DataError(f"{grid}: {setting} has another data set than the first setting; probe one at a time")
    with preparing() as progress:
        return loaded, (first, open_dataset(first, progress))


def _probed_runs(grid: Any, data: ReferData, results: Path) -> list[dict[str, Any]]:
    from workbench.analysis.probe import run_table
    from workbench.results.folders import RunFolder, seeds_of

    folders = [
        (setting, seed, RunFolder.of(results, config, seed))
        for setting, config in grid.settings.items()
        for seed in seeds_of(results, config.setting_id)
    ]
    completed = [(setting, seed, folder) for setting, seed, folder in folders if folder.state() == "completed"]
    rows: list[Any] = []
    with progress_of("asking runs", "runs") as step:
        for done, (setting, seed, folder) in enumerate(completed):
            config = grid.settings[setting]
            table = run_table(config, folder, data, config.evaluation.splits)
            rows += table.assign(setting=setting, seed=seed).to_dict("records")
            step(done + 1, len(completed))
    return rows


def _probed_row(row: dict[str, Any]) -> tuple[Any, ...]:
    def percent(name: str) -> str:
        if row[name] != row[name]:
            return "–"
        spread = f" ± {100 * row[f'{name}_sd']:.1f}" if row["seeds"] > 1 and f"{name}_sd" in row else ""
        return f"{100 * row[name]:.1f}{spread}"

    shown = (percent(name) for name in ("as_written", "replaced", "fall", "reader_fall"))
    return (row["setting"], row["seeds"], row["part"], row["split"], row["expressions"], *shown)


def refshapes_recipe(data: ReferData) -> Any:
    """The recipe that a folder of refshapes was made from; None for another data set."""
    from workbench.config import RefshapesRecipe
    from workbench.data.readers.items import read_json

    file = data.folder / "instances.json"
    if data.name != "refshapes" or not file.is_file():
        return None
    try:
        recipe = RefshapesRecipe(**read_json(file)["info"]["recipe"])
    except (LookupError, TypeError, ValueError):  # somebody else's file of that name
        return None
    return recipe if recipe.targets == "one" else None


def _source(name: str, root: Path, split_by: str | None, sentence: str = "sent") -> Any:
    from workbench.data.datasets import datasets, find, own_folders
    from workbench.data.tables import plain_name
    from workbench.errors import DataError
    from workbench.registry import unknown_name

    known = [known for known in datasets if known != "refshapes"]
    folders = own_folders(root)
    if name not in known and name not in folders and not (root / plain_name(name, "NAME")).is_dir():
        raise DataError(f"{unknown_name('data set', name, list(dict.fromkeys([*known, *folders])))} (under {root})")
    wanted = split_by or ("umd" if name == "refcocog" else "unc")
    of_reader = "refshapes" if name.startswith("refshapes-") else name
    return find(root / name, of_reader, plain_name(wanted, "--split-by"), sentence)


def _folder_of_refshapes(root: Path) -> str:
    """The folder of the procedural data set, where there is one under the root."""
    from workbench.data.datasets import own_folders
    from workbench.errors import DataError

    folders = [folder for folder in own_folders(root) if folder.startswith("refshapes-")]
    if len(folders) == 1:
        return folders[0]
    remedy = f"name one of {', '.join(folders)}" if folders else "make it first: workbench data make refshapes"
    raise DataError(f"{len(folders) or 'no'} folders of refshapes are in {root}; {remedy}")


def open_named(name: str, root: Path, split_by: str | None, sentence: str = "sent") -> tuple[ReferData, str]:
    """A data set by its name or folder, prepared or read from its original files, and who split it.

    Images are not opened here, so that the commands can find and name a broken one.
    """
    from workbench.data.prepared import NotPrepared, open_prepared, prepared_folder
    from workbench.data.readers import read
    from workbench.data.tables import plain_name

    name = _folder_of_refshapes(root) if name == "refshapes" else plain_name(name, "NAME")
    wanted = plain_name(split_by or ("umd" if name == "refcocog" else "unc"), "--split-by")
    try:
        return open_prepared(prepared_folder(root, name, wanted, sentence)), wanted
    except NotPrepared:
        source = _source(name, root, split_by, sentence)
        with progress_of(f"reading {name}", "objects and images") as step:
            return read(source, step), wanted


def _lengths_of(encoder: str, checkpoint_root: Path) -> tuple[Any, str]:
    """How to count tokens, or why not."""
    from workbench.config import TextEncoderConfig
    from workbench.errors import CheckpointError
    from workbench.models.text_encoder import load_tokenizer, locate

    config = TextEncoderConfig(name=encoder)
    try:
        # A check need not wait for a hub.
        if not Path(locate(config, checkpoint_root)).is_dir():
            return None, f"there is no {checkpoint_root / encoder} with its tokenizer"
        tokenizer = load_tokenizer(config, checkpoint_root)
    except CheckpointError as error:
        return None, str(error)

    def lengths(sentences: Sequence[str]) -> Sequence[int]:
        return tokenizer.lengths(sentences)

    return lengths, ""

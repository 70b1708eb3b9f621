"""What the commands share: options, the application, and how they print."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from workbench.grids import Grid


ORDER = (
    "plan", "submit", "status", "logs", "cancel", "retry", "table", "check", "figure", "report", "reproduce",
    "predict", "attention", "interventions", "attribute", "lab", "notebooks", "data", "variants", "config", "train",
    "evaluate", "summarise", "doctor", "bench", "trace", "gc", "import-released", "pretrain",
)  # fmt: skip
"""The order of the commands in --help."""


class Commands(TyperGroup):
    """A list of commands that says the whole first sentence of each, and what a misspelt name may have meant."""

    def list_commands(self, ctx: Any) -> list[str]:
        """What a newcomer needs first comes first."""
        names = list(super().list_commands(ctx))
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Name and sentence, wrapped to the terminal's width."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            assert command is not None
            rows.append((name, (command.help or "").split("\n\n")[0].replace("\n", " ")))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names; a usage error names the nearest one."""
        # A shell that asks for completions gets none, and no error between the words that are being typed.
        asked = args and not args[0].startswith("-") and not ctx.resilient_parsing
        if asked and self.get_command(ctx, args[0]) is None:
            from workbench.registry import unknown_name

            ctx.fail(unknown_name("command", args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what is wrong with its options or their values is said with the nearest that is right."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            _suggest(error)
            raise


def _suggest(error: Any) -> None:
    """Add the nearest known name to a usage error about an option, or about a value of a few that it may have."""
    from workbench.registry import did_you_mean

    if "did you mean" in str(getattr(error, "message", "")):
        return  # by a group inside
    if hasattr(error, "possibilities") and getattr(error, "ctx", None) is not None:
        known = [name for parameter in error.ctx.command.params for name in parameter.opts if name.startswith("--")]
        if near := did_you_mean(error.option_name, known):
            error.message, error.possibilities = error.message + near, None
    elif match := re.search(r"'([^']*)' is not one of ('.*')\.?$", str(getattr(error, "message", ""))):
        error.message = match[0].rstrip(".") + did_you_mean(match[1], re.findall(r"'([^']*)'", match[2]))


app = typer.Typer(
    cls=Commands,
    help="Ablations and attention maps of Deep Instruction Tuning for Segment Anything.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def complete_setting(ctx: typer.Context, incomplete: str) -> list[str]:
    """For shells: the settings of the grid that was typed before; not those with a space, which bash would split."""
    from workbench.errors import WorkbenchError
    from workbench.grids import setting_names

    # After an option without a value, as the one that is completed, arguments are left unparsed.
    given = [ctx.params.get("grid"), ctx.params.get("config"), *ctx.args]
    files = [str(word) for word in given if str(word).endswith((".yaml", ".yml"))]
    try:
        names = setting_names(Path(files[0]), ctx.params.get("preset")) if files else []
    except WorkbenchError:
        return []
    return [name for name in names if name.startswith(incomplete) and " " not in name]


GridFile = Annotated[Path, typer.Argument(help="A grid, e.g. ablations/demo.yaml.", show_default=False)]
Results = Annotated[Path, typer.Option(envvar="WORKBENCH_RESULTS", help="Folder of runs, tables and figures.")]
DataRoot = Annotated[
    Path | None, typer.Option(envvar="WORKBENCH_DATA", help="Folder of data sets; overrides the grid's own.")
]
CheckpointRoot = Annotated[
    Path | None, typer.Option(envvar="WORKBENCH_CHECKPOINTS", help="Folder of SAM's and BERT's weights.")
]
Preset = Annotated[
    str | None,
    typer.Option(help="Replace the preset of the grid's base, e.g. by refshapes-mini, the miniature."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
Only = Annotated[
    str | None,
    typer.Option(help="Only settings whose names match this pattern, e.g. 'l_dit*'.", autocompletion=complete_setting),
]
RESULTS = Path("results")


Changes = Annotated[
    list[str] | None,
    typer.Option(
        "-o", "--override", metavar="KEY=VALUE",
        help="Set a field of every setting, e.g. -o training.steps=100; can be given several times. If the field "
        "affects results, the runs are other runs.",
    ),
]  # fmt: skip


def changes_of(overrides: list[str] | None) -> dict[str, Any]:
    """Dotted keys and their values, which are read as YAML."""
    import yaml

    from workbench.errors import WorkbenchError
    from workbench.grids.bounds import check_bounds

    changes: dict[str, Any] = {}
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise WorkbenchError(f"-o {override}: KEY=VALUE is expected, e.g. training.steps=100")
        try:
            check_bounds(value)
            changes[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise WorkbenchError(f"-o {override}: the value is not readable as YAML") from None
        except ValueError as error:
            raise WorkbenchError(f"-o {key.strip()}: {error}") from None
    return changes


def machine_of(data_root: Path | None, checkpoint_root: Path | None) -> dict[str, Any]:
    """The fields of `machine` that options override."""
    roots = {"data_root": data_root, "checkpoint_root": checkpoint_root}
    return {name: str(path) for name, path in roots.items() if path is not None}


def load_grid_file(
    file: Path,
    data_root: Path | None = None,
    checkpoint_root: Path | None = None,
    changes: list[str] | None = None,
    preset: str | None = None,
) -> Grid:
    """A checked grid, its data sets prepared where they are here and were not."""
    from workbench.grids import load_grid

    with preparing() as progress:
        grid = load_grid(file, machine_of(data_root, checkpoint_root), progress, changes_of(changes), preset)
    roots = {part: c.machine.data_root for c in grid.settings.values() for part in c.data.parts}
    for part, root in {part.dataset: (part, root) for part, root in roots.items()}.values():
        if not part.is_pinned:
            from workbench.data.datasets import datasets, names_in
            from workbench.registry import unknown_name

            name = part.dataset
            subject = f"the data set {name}" if name in datasets else unknown_name("data set", name, names_in(root))
            warn(
                f"{subject}: it is not in {root}, so the ids of its runs are not known; name its folder with "
                "--data-root, or pin data.sha256"
            )
    return grid


@contextlib.contextmanager
def preparing() -> Iterator[Callable[[int, int], None]]:
    """What shows the progress of preparing a data set, if it comes to that."""
    with contextlib.ExitStack() as held:
        shown: list[Any] = []

        def progress(done: int, total: int) -> None:
            if not shown:
                shown.append(held.enter_context(progress_of("preparing the data set", "objects and images")))
            shown[0](done, total)

        yield progress


def progress_of(what: str, unit: str) -> Any:
    """A progress display of one job."""
    from workbench.cli.progress import StepProgress

    return StepProgress(what, unit)


def duration_of(seconds: float | None) -> str:
    """`1:02:03`, or a dash."""
    from workbench.cli.progress import duration

    return duration(seconds)


def warn(line: str) -> None:
    """A line on standard error."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


def warning_once() -> Callable[[str], None]:
    """`warn`, but each line only once, for a command that reads the states several times."""
    printed: set[str] = set()

    def warn_once(line: str) -> None:
        if line not in printed:
            printed.add(line)
            warn(line)

    return warn_once


def writable(results: Path, grid: str) -> Path:
    """Where a grid's tables and figures go: the results folder, or, where this user may not write, the working folder.

    A warning says so when it is the working folder.
    """
    from workbench.files import is_writable

    if is_writable(results / grid):
        return results
    place = results / grid if (results / grid).is_dir() else results
    warn(f"you may not write {place}; the files are written to the working folder: {Path(grid).absolute()}")
    return Path()


def print_json(document: Any) -> None:
    """One JSON document on standard output, which a command with --json prints alone; NaN and infinity become null."""
    print(json.dumps(_plain(document), indent=1), flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def print_written(files: Iterable[Path], as_json: bool = False, **more: Any) -> None:
    """What was written, by its full name: results folders are often given relative to where a command ran.

    Args:
        more: further keys of the JSON document.
    """
    names = [str(file.absolute()) for file in files]
    if as_json:
        print_json({"files": names, **more})
        return
    for name in names:
        print(f"wrote {name}")


def print_rows(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Columns as wide as their widest cell."""
    texts = [header, *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(header))]
    for row in texts:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def state_of(state: str, cause: str | None) -> str:
    """A run's state as a table shows it: with the failure class of what ended it."""
    return state if cause in (None, state) or state in ("running", "queued") else f"{state}: {cause}"

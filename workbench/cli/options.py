"""What the commands share: options, the application, and how they print."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from workbench.grids import Grid

app = typer.Typer(
    help="Ablations and attention maps of Deep Instruction Tuning for Segment Anything.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

GridFile = Annotated[Path, typer.Argument(help="A grid, e.g. ablations/demo.yaml.", show_default=False)]
Results = Annotated[Path, typer.Option(envvar="WORKBENCH_RESULTS", help="Folder of runs, tables and figures.")]
DataRoot = Annotated[
    Path | None, typer.Option(envvar="WORKBENCH_DATA", help="Folder of data sets; overrides the grid's own.")
]
CheckpointRoot = Annotated[
    Path | None, typer.Option(envvar="WORKBENCH_CHECKPOINTS", help="Folder of SAM's and BERT's weights.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
RESULTS = Path("results")


def machine_of(data_root: Path | None, checkpoint_root: Path | None) -> dict[str, Any]:
    """The fields of `machine` that options override."""
    given = {"data_root": data_root, "checkpoint_root": checkpoint_root}
    return {name: str(path) for name, path in given.items() if path is not None}


def load_grid_file(file: Path, data_root: Path | None = None, checkpoint_root: Path | None = None) -> Grid:
    """A checked grid, its data sets prepared where they are here and were not."""
    from workbench.grids import load_grid

    with preparing() as progress:
        grid = load_grid(file, machine_of(data_root, checkpoint_root), progress)
    for config in {c.data.dataset: c for c in grid.settings.values() if c.data.recipe is None}.values():
        if config.data.sha256 is None:
            from workbench.data.datasets import datasets, names_in
            from workbench.registry import unknown_name

            name, root = config.data.dataset, config.machine.data_root
            what = f"the data set {name}" if name in datasets else unknown_name("data set", name, names_in(root))
            warn(
                f"{what}: it is not in {root}, so the ids of its runs are not known; name its folder with --data-root, "
                "or pin data.sha256"
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


def print_rows(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Columns as wide as their widest cell."""
    texts = [header, *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(header))]
    for row in texts:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

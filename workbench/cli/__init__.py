"""The `workbench` command: parses, calls, prints. Heavy libraries load inside the commands that use them."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import os
import sys
from typing import Annotated, Any

import typer

from workbench.cli import (
    attribution,
    cluster,
    data,
    inside,
    notebooks,
    outputs,
    predict,
    report,
    reproduce,
    runs,
    tables,
    tools,
)
from workbench.cli.options import app

__all__ = [
    "app",
    "attribution",
    "cluster",
    "data",
    "inside",
    "main",
    "notebooks",
    "outputs",
    "predict",
    "report",
    "reproduce",
    "runs",
    "script",
    "tables",
    "tools",
]


OF_GRIDS = ("plan", "submit", "retry", "status", "table", "figure")
"""Commands that make very many objects and train nothing in their own process."""
OF_MODELS = ("train", "predict", "attention", "attribute", "interventions", "evaluate", "pretrain")
"""Commands that compute with models in their own process."""
COLLECT_AFTER = (100_000, 50, 100)
"""How many objects are made before the garbage collector looks for cycles among them (Python's own value is 700):
imported libraries and records make millions and nearly no cycles, and looking took a tenth of the time."""


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"dit-workbench {version('dit-workbench')}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Ablations and attention maps of Deep Instruction Tuning for Segment Anything."""
    if ctx.invoked_subcommand in OF_GRIDS:
        gc.set_threshold(*COLLECT_AFTER)
    elif ctx.invoked_subcommand in OF_MODELS:
        from workbench.allocator import keep_freed_memory

        keep_freed_memory()


@functools.cache
def _command() -> Any:
    """All commands, put together once for a process that runs several."""
    return typer.main.get_command(app)


def script() -> None:
    """Entry point of a process that is nothing but this command.

    A command of grids then ends at once: freeing, one by one, what torch has loaded takes a second or more.
    """
    status = [1]
    if sys.argv[1:2] and sys.argv[1] in OF_GRIDS:
        atexit.register(_end, status)  # before all others, so that it is called after them
    try:
        main()
        status[0] = 0
    except SystemExit as leaving:
        status[0] = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        raise


def _end(status: list[int]) -> None:
    out: Any = sys.stdout  # None where it was closed
    try:
        if out is not None:
            out.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        print(f"error: {_line(_refused(error))}", file=sys.stderr)
        status[0] = 2
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(status[0])


def main() -> None:
    """What the user can fix is a line for each mistake, and exit code 2."""
    from workbench.errors import WorkbenchError, lines_of

    try:
        _command()(prog_name="workbench")  # completion asks for it by this name, however the process was started
    except WorkbenchError as error:
        for mistake in lines_of(error):
            print(f"error: {_line(mistake)}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"error: {_line(_refused(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _refused(error: OSError) -> str:
    from workbench.files import reason_of

    reason = reason_of(error)
    elsewhere = "; to write elsewhere, name a folder of your own with --out or --results"
    return reason + (elsewhere if reason.startswith("you may not write") else "")


def _line(message: str, most: int = 1500) -> str:
    """One printable line of a message; what comes from a file may hold anything."""
    line = "".join(
        c if c.isprintable() else "\ufffd" if c.isspace() or ord(c) > 127 else repr(c)[1:-1] for c in message
    )
    return line if len(line) <= most else f"{line[: most // 2]} … {line[-most // 3 :]}"

"""Running notebooks from top to bottom and keeping them as HTML pages that need no network."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.files import replacing
from workbench.registry import unknown_name

LIVE = "application/vnd.jupyter.widget-view+json"
"""A widget: in a page it would need JavaScript from elsewhere, so the picture beside it is kept alone."""
CELL_SECONDS = 1800


@dataclass(frozen=True)
class Execution:
    """What became of a notebook.

    Attributes:
        page: the HTML, written also where a cell failed, with its traceback.
        seconds: that it took.
        failure: cell and error in one line, or None.
    """

    name: str
    page: Path
    seconds: float
    failure: str | None


def find_notebooks(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """The notebooks of a folder, or those named, by name or the number it begins with.

    Raises:
        WorkbenchError: there is none, or none of a name.
    """
    known = {file.stem: file for file in sorted(folder.glob("*.ipynb"))}
    if not known:
        raise WorkbenchError(f"no notebooks in {folder.absolute()}; run this in the project's top folder")
    chosen: dict[Path, None] = {}
    for name in names:
        wanted = Path(name).name.removesuffix(".ipynb")
        matched = [file for stem, file in known.items() if wanted in (stem, stem.partition("_")[0])]
        if not matched:
            raise WorkbenchError(unknown_name("notebook", name, list(known)))
        chosen |= dict.fromkeys(matched)
    return list(chosen or known.values())


def run_notebook(file: Path, out: Path, environment: Mapping[str, str] | None = None) -> Execution:
    """Run a notebook in a kernel of its own and write its page; the file itself stays as it is.

    Args:
        out: folder of the page, `<out>/<name>.html`.
        environment: variables for the kernel beside this process's.

    Raises:
        WorkbenchError: the file is no notebook.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal

    start = time.monotonic()
    try:
        notebook = nbformat.read(file, as_version=4)
    except (ValueError, OSError, nbformat.ValidationError) as error:
        raise WorkbenchError(f"{file}: not a notebook: {str(error).splitlines()[0][:200]}") from None
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(file.parent)}}
    )
    failure = None
    try:
        # What the kernel itself prints are notes on its sockets; what cells print is in the notebook.
        client.execute(env={**os.environ, **(environment or {})}, stderr=subprocess.DEVNULL)
    except (CellControlSignal, RuntimeError) as error:
        failure = _failure(notebook, error)
    page = out / f"{file.stem}.html"
    out.mkdir(parents=True, exist_ok=True)
    with replacing(page) as partial:
        partial.write_text(_page(notebook, file.stem))
    return Execution(file.stem, page, time.monotonic() - start, failure)


def _failure(notebook: Any, error: Exception) -> str:
    """`cell 5: NameError: …`: cells are counted from 1, text cells as well, as the page shows them."""
    for number, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                return f"cell {number}: {_line(f'{output.ename}: {output.evalue}')}"
    begun = [n for n, cell in enumerate(notebook.cells, start=1) if "execution" in cell.get("metadata", {})]
    return f"cell {begun[-1] if begun else 1}: {_line(str(error) or type(error).__name__)}"


def _line(text: str) -> str:
    """The first line of a message, without colours."""
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return lines[0].strip()[:300] if lines else "no message"


def _page(notebook: Any, title: str) -> str:
    """The notebook as one HTML file: pictures inside, nothing from the network."""
    from nbconvert import HTMLExporter

    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop(LIVE, None)
    notebook.metadata.pop("widgets", None)
    exporter = HTMLExporter(require_js_url="", mathjax_url="", jquery_url="", mermaid_js_url="", embed_images=True)
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    # The template loads its scripts also where their address is empty.
    return re.sub(r"<script[^>]*\ssrc=\"\"[^>]*>\s*</script>", "", page)

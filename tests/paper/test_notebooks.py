from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT
from workbench.grids import Grid

PICTURES = {"01_results": 6, "04_attribution": 3}


@pytest.mark.parametrize("file", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda f: f.stem)
def test_a_notebook_is_stripped_and_runs(
    file: Path, trained: tuple[Grid, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, results = trained
    monkeypatch.setenv("WORKBENCH_GRID", str(grid.file))
    monkeypatch.setenv("WORKBENCH_RESULTS", str(results))
    notebook = nbformat.read(file, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells), "outputs must be stripped"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    pictures = [out for cell in cells for out in cell.outputs if "image/png" in out.get("data", {})]
    assert len(pictures) >= PICTURES[file.stem]
    assert not any(out.output_type == "stream" and out.name == "stderr" for cell in cells for out in cell.outputs)

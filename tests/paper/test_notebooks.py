"""The notebooks run from top to bottom, and one that fails is named with its cell and error."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from tests.cli.test_tools import PATIENCE, run_in_lab
from tests.conftest import ROOT, Outcome
from workbench.errors import WorkbenchError
from workbench.grids import Grid, load_grid
from workbench.paper.notebooks import find_notebooks, run_notebook
from workbench.results.folders import RunFolder
from workbench.training.train import train

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PICTURES = {"01_results": 6, "02_layer_subsets": 3, "04_attribution": 3, "05_new_variant": 3}
"""How many pictures a notebook's page has at least, on the tests' runs."""


def cells_of(file: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def subsets(trained: tuple[Grid, Path]) -> Path:
    """A grid whose settings differ in the number of fused blocks; two of them are those of `trained`."""
    grid, results = trained
    file = grid.file.with_name("subsets.yaml")
    first = "first: {fusion: {variant: l_dit, layers: {first: 1}}}"
    file.write_text(grid.file.read_text().replace("e_dit: {fusion.variant: e_dit}", first))
    config = load_grid(file).settings["first"]
    train(config, 0, RunFolder.of(results, config, 0))
    return file


@pytest.mark.exhaustive
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_a_notebook_is_stripped_and_runs(file: Path, trained: tuple[Grid, Path], subsets: Path, tmp_path: Path) -> None:
    shown = subsets if file.stem == "02_layer_subsets" else trained[0].file
    assert not any(cell.outputs or cell.execution_count for cell in cells_of(file)), "outputs must be stripped"
    before = file.read_bytes()
    environment = {"WORKBENCH_GRID": str(shown), "WORKBENCH_RESULTS": str(trained[1])}
    execution = run_notebook(file, tmp_path, environment)
    assert execution.failure is None
    page = execution.page.read_text()
    assert len(re.findall(r'<img[^>]*src="data:image/png;base64', page)) >= PICTURES.get(file.stem, 1)
    assert "Not available" not in page
    assert 'data-mime-type="application/vnd.jupyter.stderr"' not in page
    assert file.read_bytes() == before


@pytest.mark.exhaustive
@pytest.mark.browser
def test_jupyterlab_runs_the_results_and_shows_their_figures(
    trained: tuple[Grid, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    wanted = PICTURES["01_results"]
    with run_in_lab("01_results", "Results of a grid", trained, tmp_path, tmp_path_factory) as page:
        figures = "[...document.querySelectorAll('.jp-OutputArea img')].filter(image => image.naturalWidth > 100)"
        # A long page draws only the cells in sight, so it is read from top to bottom, as a person does.
        seen = page.evaluate(
            """async ([figures, wanted, patience]) => {
                const seen = new Set(), page = document.querySelector('.jp-WindowedPanel-outer'), began = Date.now();
                while (seen.size < wanted && Date.now() - began < patience) {
                    eval(figures).forEach(image => seen.add(image.src));
                    const bottom = page.scrollTop + page.clientHeight >= page.scrollHeight - 2;
                    page.scrollTop = bottom ? 0 : page.scrollTop + 300;
                    await new Promise(done => setTimeout(done, 200));
                }
                return seen.size;
            }""",
            [figures, wanted, PATIENCE],
        )
        page.screenshot(path=str(tmp_path / "results.png"))
        assert seen >= wanted
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_cells_call_the_package_and_decide_nothing(file: Path) -> None:
    logic = (ast.If, ast.For, ast.While, ast.Try, ast.With, ast.Lambda, ast.ListComp, ast.DictComp, ast.GeneratorExp)
    for cell in cells_of(file):
        source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
        used = [type(node).__name__ for node in ast.walk(ast.parse(source)) if isinstance(node, logic)]
        assert used == [], cell.source


def written(folder: Path, name: str, *cells: str) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A notebook")])
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


@pytest.mark.slow
def test_a_failing_notebook_is_one_line_and_the_others_still_run(
    tmp_path: Path, workbench: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "notebooks", "1_bad", "x = 1", "print(x)\nraise ValueError('first\\nsecond')", "print('never')")
    written(tmp_path / "notebooks", "2_good", "import os; print(os.environ['WORKBENCH_RESULTS'])")
    monkeypatch.chdir(tmp_path)
    done = workbench("notebooks", "run", "--out", "pages", "--results", "runs")
    assert done.code == 2
    assert done.err == "error: 1 of 2 notebooks failed: 1_bad, cell 3: ValueError: first\n"
    first, second = done.out.splitlines()
    assert first.startswith("1/2 1_bad: FAILED in cell 3: ValueError: first (")
    assert second.startswith(f"2/2 2_good: wrote {Path('pages/2_good.html').absolute()} (")
    assert str(tmp_path / "runs") in (tmp_path / "pages" / "2_good.html").read_text()


def test_a_kernel_that_dies_is_a_failure_of_its_cell(tmp_path: Path) -> None:
    file = written(tmp_path, "dies", "1", "import os; os._exit(3)")
    failure = run_notebook(file, tmp_path).failure
    assert failure is not None
    assert failure.startswith("cell 3: Kernel died")


def test_a_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    show = "import ipywidgets; from IPython.display import display; display(ipywidgets.IntSlider())"
    page = run_notebook(written(tmp_path, "widget", show), tmp_path).page.read_text()
    assert "A notebook" in page
    assert re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?!data:)[^"]*"', page) == []
    assert "unpkg" not in page


def test_notebooks_are_found_by_name_or_number(tmp_path: Path, workbench: Callable[..., Outcome]) -> None:
    names = [written(tmp_path, name, "1").stem for name in ("01_one", "02_two")]
    assert [file.stem for file in find_notebooks(tmp_path)] == names
    assert [file.stem for file in find_notebooks(tmp_path, ["02", "01_one.ipynb"])] == names[::-1]
    with pytest.raises(WorkbenchError, match=r"unknown notebook '03'.*; known: 01_one, 02_two"):
        find_notebooks(tmp_path, ["03"])
    (tmp_path / "03_broken.ipynb").write_text("no JSON")
    with pytest.raises(WorkbenchError, match=r"03_broken.ipynb: not a notebook"):
        run_notebook(tmp_path / "03_broken.ipynb", tmp_path)
    with pytest.raises(WorkbenchError, match="no notebooks in"):
        find_notebooks(tmp_path / "nowhere")
    assert workbench("notebooks", "run", "--grid", tmp_path / "none.yaml").err.endswith("none.yaml: no such file\n")

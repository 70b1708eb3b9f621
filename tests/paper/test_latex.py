"""LaTeX tables of odd names: they compile, each line has the table's cells, and names stay text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pylatexenc.latexwalker import LatexWalkerParseError

from tests import stored
from tests.paper import tex
from workbench.grids import load_grid
from workbench.paper.latex import escaped

ODD = (
    "a & b_c 50 % of #1 $x$", "C:\\\\new {open", "close} ~^ <|> [x]", "β → λ café №5 红 🙂", "[first] e\u0301t\u00e9",
    "\\\\input{x} ''\"`",
)  # fmt: skip
"""As YAML's double quotes hold them, but for the quote itself."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The LaTeX of a grid whose settings have these names, with published rows."""
    from workbench.grids.evaluated import evaluated
    from workbench.paper.latex import latex
    from workbench.paper.layout import lay_out
    from workbench.results.frames import RunFolders

    folder = tmp_path_factory.mktemp("odd")
    names = [name.replace('"', '\\"') for name in ODD]
    settings = ", ".join(f'"{name}": {{training.steps: {number + 2}}}' for number, name in enumerate(names))
    report = "report: {metrics: [miou], published: [LAVT, CRIS]}"
    file = folder / "odd_&_grid.yaml"
    data = "data: {recipe: {seed: 3, train_images: 40, eval_images: 6}}"
    base = f"base: {{{data}, training: {{steps: 1, batch_size: 4}}, evaluation: {{splits: [val, testA]}}}}\n"
    file.write_text(f"title: t\n{base}settings: {{base: {{}}, {settings}}}\nbaseline: base\n{report}\n")
    grid = load_grid(file)
    for number, config in enumerate(grid.settings.values()):
        for seed in (0, 1, 2):
            stored.complete(folder / "r", config, seed, draw=100 * number + seed)
    return latex(lay_out(evaluated(grid, RunFolders(folder / "r"))), str(file))


def test_a_table_of_odd_names_compiles(text: str, tmp_path: Path) -> None:
    assert tex.mistakes(text) == []
    log = tex.compiled(text, tmp_path)
    if log is None:
        assert not os.environ.get("WORKBENCH_NO_SKIPS"), "pdflatex is missing"
        return
    assert "Output written" in log or "table.pdf" in log
    assert "Missing character" not in log


def test_names_are_set_as_they_stand(text: str) -> None:
    for shown in (
        r"a \& b\_c 50 \% of \#1 \$x\$", r"C:\textbackslash{}new \{open",
        r"close\} \textasciitilde{}\textasciicircum{}",
        r"$\beta$ $\to$ $\lambda$ café U+21165 U+7EA2 U+1F642", "{[}first{]} été", r"\textbackslash{}input\{x\} ''",
    ):  # fmt: skip
        assert shown in text, shown


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a_b", "'_' as text in 'a_b'"),
        ("a # b", "'#' as text"),
        (r"\unheard{x}", "unknown command unheard"),
        ("中", "'中' is in no font"),
        ("\\begin{tabular}{lr@{ }l}\na & b \\\\\n\\end{tabular}", "2 cells in a tabular of 3 columns"),
        (
            "\\begin{tabular}{lrr}\n\\multicolumn{2}{c}{a} & b & c \\\\\n\\end{tabular}",
            "4 cells in a tabular of 3 columns",
        ),
    ],
)
def test_the_check_finds_what_tex_would_stumble_over(text: str, found: str) -> None:
    assert any(found in one for one in tex.mistakes(text)), tex.mistakes(text)


@pytest.mark.parametrize("text", ["{a", "$a", r"\begin{tabular}{l} a"])
def test_what_does_not_close_is_an_error(text: str) -> None:
    with pytest.raises(LatexWalkerParseError):
        tex.mistakes(text)


def test_escaping_leaves_no_character_that_common_fonts_lack() -> None:
    assert escaped("naïve ₂ 5° x² “q” — …") == "naïve $_2$ 5$^\\circ$ x$^2$ ``q'' --- \\ldots{}"
    assert escaped("a\nb\x00c") == "a b c"
    assert escaped("\u200b") == " "

"""Whether a piece of LaTeX compiles: by TeX where there is one, and everywhere by a strict reading of it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pylatexenc.latexwalker import (
    LatexCharsNode,
    LatexEnvironmentNode,
    LatexGroupNode,
    LatexMacroNode,
    LatexMathNode,
    LatexSpecialsNode,
    LatexWalker,
)

MACROS = set("&%$#_{}\\S,") | {
    "toprule", "midrule", "bottomrule", "multicolumn", "boldmath", "scriptsize", "footnotesize", "par", "smallskip",
    "pm", "star", "approx", "geq", "leq", "times", "blacktriangle", "vartriangle", "dag", "ddag", "ldots",
    "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar", "textquotedbl",
    "Sigma", "alpha", "beta", "lambda", "to", "infty", "frac",
}  # fmt: skip
"""What the tables may use, with booktabs and amssymb."""
DOCUMENT = (
    "\\documentclass{article}\\usepackage{booktabs,amssymb}\\usepackage[T1]{fontenc}\n"
    "\\begin{document}\n%s\\end{document}\n"
)


def compiled(text: str, folder: Path) -> str | None:
    """The log of a TeX that is here, None where there is none; AssertionError where it stops at a mistake."""
    program = next((found for name in ("pdflatex", "tectonic") if (found := shutil.which(name))), None)
    if program is None:
        return None
    file = folder / "table.tex"
    file.write_text(DOCUMENT % text)
    options = ["-interaction=nonstopmode", "-halt-on-error"] if program.endswith("pdflatex") else []
    done = subprocess.run(
        [program, *options, file.name], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def mistakes(text: str) -> list[str]:
    """What TeX would stumble over: unknown commands, special characters as text, lines of a tabular of other widths.

    Raises:
        LatexWalkerParseError: braces, environments or mathematics that do not close.
    """
    nodes, *_ = LatexWalker(text, tolerant_parsing=False).get_latex_nodes()
    return list(_mistakes(nodes, in_math=False, in_tabular=False))


def _mistakes(nodes: Sequence[Any], in_math: bool, in_tabular: bool) -> Iterator[str]:
    for node in nodes:
        if node is None:
            continue
        if isinstance(node, LatexCharsNode):
            wrong = set(node.chars) & set("#$%&\\{}~" if in_math else "#$%&\\{}^_~")
            yield from (f"{one!r} as text in {node.chars!r}" for one in sorted(wrong))
            strange = [c for c in node.chars if not c.isascii() and not (c.isalpha() and c <= "\u017f")]
            yield from (f"{one!r} is in no font" for one in strange)
        elif isinstance(node, LatexMacroNode):
            if node.macroname not in MACROS:
                yield f"unknown command {node.macroname}"
            arguments = node.nodeargd.argnlist if node.nodeargd is not None else ()
            yield from _mistakes(arguments, in_math, in_tabular)
        elif isinstance(node, LatexSpecialsNode):
            if node.specials_chars == "&" and not in_tabular:
                yield "'&' outside of a tabular"
            elif node.specials_chars in ("~", "#"):
                yield f"{node.specials_chars!r} as text"
        elif isinstance(node, LatexMathNode):
            yield from _mistakes(node.nodelist, True, in_tabular)
        elif isinstance(node, LatexGroupNode):
            yield from _mistakes(node.nodelist, in_math, in_tabular)
        elif isinstance(node, LatexEnvironmentNode):
            yield from _mistakes(node.nodelist, in_math, node.environmentname == "tabular")
            if node.environmentname == "tabular":
                yield from _widths(node)


def _widths(tabular: Any) -> Iterator[str]:
    """Lines of a tabular with more or fewer cells than it has columns."""
    columns, nodes = _columns(tabular)
    cells = 1
    for node in nodes:
        if isinstance(node, LatexSpecialsNode) and node.specials_chars == "&":
            cells += 1
        elif isinstance(node, LatexMacroNode) and node.macroname == "multicolumn":
            cells += _spanned(node, nodes) - 1
        elif isinstance(node, LatexMacroNode) and node.macroname == "\\":
            if cells != columns:
                yield f"{cells} cells in a tabular of {columns} columns"
            cells = 1


def _columns(tabular: Any) -> tuple[int, list[Any]]:
    """How many columns a tabular has by its argument, and its nodes."""
    arguments = [one for one in tabular.nodeargd.argnlist if one is not None]
    wanted = arguments[-1]
    letters = "".join(one.chars for one in wanted.nodelist if isinstance(one, LatexCharsNode))
    return sum(letter in "lrcp" for letter in letters), list(tabular.nodelist)


def _spanned(macro: Any, nodes: Sequence[Any]) -> int:
    """The first argument of a multicolumn, which the parser may have left as a group behind it."""
    given = macro.nodeargd.argnlist if macro.nodeargd is not None else []
    group = next((one for one in given if one is not None), None) or nodes[list(nodes).index(macro) + 1]
    return int("".join(one.chars for one in group.nodelist))

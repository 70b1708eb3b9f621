"""Table data as LaTeX: booktabs, numbers aligned at their decimal points; whatever comes from a file stays text."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

import pandas as pd

from workbench.evaluation.metrics import metrics
from workbench.paper.layout import Block, Cell, Row, TableData
from workbench.paper.render import (
    cell_marks,
    marker,
    notes,
    per_cent,
    published_rows,
    row_marks,
    row_name,
    shown,
)

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "−": "$-$", "±": r"$\pm$", "–": "--", "†": r"\dag{}",
    "‡": r"\ddag{}", "§": r"\S{}", "★": r"$\star$", "≈": r"$\approx$", "▲": r"$\blacktriangle$",
    "△": r"$\vartriangle$", "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "…": r"\ldots{}", "'": "'",
    "[": "{[}", "]": "{]}", "Σ": r"$\Sigma$",
}  # fmt: skip
"""What LaTeX would read otherwise, or lacks in its common fonts. A bracket after a line's end would be its option."""
GREEK = {
    chr(code): rf"$\{name}$"
    for first, names in ((0x3B1, "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi"),
                         (0x3C0, "pi rho"), (0x3C3, "sigma tau upsilon phi chi psi omega"))
    for code, name in enumerate(names.split(), first)
} | {"Γ": r"$\Gamma$", "Δ": r"$\Delta$", "Θ": r"$\Theta$", "Λ": r"$\Lambda$", "Ξ": r"$\Xi$", "Π": r"$\Pi$",
     "Φ": r"$\Phi$", "Ψ": r"$\Psi$", "Ω": r"$\Omega$", "→": r"$\to$", "←": r"$\leftarrow$", "−": "$-$",
     "∞": r"$\infty$", "°": r"$^\circ$", "µ": r"$\mu$", "·": r"$\cdot$", "²": "$^2$", "³": "$^3$", "½": r"$\frac12$",
     "‘": "`", "’": "'", "“": "``", "”": "''", "—": "---", "₀": "$_0$", "₁": "$_1$", "₂": "$_2$"}  # fmt: skip
"""What names are likely to hold and LaTeX's text fonts lack."""
LAST_LETTER = "\u017f"
"""Letters up to here, with their accents, are in LaTeX's T1 fonts; of others the code is written."""
PACKAGES = (
    "% needs \\usepackage{booktabs,amssymb} and, before 2018, \\usepackage[T1]{fontenc}\\usepackage[utf8]{inputenc}"
)


def latex(table: TableData, cited: str, source: Mapping[str, str] | None = None) -> str:
    """The table as LaTeX, one `tabular` per metric of the report, in per cent.

    Args:
        cited: the grid as `workbench check` is to find it.
        source: see `workbench.paper.render.markdown`.
    """
    parts = [PACKAGES, *(_block(table, block, marker(cited, source, metric=block.metric)) for block in shown(table))]
    if table.published:
        parts.append(_published(table))
    caption = r"\par\smallskip\footnotesize" + "\n" + "\n".join(escaped(line) + r"\par" for line in notes(table))
    return "\n\n".join([*parts, "{" + caption + "}"]) + "\n"


def escaped(text: str) -> str:
    """Text that LaTeX sets as it stands; a line break or another unprintable character becomes a space, and one that
    LaTeX's fonts lack its code, such as U+4E2D."""
    return "".join(map(_character, unicodedata.normalize("NFC", text)))


def _character(c: str) -> str:
    if known := SPECIAL.get(c) or GREEK.get(c):
        return known
    if not c.isprintable():
        return " "
    return c if c.isascii() or (c.isalpha() and c <= LAST_LETTER) else f"U+{ord(c):04X}"


def _block(table: TableData, block: Block, comment: str) -> str:
    heads = [rf"\multicolumn{{2}}{{c}}{{{escaped(split)}}}" for split in block.columns]
    lines = [
        f"% {comment}",
        rf"\begin{{tabular}}{{lr{'r@{ }l' * len(block.columns)}}}",
        r"\toprule",
        _line([escaped(metrics[block.metric].label), "$n$", *heads]),
        r"\midrule",
    ]
    kind = "value"
    for row in block.rows:
        if row.kind != kind:
            lines.append(r"\midrule")
            kind = row.kind
        name = escaped(row_name(row, table)) + (f" {escaped(row_marks(row))}" if row.flags else "")
        lines.append(_line([name, str(row.n or "--"), *(text for cell in row.cells for text in _cell(cell, row))]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell, row: Row) -> tuple[str, str]:
    """The number, right-aligned, and what follows it, left-aligned: every number has one decimal, so points align."""
    if cell.value is None or pd.isna(cell.value):
        return "--", ""
    sign = "+" if row.kind == "difference" else ""
    value = f"${per_cent(cell.value, sign)}$"
    if cell.standing == "best":
        value = rf"\boldmath{value}"
    spread = "" if cell.spread is None else rf"$\pm\,{per_cent(cell.spread)}$ "
    interval = rf"{{\scriptsize$[{per_cent(cell.low, sign)}, {per_cent(cell.high, sign)}]$}}"
    return value, f"{spread}{interval} {escaped(cell_marks(cell))}".strip()


def _published(table: TableData) -> str:
    head, *rows = published_rows(table)
    columns = "llll" + "r" * (len(head) - 6) + "lp{5cm}"
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _line([escaped(text) for text in head]), r"\midrule"]
    lines += [_line([escaped(text) for text in row]) for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])

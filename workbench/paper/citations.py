"""Numbers that a Markdown or LaTeX file cites: found by the comments that tables write, and compared with their runs.

A comment alone on its line is about the table below it; one behind a number is about that number:

    <!-- workbench: grid=ablations/demo.yaml from=results/studies/demo metric=miou -->
    | mIoU | n | val | …
    ahead by +4.7<!-- workbench: grid=ablations/demo.yaml setting=l_dit split=testC metric=miou kind=difference -->

In LaTeX the comment begins with a percent sign instead, and ends its line. What Markdown shows as code cites nothing.
`from` names a kept summary, in place of the run folders; `preset` is another set-up than the grid's own, and `seeds`
narrows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from urllib.parse import unquote

from workbench.errors import WorkbenchError
from workbench.evaluation.metrics import metrics
from workbench.files import read_file
from workbench.paper import latex, render
from workbench.paper.layout import FLAGS, Block, Cell, Row, TableData
from workbench.paper.render import DASH, row_name
from workbench.registry import did_you_mean

FIELDS = ("grid", "preset", "from", "seeds", "metric", "setting", "split", "kind")
COMMENT = re.compile(r"<!--\s*workbench:\s(?P<markdown>.*?)-->|(?<!\\)%\s*workbench:\s(?P<latex>.*)$")
FENCE = re.compile(r" {0,3}(?P<fence>`{3,}(?=[^`]*$)|~{3,})(?P<language>.*)$")
"""Opens a block of code in Markdown; without a language, also closes one."""
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
WRITTEN: tuple[Callable[[str], str], ...] = (str, render.escaped, latex.escaped)
"""How the formats write a row's name."""
CITED = re.compile(
    r"(?P<all>[+-]?\d+(?:\.\d+)?(?:\s*±\s*\d+(?:\.\d+)?)?(?:\s*\[[^\]]*\])?)\s*(?:%|points?|\\%)?[\s*$}]*$"
)
"""The number before a comment, with its spread and interval."""


class CitationError(WorkbenchError):
    """A comment cannot be understood; names file and line."""


@dataclass(frozen=True)
class Citation:
    """What one comment says.

    Attributes:
        file, line: where it stands, from 1.
        fields: `FIELDS` that it gives.
        text: before it, on its line.
        below: the lines below it.
    """

    file: Path
    line: int
    fields: Mapping[str, str]
    text: str
    below: Sequence[str]

    @property
    def where(self) -> str:
        """As a message names it."""
        return f"{self.file}:{self.line}"


Tables = Callable[[Citation], TableData]
"""The table of the grid that a citation names, made of its runs or its summary."""


@dataclass(frozen=True)
class Checked:
    """What came of a file's citations.

    Attributes:
        numbers: how many were compared.
        mistakes: one line for each that is wrong.
    """

    numbers: int
    mistakes: list[str]


def check_file(file: Path, tables: Tables) -> Checked:
    """Compare all numbers that a file cites.

    Raises:
        CitationError: it cites none, or a comment cannot be understood.
    """
    citations = list(citations_of(file))
    if not citations:
        raise CitationError(f"{file}: cites no numbers; `workbench table GRID --format md` writes the comments that do")
    numbers, mistakes = 0, []
    for citation in citations:
        compare = _check_number if citation.text.strip() else _check_table
        for correct, line in compare(citation, tables(citation)):
            numbers += 1
            mistakes += [] if correct else [f"{citation.where}: {line}"]
    return Checked(numbers, mistakes)


def citations_of(file: Path) -> Iterator[Citation]:
    """The citations of a file, in their order."""
    try:
        lines = read_file(file).decode().splitlines()
    except UnicodeDecodeError:
        raise CitationError(f"{file}: it is no text in UTF-8") from None
    code = set() if file.suffix == ".tex" else _code(lines)
    for number, line in enumerate(lines):
        start = 0
        for comment in COMMENT.finditer(line):
            if number in code or (file.suffix != ".tex" and line[: comment.start()].count("`") % 2):
                continue
            fields = _fields(f"{file}:{number + 1}", comment["markdown"] or comment["latex"])
            yield Citation(file, number + 1, fields, line[start : comment.start()], lines[number + 1 :])
            start = comment.end()


def _code(lines: Sequence[str]) -> set[int]:
    """Which lines stand in fenced blocks of code, counted from 0; one that nothing closes goes on to the end."""
    inside, fence = set(), ""
    for number, line in enumerate(lines):
        found = FENCE.match(line)
        if found and not fence:
            fence = found["fence"]
        elif found and found["fence"].startswith(fence) and not found["language"].strip():
            fence = ""
        elif fence:
            inside.add(number)
    return inside


def _fields(where: str, text: str) -> dict[str, str]:
    fields = {}
    for part in text.split():
        key, equals, value = part.partition("=")
        if not equals or key not in FIELDS:
            raise CitationError(f"{where}: {part!r} is none of {', '.join(f'{name}=…' for name in FIELDS)}")
        fields[key] = unquote(value)
    for key in ("grid", "metric"):
        if key not in fields:
            raise CitationError(f"{where}: {key}=… is missing")
    return fields


def _block(citation: Citation, table: TableData) -> Block:
    try:
        return table.block(citation.fields["metric"])
    except KeyError:
        known = ", ".join(block.metric for block in table.blocks)
        raise CitationError(f"{citation.where}: metric={citation.fields['metric']} is none of {known}") from None


def _check_number(citation: Citation, table: TableData) -> Iterator[tuple[bool, str]]:
    fields, block = citation.fields, _block(citation, table)
    kind, setting, split = fields.get("kind", "value"), fields.get("setting"), fields.get("split")
    if setting is None or split is None:
        raise CitationError(f"{citation.where}: setting=… and split=… must say which number this is")
    if split not in block.columns or not any(row.name == setting and row.kind == kind for row in block.rows):
        raise CitationError(f"{citation.where}: the table has no {kind} of setting {setting!r} on {split!r}")
    cited = CITED.search(_plain(citation.text))
    if cited is None:
        raise CitationError(f"{citation.where}: no number stands before the comment")
    name = f"{metrics[block.metric].label} of {setting} on {split}"
    yield _agreement(name, cited["all"], block.cell(setting, split, kind) or Cell())


def _check_table(citation: Citation, table: TableData) -> Iterator[tuple[bool, str]]:
    block = _block(citation, table)
    lines = list(_rows(citation.below))
    if len(lines) < 2:
        raise CitationError(f"{citation.where}: neither a number before the comment nor a table below it")
    head, *rows = lines
    columns = {place: name for place, name in enumerate(head) if name in block.columns}
    if not columns:
        raise CitationError(f"{citation.where}: the table's header names none of {', '.join(block.columns)}")
    for cells in rows:
        name, row = cells[0], _row_called(cells[0], block, table)
        if isinstance(row, str):
            yield False, row
            continue
        if "n" in head and row.n and NUMBER.fullmatch(cells[head.index("n")]):
            cited = cells[head.index("n")]
            yield cited == str(row.n), f"n of {name} is cited as {cited}, and is {row.n}"
        for place, split in columns.items():
            cell = row.cells[block.columns.index(split)]
            yield _agreement(f"{metrics[block.metric].label} of {name} on {split}", cells[place], cell)


def _rows(below: Sequence[str]) -> Iterator[list[str]]:
    """The cells of the table that begins here, as plain texts; in LaTeX two columns make one cell."""
    if below and below[0].lstrip().startswith("|"):
        for line in takewhile(lambda line: line.lstrip().startswith("|"), below):
            if not re.fullmatch(r"[\s|:-]+", line):
                yield [_plain(cell).strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        return
    for line in takewhile(lambda line: r"\end{tabular}" not in line, below):
        cells = [_plain(cell).strip() for cell in re.split(r"(?<!\\)&", line)]
        if r"\multicolumn" in line:
            yield cells
        elif len(cells) > 2:
            yield [*cells[:2], *(f"{value} {rest}" for value, rest in list(pairwise(cells[2:]))[::2])]


def _row_called(cell: str, block: Block, table: TableData) -> Row | str:
    """The row that a cell names, as tables write it, or but for punctuation where there is none; or what is wrong."""
    written = {row: {_plain(as_text(row_name(row, table))) for as_text in WRITTEN} for row in block.rows}
    for spelt in (_without_marks, _without_punctuation):
        rows = [row for row, names in written.items() if spelt(cell) in map(spelt, names)]
        if len(rows) == 1:
            return rows[0]
        if rows:
            return f"{len(rows)} rows of the grid's table are written like {cell!r}; give one another label"
    near = did_you_mean(cell, [row_name(row, table) for row in block.rows])
    return f"the grid's table has no row {cell!r}{near}"


def _without_marks(name: str) -> str:
    """A row's name without spaces and the flags behind it, which may have changed since."""
    return re.sub(r"\s+", "", name).rstrip("".join(FLAGS.values()))


def _without_punctuation(name: str) -> str:
    """What is left of a name that somebody has set in another way: signs and decimal points still tell rows apart."""
    return re.sub(r"[^\w−<>=≤≥.+-]+", "", re.sub(r"\\[a-zA-Z]+", "", name))


def _plain(text: str) -> str:
    """Text without what only sets it: HTML's and LaTeX's commands and the markup of emphasis."""
    text = re.sub(r"\\multicolumn\{\d\}\{\w\}\{(.*)\}", r"\1", text.rstrip().removesuffix("\\\\"))
    for command, meaning in (
        ("$-$", "−"), (r"\pm", "±"), (r"\%", "%"), (r"\{", "{"), (r"\}", "}"), (r"\_", "_"), (r"\&", "&"),
        ("&lt;", "<"), ("--", DASH),
        (r"\|", "|"), (r"\textasciicircum{}", "^"), (r"\textasciitilde{}", "~"), (r"\textbackslash{}", "\\"),
        ("{[}", "["), ("{]}", "]"),
        (r"$\geq$", "≥"), (r"\textgreater{}", ">"), (r"\textless{}", "<"), (r"\dag{}", "†"), (r"\ddag{}", "‡"),
        (r"\S{}", "§"),
    ):  # fmt: skip
        text = text.replace(command, meaning)
    text = re.sub(r"\\(?:boldmath|scriptsize|textbf|textit|emph|num|star|approx|blacktriangle|vartriangle|,)", "", text)
    return re.sub(r"[${}]|\*\*|</?\w+>", "", text)


def _agreement(name: str, cited: str, cell: Cell) -> tuple[bool, str]:
    """Whether a text's numbers are those of a cell: its value, then its spread and interval where they stand there."""
    value, _, interval = cited.replace("−", "-").partition("[")
    numbers = [*NUMBER.findall(re.sub(r"\s*±\s*", " ± ", value))]
    bounds = NUMBER.findall(interval.partition("]")[0])
    expected = [cell.value, cell.spread][: len(numbers)] + [cell.low, cell.high][: len(bounds)]
    shown = " ".join(cited.split())
    if cell.value is None:
        return not numbers, f"{name} is cited as {shown}, and there is no such number"
    pairs = [(text, number) for text, number in zip([*numbers, *bounds], expected, strict=False)]
    is_right = bool(numbers) and len(expected) == len(numbers) + len(bounds) and all(_same(*pair) for pair in pairs)
    spread = "" if cell.spread is None else f" ± {100 * cell.spread:.1f}"
    truth = f"{100 * cell.value:.1f}{spread} [{100 * cell.low:.1f}, {100 * cell.high:.1f}]"
    return is_right, f"{name} is cited as {shown}, and is {truth}"


def _same(text: str, value: float | None) -> bool:
    """Whether a text is a fraction in per cent, rounded to as many digits as it has."""
    digits = len(text.partition(".")[2])
    return value is not None and abs(float(text) - 100 * value) <= 0.5 * 10.0**-digits + 1e-6

"""Table data as one HTML page without scripts; whatever comes from a file stays text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from workbench.evaluation.metrics import metrics
from workbench.paper.layout import Block, Cell, Row, TableData
from workbench.paper.render import (
    DASH,
    cell_marks,
    marker,
    notes,
    per_cent,
    published_rows,
    row_marks,
    row_name,
    shown,
)

STYLE = (
    "body{font-family:sans-serif;margin:1.5rem;color:#111}table{border-collapse:collapse;margin:1rem 0}"
    "caption{text-align:left;font-weight:bold}th,td{padding:.2rem .6rem;text-align:left}"
    "thead th{border-top:2px solid;border-bottom:1px solid}tbody tr:last-child>*{border-bottom:2px solid}"
    "td{font-variant-numeric:tabular-nums}small{color:#444}tr.difference th{font-weight:normal}"
)


def page(table: TableData, cited: str, source: Mapping[str, str] | None = None) -> str:
    """The table as a page that needs no network.

    Args:
        cited: the grid as `workbench check` is to find it.
        source: see `workbench.paper.render.markdown`.
    """
    parts = [_block(table, block, marker(cited, source, metric=block.metric)) for block in shown(table)]
    if table.published:
        parts.append(_published(table))
    parts += [f"<p>{escape(line)}</p>" for line in notes(table)]
    title = escape(table.title)
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    body = "\n".join([f"<h1>{title}</h1>", *parts])
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _block(table: TableData, block: Block, comment: str) -> str:
    label = metrics[block.metric].label
    rows = "\n".join(_row(row, table) for row in block.rows)
    return (
        f"<!-- {comment} -->\n<table><caption>{escape(label)}</caption>\n"
        f"<thead>{_head(['setting', 'n', *block.columns])}</thead>\n<tbody>\n{rows}\n</tbody></table>"
    )


def _head(names: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<th scope=col>{escape(name)}</th>' for name in names)}</tr>"


def _row(row: Row, table: TableData) -> str:
    marks = f" {escape(row_marks(row))}" if row.flags else ""
    cells = "".join(f"<td>{_cell(cell, row)}</td>" for cell in row.cells)
    name = f"<th scope=row>{escape(row_name(row, table))}{marks}</th>"
    return f"<tr class={row.kind}>{name}<td>{row.n or DASH}</td>{cells}</tr>"


def _cell(cell: Cell, row: Row) -> str:
    if cell.value is None:
        return DASH
    sign = "+" if row.kind == "difference" else ""
    value = per_cent(cell.value, sign)
    spread = "" if cell.spread is None else f" ± {per_cent(cell.spread)}"
    interval = f"<small>[{per_cent(cell.low, sign)}, {per_cent(cell.high, sign)}]</small>"
    strong = f"<b>{value}</b>" if cell.standing == "best" else value
    return f"{strong}{spread} {interval} {cell_marks(cell)}".strip()


def _published(table: TableData) -> str:
    head, *rows = published_rows(table)
    lines = [f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows]
    body = "\n".join(lines)
    return f"<table><caption>Published</caption>\n<thead>{_head(head)}</thead>\n<tbody>\n{body}\n</tbody></table>"

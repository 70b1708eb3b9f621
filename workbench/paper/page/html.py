"""The page's HTML, from its template; style and script lie inside it, and its security policy holds their digests."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from workbench.errors import WorkbenchError
from workbench.paper.page.content import Part
from workbench.results.provenance import package_digest

FOLDER = Path(__file__).parent
MOST_BYTES = 10_000_000
"""Of a page, so that it opens quickly and fits into a message."""


class PageTooLarge(WorkbenchError):
    """A page would have more than `MOST_BYTES`."""


def page_html(parts: Sequence[Part]) -> bytes:
    """The page of some grids, in UTF-8; the same parts give the same bytes.

    Raises:
        PageTooLarge: it would have more than `MOST_BYTES`.
    """
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    html = (
        _environment()
        .get_template("page.html")
        .render(
            parts=parts,
            title=parts[0].title if len(parts) == 1 else f"Results of {len(parts)} grids",
            policy=policy(style, script),
            style=style,
            script=script,
            version=metadata.version("dit-workbench"),
            code=package_digest(),
        )
    )
    content = html.encode("utf-8", "replace")
    if len(content) > MOST_BYTES:
        raise PageTooLarge(
            f"the page would have {len(content) / 1e6:.1f} MB, at most {MOST_BYTES / 1e6:.0f} are allowed: name fewer "
            "grids, or split the grid"
        )
    return content


def policy(style: str, script: str) -> str:
    """A content security policy that lets in this style, this script, and pictures inside the page; nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters["hours"] = _hours
    return environment


def _printable(value: Any) -> Any:
    """Without control characters, which HTML does not allow."""
    if isinstance(value, str) and not hasattr(value, "__html__"):  # what is HTML already stays as it is
        return "".join(c if c.isprintable() or c in "\n\t" or ord(c) > 159 else "\ufffd" for c in value)
    return value


def _hours(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"

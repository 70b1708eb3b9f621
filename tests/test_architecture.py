"""The page of the architecture names files, classes and functions that exist, and every room."""

from __future__ import annotations

import ast
import re
import tomllib

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
NAMED = re.compile(r"`([\w/.-]+\.py)(?::([\w.]+))?`")
PLACES = 20
"""As many things as the page says where to find, at least."""


def names_of(body: list[ast.stmt], prefix: str = "") -> set[str]:
    """Classes, functions, methods and constants, as `name` or `Class.name`."""
    names = set()
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(prefix + node.name)
        if isinstance(node, ast.ClassDef):
            names |= names_of(node.body, f"{prefix}{node.name}.")
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names |= {prefix + target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_what_the_page_names_exists() -> None:
    missing = []
    for path, name in NAMED.findall(PAGE):
        file = next((base / path for base in (ROOT / "workbench", ROOT) if (base / path).is_file()), None)
        if file is None:
            missing.append(path)
        elif name and name not in names_of(ast.parse(file.read_text()).body):
            missing.append(f"{path}:{name}")
    assert missing == []


def test_the_page_says_where_twenty_things_are() -> None:
    rows = [line for line in PAGE.partition("## Where is")[2].splitlines() if NAMED.search(line)]
    assert len(rows) >= PLACES


def test_the_rooms_stand_in_the_order_of_their_imports() -> None:
    """The layers that import-linter checks are the page's lines, and no room is left out of them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = [c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    layers = [room.strip().removeprefix("workbench.") for line in contract["layers"] for room in line.split("|")]
    rows = re.findall(r"^\| (`.*?`) \|", PAGE.partition("## Rooms")[2].partition("## Ways")[0], re.MULTILINE)
    assert [room for row in rows for room in re.findall(r"`(\w+)`", row)] == layers
    rooms = {entry.stem for entry in (ROOT / "workbench").iterdir() if entry.suffix == ".py" or entry.is_dir()}
    assert rooms - {"__init__", "__main__", "__pycache__", "assets"} == set(layers)

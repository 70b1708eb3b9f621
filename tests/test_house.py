"""The project's own promises: one import direction, and commands in the README that exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_imports_point_one_way() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_command_of_the_readme_exists() -> None:
    import typer

    from workbench.cli import app

    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    used = set(re.findall(r"^(?:\.venv/bin/)?workbench ([\w-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert used
    assert used <= known
    for grid in re.findall(r"(ablations/[\w/-]+\.yaml)", (ROOT / "README.md").read_text()):
        assert (ROOT / grid).is_file(), grid


def test_every_file_the_readme_links_is_kept_in_git() -> None:
    links = re.findall(r"\]\(([\w./-]+)\)", (ROOT / "README.md").read_text())
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert links
    assert set(links) <= set(kept)


def test_only_cli_and_progress_print_or_exit() -> None:
    for file in (ROOT / "workbench").rglob("*.py"):
        if file.parent.name != "cli" and file.name != "progress.py":
            calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
            assert not [f for f in calls if isinstance(f, ast.Name) and f.id in ("print", "exit")], file

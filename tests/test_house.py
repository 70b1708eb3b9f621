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


PRINTING = {"print", "exit", "quit", "input", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write"}
EXITING = {"sys.exit", "os._exit", "typer.Exit", "typer.Abort", "SystemExit"}
OWN_PROCESS = {
    "launch/epilogue.py": "its main guard: Slurm starts it as a program",
    "launch/tasks.py": "a job's exit code tells Slurm that the run stopped before its end",
}
"""Below the command line, what ends a process that is its own."""


def dotted(node: ast.expr) -> str:
    """`sys.exit` of such an expression; nothing of others."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def is_main_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def test_only_cli_prints_or_exits() -> None:
    uses = []
    for file in sorted((ROOT / "workbench").rglob("*.py")):
        name = str(file.relative_to(ROOT / "workbench"))
        if name.startswith("cli/"):
            continue
        tree = ast.parse(file.read_text())
        guarded = {id(inner) for node in tree.body if is_main_guard(node) for inner in ast.walk(node)}
        for node in ast.walk(tree):
            called = dotted(node.func) if isinstance(node, ast.Call) else ""
            raised = dotted(node.exc) if isinstance(node, ast.Raise) and node.exc is not None else ""
            word = called or raised
            own = name in OWN_PROCESS and word in EXITING and (name == "launch/tasks.py" or id(node) in guarded)
            if word in PRINTING | EXITING and not own:
                uses.append(f"{name}:{node.lineno} {word}")  # type: ignore[attr-defined]
    assert uses == []

"""Where a result comes from: code, packages, machine. Provenance, not identity: none of it enters a run's id."""

from __future__ import annotations

import ast
import functools
import hashlib
import platform
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from workbench.receipts import remembered

PACKAGE = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "segment-anything", "transformers", "accelerate", "numpy", "pillow", "pycocotools")


ENTRY_POINTS = ("workbench.training.train", "workbench.evaluation.evaluate")
"""What computes a result: these modules and all that they import, directly or not."""


@functools.cache
def code_digest() -> str:
    """SHA-256 of the code that a training and its evaluation run, the first 12 hex digits.

    Docstrings and comments are left out, and so is every module that neither of the two imports: another digest means
    another computation.
    """
    return _once("code", lambda: digest_of_modules(PACKAGE, imported_modules(PACKAGE, ENTRY_POINTS)))


@functools.cache
def package_digest() -> str:
    """The same over every module of the package: of the code that draws tables and figures, too."""
    return _once("package", lambda: digest_of_modules(PACKAGE, _modules(PACKAGE)))


def _once(kind: str, make: Callable[[], str]) -> str:
    """A digest of the package, computed once for each content of its files: reading syntax trees takes a second."""
    content = hashlib.sha256()
    for name, file in sorted(_modules(PACKAGE).items()):
        content.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0".encode())
    kept = remembered(f"{kind}-digest", content.hexdigest(), make)
    return kept if isinstance(kept, str) and re.fullmatch("[0-9a-f]{12}", kept) else make()


def digest_of_modules(package: Path, modules: Mapping[str, Path]) -> str:
    """SHA-256 of what the modules do, whatever their docstrings, comments and layout are; 12 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(modules):
        tree = ast.parse(modules[name].read_bytes(), filename=modules[name].relative_to(package).as_posix())
        digest.update(f"{name}\0{_canonical(tree)}\0".encode())
    return digest.hexdigest()[:12]


def imported_modules(package: Path, entry_points: Iterable[str]) -> dict[str, Path]:
    """The package's modules that the entry points import, directly or not, by name; with themselves.

    Imports inside functions count; those for type checkers alone do not.
    """
    files = _modules(package)
    pending, modules = [name for name in entry_points if name in files], dict[str, Path]()
    while pending:
        name = pending.pop()
        if name in modules:
            continue
        modules[name] = files[name]
        parents = [name.rpartition(".")[0]] if "." in name else []
        pending += [known for known in (*parents, *_imports(files[name])) if known in files]
        if b"import_module" in files[name].read_bytes():  # a package that loads whatever lies in it
            pending += [known for known in files if known.startswith(f"{name}.")]
    return modules


def _modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its name."""
    return {_name_of(file, package): file for file in package.rglob("*.py")}


def _name_of(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(file: Path) -> Iterator[str]:
    """The names that a module imports, as modules and as members of modules."""
    pending: list[ast.AST] = [ast.parse(file.read_bytes())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        pending += ast.iter_child_nodes(node)


def _canonical(node: Any) -> Any:
    """A syntax tree as nested plain values without positions, docstrings and empty fields.

    Versions of Python differ in which empty fields their trees have, so the digest is the same under each.
    """
    if isinstance(node, list):
        return [_canonical(item) for item in node if not _is_text_alone(item)]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []) and name != "kind")
    return [type(node).__name__, *((name, _canonical(value)) for name, value in fields)]


def _is_text_alone(node: Any) -> bool:
    """Whether a statement is a text and nothing else: a docstring, of whatever it stands below."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def source() -> dict[str, Any]:
    """The commit this package lies in and a digest of the tree's difference from it, empty when there is none.

    Both are None outside a repository.
    """
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None
        if (diff := _git("diff", "HEAD")) is None
        else hashlib.sha256(diff.encode()).hexdigest()[:12] * bool(diff),
    }


def provenance(device: str, origin: dict[str, Any] | None = None) -> dict[str, Any]:
    """Code digest, package versions, host and device, and `origin` (the `source` of a submission; None: this one)."""
    import torch

    return {
        "code": code_digest(),
        **(origin or source()),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "host": platform.node(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else f"cpu ({platform.machine()})",
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

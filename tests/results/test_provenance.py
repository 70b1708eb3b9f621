from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT
from workbench.receipts import VARIABLE
from workbench.results import provenance as provenance_module
from workbench.results.provenance import (
    ENTRY_POINTS,
    code_digest,
    digest_of_modules,
    imported_modules,
    package_digest,
    provenance,
    source,
)

PACKAGE = ROOT / "workbench"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that can be edited."""
    copy = tmp_path / "workbench"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    return copy


def digest(package: Path) -> str:
    return digest_of_modules(package, imported_modules(package, ENTRY_POINTS))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, f"{file} has no {old!r}"
    file.write_text(text.replace(old, new, 1))


def test_the_digest_of_this_code_is_that_of_a_copy(package: Path) -> None:
    assert digest(package) == code_digest()
    assert len(code_digest()) == 12


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("training/losses.py", "2 * (probabilities * target)", "3 * (probabilities * target)"),
        ("models/fusion/l_dit.py", "return ", "return 0.5 * "),  # loaded because it lies there, not by its name
        ("evaluation/metrics.py", "where=union > 0", "where=union > 1"),
        ("config/sections.py", "learning_rate: Positive = 1e-3", "learning_rate: Positive = 2e-3"),
    ],
)
def test_a_line_that_computes_changes_it(package: Path, file: str, old: str, new: str) -> None:
    before = digest(package)
    edit(package / file, old, new)
    assert digest(package) != before


def test_docstrings_comments_and_layout_do_not(package: Path) -> None:
    before = digest(package)
    file = package / "training" / "losses.py"
    tree = ast.parse(file.read_text())
    docstring = ast.get_docstring(tree)
    assert docstring is not None
    edit(file, docstring.splitlines()[0], "Another sentence.")
    edit(file, "def dice_loss", "# a comment\n\n\ndef dice_loss")
    edit(package / "config" / "sections.py", 'BUILTIN = "builtin"\n', 'BUILTIN = "builtin"\n"""What is shipped."""\n')
    assert digest(package) == before


def test_what_no_training_imports_does_not(package: Path) -> None:
    before = digest(package)
    drawing = {file.name: file for file in (package / "paper").glob("*.py")}
    of_drawing = digest_of_modules(package, drawing)
    for folder in ("benchmarks", "launch", "paper", "cli", "analysis", "grids"):
        for file in (package / folder).rglob("*.py"):
            file.write_text(file.read_text() + "\nADDED = 1\n")
    (package / "unused.py").write_text("ADDED = 1\n")
    assert digest(package) == before
    assert digest_of_modules(package, drawing) != of_drawing


def test_what_computes_is_found_by_its_imports() -> None:
    modules = set(imported_modules(PACKAGE, ENTRY_POINTS))
    assert {"workbench.models.fusion.l_dit", "workbench.data.masks", "workbench.evaluation.scoring"} <= modules
    assert not [name for name in modules if name.split(".")[1:2] in (["cli"], ["paper"], ["launch"], ["benchmarks"])]
    assert package_digest() != code_digest()


def test_imports_for_type_checkers_alone_are_left_out(tmp_path: Path) -> None:
    package = tmp_path / "p"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.b\nelse:\n    import p.c\n"
        "def f():\n    from p import d\n"
    )
    for name in "bcde":
        (package / f"{name}.py").write_text("")
    assert set(imported_modules(package, ["p.a"])) == {"p", "p.a", "p.c", "p.d"}


def test_provenance_says_the_code_the_packages_and_the_machine() -> None:
    known = provenance("cpu", {"commit": "c0ffee", "dirty": ""})
    assert known["code"] == code_digest()
    assert known["commit"] == "c0ffee"
    assert known["packages"]["torch"]
    assert set(source()) == {"commit", "dirty"}


@pytest.mark.exhaustive
def test_it_is_computed_once_for_each_content_of_the_files(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "receipts"))
    monkeypatch.setattr(provenance_module, "PACKAGE", package)
    try:
        code_digest.cache_clear()
        assert code_digest() == (first := digest(package))
        (receipt,) = (tmp_path / "receipts").glob("code-digest-*.json")
        # What is no digest is not believed.
        for kept in ('{"value": 7}', '{"value": "abc"}', "{"):
            receipt.write_text(kept)
            code_digest.cache_clear()
            assert code_digest() == first
        edit(package / "training" / "losses.py", "2 * (probabilities * target)", "3 * (probabilities * target)")
        code_digest.cache_clear()
        assert code_digest() == digest(package) != first
    finally:
        code_digest.cache_clear()

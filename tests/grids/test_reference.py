from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Outcome
from workbench.grids.reference import REFERENCE, methods

Write = Callable[..., Path]
Command = Callable[..., Outcome]


def test_the_methods_are_those_of_the_file_each_once() -> None:
    table = pd.read_csv(REFERENCE, dtype=str, keep_default_na=False)
    assert methods() == list(dict.fromkeys(table["method"]))
    assert "DIT, released weights" in methods()


@pytest.mark.parametrize("command", [("plan",), ("submit", "--dry-run"), ("submit",)])
def test_a_published_method_that_does_not_exist_is_refused_before_anything_is_trained(
    workbench: Command, grid_file: Write, tmp_path: Path, command: tuple[str, ...]
) -> None:
    names = "[LAVT, LAVTT, 'DIT, relased weights']"
    grid = grid_file(f"settings: {{a: {{}}}}\nreport: {{published: {names}}}\n")
    refused = workbench(*command, grid, "--results", tmp_path / "results")
    assert refused.code == 2
    first, second = [line for line in refused.err.splitlines() if line.startswith("error: ")]
    said = f"error: {grid}: report.published: unknown published method"
    assert first.startswith(f"{said} 'LAVTT' (did you mean 'LAVT'?); known: ")
    assert second.startswith(f"{said} 'DIT, relased weights' (did you mean 'DIT, released weights'?); known: ")
    assert not list((tmp_path / "results").glob("runs/*"))


def test_the_file_is_read_only_for_grids_that_name_methods(
    workbench: Command, grid_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.grids.reference.REFERENCE", tmp_path / "none.csv")
    without = grid_file("settings: {a: {}}\n", name="without")
    assert workbench("plan", without, "--results", tmp_path / "r").code == 0
    named = workbench("plan", grid_file("settings: {a: {}}\nreport: {published: [LAVT]}\n"))
    assert named.code == 2
    assert "none.csv" in named.err

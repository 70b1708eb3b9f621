"""Damaged records through the commands: no traceback, the file is named, every sound run is still shown.

`WORKBENCH_DAMAGE_CASES` says how many; without it, a sample.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import runpy
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.conftest import EXHAUSTIVE, ROOT, Outcome
from tests.damage.ground import Ground, build, slurm
from tests.damage.mutations import mutate, restore

CASES = int(os.environ.get("WORKBENCH_DAMAGE_CASES", "400" if EXHAUSTIVE else "5"))
BATCH = 20
FIGURE_EVERY, NOTEBOOK_EVERY = 5, 3
Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("damage")
    with slurm(folder).on_the_path():
        yield build(folder, data_root)


@pytest.fixture(scope="module")
def first_cell() -> str:
    notebook = nbformat.read(ROOT / "notebooks" / "01_results.ipynb", as_version=4)
    return str(next(cell.source for cell in notebook.cells if cell.cell_type == "code"))


def commands(ground: Ground, number: int) -> list[tuple[str, ...]]:
    """The commands that a case goes through; drawing takes longer, so only some do."""
    where = ("--results", str(ground.results))
    grid = str(ground.file)
    always: list[tuple[str, ...]] = [
        ("plan", grid, *where),
        ("status", grid, *where),
        ("status", *where),
        ("logs", grid, "a", "--seed", str(number % 3), *where),
        ("table", grid, *where),
        ("submit", grid, *where, "--dry-run"),
        ("retry", grid, *where, "--dry-run"),
        ("retry", grid, *where, "--profile", str(ground.profile), "--class", "preempted"),
    ]
    if number % 3 == 0:
        always.append(("table", grid, *where, "--from", str(ground.summary)))
    if number % FIGURE_EVERY == 0:
        always.append(("figure", "bars", grid, *where, "--redraw"))
        always.append(("figure", "bars", grid, *where, "--from", str(ground.summary)))
    return always


def test_all_is_sound_before_anything_is_damaged(workbench: Command, ground: Ground) -> None:
    for words in commands(ground, 0):
        outcome = workbench(*words)
        assert outcome.code == 0, outcome.err
        assert "damaged" not in outcome.err + outcome.out
    kinds = Counter(file.name if file.suffix != ".parquet" else file.suffix for file in ground.records())
    assert kinds["run.json"] == 7
    assert kinds.keys() >= {
        "log.jsonl", ".parquet", "submission.json", "manifest.json", "cancelled.json", "ended.json", "score.json",
        "table.json", "bars.json",
    }  # fmt: skip


@pytest.mark.parametrize("batch", range(-(-CASES // BATCH)))
def test_damage_is_named_and_hides_nothing(
    batch: int, workbench: Command, ground: Ground, first_cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ground.records()
    for number in range(batch * BATCH, min(CASES, (batch + 1) * BATCH)):
        file = files[number % len(files)] if number < 3 * len(files) else random.Random(number).choice(files)
        content = file.read_bytes()
        what, damaged = mutate(content, file.suffix, number)
        case = f"case {number}, {file.relative_to(ground.results)}: {what}"
        restore(file, damaged)
        try:
            outcomes = {words: workbench(*words) for words in commands(ground, number)}
            for words, outcome in outcomes.items():
                assert outcome.code in (0, 2), f"{case}: {words[0]} exits with {outcome.code}: {outcome.err[-2000:]}"
                assert "Traceback" not in outcome.err + outcome.out, f"{case}: {words[0]}: {outcome.err[-2000:]}"
                assert outcome.code == 0 or outcome.err.startswith(("error: ", "warning: ")), f"{case}: {outcome.err}"
                text = outcome.out + outcome.err
                # Of runs that were evaluated on other expressions than most, the run is named.
                named = str(file) in text or "other expressions" in text
                assert "damaged (" not in text or named, f"{case}: {words[0]} does not name it: {text}"
            _check_what_is_shown(case, ground, file, outcomes)
            if number % NOTEBOOK_EVERY == 0:
                _run(case, first_cell, ground, monkeypatch)
        finally:
            restore(file, content)


def _check_what_is_shown(case: str, ground: Ground, file: Path, outcomes: dict[tuple[str, ...], Outcome]) -> None:
    """Runs that were not touched stand in the table with their own numbers; a damaged run is named with its file."""
    said = {words[0]: outcome for words, outcome in outcomes.items() if "--from" not in words and len(words) > 3}
    table = said["table"]
    touched = {(s, seed) for s in ("a", "b") for seed in range(4) if file.is_relative_to(ground.run(s, seed).path)}
    if "runs" in file.relative_to(ground.results).parts and file.name != "log.jsonl":
        document: dict[str, Any] = json.loads((ground.results / "ground" / "table.json").read_text())
        shown = {(setting, seed) for setting, seeds in document["seeds"].items() for seed in seeds}
        completed = {(setting, seed) for setting in ("a", "b") for seed in (0, 1, 2)}
        assert completed - touched <= shown, f"{case}: a sound run is not shown: {table.out}{table.err}"
        for run in (touched & completed) - shown:
            missing = f"{run[0]} seed {run[1]} ("
            assert missing in table.out, f"{case}: {table.out}"
            if f"{missing}damaged" in table.out:
                assert str(file) in table.err + table.out or "other expressions" in table.out, f"{case}: {table.err}"
    if file.name == "run.json":
        states = said["status"].out + said["status"].err
        if "damaged" in states:
            assert f"{file}: " in states, f"{case}: {states}"
        assert f"{said['status'].out}".count("completed") >= 5, f"{case}: {states}"


def _run(case: str, cell: str, ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notebook's first cell, in this process."""
    monkeypatch.setenv("WORKBENCH_GRID", str(ground.file))
    monkeypatch.setenv("WORKBENCH_RESULTS", str(ground.results))
    folder = Path.cwd()
    monkeypatch.setattr(sys, "argv", ["cell"])
    script = ground.results.parent / "cell.py"
    script.write_text(cell)
    try:
        runpy.run_path(str(script))
    except Exception:
        pytest.fail(f"{case}: the notebook's first cell: {traceback.format_exc()[-2000:]}")
    finally:
        with contextlib.suppress(OSError):
            os.chdir(folder)

"""What was checked before is not checked again, unless something changed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Outcome
from workbench import receipts
from workbench.models.backbones import backbones


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(receipts.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


class Work:
    """Counts how often it is done."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self) -> Any:
        self.done += 1
        return {"number": self.done}


def test_the_same_is_made_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    assert [receipts.remembered("kind", {"a": 1}, work) for _ in range(2)] == [{"number": 1}] * 2
    assert receipts.remembered("kind", {"a": 2}, work) == {"number": 2}
    assert receipts.remembered("other", {"a": 1}, work) == {"number": 3}
    monkeypatch.setattr(receipts, "_stamp", lambda: "other code")
    assert receipts.remembered("kind", {"a": 1}, work) == {"number": 4}
    for file in folder.iterdir():
        file.write_text('{"val')
    assert receipts.remembered("kind", {"a": 1}, work) == {"number": 5}
    assert receipts.remembered("kind", {"a": 1}, work) == {"number": 5}


def test_an_error_is_not_remembered_and_a_cache_that_cannot_be_written_is_none(folder: Path) -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        receipts.remembered("kind", 1, fail)
    assert not folder.exists()
    folder.write_text("a file is in its place")
    work = Work()
    assert [receipts.remembered("kind", 1, work)["number"] for _ in range(2)] == [1, 2]


def test_a_user_without_a_home_has_no_receipts(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in (receipts.VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    work = Work()
    assert [receipts.remembered("kind", 1, work)["number"] for _ in range(2)] == [1, 2]


def test_a_changed_file_has_another_digest(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    for fill in (b"a", b"b"):
        content = fill * (receipts.SMALL + 1)
        file.write_bytes(content)
        os.utime(file, ns=(10**18, 10**18))  # the time alone would not tell
        assert receipts.known_digest(file) == hashlib.sha256(content).hexdigest()


@pytest.mark.exhaustive
def test_a_second_plan_loads_no_library_to_build_models(grid_file: Callable[[str], Path], tmp_path: Path) -> None:
    grid = grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\n")
    program = (
        "import sys; from workbench.cli import main; sys.argv[1:] = ['plan', *sys.argv[1:]]\ntry: main()\n"
        "finally: print('loaded:', *sorted({'torch', 'pandas', 'transformers'} & set(sys.modules)))"
    )
    printed = []
    for _ in range(2):
        command = [sys.executable, "-c", program, str(grid), "--results", str(tmp_path / "results")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.partition("loaded:"))
    assert printed[0][0] == printed[1][0]
    assert "torch" in printed[0][2]
    assert printed[1][2].split() == []
    assert not (tmp_path / "results").exists()


def test_weights_that_changed_are_checked_again(
    workbench: Callable[..., Outcome], grid_file: Callable[[str], Path], tmp_path: Path
) -> None:
    file = tmp_path / "sam.pth"
    grid = grid_file(f"settings: {{a: {{backbone.checkpoint: {file}}}}}\n")
    state = backbones["vit_mini"].build().state_dict()
    torch.save(state, file)
    arguments = ("submit", grid, "--dry-run", "--results", tmp_path / "results")
    assert workbench(*arguments).code == 0
    state.pop("image_encoder.pos_embed")
    torch.save(state, file)
    refused = workbench(*arguments)
    assert refused.code == 2
    assert "pos_embed" in refused.err


def test_a_tracker_that_is_not_installed_is_refused(
    workbench: Callable[..., Outcome], grid_file: Callable[[str], Path]
) -> None:
    grid = grid_file("settings: {a: {machine.trackers: [clearml]}}\n")
    for command in (["plan"], ["submit", "--dry-run"], ["submit"]):
        refused = workbench(*command, grid, "--results", grid.parent / "results")
        assert refused.code == 2
        assert "setting 'a': machine.trackers: clearml is not installed here" in refused.err
    assert not (grid.parent / "results").exists()

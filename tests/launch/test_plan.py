from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Outcome
from workbench import receipts
from workbench.files import digest_of
from workbench.grids import load_grid
from workbench.launch.plan import plan, to_train
from workbench.results.record import State


@pytest.mark.parametrize(
    ("state", "plain", "retried"),
    [
        ("completed", False, False),
        ("failed", False, True),
        ("diverged", False, True),
        ("interrupted", True, True),
        ("running", True, True),  # it says so, but nobody holds it: killed
    ],
)
def test_what_is_trained_again(
    grid_file: Callable[[str], Path], tmp_path: Path, state: State, plain: bool, retried: bool
) -> None:
    grid = load_grid(grid_file("settings: {a: {}}\n"))
    plan(grid, tmp_path)[0].folder.update(state=state)
    assert bool(to_train(plan(grid, tmp_path), retry=False)) == plain
    assert bool(to_train(plan(grid, tmp_path), retry=True)) == retried


def test_a_run_that_another_process_trains_is_left_alone(grid_file: Callable[[str], Path], tmp_path: Path) -> None:
    grid = load_grid(grid_file("settings: {a: {}}\n"))
    folder = plan(grid, tmp_path)[0].folder
    with folder.claim():
        folder.update(state="running")
        assert to_train(plan(grid, tmp_path), retry=True) == []


@pytest.mark.parametrize("cache", ["open", "closed"])
def test_weights_that_twenty_runs_share_are_read_once_and_again_when_they_changed(
    workbench: Callable[..., Outcome],
    grid_file: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache: str,
) -> None:
    weights, results, reads, looks = tmp_path / "sam.pth", tmp_path / "results", Counter[str](), []
    weights.write_bytes(b"a" * (receipts.SMALL + 1))
    settings = ", ".join(f"s{k}: {{backbone.checkpoint: {weights}, training.steps: {k + 1}}}" for k in range(2))
    grid = grid_file(f"settings: {{{settings}}}\nseeds: {list(range(10))}\n")
    origin = {"code": "0" * 12, "checkpoint_sha256": digest_of(weights)}
    planned = plan(load_grid(grid), results)
    for one in planned:
        one.folder.update(state="interrupted", identity=one.run.config.identity_document(), provenance=origin)
    (tmp_path / "file").touch()
    monkeypatch.setenv(receipts.VARIABLE, str(tmp_path / "cache" if cache == "open" else tmp_path / "file"))
    monkeypatch.setattr(receipts, "TICK", 0)
    digest = hashlib.file_digest

    def counted(stream: Any, name: str) -> Any:
        reads[Path(stream.name).name] += 1
        return digest(stream, name)

    def look_again(seconds: float) -> None:
        looks.append(reads["sam.pth"])
        if len(looks) == 3:
            raise KeyboardInterrupt

    def in_a_new_process(*arguments: object) -> tuple[Outcome, int]:
        monkeypatch.setattr(receipts, "_digests", {})
        reads.clear()
        return workbench(*arguments, "--results", results), reads["sam.pth"]

    monkeypatch.setattr("hashlib.file_digest", counted)
    monkeypatch.setattr("workbench.cli.cluster.time.sleep", look_again)
    first, read = in_a_new_process("plan", grid)
    assert (first.code, read) == (0, 1), first.err
    later = 0 if cache == "open" else 1
    for command in ("plan", "status"):
        assert in_a_new_process(command, grid)[1] == later
    planned[0].folder.update(state="new")  # what may still begin is watched
    with planned[1].folder.claim():
        planned[1].folder.update(state="running")
        in_a_new_process("status", grid, "--watch")
    assert looks == [later] * 3
    assert set(reads.values()) <= {1}, "nor is any other file read twice"
    weights.write_bytes(b"b" * (receipts.SMALL + 1))
    changed, read = in_a_new_process("plan", grid)
    assert (changed.code, read) == (2, 1)
    assert "not the weights this run began with" in changed.err

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.errors import CheckpointError
from workbench.grids import load_grid
from workbench.launch import capacity, doctor
from workbench.launch.capacity import gpu_memory, loader_bytes, shared_memory
from workbench.launch.profiles import Profile

Write = Callable[[str], Path]
LOCAL = Profile(name="test", backend="local")
WORKERS = "settings: {a: {machine.loader_workers: 2}, b: {fusion.variant: l_dit}}\n"


def test_shared_memory_is_held_against_what_the_loader_workers_fill(grid_file: Write) -> None:
    grid = load_grid(grid_file(WORKERS))
    side, batch = 64, 4
    needed = loader_bytes(grid.settings["a"])
    assert needed == 7 * batch * 4 * side**2
    assert loader_bytes(grid.settings["b"]) == 0
    assert loader_bytes(grid.settings["a"], processes=3) == needed // 2, "two of four each"
    (enough,) = shared_memory(grid, 1, needed, "here")
    (scarce,) = shared_memory(grid, 2, 2 * needed - 1, "here")
    assert (enough.passed, scarce.passed) == (True, False)
    assert "loader_workers" in scarce.remedy
    (unknown,) = shared_memory(grid, 1, None, "here")
    assert unknown.passed is None
    assert list(shared_memory(None, 1, 0, "here")) == []
    assert list(shared_memory(load_grid(grid_file("settings: {b: {}}\n")), 1, 0, "here")) == []


def test_a_gpu_that_others_use_is_named() -> None:
    found = list(gpu_memory([(79 * 2**30, 80 * 2**30), [12 * 2**30, 80 * 2**30]], "on n1"))
    assert [check.passed for check in found] == [True, False]
    assert found[1].name == "memory of GPU 1 on n1"
    assert "12 of 80 GB" in found[1].found
    assert list(gpu_memory([], "here")) == []


def test_the_doctor_looks_at_both(grid_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "free_shared_memory", lambda: 0)
    monkeypatch.setattr(capacity, "free_gpu_memory", lambda: [(1, 100)])
    checks = {c.name: c for c in doctor.examine(LOCAL, tmp_path, load_grid(grid_file(WORKERS)))}
    assert checks["shared memory here"].passed is False
    assert checks["memory of GPU 0 here"].passed is False


def test_a_text_encoder_is_asked_for_only_where_it_is_not_to_be_had(
    grid_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(text_encoder: str) -> list[tuple[str, bool | None]]:
        text = f"settings: {{a: {{text_encoder.name: {text_encoder}, machine.checkpoint_root: '{tmp_path}'}}}}\n"
        checks = doctor.examine(LOCAL, tmp_path, load_grid(grid_file(text)))
        return [(c.name, c.passed) for c in checks if c.name in ("checkpoint here", "text encoder here")]

    def no_hub(name: str, root: Path) -> None:
        raise CheckpointError(f"missing text encoder {name!r}")

    cached = tmp_path / "hub" / "snapshot"
    monkeypatch.setattr(doctor, "check_hub", no_hub)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: None)
    assert said("bert_mini") == []
    assert said("bert-base-uncased") == [("text encoder here", False)]
    monkeypatch.setattr(doctor, "check_hub", lambda name, root: None)
    assert said("bert-base-uncased") == [("text encoder here", True)], "a hub has it"
    cached.mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: str(cached / file))
    assert said("bert-base-uncased") == [("checkpoint here", True)], "the cache has it"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: None)
    (tmp_path / "bert-base-uncased").mkdir()
    assert said("bert-base-uncased") == [("checkpoint here", True)], "the folder has it"
    assert said("./nowhere") == [("checkpoint here", False)]

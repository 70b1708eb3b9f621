from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from workbench.results.checkpoints import Checkpoints


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoint")


def test_a_checkpoint_counts_only_when_it_is_whole(checkpoints: Checkpoints) -> None:
    with checkpoints.new(5) as checkpoint:
        checkpoint.model.write_text("5")
    with contextlib.suppress(RuntimeError), checkpoints.new(9) as checkpoint:
        checkpoint.model.write_text("9")
        raise RuntimeError("power cut")
    latest = checkpoints.latest()
    assert latest is not None
    assert (latest.step, latest.model.read_text()) == (5, "5")
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000005"]
    with checkpoints.new(12) as checkpoint:
        checkpoint.model.write_text("12")
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000012"]


def test_the_average_is_what_is_evaluated_where_there_is_one(checkpoints: Checkpoints) -> None:
    with checkpoints.new(1) as checkpoint:
        checkpoint.model.write_text("weights")
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.weights.name == "model.safetensors"
    latest.ema.write_text("average")
    assert latest.weights.name == "ema.safetensors"


def test_progress_is_the_step_and_the_splits_scored_since(checkpoints: Checkpoints) -> None:
    assert checkpoints.latest() is None
    assert checkpoints.progress() == [0, 0]
    with checkpoints.new(7) as checkpoint:
        checkpoint.state.write_text("x")
    latest = checkpoints.latest()
    assert latest is not None
    latest.scored("val", "abc").write_text("x")
    assert checkpoints.progress() == [7, 1]
    assert [path.name for path in checkpoints.scored()] == ["val-abc.parquet"]


def test_what_was_never_finished_is_named(checkpoints: Checkpoints) -> None:
    (checkpoints.folder / ".partial-00000003").mkdir(parents=True)
    assert [path.name for path in checkpoints.leftovers()] == [".partial-00000003"]
    assert checkpoints.latest() is None

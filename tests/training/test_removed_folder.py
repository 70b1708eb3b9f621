"""A run's folder that is removed while the run is trained: the run never counts as completed, and a record says why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Outcome
from workbench.config import RunConfig
from workbench.errors import DivergedError
from workbench.grids import load_grid
from workbench.results.folders import RunFolder, RunRemoved
from workbench.training.train import train

SAID = "its folder was removed, or files of it, while it was being trained"


def trained_until(moment: str, config: RunConfig, folder: RunFolder, harm: Callable[[], object]) -> None:
    """Train, and do the harm once, right after the event `<name>:<step or split>` is logged."""
    harmed: list[str] = []

    def see(event: dict[str, Any]) -> None:
        name = f"{event['event']}:{event.get('step', event.get('split'))}"
        if name == moment and not harmed:
            harmed.append(name)
            harm()

    try:
        train(config, 0, folder, report=see)
    finally:
        assert harmed, f"the training never came to {moment}"


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("step:2", marks=pytest.mark.exhaustive),
        pytest.param("validate:3", marks=pytest.mark.exhaustive),
        "checkpoint:6",
        "evaluate:testA",
    ],
)
def test_a_run_whose_folder_is_removed_fails_with_that_as_its_reason_and_can_be_tried_again(
    tmp_path: Path, make_config: Callable[..., RunConfig], moment: str
) -> None:
    config = make_config(
        evaluation__splits=["val", "testA"], evaluation__checkpoint="best", validation__every={"steps": 3}
    )
    folder = RunFolder.of(tmp_path, config, 0)
    with pytest.raises(RunRemoved, match=SAID):
        trained_until(moment, config, folder, lambda: shutil.rmtree(folder.path))
    record = folder.record()
    assert (folder.state(), record.error.cause, record.error.message) == ("failed", "removed", SAID)
    assert record.metrics == {}, "no number without what it was made from"
    assert {path.name for path in folder.path.iterdir()} == {"run.json", "log.jsonl"}
    assert not folder.claimed()
    train(config, 0, folder)
    again = folder.record()
    assert (again.state, again.error, again.seed) == ("completed", None, 0)
    assert again.identity is not None
    assert len(again.codes) == 1


@pytest.mark.parametrize("name", ["run.json", "log.jsonl"])
def test_a_removed_record_or_log_ends_the_run_too(
    tmp_path: Path, make_config: Callable[..., RunConfig], name: str
) -> None:
    config = make_config()
    folder = RunFolder.of(tmp_path, config, 0)
    with pytest.raises(RunRemoved, match=SAID):
        trained_until("step:2", config, folder, (folder.path / name).unlink)
    assert (folder.state(), folder.record().error.cause) == ("failed", "removed")


def test_what_another_process_has_begun_or_completed_since_is_left_alone(
    tmp_path: Path, make_config: Callable[..., RunConfig]
) -> None:
    config, begun_again = make_config(), []

    def begin_again() -> None:
        shutil.rmtree(folder.path)
        train(config, 0, folder)  # as a second job would
        begun_again.extend(file.read_bytes() for file in (folder.record_file, folder.log_file))

    folder = RunFolder.of(tmp_path, config, 0)
    with pytest.raises(RunRemoved, match=SAID):
        trained_until("step:2", config, folder, begin_again)
    assert folder.state() == "completed"
    assert [folder.record_file.read_bytes(), folder.log_file.read_bytes()] == begun_again


def test_an_error_of_the_training_itself_keeps_its_words_where_the_folder_is_still_there(
    tmp_path: Path, make_config: Callable[..., RunConfig]
) -> None:
    config = make_config(training__optimizer={"learning_rate": 1e6, "clip_norm": None}, training__steps=30)
    folder = RunFolder.of(tmp_path, config, 0)
    with pytest.raises(DivergedError):
        train(config, 0, folder)
    assert folder.state() == "diverged"


def test_status_table_and_plan_say_that_it_was_removed(
    workbench: Callable[..., Outcome], grid_file: Callable[..., Path], tmp_path: Path
) -> None:
    file, results = grid_file("settings: {a: {}}\n"), tmp_path / "r"
    (run,) = load_grid(file).runs()
    folder = RunFolder.of(results, run.config, run.seed)
    with pytest.raises(RunRemoved):
        trained_until("step:2", run.config, folder, lambda: shutil.rmtree(folder.path))
    said = {name: workbench(name, file, "--results", results) for name in ("status", "plan", "table")}
    assert [outcome.code for outcome in said.values()] == [0, 0, 2]
    assert not [name for name, outcome in said.items() if "Traceback" in outcome.err]
    assert f"1 × removed: {SAID} [a seed 0]" in said["status"].out
    assert "workbench retry --class removed" in said["status"].out
    assert "a        0     failed: removed" in said["plan"].out
    assert "no completed run yet (a seed 0 (failed))" in said["table"].err

"""A disk that runs full under a training: a real one, of a few megabytes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workbench.config import RunConfig
from workbench.results.folders import RunFolder
from workbench.training.train import train


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs the right to mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_named_harms_nothing_finished_and_the_run_goes_on_once_there_is_room(
    small_disk: Path, make_config: Callable[..., RunConfig]
) -> None:
    finished = RunFolder.of(small_disk, make_config(), 1)
    finished.update(state="completed", metrics={"val": {"miou": 0.5}})
    before = (finished.path / "run.json").read_bytes()
    config = make_config(fusion__variant="l_dit")
    folder = RunFolder.of(small_disk, config, 0)
    with pytest.raises(Exception, match="No space left on device"):
        train(config, 0, folder)
    record = folder.record()
    assert record.state == "failed"
    assert record.error.cause == "disk_full"
    assert "No space left on device" in record.error.message
    assert folder.checkpoints.latest() is None
    assert not list(folder.checkpoints.folder.iterdir()), "the half-written checkpoint gave its room back"
    assert [e.event for e in folder.log().events][-1] == "end"
    assert (finished.path / "run.json").read_bytes() == before
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    train(config, 0, folder)
    assert folder.state() == "completed"
    steps = [e.step for e in folder.log().events if e.event == "step"]
    assert steps[-6:] == [1, 2, 3, 4, 5, 6]

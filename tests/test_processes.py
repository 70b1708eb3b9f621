"""Work shared out to processes: a Ctrl-C reaches them all, and only the first decides."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from workbench.processes import cores, process_pool


def test_cores_are_those_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert cores() == len(allowed)


def _slow(file: Path) -> int:
    (file.parent / "begun").touch()
    time.sleep(0.5)
    file.touch()
    return os.getpid()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_ctrl_c_does_not_end_what_is_begun(tmp_path: Path, start: str) -> None:
    with process_pool(1, start) as pool:
        begun = pool.submit(_slow, tmp_path / "done")
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        (worker,) = pool._processes
        os.kill(worker, signal.SIGINT)
        assert begun.result() == worker
    assert (tmp_path / "done").exists()

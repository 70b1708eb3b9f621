from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.benchmarks.fake_slurm import FakeSlurm


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[FakeSlurm]:
    """A stand-in for the scheduler, in front of the PATH."""
    made = FakeSlurm.pretending(tmp_path / "slurm")
    with made.on_the_path():
        yield made

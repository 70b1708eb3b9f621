"""A real one-node Slurm for these tests, in a folder of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

COMMANDS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch")
SBIN = os.pathsep.join(["/usr/local/sbin", "/usr/sbin", "/sbin"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without Slurm these are skipped, and say so; where nothing may be skipped, they fail."""
    missing = [c for c in COMMANDS if not shutil.which(c, path=f"{os.environ['PATH']}{os.pathsep}{SBIN}")]
    for item in items:
        if "tests/cluster/" in item.nodeid:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.cluster)
            if missing and not os.environ.get("WORKBENCH_NO_SKIPS"):
                item.add_marker(pytest.mark.skip(reason=f"needs Debian's Slurm packages ({missing[0]} is missing)"))


@dataclass(frozen=True)
class DevCluster:
    """The cluster and the commands that reach it."""

    environment: dict[str, str]

    def control(self, *arguments: str) -> str:
        """`slurm/dev-cluster ...`."""
        command = [sys.executable, str(ROOT / "slurm" / "dev-cluster"), *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def dev_cluster() -> Iterator[DevCluster]:
    # A socket's path must be short, which pytest's own folders are not.
    folder = Path(tempfile.mkdtemp(prefix="wb-slurm-"))
    cluster = DevCluster({**os.environ, "WORKBENCH_DEV_CLUSTER": str(folder)})
    try:
        line = cluster.control("up", "--cpus", "2", "--max-array-size", "1001")
        conf = line.strip().rpartition("=")[2]
        before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = conf
        yield DevCluster({**cluster.environment, "SLURM_CONF": conf})
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before
    finally:
        cluster.control("down")


@pytest.fixture
def profile(dev_cluster: DevCluster, tmp_path: Path) -> Callable[..., Path]:
    """Writes a profile of the cluster; keywords are keys."""

    def write(name: str = "dev", **keys: object) -> Path:
        file = tmp_path / f"{name}.yaml"
        values = {"backend": "slurm", "time_minutes": 10, "memory_gb": 2, "parallel": 2, "signal_seconds": 20, **keys}
        file.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
        return file

    return write

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.cluster.conftest import DevCluster
from tests.conftest import ROOT


@pytest.fixture
def script() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("dev_cluster", str(ROOT / "slurm" / "dev-cluster"))
    spec = importlib.util.spec_from_loader("dev_cluster", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def test_it_says_what_to_install(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "_which", lambda program: None if program.startswith("slurm") else f"/bin/{program}")
    with pytest.raises(script.ClusterError, match="sudo apt-get install slurmctld slurmd slurmdbd"):
        script.Cluster(tmp_path / "cluster").up(1, 1000, 10)
    assert not (tmp_path / "cluster").exists()


def test_it_runs_on_loopback_alone_and_its_status_says_so(dev_cluster: DevCluster) -> None:
    assert dev_cluster.control("status").count("runs as process") == 5
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    conf = Path(dev_cluster.environment["SLURM_CONF"]).read_text()
    ports = {int(line.partition("=")[2]) for line in conf.splitlines() if "Port=" in line and line[0] in "SA"}
    assert len(ports) == 3
    found = 0
    for line in listening:
        address, port = line.split()[1].split(":")
        if line.split()[3] == "0A" and int(port, 16) in ports:
            found += 1
            assert address.endswith("7F"), "not on loopback"
    assert found == 3


def test_down_ends_its_jobs_and_leaves_nothing(tmp_path: Path, dev_cluster: DevCluster) -> None:
    folder = Path("/tmp") / f"wb-down-{os.getpid()}"
    environment = {**os.environ, "WORKBENCH_DEV_CLUSTER": str(folder)}
    second = DevCluster(environment)
    conf = second.control("up").strip().rpartition("=")[2]
    environment["SLURM_CONF"] = conf
    marker = f"{4000 + os.getpid() % 900}.125"
    subprocess.run(["sbatch", "-o", "/dev/null", "--wrap", f"sleep {marker}"], env=environment, check=True)
    sleeps = ["pgrep", "-f", f"sleep {marker}$"]
    for _ in range(100):
        if subprocess.run(sleeps, stdout=subprocess.DEVNULL, check=False).returncode == 0:
            break
        subprocess.run(["sleep", "0.1"], check=True)
    second.control("down")
    assert subprocess.run(sleeps, stdout=subprocess.DEVNULL, check=False).returncode == 1, "a job outlived its cluster"
    assert not folder.exists()
    assert dev_cluster.control("status").count("runs as process") == 5, "the other one is untouched"

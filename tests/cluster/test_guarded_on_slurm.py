"""A submission that somebody swaps while it waits at a real Slurm."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.cluster.conftest import DevCluster
from tests.cluster.test_grid_on_slurm import folders, states, status, wait_until, workbench
from tests.launch.test_guarded import Hostile
from workbench.launch.submissions import Submissions

Write = Callable[..., Path]


def test_a_pickle_that_was_swapped_while_it_waited_is_refused_and_a_retry_trains(
    grid_file: Write, profile: Write, tmp_path: Path, dev_cluster: DevCluster
) -> None:
    grid, results = grid_file("settings: {a: {}}\n"), tmp_path / "results"
    later = profile("later", sbatch="{begin: now+20}")
    workbench("submit", grid, "--results", results, "--profile", later)
    (submission,) = Submissions(results).all()
    away = submission.folder.rename(submission.folder.with_name("away"))
    shutil.copytree(away, submission.folder)
    submission.folder.chmod(0o700)
    (submission.folder / "task.pkl").write_bytes(pickle.dumps(Hostile(tmp_path / "proof")))
    wait_until(lambda: states(grid, results) == {"failed"})
    found = status(grid, results)["a"]
    assert found["cause"] == "tampered"
    (log,) = submission.folder.glob("*_log.out")
    refused = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert [f"{submission.folder}/task.pkl is not what was submitted" in line for line in refused] == [True]
    assert not (tmp_path / "proof").exists()
    assert not folders(grid, results)["a"].path.exists()
    workbench("retry", grid, "--class", "tampered", "--results", results, "--profile", profile("usual"))
    wait_until(lambda: states(grid, results) == {"completed"})

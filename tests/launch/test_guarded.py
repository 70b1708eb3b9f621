"""What somebody else may put in the place of a submission or of its code, and what the jobs then do: nothing."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome
from workbench.benchmarks.fake_slurm import FakeSlurm
from workbench.grids import load_grid
from workbench.launch import guarded
from workbench.launch.reports import report_statuses
from workbench.launch.snapshot import snapshot
from workbench.launch.submissions import Submission, Submissions
from workbench.results.folders import RunFolder

Write = Callable[..., Path]
Command = Callable[..., Outcome]
HOSTILE = "from pathlib import Path\nPath({proof!r}).write_text('executed')\n"


class Hostile:
    """What writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return exec, (HOSTILE.format(proof=str(self.proof)),)


class Submitted:
    """A grid of one run that waits in the queue, and somebody who may write the folder of submissions."""

    def __init__(self, grid: Path, results: Path, slurm: FakeSlurm) -> None:
        self.grid, self.results, self.slurm = grid, results, slurm
        self.proof = results / "proof"

    @property
    def submission(self) -> Submission:
        return Submissions(self.results).all()[0]

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.results, load_grid(self.grid).runs()[0].id)

    def swap(self, folder: Path) -> Path:
        """Put a copy in the place of a folder, which its maker may change."""
        away = folder.rename(folder.with_name(f"away{folder.name[-4:]}"))
        shutil.copytree(away, folder)
        folder.chmod(0o700)
        return folder

    def start(self, number: int = 1) -> subprocess.CompletedProcess[str]:
        """Do what Slurm does with the script that it was given."""
        text = Path(str(self.slurm.jobs()[number - 1]["script"])).read_text()
        environment = {**os.environ, "SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": "0",
                       "SLURM_JOB_ID": str(number), "SLURM_NTASKS": "1"}  # fmt: skip
        return subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def submitted(workbench: Command, grid_file: Write, tmp_path: Path, slurm: FakeSlurm) -> Submitted:
    grid, results = grid_file("settings: {a: {}}\n"), tmp_path / "r"
    profile = tmp_path / "cluster.yaml"
    profile.write_text("backend: slurm\n")
    done = workbench("submit", grid, "--results", results, "--profile", profile)
    assert done.code == 0, done.err
    return Submitted(grid, results, slurm)


def swap_pickle(submitted: Submitted) -> str:
    folder = submitted.swap(submitted.submission.folder)
    (folder / "task.pkl").write_bytes(pickle.dumps(Hostile(submitted.proof)))
    return f"{folder}/task.pkl is not what was submitted (SHA-256 "


def swap_manifest(submitted: Submitted) -> str:
    folder = submitted.swap(submitted.submission.folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"results": "/elsewhere"}))
    return f"{folder}/manifest.json is not what was submitted (SHA-256 "


def swap_code(submitted: Submitted) -> str:
    code = submitted.swap(next((submitted.results / "submissions").glob("code-*")))
    (code / "sitecustomize.py").write_text(HOSTILE.format(proof=str(submitted.proof)))
    (code / "workbench" / "__init__.py").write_text(HOSTILE.format(proof=str(submitted.proof)))
    return f"the code in {code} is not what was submitted (SHA-256 "


def link_to_another(submitted: Submitted) -> str:
    folder = submitted.submission.folder
    swap_pickle(submitted)
    folder.rename(folder.with_name("theirs"))
    folder.symlink_to("theirs")
    return f"{folder}/task.pkl is not what was submitted (SHA-256 "


def take_away(submitted: Submitted) -> str:
    folder = submitted.submission.folder
    (folder / "task.pkl").unlink()
    return f"{folder}/task.pkl cannot be read (No such file or directory)"


def open_to_the_group(submitted: Submitted) -> str:
    folder = submitted.submission.folder
    folder.chmod(0o770)
    return f"others may write {folder} (mode 0770)"


@pytest.mark.parametrize("harm", [swap_pickle, swap_manifest, swap_code, link_to_another, take_away, open_to_the_group])
def test_what_is_not_as_submitted_is_refused_in_one_line_and_not_executed(
    submitted: Submitted, harm: Callable[[Submitted], str]
) -> None:
    words = harm(submitted)
    before = set(submitted.results.rglob("*"))
    done = submitted.start()
    assert done.returncode == guarded.REFUSED
    (line,) = (done.stdout + done.stderr).splitlines()
    assert line.startswith(f"error: {words}"), line
    assert line.endswith("; it was refused, and nothing of it executed")
    assert not submitted.proof.exists()
    assert not submitted.run.path.exists()
    (mark,) = set(submitted.results.rglob("*")) - before
    assert mark.suffix == ".tampered", "nothing else was written"


def test_status_says_so_and_retry_submits_it_anew(submitted: Submitted, workbench: Command, tmp_path: Path) -> None:
    swap_pickle(submitted)
    submitted.start()
    options = ("--results", submitted.results)
    waiting = json.loads(workbench("status", submitted.grid, *options, "--json").out)[0]
    assert waiting["state"] == "queued", "Slurm may not have noticed its end, or put it back"
    submitted.slurm.set_state("1_0", "FAILED")
    (found,) = json.loads(workbench("status", submitted.grid, *options, "--json").out)
    assert (found["state"], found["cause"]) == ("failed", "tampered")
    said = workbench("status", submitted.grid, *options).out
    assert f"1 × tampered: {submitted.submission.folder}/task.pkl is not what was submitted" in said
    assert "to fix it: ask who else may write the results folder; workbench retry --class tampered" in said
    profile = ("--profile", tmp_path / "cluster.yaml")
    assert "1 failed before and is left alone" in workbench("submit", submitted.grid, *options, *profile).out
    again = workbench("retry", submitted.grid, "--class", "tampered", *options, *profile)
    assert again.code == 0, again.err
    (found,) = json.loads(workbench("status", submitted.grid, *options, "--json").out)
    assert found["state"] == "queued"
    mark = submitted.submission.folder.with_name(f"{submitted.submission.name}.tampered")
    assert mark.is_file()
    workbench("gc", *options)
    assert not mark.exists()


@pytest.mark.exhaustive
def test_a_sound_task_runs_to_its_end_from_the_checked_code(submitted: Submitted) -> None:
    done = submitted.start()
    assert done.returncode == 0, done.stdout + done.stderr
    assert submitted.run.state() == "completed"
    assert not submitted.submission.tampered
    kept = {file.name for file in submitted.submission.folder.iterdir()}
    assert kept == {"array.sh", "began", "manifest.json", "submission.json", "taken.json", "task.pkl"}


def test_the_code_is_swapped_after_the_check(tmp_path: Path) -> None:
    """The import comes from the folder that was checked, in the process and in its children."""
    code, folder, proof = tmp_path / "code", tmp_path / "000001-a", tmp_path / "proof"
    (code / "workbench").mkdir(parents=True)
    (code / "workbench" / "__init__.py").write_text("WHOSE = 'ours'\n")
    folder.mkdir()
    other = tmp_path / "other"
    (other / "workbench").mkdir(parents=True)
    (other / "workbench" / "__init__.py").write_text(HOSTILE.format(proof=str(proof)) + "WHOSE = 'theirs'\n")
    swap = (
        f"import os, subprocess, sys; os.rename({str(code)!r}, {str(tmp_path / 'away')!r}); "
        f"os.rename({str(other)!r}, {str(code)!r}); "
        "import workbench; print(workbench.WHOSE, flush=True); "
        "subprocess.run([sys.executable, '-Pc', 'import workbench; print(workbench.WHOSE)'], check=True)"
    )
    (folder / "task.pkl").write_bytes(b"cbuiltins\nexec\n(V" + swap.encode("raw_unicode_escape") + b"\ntR.")
    sealed = guarded.seal(folder, code, ["task.pkl"])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-Pc", Path(guarded.__file__).read_text(), *sealed, "train"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["ours", "ours"], done.stderr
    assert not proof.exists()


def test_a_report_is_refused_in_the_same_way(
    workbench: Command, grid_file: Write, tmp_path: Path, slurm: FakeSlurm
) -> None:
    grid, results = grid_file("settings: {a: {}}\nthen: [table]\n"), tmp_path / "r"
    profile = tmp_path / "cluster.yaml"
    profile.write_text("backend: slurm\n")
    workbench("submit", grid, "--results", results, "--profile", profile)
    (job,) = [submission for submission in Submissions(results).all() if submission.is_report]
    (job.folder / "task.pkl").write_bytes(pickle.dumps(Hostile(tmp_path / "proof")))
    done = Submitted(grid, results, slurm).start(2)
    assert done.returncode == guarded.REFUSED
    assert not (tmp_path / "proof").exists()
    slurm.set_state("2_0", "FAILED")
    (found,) = report_statuses(results)
    assert (found.state, found.cause) == ("failed", "tampered")
    assert found.message is not None
    assert "task.pkl is not what was submitted" in found.message


def test_a_copy_of_the_code_that_others_changed_is_not_used(
    submitted: Submitted, workbench: Command, tmp_path: Path
) -> None:
    code = snapshot(submitted.results)
    (code / "workbench" / "__init__.py").write_text("'changed'\n")
    options = ("--results", submitted.results, "--profile", tmp_path / "cluster.yaml", "--seeds", "3")
    refused = workbench("submit", submitted.grid, *options)
    assert refused.code == 2
    assert f"{code} does not hold the code as it is now" in refused.err
    shutil.rmtree(code)
    code.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(code, 65534, 65534)
        own = snapshot(submitted.results)
        assert own.name == f"{code.name}-0", "another user's copy stays that user's"
    code.rmdir()
    (snapshot(submitted.results)).chmod(0o755)
    (code / "workbench").chmod(0o775)
    open_to_others = workbench("submit", submitted.grid, *options)
    assert open_to_others.code == 2
    assert f"others may write {code}/workbench; chmod -R go-w {code}; remove it, and submit again" in open_to_others.err

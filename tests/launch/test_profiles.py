from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Outcome
from workbench.benchmarks.fake_slurm import FakeSlurm
from workbench.launch.profiles import Profile, ProfileError, load_profile
from workbench.launch.slurm import ArrayExecutor, _parameters
from workbench.launch.submissions import Submission


@pytest.mark.parametrize("file", sorted((ROOT / "slurm").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_profile_is_valid(file: Path) -> None:
    assert load_profile(file).name == file.stem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backend: pbs", "backend: 'pbs' is not valid: input should be 'slurm' or 'local'"),
        ("partition: gpu", "backend: is required: slurm or local"),
        ("backend: slurm\npartiton: gpu", "partiton: unknown key 'partiton' (did you mean 'partition'?)"),
        ("backend: slurm\ntime_minutes: 0", "time_minutes: 0 is not valid: input should be greater than or equal to 1"),
        ("backend: slurm\nretries: {oom: 1}", "retries: unknown failure class 'oom'; known: out_of_memory"),
        ("backend: slurm\nworkers: 2", "'workers' belongs to the backend local; of slurm it is 'parallel'"),
        ("backend: local\ntasks_of: 4", "'tasks_of' has no effect with the backend local, which takes: workers"),
        ("backend: slurm\ntasks_of: 0", "tasks_of: 0 is not valid: input should be greater than or equal to 1"),
        ("backend: local\npartition: gpu", "'partition' has no effect with the backend local, which takes: workers"),
        ("backend: slurm\ntime_minutes: 1\nsignal_seconds: 60", "leaves nothing of the time limit of 1 min"),
        ("backend: slurm\nenvironment: {'A B': x}", "'A B' is not the name of an environment variable"),
        ("backend: [", "unreadable YAML in line"),
        ('backend: slurm\npartition: "gpu\\nrm -rf x"', "partition: 'gpu\\nrm -rf x' holds a space, a line break"),
        ("backend: slurm\nconstraint: a b", "constraint: 'a b' holds a space"),
        ("backend: slurm\naccount: ''", "account: '' holds"),
        ('backend: slurm\npython: "/usr/bin/python\\n"', "python: '/usr/bin/python\\n' holds"),
        ('backend: slurm\nsbatch: {comment: "a\\nb"}', "comment: 'a\\nb' holds a line break"),
        ("backend: slurm\nsbatch: {wrap: ls}", "'wrap' is set by the workbench"),
        ("backend: slurm\nsbatch: {arr: 1-9}", "'arr' is set by the workbench"),
        ("backend: slurm\nsbatch: {clusters: all}", "'clusters' is set by the workbench"),
        ("backend: slurm\nsbatch: {export_file: f}", "'export_file' is set by the workbench"),
        ("backend: slurm\nsbatch: {p: gpu}", "'p' is not the long name of an option"),
        ("backend: slurm\nsbatch: {--reservation: x}", "'--reservation' is not the long name of an option"),
    ],
)
def test_a_mistake_in_a_profile_names_the_file_the_key_and_what_would_be_right(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(ProfileError) as raised:
        load_profile(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_all_mistakes_of_a_profile_are_named_at_once(
    workbench: Callable[..., Outcome], grid_file: Callable[[str], Path], tmp_path: Path
) -> None:
    profile = tmp_path / "cluster.yaml"
    profile.write_text("backend: Slurm\npartiton: gpu\ntime_minutes: 0\nretries: {time_out: 3}\n")
    refused = workbench("plan", grid_file("settings: {a: {}}\n"), "--profile", profile)
    assert refused.code == 2
    lines = refused.err.splitlines()
    assert all(line.startswith(f"error: {profile}: ") for line in lines)
    for part in (
        "backend: 'Slurm' is not valid: input should be 'slurm' or 'local' (did you mean 'slurm'?)",
        "partiton: unknown key 'partiton' (did you mean 'partition'?)",
        "time_minutes: 0 is not valid",
        "retries: unknown failure class 'time_out' (did you mean 'timeout'?)",
    ):
        assert sum(part in line for line in lines) == 1, part
    assert len(lines) == 4


def test_a_slurm_profile_without_any_slurm_fails_with_one_line(
    workbench: Callable[..., Outcome], grid_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    grid = grid_file("settings: {a: {}}\n")
    done = workbench("submit", grid, "--results", tmp_path / "r", "--profile", ROOT / "slurm" / "dev.yaml")
    assert done.code == 2
    assert done.err.startswith("error: this profile needs Slurm, and sbatch is not found here: ")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "r").exists()
    missing = workbench("submit", grid, "--profile", "slurm/nope.yaml")
    assert missing.code == 2
    assert "slurm/nope.yaml: no such file; there are " in missing.err


@pytest.mark.parametrize("folder", ["50%", "two\nlines", "back\\slash"])
def test_a_folder_that_slurm_cannot_log_into_is_refused(
    workbench: Callable[..., Outcome], grid_file: Callable[[str], Path], tmp_path: Path, folder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("workbench.launch.scheduler.check_available", lambda: None)
    profile = ROOT / "slurm" / "dev.yaml"
    done = workbench("submit", grid_file("settings: {a: {}}\n"), "--results", tmp_path / folder, "--profile", profile)
    assert done.code == 2
    assert "Slurm cannot write logs there" in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / folder).exists()


def test_a_profile_becomes_sbatch_options(tmp_path: Path, slurm: FakeSlurm) -> None:
    profile = Profile.model_validate(
        {
            "name": "gpu", "backend": "slurm", "partition": "gpu", "account": "vision", "nodes": 2, "tasks_per_node": 4,
            "gpus_per_node": 4, "cpus_per_task": 8, "memory_gb": 1.5, "parallel": 3, "time_minutes": 90,
            "signal_seconds": 200, "setup": ["module load cuda"], "environment": {"NAME": "it's"},
            "sbatch": {"reservation": "mine", "exclusive": True, "oversubscribe": False},
        }
    )  # fmt: skip
    submission = Submission(tmp_path / "a b", 1, "workbench-1", 0.0, "grid", ("r/seed0",) * 5)
    submission.folder.mkdir()
    executor = ArrayExecutor(submission.folder, tmp_path / "code", "/opt/python 3")
    executor.update_parameters(**_parameters(submission, profile, ["7_0", "7_1"]))
    executor.parameters["map_count"] = 5
    lines = executor._make_submission_file_text(executor._submitit_command_str, "").splitlines()
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert options >= {
        "array=0-4%3", "partition=gpu", "account=vision", "nodes=2", "ntasks-per-node=4", "gpus-per-node=4",
        "cpus-per-task=8", "mem=1536M", "time=90", "signal=USR2@200", "job-name=workbench-1", "requeue",
        "reservation=mine", "exclusive", "dependency=afterany:7_0:7_1", "kill-on-invalid-dep=yes",
    }  # fmt: skip
    assert not any(option.startswith("oversubscribe") for option in options)
    assert "export NAME='it'\"'\"'s'" in lines
    assert lines.index("module load cuda") < next(k for k, line in enumerate(lines) if line.startswith("srun "))
    assert next(line for line in lines if line.startswith("srun ")).endswith(' "${guard[@]}" train')
    (tmp_path / "code").mkdir()
    for name in ("task.pkl", "submission.json", "manifest.json"):
        (submission.folder / name).write_text(name)
    assert executor._guard()[0].startswith("guard=('/opt/python 3' -u -c ")

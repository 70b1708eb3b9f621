"""The commands around a submission, with a stand-in for the scheduler."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import stored
from tests.conftest import Outcome
from workbench.benchmarks.fake_slurm import FakeSlurm
from workbench.grids import load_grid
from workbench.launch.plan import plan
from workbench.launch.submissions import Submissions, latest
from workbench.launch.tasks import ReportTask
from workbench.paper.report import report
from workbench.results.folders import RunFolder

Write = Callable[..., Path]
Command = Callable[..., Outcome]


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[FakeSlurm]:
    made = FakeSlurm.pretending(tmp_path / "slurm", max_array_size=4)
    with made.on_the_path():
        yield made


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    file = tmp_path / "cluster.yaml"
    file.write_text("backend: slurm\nparallel: 3\narray_size: 100\n")
    return file


def test_a_grid_is_handed_over_in_arrays_that_the_cluster_takes(
    workbench: Command, grid_file: Write, tmp_path: Path, slurm: FakeSlurm, profile: Path
) -> None:
    grid = grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\n")
    options = ("--results", tmp_path / "r", "--profile", profile)
    dry = workbench("submit", grid, *options, "--seeds", "0-4", "--dry-run")
    assert dry.code == 0
    assert "tiny: 10 runs (10 new)\n10 runs to train; cost unknown" in dry.out
    assert slurm.jobs() == []
    assert not (tmp_path / "r" / "submissions").exists()
    done = workbench("submit", grid, *options, "--seeds", "0-4")
    assert done.code == 0, done.err
    assert [job["count"] for job in slurm.jobs()] == [4, 4, 2]
    assert "submitted as job 1: 4 runs, at most 3 at once" in done.out
    assert "submitted as job 3: 2 runs, at most 2 at once" in done.out
    scripts = [Path(str(job["script"])).read_text() for job in slurm.jobs()]
    assert "--array=0-3%3" in scripts[0]
    before = slurm.calls().total()
    again = workbench("submit", grid, *options, "--seeds", "0-4")
    assert "10 runs (10 queued)\nnothing to submit" in again.out
    assert slurm.calls().total() - before == 1
    more = workbench("submit", grid, *options, "--seeds", "0-5", "--only", "b")
    assert "6 runs (5 queued, 1 new)" in more.out, "a wider grid adds what is new and repeats nothing"
    assert slurm.jobs()[-1]["count"] == 1
    everything = json.loads(workbench("status", "--results", tmp_path / "r", "--json").out)
    assert len(everything) == 11
    assert {one["state"] for one in everything} == {"queued"}


def test_retry_takes_a_class_and_leaves_the_rest(
    workbench: Command, grid_file: Write, tmp_path: Path, slurm: FakeSlurm, profile: Path
) -> None:
    grid = grid_file("settings: {a: {}, b: {fusion.variant: l_dit}, c: {fusion.variant: e_dit}}\n")
    options = ("--results", tmp_path / "r", "--profile", profile)
    for planned, kind in zip(
        plan(load_grid(grid), tmp_path / "r"), ("out_of_memory", "node_failure", "code_error"), strict=True
    ):
        state = "interrupted" if kind == "node_failure" else "failed"
        planned.folder.update(state=state, error={"class": kind, "message": f"because of {kind}", "type": "E"})
    said = workbench("status", grid, "--results", tmp_path / "r").out
    assert "1 × out_of_memory: because of out_of_memory [a seed 0]\n    to fix it: a smaller batch" in said
    done = workbench("retry", grid, *options, "--class", "out_of_memory,node_failure")
    assert done.code == 0, done.err
    assert "2 runs to train" in done.out
    assert "1 failed before and is left alone; to try it again: workbench retry" in done.out
    assert "--class code_error" in done.out
    (submission,) = Submissions(tmp_path / "r").all()
    assert len(submission.runs) == 2
    wrong = workbench("retry", grid, *options, "--class", "oom")
    assert wrong.code == 2
    assert "--class: unknown failure class 'oom'; known: out_of_memory, timeout" in wrong.err


def test_an_sbatch_that_refuses_says_why_and_nothing_is_lost(
    workbench: Command, grid_file: Write, tmp_path: Path, slurm: FakeSlurm, profile: Path
) -> None:
    grid = grid_file("settings: {a: {}}\n")
    sbatch = slurm.bin / "sbatch"
    sound = sbatch.read_text()
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: Invalid partition name specified' >&2\nexit 1\n")
    options = ("--results", tmp_path / "r", "--profile", profile)
    refused = workbench("submit", grid, *options)
    assert refused.code == 2
    assert refused.err.splitlines()[-1] == "error: sbatch says: sbatch: error: Invalid partition name specified"
    sbatch.write_text(sound)
    assert workbench("submit", grid, *options).code == 0
    assert [job["count"] for job in slurm.jobs()] == [1]


def refuse_after(slurm: FakeSlurm, arrays: int, says: str) -> Callable[[], None]:
    """From now on sbatch takes so many arrays and refuses more; returns what ends that."""
    sbatch, sound = slurm.bin / "sbatch", slurm.folder / "sound" / "sbatch"
    sound.parent.mkdir(exist_ok=True)
    sbatch.rename(sound)
    said = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, ...)"
    sbatch.write_text(
        f"#!/bin/sh\n[ $(cat {slurm.folder}/jobs 2>/dev/null | wc -l) -lt {arrays} ] || {{ echo 'sbatch: error: {says}"
        f"' >&2; echo 'sbatch: error: {said}' >&2; exit 1; }}\nexec {sound}\n"
    )
    sbatch.chmod(0o755)
    return lambda: sound.replace(sbatch) and None


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("QOSMaxSubmitJobPerUserLimit", "when some of your jobs there have ended: the same command again"),
        ("AssocMaxSubmitJobLimit", "when some of your jobs there have ended: the same command again"),
        ("Socket timed out on send/recv operation", "when that is put right: the same command again"),
    ],
)
def test_a_hand_over_that_is_refused_half_way_says_what_was_taken_and_how_to_go_on(
    workbench: Command, grid_file: Write, tmp_path: Path, slurm: FakeSlurm, profile: Path, limit: str, words: str
) -> None:
    grid = grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\nthen: [table]\n")
    command = ("submit", grid, "--results", tmp_path / "r", "--profile", profile, "--seeds", "0-4")
    end_limit = refuse_after(slurm, 1, limit)
    refused = workbench(*command)
    assert refused.code == 2
    first, taken, how = [line for line in refused.err.splitlines() if line.startswith("error: ")]
    assert limit in first
    assert taken == "error: 4 of 10 runs were submitted before that (job 1), 6 were not"
    assert words in how
    states = json.loads(workbench("status", grid, "--results", tmp_path / "r", "--seeds", "0-4", "--json").out)
    assert Counter(run["state"] for run in states if run["setting"] in "ab") == {"queued": 4, "new": 6}
    assert workbench(*command).code == 2
    assert len(slurm.jobs()) == 1
    end_limit()
    again = workbench(*command)
    assert again.code == 0, again.err
    assert "10 runs (4 queued, 6 new)" in again.out
    assert [job["count"] for job in slurm.jobs()] == [4, 4, 2, 1], "the last one makes the table"
    newest = latest(Submissions(tmp_path / "r").all())
    names = {job["name"] for job in slurm.jobs()}
    assert all(submission.job in names for submission, _ in newest.values())


def test_an_array_above_the_limit_and_a_refused_report_are_told_apart(
    workbench: Command, grid_file: Write, tmp_path: Path, slurm: FakeSlurm, profile: Path
) -> None:
    grid = grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\nthen: [table]\n")
    command = ("submit", grid, "--results", tmp_path / "r", "--profile", profile)
    end_limit = refuse_after(slurm, 0, "AssocGrpSubmitJobsLimit")
    none = workbench(*command).err
    assert "error: 0 of 2 runs were submitted before that, 2 were not" in none
    assert "set array_size in the profile lower" in none
    end_limit()
    end_limit = refuse_after(slurm, 1, "QOSGrpSubmitJobsLimit")
    report_refused = workbench(*command).err
    assert "error: every run was submitted before that (job 1); the job that makes the grid's table" in report_refused
    end_limit()
    done = workbench(*command)
    assert "2 runs (2 queued)" in done.out
    assert "table of grid, when its runs have ended" in done.out
    assert [job["count"] for job in slurm.jobs()] == [2, 1]


def test_gc_removes_what_nothing_needs(
    workbench: Command, grid_file: Write, tmp_path: Path, slurm: FakeSlurm, profile: Path
) -> None:
    grid, results = grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\n"), tmp_path / "r"
    for only in ("a", "b"):
        assert workbench("submit", grid, "--results", results, "--profile", profile, "--only", only).code == 0
    first, second = plan(load_grid(grid), results)
    first.folder.update(state="completed", metrics={})
    (results / "submissions" / "code-old").mkdir()
    (second.folder.checkpoints.folder / ".partial-00000003").mkdir(parents=True)
    second.folder.update(state="running")
    os.utime(second.folder.checkpoints.folder / ".partial-00000003", (0, 0))
    would = workbench("gc", "--results", results, "--dry-run")
    assert would.out.count("would remove") == 3
    assert (results / "submissions" / "code-old").is_dir()
    assert workbench("gc", "--results", results).code == 0
    left = sorted(path.name[:6] for path in (results / "submissions").iterdir() if not path.name.startswith("."))
    assert left == ["000002", "code-" + left[1][5]], "the second one still waits, and needs the code"
    assert not list(second.folder.checkpoints.folder.iterdir())
    assert first.folder.record().state == "completed"


def test_logs_show_what_was_logged_and_printed(
    workbench: Command, grid_file: Write, tmp_path: Path, slurm: FakeSlurm, profile: Path
) -> None:
    grid, results = grid_file("settings: {a: {}}\n"), tmp_path / "r"
    workbench("submit", grid, "--results", results, "--profile", profile)
    none = workbench("logs", grid, "a", "--results", results)
    assert none.code == 2
    assert "has not begun (state: new)" in none.err
    folder = RunFolder(results, load_grid(grid).runs()[0].id)
    with folder.claim() as log:
        for step in (1, 2, 3):
            log.write("step", step=step, loss=0.5)
    (submission,) = Submissions(results).all()
    (submission.folder / "1_0_0_log.out").write_text("Traceback\nKeyError: 'x'\n")
    said = workbench("logs", grid, "a", "--results", results, "--lines", "2").out
    assert "step=1" not in said
    assert "step step=3 loss=0.5" in said
    assert "KeyError: 'x'" in said
    wrong = workbench("logs", grid, "b", "--results", results)
    assert "unknown setting 'b'; known: a" in wrong.err


def test_a_damaged_submission_is_named(
    workbench: Command, grid_file: Write, tmp_path: Path, slurm: FakeSlurm, profile: Path
) -> None:
    grid, results = grid_file("settings: {a: {}}\n"), tmp_path / "r"
    workbench("submit", grid, "--results", results, "--profile", profile)
    (record,) = (results / "submissions").glob("0*/submission.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"runs": 4}))
    for command in ("status", "plan"):
        done = workbench(command, grid, "--results", results)
        assert done.code == 0
        assert f"warning: {record}: damaged (runs: 4 is not valid" in done.err
    refused = workbench("submit", grid, "--results", results, "--profile", profile)
    assert refused.code == 2, "nobody knows what waits in the queue"
    assert f"error: {record}: damaged (runs: 4 is not valid" in refused.err
    assert "tiny: 1 run (1 new)" in refused.out
    assert len(slurm.jobs()) == 1


def test_a_report_shows_the_grid_as_it_was_submitted_and_says_that_its_file_has_changed(
    workbench: Command, grid_file: Write, tmp_path: Path, slurm: FakeSlurm, profile: Path
) -> None:
    text = "settings: {a: {}, b: {fusion.variant: l_dit}}\nbaseline: a\nthen: [table]\n"
    file, results = grid_file(text), tmp_path / "r"
    submitted = load_grid(file)
    assert workbench("submit", file, "--results", results, "--profile", profile, "--only", "b").code == 0
    (job,) = [submission for submission in Submissions(results).all() if submission.is_report]
    for config in submitted.settings.values():
        for seed in (0, 1):
            stored.complete(results, config, seed)
    file.write_text(
        file.read_text().replace("a: {}", "other: {fusion.variant: e_dit}").replace("title: tiny", "title: new")
    )
    ReportTask(str(job.folder), report)()
    table = (results / "grid" / "table.md").read_text()
    assert table.startswith("## tiny\n")
    assert "| a " in table
    assert "b − a" in table, "also the settings that --only left out"
    assert f"This is the grid as it was submitted; changed or removed since: {file}." in table
    assert "from other code" not in table
    document = json.loads((results / "grid" / "table.json").read_text())
    assert document["seeds"] == {"a": [0, 1], "b": [0, 1]}
    assert document["changed_since_submission"] == [str(file)]


def test_status_shows_every_seed_that_exists(workbench: Command, grid_file: Write, tmp_path: Path) -> None:
    file = grid_file("settings: {a: {}}\n")
    config = load_grid(file).settings["a"]
    for seed in (1, 4):
        stored.complete(tmp_path / "r", config, seed)
    every = json.loads(workbench("status", file, "--results", tmp_path / "r", "--json").out)
    assert [(run["seed"], run["state"]) for run in every] == [(0, "new"), (1, "completed"), (4, "completed")]
    other = grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\n", name="other")
    said = workbench("status", other, "--results", tmp_path / "r").out
    assert "completed seeds per setting: a 2, b 0" in said
    chosen = json.loads(workbench("status", file, "--results", tmp_path / "r", "--seeds", "1,2", "--json").out)
    assert [(run["seed"], run["state"]) for run in chosen] == [(1, "completed"), (2, "new")]


def test_a_later_stage_waits_for_what_it_needs_alone_and_the_report_for_all(
    workbench: Command, grid_file: Write, tmp_path: Path, slurm: FakeSlurm, profile: Path
) -> None:
    grid_file("settings: {base: {fusion.variant: l_dit}}\n", name="first")
    grid = grid_file(
        "settings:\n  plain: {}\n  tuned: {fusion.variant: l_dit, start_from: {grid: first.yaml, setting: base}}\n"
        "seeds: [0, 1]\nthen: [table]\n",
        name="second",
    )
    options = ("--results", tmp_path / "r", "--profile", profile)
    done = workbench("submit", grid, *options)
    assert done.code == 0, done.err
    scripts = [Path(str(job["script"])).read_text() for job in slurm.jobs()]
    waits = [re.findall(r"--dependency=\"?'?([\w:]+)", script) for script in scripts]
    assert waits == [[], [], ["afterany:1_0:1_1"], ["afterany:2_0:2_1:3_0:3_1"]]
    assert "table of second, when its runs have ended" in done.out
    assert len(slurm.jobs()) == 4
    more = workbench("submit", grid, *options, "--seeds", "2", "--only", "plain")
    assert more.code == 0, more.err
    (last,) = re.findall(r"--dependency=\"?'?([\w:]+)", Path(str(slurm.jobs()[-1]["script"])).read_text())
    assert last == "afterany:2_0:2_1:3_0:3_1:5_0", "a wider grid's report waits for what was submitted before, too"
    again = workbench("submit", grid, *options)
    assert len(slurm.jobs()) == 6, "nothing new, and its report is on its way"
    assert "nothing to submit" in again.out


def test_a_needed_run_that_is_trained_elsewhere_or_failed_is_named(
    workbench: Command, grid_file: Write, tmp_path: Path, slurm: FakeSlurm, profile: Path
) -> None:
    first = grid_file("settings: {base: {fusion.variant: l_dit}}\n", name="first")
    grid = grid_file(
        "settings: {tuned: {fusion.variant: l_dit, start_from: {grid: first.yaml, setting: base}}}\n", name="second"
    )
    options = ("--results", tmp_path / "r", "--profile", profile)
    (base,) = plan(load_grid(first), tmp_path / "r")
    with base.folder.claim():
        base.folder.update(state="running")
        busy = workbench("submit", grid, *options)
    assert busy.code == 2
    assert "base seed 0, which others begin from, is trained outside this cluster's queue now" in busy.err
    base.folder.update(state="failed", error={"class": "code_error", "message": "KeyError: 'x'", "type": "KeyError"})
    failed = workbench("submit", grid, *options)
    assert failed.code == 2
    assert "base seed 0, which others begin from, is failed: KeyError: 'x'; take it up again first" in failed.err
    assert slurm.jobs() == []


def test_a_submission_from_within_another_job_passes_nothing_of_it_on(
    workbench: Command, grid_file: Write, tmp_path: Path, slurm: FakeSlurm, profile: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (slurm.bin / "sbatch").rename(slurm.bin / "sbatch-real")
    (slurm.bin / "sbatch").write_text(f"#!/bin/sh\nenv > {tmp_path}/seen\necho Submitted batch job 1\n")
    (slurm.bin / "sbatch").chmod(0o755)
    outer = {"SLURM_CPU_BIND": "x", "SLURM_JOB_ID": "9", "SBATCH_JOB_NAME": "y", "WORLD_SIZE": "4", "RANK": "3",
             "WORKBENCH_TASK_RUN": "7"}  # fmt: skip
    for name, value in {**outer, "SLURM_CONF": "/etc/slurm.conf", "HOME": "/home/me"}.items():
        monkeypatch.setenv(name, value)
    assert (
        workbench("submit", grid_file("settings: {a: {}}\n"), "--results", tmp_path / "r", "--profile", profile).code
        == 0
    )
    seen = (tmp_path / "seen").read_text()
    assert not [name for name in outer if f"{name}=" in seen]
    assert "SLURM_CONF=/etc/slurm.conf" in seen
    assert "HOME=/home/me" in seen

"""A launcher that is killed anywhere, and two at once: afterwards every run is submitted exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.conftest import EXHAUSTIVE, ROOT
from workbench.benchmarks.fake_slurm import FakeSlurm
from workbench.grids import Grid, load_grid
from workbench.grids.evaluated import evaluated
from workbench.launch.housekeeping import collect_garbage
from workbench.launch.plan import plan, to_train
from workbench.launch.profiles import Profile
from workbench.launch.status import all_statuses
from workbench.launch.submissions import Submissions
from workbench.launch.submit import Request
from workbench.launch.submit import submit as launch
from workbench.launch.tasks import TrainingJob
from workbench.paper.report import report
from workbench.results.folders import StoreError
from workbench.results.frames import RunFolders

Write = Callable[..., Path]
PROFILE = Profile(name="test", backend="slurm", array_size=4)
WATCHED = ("open", "os.", "shutil.", "subprocess.Popen", "tempfile.", "fcntl.")


@pytest.fixture
def grid(grid_file: Write) -> Grid:
    return load_grid(grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\nseeds: [0, 1, 2]\n"))


def submit(grid: Grid, results: Path) -> None:
    launch(grid, Request(results, PROFILE, lambda grid: None, report))


def trained_by(slurm: FakeSlurm, results: Path) -> Counter[str]:
    """How many of the queued tasks would train each run, were they all to start now."""
    ledger = Submissions(results)
    known = {submission.job: submission for submission in ledger.all()}
    found: Counter[str] = Counter()
    for job in slurm.jobs():
        submission = known[str(job["name"])]
        assert job["count"] == submission.tasks
        assert (submission.folder / "task.pkl").stat().st_size > 0
        found.update(run for run in submission.runs if ledger.superseded(submission.number, run) is None)
    return found


def only_reads(name: str, arguments: tuple[object, ...]) -> bool:
    """Whether an event changes nothing: a kill before it is one before the next that does."""
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    return name in ("os.scandir", "os.listdir") or (name == "open" and not int(str(arguments[2])) & writes)


def killed_at(event: int, work: Callable[[], None]) -> int:
    """Do the work in a child that kills itself before its n-th file or process event; how many there were."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def watch(name: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if name.startswith(WATCHED) and not only_reads(name, arguments):
                count += 1
                if count == event:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            work()
            os.write(writer, str(count).encode())
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the submission failed"
    return int(said or 0)


def empty_folders(results: Path) -> list[Path]:
    """Folders without anything in them, but for a copy of the code that was never finished: gc removes that."""
    inside = (path for top in results.glob("[!.]*") for path in (top, *top.glob("[!.]*"), *top.glob("[!.]*/*")))
    return [path for path in inside if path.is_dir() and not any(path.iterdir())]


def test_a_launcher_killed_at_any_file_or_scheduler_call_loses_and_doubles_nothing(grid: Grid, tmp_path: Path) -> None:
    wanted = {run.id for run in grid.runs()}

    def round_of(event: int, warm: Path | None) -> int:
        results = tmp_path / f"results-{event}-{warm is not None}"
        if warm is not None:  # the copy of the code is there from an earlier submission
            (results / "submissions").mkdir(parents=True)
            code = next((warm / "submissions").glob("code-*"))
            (results / "submissions" / code.name).symlink_to(code)
        slurm = FakeSlurm.pretending(results.with_name(f"{results.name}-slurm"))
        with slurm.on_the_path():
            events = killed_at(event, lambda: submit(grid, results))
            states = {status.run: status.state for status in all_statuses(results)}
            assert states.keys() <= wanted
            assert set(states.values()) <= {"new", "queued"}
            submit(grid, results)
            submit(grid, results)
            assert empty_folders(results) == [], f"killed before event {event}"
            unrecorded = [f for _, f in Submissions(results).folders() if not (f / "submission.json").is_file()]
            assert unrecorded == [], f"killed before event {event}"
            if warm is None and event:
                collect_garbage(results, dry_run=False, say=lambda line: None)
                assert list((results / "submissions").glob(".code-*")) == []
            assert trained_by(slurm, results) == dict.fromkeys(wanted, 1), f"killed before event {event}"
        return events

    first = round_of(0, None)
    warm = tmp_path / "results-0-False"
    chosen = random.Random(0)
    # Most of these are files of the copy of the code.
    for event in sorted(chosen.sample(range(1, first), 15 if EXHAUSTIVE else 3)):
        round_of(event, None)
    later = round_of(0, warm)
    assert later >= 30
    every = range(1, later + 1)
    for event in every if EXHAUSTIVE else sorted(chosen.sample(every, 6)):
        round_of(event, warm)


def test_a_local_launcher_killed_at_any_file_call_leaves_nothing_that_counts_as_a_run(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    def run_jobs(jobs: Sequence[TrainingJob], *others: object) -> None:
        begun.append(len(jobs))

    def launch_here(results: Path) -> None:
        launch(grid, Request(results, Profile(name="here", backend="local"), lambda grid: None, report))

    monkeypatch.setattr("workbench.launch.local.run_jobs", run_jobs)
    monkeypatch.setattr("workbench.launch.local.snapshot", lambda results: results / "submissions" / "code")
    events = killed_at(0, lambda: launch_here(tmp_path / "whole"))
    assert events >= 3
    for event in range(1, events + 1):
        results = tmp_path / f"results-{event}"
        killed_at(event, lambda: launch_here(results))  # noqa: B023
        assert all_statuses(results) == []
        assert {planned.state for planned in plan(grid, results)} == {"new"}
        launch_here(results)
        assert begun.pop() == len(grid.runs()), "each is still to be trained"
        collect_garbage(results, dry_run=False, say=lambda line: None)
        assert empty_folders(results) in ([], [results / "submissions"])


def test_a_run_folder_without_a_record_is_a_run_that_has_not_begun(grid: Grid, tmp_path: Path) -> None:
    runs = [planned.folder for planned in plan(grid, tmp_path)]
    runs[0].path.mkdir(parents=True)
    runs[1].path.mkdir(parents=True)
    runs[1].log_file.touch()  # its job was killed right after it claimed the run
    assert {planned.state for planned in plan(grid, tmp_path)} == {"new"}
    assert all_statuses(tmp_path) == []
    assert len(to_train(plan(grid, tmp_path))) == len(runs)
    with pytest.raises(StoreError, match="no completed run yet"):
        evaluated(grid, RunFolders(tmp_path))


def test_two_launchers_at_once_hand_each_run_over_once(grid: Grid, tmp_path: Path, slurm: FakeSlurm) -> None:
    results = tmp_path / "results"
    code = (
        "import sys; from pathlib import Path\n"
        "from workbench.grids import load_grid; from workbench.launch.submit import Request, submit\n"
        "from workbench.launch.profiles import Profile; from workbench.paper.report import report\n"
        "grid, profile = load_grid(Path(sys.argv[1])), Profile(name='test', backend='slurm', array_size=4)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "submit(grid, Request(Path(sys.argv[2]), profile, lambda grid: None, report))"
    )
    launchers = [
        subprocess.Popen([sys.executable, "-c", code, str(grid.file), str(results)], cwd=ROOT, text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(4)
    ]  # fmt: skip
    for launcher in launchers:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "ready\n"
    for launcher in launchers:
        launcher.communicate("go\n")
        assert launcher.returncode == 0
    assert trained_by(slurm, results) == dict.fromkeys((run.id for run in grid.runs()), 1)
    assert slurm.calls()["sbatch"] == 2, "six runs in arrays of four"


def test_an_sbatch_that_outlives_its_launcher_is_waited_for(grid: Grid, tmp_path: Path, slurm: FakeSlurm) -> None:
    results, called, behind = tmp_path / "results", tmp_path / "called", tmp_path / "behind" / "sbatch"
    behind.parent.mkdir()
    (slurm.bin / "sbatch").rename(behind)
    (slurm.bin / "sbatch").write_text(f'#!/bin/sh\ntouch {called}\nsleep 2\nexec {behind} "$@"\n')
    (slurm.bin / "sbatch").chmod(0o755)
    child = os.fork()
    if child == 0:
        submit(grid, results)
        os._exit(0)
    while not called.exists():
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert slurm.jobs() == []
    submit(grid, results)
    assert trained_by(slurm, results) == dict.fromkeys((run.id for run in grid.runs()), 1)
    assert len(slurm.jobs()) == 2, "the first array was waited for and counted, the second came after it"

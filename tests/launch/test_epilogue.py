"""What a batch script does when its job did not end well, with a stand-in for the scheduler."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from workbench.benchmarks.fake_slurm import FakeSlurm
from workbench.grids import load_grid
from workbench.launch import epilogue
from workbench.launch.profiles import Profile
from workbench.launch.scheduler import SchedulerError
from workbench.launch.submissions import Submission, Submissions
from workbench.launch.submit import Request, submit
from workbench.launch.tasks import STOPPED
from workbench.paper.report import report
from workbench.results.folders import RunFolder

CANCELLED = "slurmstepd-n1: error: *** JOB 12 ON n1 CANCELLED AT 2026-01-31T12:00:00"


@dataclass
class Ended:
    """A job that ended, and what is known of its run."""

    run: RunFolder
    submission: Submission
    slurm: FakeSlurm

    def end(self, status: int, printed: str = "", began: float | None = None) -> tuple[str, str, bool]:
        """State, cause, and whether the job was put back into the queue."""
        file = self.submission.folder / "1_0_0_log.out"
        with file.open("a") as stream:
            stream.write(f"{epilogue.ATTEMPT} 0\n{printed}\n")
        before = self.slurm.calls()["scontrol"]
        epilogue.main(self.submission.folder, status, time.time() if began is None else began)
        record = self.run.record()
        return record.state, record.error.cause, self.slurm.calls()["scontrol"] > before


@pytest.fixture
def ended(grid_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ended]:
    slurm = FakeSlurm.pretending(tmp_path / "slurm")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    with slurm.on_the_path():
        grid = load_grid(grid_file("settings: {a: {}}\n"))
        profile = Profile(
            name="test", backend="slurm", retries={"killed": 1, "timeout": 2, "preempted": 9, "node_failure": 5}
        )
        made = submit(grid, Request(tmp_path / "r", profile, lambda grid: None, report)).arrays
        yield Ended(RunFolder(tmp_path / "r", grid.runs()[0].id), made[0].submission, slurm)


@pytest.mark.parametrize(
    ("status", "printed", "state", "cause", "again"),
    [
        (137, "srun: error: n1: task 0: Killed", "interrupted", "killed", True),
        (139, "Fatal Python error: Segmentation fault\nsrun: Segmentation fault", "failed", "code_error", False),
        (134, "[rank1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1)", "interrupted", "node_failure",
         True),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "failed", "out_of_memory", False),
        (137, "slurmstepd: error: Detected 1 oom_kill event in StepId=12.0", "failed", "out_of_memory", False),
        (137, "slurmstepd: error: Detected 1 oom-kill event(s)", "failed", "out_of_memory", False),
        (140, "", "interrupted", "timeout", True),
        (143, f"{CANCELLED} ***", "cancelled", "cancelled", False),
        (75, "a SIGTERM without a word: the beginning of a preemption", "interrupted", "preempted", True),
        (143, f"{CANCELLED} DUE TO JOB REQUEUE ***", "interrupted", "preempted", False),
        (143, f"{CANCELLED} DUE TO PREEMPTION ***", "interrupted", "preempted", True),
        (143, f"{CANCELLED} DUE TO TIME LIMIT ***", "interrupted", "timeout", True),
        (127, "bash: line 9: /nowhere/python: No such file", "failed", "code_error", False),
        (1, "ModuleNotFoundError: No module named 'torch'\nsrun: error: n1: task 0: Exited with exit code 1", "failed",
         "code_error", False),
    ],
)  # fmt: skip
def test_an_end_without_words_of_its_own(
    ended: Ended, status: int, printed: str, state: str, cause: str, again: bool
) -> None:
    assert ended.end(status, printed) == (state, cause, again)
    assert ended.run.log_tail().last("job_end") is not None
    if cause == "code_error" and status < 128:
        assert printed.splitlines()[0] in ended.run.record().error.message


def test_a_crash_says_that_it_was_the_training_itself(ended: Ended) -> None:
    trace = "Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n"
    ended.end(139, f'{trace}  File "/a/loop.py", line 7 in step\n  File "/a/train.py", line 9 in train\n')
    message = ended.run.record().error.message
    assert "the training itself crashed with a segmentation fault (SIGSEGV) in step, line 7 of /a/loop.py" in message


def test_the_runs_own_words_stand_if_they_are_of_this_attempt(ended: Ended) -> None:
    now = time.time()
    words = {"type": "KeyError", "message": "'x'", "class": "code_error", "time": now}
    ended.run.update(state="failed", error=words)
    assert ended.end(1, began=now - 5) == ("failed", "code_error", False)
    assert ended.run.record().error.message == "'x'"
    assert ended.end(137, began=now + 5) == ("interrupted", "killed", True), "killed before it could say anything new"


def test_what_an_earlier_attempt_printed_does_not_count(ended: Ended) -> None:
    assert ended.end(143, f"{CANCELLED} DUE TO JOB REQUEUE ***")[1] == "preempted"
    assert ended.end(143, f"{CANCELLED} ***") == ("cancelled", "cancelled", False)
    assert ended.end(137, "oom_kill")[1] == "out_of_memory"
    assert ended.end(137, "")[1] == "killed"


def test_each_class_is_tried_again_as_often_as_the_profile_says(ended: Ended) -> None:
    assert [ended.end(137)[2] for _ in range(3)] == [True, False, False]
    with ended.run.checkpoints.new(4):
        pass
    assert [ended.end(140)[2] for _ in range(3)] == [True, True, False]
    assert ended.run.record().ended == {"killed": 3, "timeout": 3}
    with Submissions(ended.run.results).lock():
        manifest = ended.submission.manifest.model_dump(mode="json")
        ended.submission = Submissions(ended.run.results).add("grid", [ended.run.name], manifest)
    assert ended.end(137)[2], "a new submission counts anew"


def test_a_run_that_comes_no_further_is_not_tried_for_ever(ended: Ended) -> None:
    told = f"{CANCELLED} DUE TO PREEMPTION ***"
    assert [ended.end(143, told)[2] for _ in range(5)] == [True, True, True, True, False]
    with ended.run.checkpoints.new(1):
        pass
    assert ended.end(143, told)[2], "a checkpoint more"


def test_what_another_process_said_first_is_the_cause(ended: Ended) -> None:
    now = time.time()
    felt = {"type": "RuntimeError", "message": "Connection closed by peer", "class": "code_error", "time": now + 2}
    said = {"type": "OutOfMemoryError", "message": "CUDA out of memory", "class": "out_of_memory", "time": now + 1}
    ended.run.update(state="failed", error=felt)
    ended.run.leave_error(1, said)
    assert ended.end(1, began=now) == ("failed", "out_of_memory", False)
    assert ended.run.record().error.message == "CUDA out of memory"
    assert ended.run.take_errors() == []


@pytest.mark.parametrize(
    ("refusal", "answers_at", "asked", "seconds"),
    [
        ("Unable to contact slurm controller (connect failure)", 3, 3, 15),
        ("Unable to contact slurm controller (connect failure)", 40, 40, 75 + 35 * 30),
        ("Unable to contact slurm controller (connect failure)", None, 63, 75 + 58 * 30),
        ("Requested operation is presently disabled for job 1_0", None, 5, 75),
    ],
)
def test_a_controller_that_is_away_is_asked_again_for_half_an_hour(
    ended: Ended,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusal: str,
    answers_at: int | None,
    asked: int,
    seconds: float,
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    script = f"#!/bin/sh\necho x >> {tmp_path}/asked\n"
    if answers_at is not None:
        script += f'test "$(wc -l < {tmp_path}/asked)" -ge {answers_at} && exit 0\n'
    (folder / "scontrol").write_text(f"{script}echo '{refusal}' >&2\nexit 1\n")
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    slept: list[float] = []
    monkeypatch.setattr("workbench.launch.epilogue.time.sleep", slept.append)
    with pytest.raises(SchedulerError, match=re.escape(refusal)) if answers_at is None else contextlib.nullcontext():
        epilogue.main(ended.submission.folder, 137, 0.0)
    assert len((tmp_path / "asked").read_text().splitlines()) == asked
    assert sum(pause for pause in slept if pause >= 1) == seconds, "subprocess sleeps too, for milliseconds"


def test_an_attempt_that_a_later_submission_took_over_says_nothing(ended: Ended) -> None:
    with Submissions(ended.run.results).lock():
        Submissions(ended.run.results).add("grid", [ended.run.name], ended.submission.manifest.model_dump(mode="json"))
    assert epilogue.main(ended.submission.folder, STOPPED, 0.0) == 0
    assert not ended.run.record_file.exists()


def test_a_completed_run_and_one_that_another_process_trains_are_left_alone(ended: Ended) -> None:
    with ended.run.claim():
        epilogue.main(ended.submission.folder, 137, 0.0)
    assert not ended.run.record_file.exists()
    ended.run.update(state="completed", metrics={})
    assert epilogue.main(ended.submission.folder, 137, 0.0) == epilogue.COMPLETED
    assert ended.run.record().state == "completed"

"""What is shown of long work, on a terminal and in a log."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from workbench.cli import progress
from workbench.cli.progress import StepProgress, SubmissionProgress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Makes standard error a terminal; called in the test, because pytest replaces the stream after the fixtures."""

    def begin() -> Terminal:
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        return stream

    return begin


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that both rich and the plain lines go by; its one entry may be set."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("rich.console.monotonic", lambda: now[0])
    return now


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the folders of the runs say."""

    def write(*statuses: dict[str, Any]) -> None:
        unknown = {"step": None, "steps": None, "rate": None, "seconds_left": None, "seed": 0, "state": "running"}
        read = [SimpleNamespace(**{**unknown, "run": s["setting"], **s}) for s in statuses]
        monkeypatch.setattr("workbench.launch.status.refreshed", lambda planned: read)

    return write


def lines_shown(stream: Terminal) -> list[str]:
    """Every line that was drawn, without colours and movements of the cursor; the last ones remain on the screen."""
    return [line for line in re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", stream.getvalue()).splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3723, "1:02:03")]
)
def test_durations_read_as_a_clock(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_a_terminal_shows_how_much_is_done_the_rate_and_the_time_left(
    terminal: Callable[[], Terminal], clock: list[float]
) -> None:
    stream = terminal()
    with StepProgress("training", "steps") as step:
        for second in range(6):
            clock[0] = 1000.0 + second
            step(100 + 2 * second, 130)  # resumed at step 100: 2 steps per second, 20 to go
    line = lines_shown(stream)[-1]
    assert re.search(r"training .* 110/130 +2\.0 steps/s +0:00:10", line), line


def test_what_is_no_terminal_gets_lines(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with StepProgress("training", "steps") as step:
        for second in range(0, 31, 5):
            clock[0] = 1000.0 + second
            step(second, 60)
        clock[0] = 1060.0
        step(60, 60)
    assert capsys.readouterr().err.splitlines() == [
        "training: 15/60 steps, 1.0/s, 0:45 left",
        "training: 30/60 steps, 1.0/s, 0:30 left",
        "training: 60/60 steps, 1.0/s, 0:00 left",
    ]


def test_a_rate_is_said_only_where_it_is_known(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with StepProgress("predicting", "images") as step:
        step(1, 1)
    assert capsys.readouterr().err == "predicting: 1/1 images\n"


def test_a_terminal_shows_a_bar_per_run(
    terminal: Callable[[], Terminal], clock: list[float], runs: Callable[..., None]
) -> None:
    stream = terminal()
    with SubmissionProgress([]) as shown:
        for second in range(4):
            clock[0] = 1000.0 + 2 * second
            runs(
                {"setting": "default", "seed": 1, "step": 40 + 10 * second, "steps": 100},
                {"setting": "l-dit [8]", "state": "queued"},
            )
            shown.tick(1, 1)
    default, waiting = lines_shown(stream)[-2:]
    assert re.search(r"default seed 1 .* 70/100 +5\.0 steps/s +0:00:06 running", default), default
    assert re.search(r"l-dit \[8\] seed 0 .* 0/\? +queued", waiting), waiting


def test_a_log_gets_a_line_when_a_state_changes(
    capsys: pytest.CaptureFixture[str], clock: list[float], runs: Callable[..., None]
) -> None:
    with SubmissionProgress([]) as shown:
        run = {"setting": "default", "step": 5, "steps": 10, "rate": 12.4, "seconds_left": 70.0}
        for second, state in ((2, "running"), (4, "running"), (6, "completed")):
            clock[0] = 1000.0 + second
            ended = {} if state == "running" else {"step": 10, "seconds_left": None}
            runs({**run, "state": state, **ended}, {"setting": "l_dit", "state": "new"})
            shown.tick(1, 1)
    assert capsys.readouterr().err.splitlines() == [
        "2 runs: 1 running, 1 new; default seed 0: running 5/10, 12 expressions/s, 1:10 left",
        "2 runs: 1 completed, 1 new; default seed 0: completed 10/10",
    ]


def test_folders_are_read_once_per_second(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    reads: list[float] = []
    monkeypatch.setattr("workbench.launch.status.refreshed", lambda planned: reads.append(clock[0]) or [])
    with SubmissionProgress([]) as shown:
        for tenths in range(25):
            clock[0] = 1000.0 + tenths / 10
            shown.tick(1, 0)
    assert reads == [1000.0, 1001.0, 1002.0]
    assert progress.REFRESH_SECONDS == 1.0

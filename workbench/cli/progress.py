"""Progress of long work on standard error: rich's bars on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from workbench.errors import counted

if TYPE_CHECKING:
    from workbench.launch.plan import PlannedRun
    from workbench.launch.status import RunStatus

PLAIN_SECONDS = 15.0
"""Shortest time between two plain lines, unless a state changes."""
REFRESH_SECONDS = 1.0
"""Shortest time between two readings of the run folders."""


def duration(seconds: float | None) -> str:
    """`1:02:03` or `2:03`; a dash when not known."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class RateColumn(ProgressColumn):
    """The speed that rich estimates, in the task's own unit per second; rich has such a column for bytes alone."""

    def render(self, task: Task) -> Text:
        """`12.3 steps/s`, and nothing while the speed is not known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {task.fields['unit']}/s", style="progress.data.speed")


class _Progress:
    """A rich display on a terminal; None elsewhere. Both go to standard error."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._printed_at = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                RateColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn("{task.fields[state]}", markup=False),
                console=Console(stderr=True),
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _print_line(self, line: str, always: bool = False) -> None:
        now = time.monotonic()
        if always or now - self._printed_at >= PLAIN_SECONDS:
            self._printed_at = now
            print(line, file=sys.stderr, flush=True)


class StepProgress(_Progress):
    """Progress of one job; call it with (done, all)."""

    def __init__(self, what: str, unit: str) -> None:
        super().__init__()
        self._what, self._unit = what, unit
        self._began: tuple[float, int] | None = None
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int, _values: object = None) -> None:
        """Show how much is done."""
        if self._bars is None:
            self._print_line(f"{self._what}: {self._plain(done, total)}", always=done == total)
        elif self._task is None:
            # What was done before the first call is no part of the rate.
            self._task = self._bars.add_task(self._what, total=total, completed=done, unit=self._unit, state="")
        else:
            self._bars.update(self._task, total=total, completed=done)

    def _plain(self, done: int, total: int) -> str:
        now = time.monotonic()
        if self._began is None:
            self._began = now, done
        began, first = self._began
        rate = (done - first) / (now - began) if now > began else 0.0
        speed = f", {rate:.1f}/s, {duration((total - done) / rate)} left" if rate else ""  # not known at the first call
        return f"{done}/{total} {self._unit}{speed}"


class SubmissionProgress(_Progress):
    """Progress of several runs, read from their folders; call `tick` as often as you like."""

    def __init__(self, planned: Sequence[PlannedRun]) -> None:
        super().__init__()
        self._planned = planned
        self._tasks: dict[str, TaskID] = {}
        self._read_at = 0.0
        self._states: dict[str, str] = {}

    def tick(self, running: int, waiting: int) -> None:
        """Refresh the display, at most once a second."""
        if time.monotonic() - self._read_at < REFRESH_SECONDS and running + waiting:
            return
        self._read_at = time.monotonic()
        from workbench.launch.status import refreshed

        statuses = refreshed(self._planned)
        if self._bars is not None:
            for status in statuses:
                self._show(self._bars, status)
            return
        states = {status.run: str(status.state) for status in statuses}
        before, self._states = self._states, states
        news = [s for s in statuses if s.state == "running" or (before and before.get(s.run) != states[s.run])]
        counts = ", ".join(f"{count} {state}" for state, count in Counter(states.values()).items())
        line = "; ".join([f"{counted(len(states), 'run')}: {counts}", *map(_plain_status, news)])
        self._print_line(line, always=before != states)

    def _show(self, bars: Progress, status: RunStatus) -> None:
        task, steps = self._tasks.get(status.run), status.step or 0
        if task is None:
            name = f"{status.setting} seed {status.seed}"
            task = bars.add_task(name, total=status.steps, completed=steps, unit="steps", state=status.state)
            self._tasks[status.run] = task
        bars.update(task, total=status.steps, completed=steps, state=status.state)


def _plain_status(status: RunStatus) -> str:
    rate = f", {status.rate:.0f} expressions/s" if status.rate and status.state == "running" else ""
    left = f", {duration(status.seconds_left)} left" if status.seconds_left else ""
    return f"{status.setting} seed {status.seed}: {status.state} {status.step or 0}/{status.steps or '?'}{rate}{left}"

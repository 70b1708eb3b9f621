"""Progress of long work: a bar with rate and time left on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

PLAIN_SECONDS = 15.0


def duration(seconds: float | None) -> str:
    """`1:02:03` or `2:03`; a dash when not known."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Progress:
    """A rich progress display on a terminal (standard error); None elsewhere."""

    def __init__(self) -> None:
        self._bars: Any = None
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}")
            self._bars = Progress(*columns, console=Console(stderr=True))
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _say(self, line: str, always: bool = False) -> None:
        now = time.monotonic()
        if always or now - self._said >= PLAIN_SECONDS:
            self._said = now
            print(line, file=sys.stderr, flush=True)


class StepProgress(_Progress):
    """Progress of one job; call it with (done, all)."""

    def __init__(self, what: str, unit: str) -> None:
        super().__init__()
        self._what, self._unit = what, unit
        self._began: tuple[float, int] | None = None
        self._task: Any = None

    def __call__(self, done: int, total: int, _values: object = None) -> None:
        """Say how far it is."""
        now = time.monotonic()
        if self._began is None:
            self._began = now, done
        began, first = self._began
        rate = (done - first) / (now - began) if now > began else 0.0
        left = (total - done) / rate if rate else None
        note = f"{done}/{total} {self._unit}, {rate:.1f}/s, {duration(left)} left"
        if self._bars is None:
            self._say(f"{self._what}: {note}", always=done == total)
            return
        if self._task is None:
            self._task = self._bars.add_task(self._what, total=total, note="")
        self._bars.update(self._task, completed=done, note=note)


class SubmissionProgress(_Progress):
    """Progress of several runs, read from their folders; call `tick` as often as you like."""

    def __init__(self, planned: list[Any]) -> None:
        super().__init__()
        self._planned = planned
        self._tasks: dict[str, Any] = {}
        self._read = 0.0
        self._last: dict[str, str] = {}

    def tick(self, running: int, waiting: int) -> None:
        """Refresh the display, at most once a second."""
        if time.monotonic() - self._read < 1.0 and running + waiting:
            return
        self._read = time.monotonic()
        from workbench.launch.status import refreshed

        found = refreshed(self._planned)
        lines = []
        for s in found:
            rate = f", {s.rate:.0f} expressions/s" if s.rate and s.state == "running" else ""
            left = f", {duration(s.seconds_left)} left" if s.seconds_left else ""
            lines.append(f"{s.state} {s.step or 0}/{s.steps or '?'}{rate}{left}")
            if self._bars is not None:
                name = f"{s.setting} seed {s.seed}"
                if name not in self._tasks:
                    self._tasks[name] = self._bars.add_task(name, total=None, note="")
                self._bars.update(self._tasks[name], total=s.steps, completed=s.step or 0, note=lines[-1])
        if self._bars is None:
            changed = {s.run: s.state for s in found} != self._last
            self._last = {s.run: s.state for s in found}
            note = "; ".join(f"{s.setting} seed {s.seed}: {line}" for s, line in zip(found, lines, strict=True))
            self._say(note, always=changed)

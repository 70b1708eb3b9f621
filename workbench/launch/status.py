"""Where each run of a grid stands, from the run folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workbench.launch.submission import PlannedRun
from workbench.store import State


@dataclass(frozen=True)
class RunStatus:
    """One run's progress; what is not known is None.

    Attributes:
        rate: expressions a second.
        seconds_left: of training, without the evaluation.
        error: first line of what ended it.
    """

    run: str
    setting: str
    seed: int
    state: State
    step: int | None
    steps: int | None
    loss: float | None
    rate: float | None
    seconds_left: float | None
    error: str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def statuses(planned: Sequence[PlannedRun]) -> list[RunStatus]:
    """Read anew where each run stands."""
    return [_status(p) for p in planned]


def _status(planned: PlannedRun) -> RunStatus:
    record = planned.folder.record()
    state = planned.folder.state()
    last = planned.folder.last_event("step") or {}
    return RunStatus(
        run=planned.run.id,
        setting=planned.run.setting,
        seed=planned.run.seed,
        state=state,
        step=record.get("steps") if state == "completed" else last.get("step"),
        steps=record.get("steps"),
        loss=last.get("loss"),
        rate=last.get("expressions_per_second"),
        seconds_left=last.get("seconds_left") if state == "running" else None,
        error=(record.get("error") or {}).get("message"),
    )

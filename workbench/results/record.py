"""What a run writes about itself, typed: its id, the keys of its expressions, `run.json`, and the lines of `log.jsonl`.

`workbench.validation.read_record` turns any damage to one of these files into one line that names file and field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, Field

from workbench.errors import shown
from workbench.validation import JsonObject, Moment, Record, Whole

State = Literal[
    "new", "queued", "running", "completed", "failed", "diverged", "interrupted", "killed", "cancelled", "damaged"
]
"""`queued` is the scheduler's word; `killed` and `damaged` are found out; the others stand in `run.json`."""
StoredState = Literal["new", "running", "completed", "failed", "diverged", "interrupted", "killed", "cancelled"]
FAILED: tuple[State, ...] = ("failed", "diverged", "cancelled", "damaged")
"""States of runs that are trained again only when `retry` asks for it."""


class RunId(NamedTuple):
    """A run: a setting and a seed."""

    setting_id: str
    seed: int

    def __str__(self) -> str:
        return f"{self.setting_id}/seed{self.seed}"

    @classmethod
    def parse(cls, text: str) -> RunId:
        """From `<setting id>/seed<N>`; ValueError for anything else."""
        match = re.fullmatch(r"([A-Za-z0-9_+-]{1,255})/seed(0|[1-9][0-9]{0,14})", text)
        if match is None:
            raise ValueError(f"{shown(text)} is no run id; one has the form <setting id>/seed<N>")
        return cls(match[1], int(match[2]))


class ExpressionKey(NamedTuple):
    """What an expression is known by, in data sets, predictions, frames and figures alike."""

    split: str
    ref_id: int
    sent_id: int


KEY = list(ExpressionKey._fields)
"""The columns of a frame that hold an expression's key."""


def counts_in(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The number of expressions by split, out of metrics by split."""
    return {split: values["expressions"] for split, values in metrics.items() if "expressions" in values}


class RunError(Record):
    """What ended a run before it was completed."""

    model_config = ConfigDict(populate_by_name=True)

    cause: str = Field("code_error", alias="class")
    """A failure class."""
    message: str = ""
    type: str = ""
    time: Moment = 0.0


class Attempts(Record):
    """How often a run ended by each failure class since it was submitted, for the limits of a profile's `retries`."""

    submission: Whole | None = None
    progress: tuple[Whole, Whole] | None = None
    """The checkpoint's step and the splits that were scored since, at the last end."""
    without_progress: Whole = 0
    __pydantic_extra__: dict[str, Whole]  # type: ignore[assignment]

    def of(self, cause: str) -> int:
        """The number of ends by a failure class."""
        return (self.__pydantic_extra__ or {}).get(cause, 0)


class Identity(Record):
    """The document that a setting's id is the digest of."""

    schema_version: Whole = Field(alias="schema")
    config: JsonObject


class Provenance(Record):
    """Where a result comes from. The digests of weights files are among the further fields."""

    code: str | None = None
    """The digest of what computes, see `workbench.results.provenance`."""

    def digests(self) -> dict[str, Any]:
        """All fields, as plain values."""
        return self.model_dump()


class BestStep(Record):
    """The validated step that scored best."""

    step: Whole
    metric: str
    value: float
    """A fraction from 0 to 1."""


class RunRecord(Record):
    """The content of `run.json`; of a run that has not begun, all defaults."""

    identity: Identity | None = None
    machine: JsonObject = {}
    processes: Whole | None = None
    seed: Whole | None = None
    state: StoredState = "new"
    steps: Whole | None = None
    provenance: Provenance | None = None
    codes: tuple[str, ...] = ()
    """The digests of all code that took part: a resumed run may have been begun by another."""
    started: Moment | None = None
    finished: Moment | None = None
    starts: Whole = 0
    error: RunError | None = None
    ended: dict[str, Whole] = {}
    """How often the run ended by each failure class."""
    tries: Attempts = Attempts()
    metrics: dict[str, dict[str, float]] = {}
    """By split: the number of expressions, and fractions from 0 to 1."""
    best: BestStep | None = None
    """The best validated step, of a run that validates."""
    evaluated_step: Whole | None = None
    """After how many steps the evaluated weights were; None in records made before this was written: the last."""
    training_seconds: float | None = None
    seconds: float | None = None
    """With the evaluation."""
    gpu_hours: float | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as it is part of the identity; empty where nothing is stored."""
        return {} if self.identity is None else dict(self.identity.config)

    def without_documents(self) -> RunRecord:
        """The same without what makes it large: identity, machine, provenance and metrics; for many at once."""
        return self.model_copy(update={"identity": None, "machine": {}, "provenance": None, "metrics": {}})

    @property
    def counts(self) -> dict[str, float]:
        """How many expressions were evaluated, by split."""
        return counts_in(self.metrics)

    @property
    def threads(self) -> int | None:
        """The number of threads the run was begun with."""
        threads = self.machine.get("threads")
        return threads if isinstance(threads, int) and 0 < threads < 10_000 else None


class LogEvent(Record):
    """One line of `log.jsonl`; what an event has besides these fields is kept as it is."""

    event: str
    time: Moment
    step: Whole | None = None
    steps: Whole | None = None
    loss: float | None = None
    learning_rate: float | dict[str, float] | None = None
    expressions_per_second: float | None = None
    seconds_left: float | None = None
    metric: str | None = None
    """Of a validation, with its `value`."""
    value: float | None = None

    def details(self) -> dict[str, Any]:
        """All fields that were written, but the event's name and time, in the order of the line."""
        document = self.model_dump(exclude_unset=True)
        return {name: value for name, value in document.items() if name not in ("event", "time")}

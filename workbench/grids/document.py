"""A resolved grid as a JSON document, as a submission keeps it: enough for its table and figures."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from workbench.grids.equal_flops import EqualFlops
from workbench.grids.file import Artefact, ReportConfig
from workbench.grids.tuning import Choices
from workbench.registry import unknown_name
from workbench.validation import JsonObject, Record, Whole

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class GridDocument(Record):
    """A grid whose settings are spelled out.

    Attributes:
        name: the file's without its ending.
        file: absolute; it may have changed since, or be gone.
        settings: each one's whole configuration.
        then: what is made when all runs have ended.
        sources: every file that was read for it, with its SHA-256.
        labels: of settings that have one, what tables and figures call them.
        tuning: what was tried, and what was chosen for which setting; None of a grid that is not tuned.
        equal_flops: of settings that are trained for the FLOPs of another, how many steps that is.
    """

    name: str
    title: str
    file: Annotated[str, Field(pattern="^/", max_length=4000)]
    settings: Annotated[dict[str, JsonObject], Field(min_length=1)]
    seeds: Annotated[tuple[Whole, ...], Field(min_length=1)]
    baseline: str | None
    report: ReportConfig
    then: tuple[Artefact, ...]
    sources: dict[str, Sha256]
    labels: dict[str, str] = {}
    tuning: Choices | None = None
    equal_flops: dict[str, EqualFlops] = {}
    preset: Annotated[str, Field(pattern=r"^[\w.+-]{1,100}$")] | None = None

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed is listed twice")
        return seeds

    @model_validator(mode="after")
    def _fits_together(self) -> GridDocument:
        if self.name != PurePath(self.file).stem + ("" if self.preset is None else f"-{self.preset}"):
            raise ValueError(f"name: {self.name!r} is not that of the file {self.file}")
        if self.baseline is not None and self.baseline not in self.settings:
            raise ValueError(f"baseline: {unknown_name('setting', self.baseline, list(self.settings))}")
        return self


Document = dict[str, Any]
"""A `GridDocument` as plain JSON values."""

"""What a grid file may hold: the keys of its YAML, checked one by one. What they mean together is left to `loading`."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, field_validator
from yaml import YAMLError

from workbench.errors import WorkbenchError, is_plain, shown
from workbench.evaluation.metrics import metrics as known_metrics
from workbench.files import Unreadable, open_file
from workbench.grids.bounds import MOST_BYTES, check_bounds
from workbench.grids.seeds import seeds_in
from workbench.grids.tuning import TuneConfig
from workbench.registry import nearest, unknown_name
from workbench.results.record import ExpressionKey

Artefact = Literal["table", "figure"]
"""What a report holds."""


class GridError(WorkbenchError):
    """A grid file is wrong; the message begins with its name."""


class ReportConfig(BaseModel):
    """What the grid's table and figures show."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    splits: tuple[str, ...] = ()
    """Columns of the table; empty means every evaluated split."""
    metrics: tuple[str, ...] = Field(("miou", "oiou"), min_length=1)
    figure_split: str = "val"
    """The split that pictures are drawn from."""
    examples: int = Field(5, ge=1)
    """How many expressions a picture shows."""
    settings: tuple[str, ...] = ()
    """The settings that figures show, in this order: names, labels or shell patterns; empty means all."""
    expressions: tuple[str, ...] = ()
    """The expressions that pictures show, as `split:ref_id:sent_id`; empty means chosen by rule."""
    seed: int | None = Field(None, ge=0)
    """The seed whose masks and maps pictures show; else the lowest that all settings have."""
    columns: Literal[1, 2] = 2
    """Of a two-column page: how many a figure is wide."""
    models: tuple[str, ...] = ()
    """More rows of the table: what `workbench evaluate --predictions FILE --name NAME` scored."""
    published: tuple[str, ...] = ()
    """Rows of published numbers: names of methods in `results/reference/ris_numbers.csv`."""
    equivalence: float = Field(1.0, gt=0, lt=100)
    """In points: a difference that is surely smaller counts as none."""

    @field_validator("models")
    @classmethod
    def _once(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(models)) < len(models):
            raise ValueError("a name is listed twice")
        for name in models:
            if not is_plain(name):
                raise ValueError(f"{shown(name)} is not a model's name: a name without folders is expected")
        return models

    @field_validator("expressions")
    @classmethod
    def _keys(cls, expressions: tuple[str, ...]) -> tuple[str, ...]:
        for text in expressions:
            key_in(text)
        if len(set(expressions)) < len(expressions):
            raise ValueError("an expression is listed twice")
        return expressions

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for metric in metrics:
            if metric not in known_metrics:
                raise ValueError(unknown_name("metric", metric, list(known_metrics)))
        return metrics


def key_in(text: str) -> ExpressionKey:
    """`val:12:34` as the key of an expression; ValueError for another form."""
    match = re.fullmatch(r"([^:]+):(\d{1,18}):(\d{1,18})", text)
    if match is None:
        raise ValueError(f"{shown(text)} is not an expression, which is named split:ref_id:sent_id, as val:12:34")
    return ExpressionKey(match[1], int(match[2]), int(match[3]))


class GridFile(BaseModel):
    """The keys of a grid file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    base: dict[str, Any] = {}
    settings: dict[str, dict[str, Any] | None] = {}
    axes: dict[str, list[Any]] = {}
    exclude: list[dict[str, Any]] = []
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    baseline: str | None = None
    report: ReportConfig = ReportConfig()
    then: tuple[Artefact, ...] = ()
    """What is made when all runs have ended."""
    tune: TuneConfig | None = None
    """What every setting tries before it is trained, and on which split it is chosen."""
    instead: dict[str, dict[str, Any]] = {}
    """By preset: keys of this file that have other values where `--preset` names it."""

    @field_validator("title")
    @classmethod
    def _printable(cls, title: str) -> str:
        if not title.isprintable():
            raise ValueError(f"{title!r} holds a line break or another character that is not printed")
        return title

    @field_validator("seeds", mode="before")
    @classmethod
    def _written_out(cls, seeds: Any) -> Any:
        if isinstance(seeds, int):
            raise ValueError(f"a list such as [0, 1, 2], or a range such as 0-2, not {seeds}")
        return seeds_in(seeds) if isinstance(seeds, str) else seeds

    @field_validator("axes", mode="before")
    @classmethod
    def _lists(cls, axes: Any) -> Any:
        for name, values in axes.items() if isinstance(axes, dict) else ():
            if not isinstance(values, list):
                raise ValueError(f"{name}: a list of values such as [a, b], not {shown(values)}")
        return axes

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ValueError(f"whole numbers from 0, none twice, not {list(seeds)}")
        return seeds


def read_yaml(file: Path, sources: dict[Path, str] | None = None) -> dict[str, Any]:
    """A YAML mapping.

    Args:
        sources: where the file's absolute path and the SHA-256 of what was read are entered.

    Raises:
        GridError: says where it cannot be read, or which key occurs twice.
    """
    try:
        with open_file(file) as stream:
            content = stream.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise GridError(f"{file}: larger than {MOST_BYTES >> 20} MiB")
        text = content.decode()
        check_bounds(text)
        loaded = OmegaConf.load(io.StringIO(text))
    except FileNotFoundError:
        beside = {other.stem: other.name for other in file.parent.glob("*.yaml")}
        near = nearest(file.stem, beside)
        hint = "" if near is None else f" (did you mean {beside[near]!r}?)"
        raise GridError(f"{file}: no such file{hint}") from None
    except Unreadable as error:
        raise GridError(str(error)) from None
    except (YAMLError, OmegaConfBaseException, ValueError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise GridError(f"{file}: unreadable YAML{line}: {problem}") from None
    values = OmegaConf.to_container(loaded, resolve=False)
    if not isinstance(values, dict):
        raise GridError(f"{file}: a mapping of keys is expected, not a list")
    if sources is not None:
        sources[file.absolute()] = hashlib.sha256(content).hexdigest()
    return {str(key): value for key, value in values.items()}

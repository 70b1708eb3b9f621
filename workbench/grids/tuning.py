"""Tuning: every setting of a grid tries the same values, and is trained with those that score best on validation."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from workbench.config import RunConfig
from workbench.config.base import is_test_split
from workbench.evaluation.metrics import metrics as known_metrics
from workbench.files import digest_of, write_atomically
from workbench.grids.seeds import seeds_in
from workbench.registry import unknown_name
from workbench.validation import JsonObject, Record, read_record

FOLDER = "tuned"
"""Beside the grid file: what was chosen for each grid, one file a grid."""
REMEDY = "remove it, and workbench submit chooses again from the trials that are there"


class TuneConfig(BaseModel):
    """The trials of every setting: all combinations of the fields' values, each with every seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fields: dict[str, list[Any]] = Field(min_length=1)
    """Dotted keys to values. `field` and `values` stand for a single one."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    metric: str = "miou"
    split: str = "val"

    @model_validator(mode="before")
    @classmethod
    def _one_field(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "field" not in values:
            return values
        rest = {key: value for key, value in values.items() if key not in ("field", "values")}
        if "fields" in rest or "values" not in values:
            raise ValueError("either 'field' and 'values', or 'fields' with the values of each")
        return {**rest, "fields": {str(values["field"]): values["values"]}}

    @field_validator("fields")
    @classmethod
    def _something_to_choose(cls, fields: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in fields.items():
            if not values or any(value in values[:place] for place, value in enumerate(values)):
                raise ValueError(f"{key}: at least one value, none twice, not {values}")
        if all(len(values) < 2 for values in fields.values()):
            raise ValueError("there is nothing to choose from: give a field two values or more")
        return fields

    @field_validator("seeds", mode="before")
    @classmethod
    def _written_out(cls, seeds: Any) -> Any:
        return seeds_in(seeds) if isinstance(seeds, str) else (seeds,) if isinstance(seeds, int) else seeds

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ValueError(f"whole numbers from 0, none twice, not {list(seeds)}")
        return seeds

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        if metric not in known_metrics:
            raise ValueError(unknown_name("metric", metric, list(known_metrics)))
        return metric

    @field_validator("split")
    @classmethod
    def _validates(cls, split: str) -> str:
        if is_test_split(split):
            raise ValueError(f"nothing is chosen on a test split, and {split} is one; name a validation split")
        return split

    @property
    def points(self) -> list[dict[str, Any]]:
        """What each trial sets."""
        return [dict(zip(self.fields, values, strict=True)) for values in itertools.product(*self.fields.values())]


class Trial(Record):
    """What became of one trial.

    Attributes:
        score: the mean over its runs, a fraction; None: one of them diverged.
    """

    values: JsonObject
    runs: tuple[str, ...]
    score: float | None


class Choice(Record):
    """What was chosen for a setting, and from which trials.

    Attributes:
        untuned: the id of the setting with the grid's own values, for which alone the choice holds.
        codes: the digests of all code that the trials ran with.
    """

    untuned: str
    values: JsonObject
    trials: tuple[Trial, ...]
    codes: tuple[str, ...] = ()


class Choices(Record):
    """The content of `tuned/<grid>.json`, which holds for as long as the grid's `tune` says what it said then; also a
    grid's tuning as a submission keeps it."""

    tune: JsonObject
    settings: dict[str, Choice]


@dataclass(frozen=True)
class Tuning:
    """The tuning of a grid.

    Attributes:
        choices: by setting, of those that have one.
        untuned: each setting with the grid's own values; empty for a grid from a submission's record.
        file: where choices are kept.
    """

    config: TuneConfig
    choices: Mapping[str, Choice] = field(default_factory=dict)
    untuned: Mapping[str, RunConfig] = field(default_factory=dict, repr=False)
    file: Path = Path()

    def trials(self, setting: str) -> dict[str, RunConfig]:
        """The trials of a setting by their names; they are evaluated on the validation split alone, with own words.

        Settings that differ only in what they are asked in the end have the same trials, and so the same choice.
        """
        return {
            f"{setting} · {named(values)}": _trial(self.untuned[setting], self.config, values)
            for values in self.config.points
        }

    def outcomes(self, setting: str) -> dict[str, RunConfig]:
        """What the setting would be with each trial's values, by the trials' names."""
        own = self.untuned[setting]
        return {f"{setting} · {named(values)}": with_values(own, values) for values in self.config.points}

    def tuned(self, setting: str) -> RunConfig:
        """A setting with what was chosen for it; as it was where nothing is yet."""
        choice = self.choices.get(setting)
        return self.untuned[setting] if choice is None else with_values(self.untuned[setting], choice.values)

    def with_choices(self, choices: Mapping[str, Choice]) -> Tuning:
        """The same with more choices, which are also kept, beside those of other processes."""
        kept = _read(self.file, self.config) | dict(choices)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        document = Choices(tune=self.config.model_dump(mode="json"), settings=dict(sorted(kept.items())))
        write_atomically(self.file, (document.model_dump_json(indent=1) + "\n").encode())
        return replace(self, choices={**self.choices, **choices})

    def document(self) -> dict[str, Any]:
        """As plain JSON values; without the untuned settings."""
        chosen = {name: choice.model_dump(mode="json") for name, choice in self.choices.items()}
        return {"tune": self.config.model_dump(mode="json"), "settings": chosen}

    @classmethod
    def from_document(cls, document: Choices) -> Tuning:
        """What a submission keeps; it has no trials to run."""
        return cls(TuneConfig.model_validate(document.tune), document.settings)


def read_tuning(
    file: Path, name: str, config: TuneConfig, settings: Mapping[str, RunConfig], sources: dict[Path, str]
) -> Tuning:
    """The tuning of a grid file, with the choices that were made for just these settings and trials.

    Args:
        name: of the grid.
        sources: where the file of the choices is entered, if there is one.

    Raises:
        ConfigError: a trial's configuration is wrong.
        DamagedFile: the file of the choices cannot be read.
    """
    place = file.parent / FOLDER / f"{name}.json"
    stored = _read(place, config)
    if place.is_file():
        sources[place.absolute()] = digest_of(place)
    choices = {
        setting: stored[setting]
        for setting, own in settings.items()
        if setting in stored and stored[setting].untuned == own.setting_id
    }
    return Tuning(config, choices, settings, place)


def _read(file: Path, config: TuneConfig) -> dict[str, Choice]:
    try:
        stored = read_record(file, Choices, REMEDY)
    except FileNotFoundError:
        return {}
    # Through JSON, since that is what the file went through.
    asked = json.loads(json.dumps(config.model_dump(mode="json")))
    return dict(stored.settings) if stored.tune == asked else {}


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """A configuration with other values of some dotted keys; ConfigError names a wrong one."""
    document = config.model_dump(mode="json")
    for key, value in values.items():
        *sections, last = key.split(".")
        inside = document
        for section in sections:
            inside = inside.setdefault(section, {})
        inside[last] = value
    return RunConfig.parse(document)


def _trial(config: RunConfig, tune: TuneConfig, values: Mapping[str, Any]) -> RunConfig:
    # What is seen while training chooses nothing, unless it chooses the checkpoint.
    unseen = {} if config.evaluation.checkpoint == "best" else {"validation.every": None}
    return with_values(config, {**values, **unseen, "evaluation.words": "own", "evaluation.splits": [tune.split]})


def named(values: Mapping[str, Any]) -> str:
    """Values as they stand in names: `learning_rate=0.001`."""
    return " ".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in values.items())


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")


def waiting(tuning: Tuning | None, settings: Sequence[str]) -> list[str]:
    """The settings that are not tuned yet; none of a grid that is not tuned."""
    return [] if tuning is None else [name for name in settings if name not in tuning.choices]

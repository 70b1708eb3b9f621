"""A grid file to its runs: settings × seeds, merged by OmegaConf, checked by pydantic, then by building each model."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from yaml import YAMLError

from workbench.config import RunConfig
from workbench.errors import ConfigError, WorkbenchError
from workbench.registry import unknown_name
from workbench.validation import first_mistake

METRIC = re.compile(r"oiou|miou|p(@|>=)0\.[5-9]|giou|ciou|n_acc|t_acc")


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
    examples: int = Field(4, ge=1)
    models: tuple[str, ...] = ()
    """More rows of the table: what `workbench evaluate --predictions FILE --name NAME` scored."""

    @field_validator("models")
    @classmethod
    def _once(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(models)) < len(models):
            raise ValueError("a name stands twice")
        return models

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for metric in metrics:
            if not METRIC.fullmatch(metric):
                known = "oiou, miou, p@0.5 to p@0.9 (IoU over), p>=0.5 to p>=0.9, giou, ciou, n_acc, t_acc"
                raise ValueError(f"unknown metric {metric!r}; known: {known}")
        return metrics


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
    then: tuple[Literal["table", "figure"], ...] = ()
    """What is made when all runs have ended."""

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ValueError(f"whole numbers from 0, none twice, not {list(seeds)}")
        return seeds


@dataclass(frozen=True)
class Run:
    """One training: a setting and a seed."""

    setting: str
    config: RunConfig
    seed: int
    id: str
    """`<setting id>/seed<N>`."""


@dataclass(frozen=True)
class Need:
    """A setting of another grid, whose trained weights a setting begins from."""

    grid: Grid
    setting: str


@dataclass(frozen=True)
class Grid:
    """A checked grid file."""

    file: Path
    title: str
    settings: Mapping[str, RunConfig]
    seeds: tuple[int, ...]
    baseline: str | None
    report: ReportConfig
    needs: Mapping[str, Need] = field(default_factory=dict)
    """What a setting begins from, by its name."""
    then: tuple[str, ...] = ()
    """What is made when all runs have ended: table, figure."""

    submitted: bool = False

    def changed_sources(self) -> list[Path]:
        return []

    def digest(self) -> str:
        return "x"

    @property
    def name(self) -> str:
        """The file's name without its ending; its outputs lie in `results/<name>`."""
        return self.file.stem

    def runs(self) -> list[Run]:
        """All runs, seed by seed."""
        ids = {name: config.setting_id for name, config in self.settings.items()}
        return [
            Run(name, config, seed, f"{ids[name]}/seed{seed}")
            for seed in self.seeds
            for name, config in self.settings.items()
        ]

    def needed(self, runs: Iterable[Run]) -> list[Run]:
        """The runs of other grids that these begin from, each once."""
        found: dict[str, Run] = {}
        for run in runs:
            if (need := self.needs.get(run.setting)) is not None:
                config = need.grid.settings[need.setting]
                name = run.config.start_from.run_for(run.seed)
                assert name is not None
                found[name] = Run(need.setting, config, int(name.rpartition("/seed")[2]), name)
        return list(found.values())

    def narrowed(self, only: str | None, seeds: tuple[int, ...] | None) -> Grid:
        """The settings whose names match a shell pattern, with other seeds; GridError when none matches."""
        settings = {n: c for n, c in self.settings.items() if only is None or fnmatch.fnmatchcase(n, only)}
        if not settings:
            raise GridError(f"{self.file}: no setting matches {only!r}; there are {', '.join(self.settings)}")
        return replace(self, settings=settings, seeds=self.seeds if seeds is None else seeds)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the table shows."""
        return self.report.splits or next(iter(self.settings.values())).evaluation.splits


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0-4` or `0,2,5-7` as numbers; GridError says what is wrong."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if found is None:
            raise GridError(f"--seeds: {text!r} is none of the forms 3, 0-4 and 0,2,5-7")
        seeds += range(int(found[1]), int(found[2] or found[1]) + 1)
    if not seeds or len(set(seeds)) != len(seeds):
        raise GridError(f"--seeds: {text!r} names {'no seed' if not seeds else 'a seed twice'}")
    return tuple(sorted(seeds))


Progress = Callable[[int, int], None]


def load_grid(
    file: Path,
    machine: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    _above: tuple[Path, ...] = (),
) -> Grid:
    """Read and check a grid file; nothing is built or run.

    Args:
        machine: fields of `machine` that stand over the file's own.
        progress: called with (steps done, steps in all) while a data set is prepared, which is done where its files
            are here and its digest, a part of the ids, is not known yet.

    Raises:
        GridError: names file, setting, key and value.
    """
    if file.resolve() in _above:
        raise GridError(f"{file}: begins from itself, by way of {', '.join(p.name for p in _above)}")
    try:
        grid = GridFile.model_validate(read_yaml(file))
    except ValidationError as error:
        raise GridError(f"{file}: {first_mistake(error, GridFile)}") from None
    base = _with_presets(file, "base", grid.base)
    settings: dict[str, RunConfig] = {}
    owner: dict[str, str] = {}
    needs: dict[str, Need] = {}
    for name, overrides in _expanded(file, grid):
        values = _merged(base, _with_presets(file, f"settings.{name}", overrides), {"machine": dict(machine or {})})
        resolved = _resolved(file, name, values)
        if need := _need(file, name, resolved, machine, progress, (*_above, file.resolve())):
            needs[name] = need
        config = _checked(file, name, resolved, progress)
        if name in settings:
            raise GridError(f"{file}: two settings are named {name!r}")
        if config.setting_id in owner:
            raise GridError(f"{file}: settings {owner[config.setting_id]!r} and {name!r} are the same configuration")
        owner[config.setting_id] = name
        settings[name] = config
    if grid.baseline is not None and grid.baseline not in settings:
        raise GridError(f"{file}: baseline: {unknown_name('setting', grid.baseline, list(settings))}")
    _check_report(file, grid.report, settings)
    return Grid(file, grid.title, settings, tuple(sorted(grid.seeds)), grid.baseline, grid.report, needs, grid.then)


def _need(
    file: Path,
    name: str,
    values: dict[str, Any],
    machine: Mapping[str, Any] | None,
    progress: Progress | None,
    above: tuple[Path, ...],
) -> Need | None:
    """What `start_from: {grid: FILE, setting: NAME}` means; the values then name the setting's id in its place."""
    start = values.get("start_from")
    if not isinstance(start, dict) or "grid" not in start:
        return None
    where = f"{_where(file, name)}: start_from"
    other = file.parent / str(start["grid"])
    grid = load_grid(other, machine, progress, above)
    setting = str(start.get("setting"))
    if setting not in grid.settings:
        raise GridError(f"{where}.setting: {unknown_name('setting', setting, list(grid.settings))} (of {other})")
    rest = {key: value for key, value in start.items() if key not in ("grid", "setting")}
    values["start_from"] = {**rest, "run": grid.settings[setting].setting_id}
    return Need(grid, setting)


def _check_report(file: Path, report: ReportConfig, settings: Mapping[str, RunConfig]) -> None:
    """A table's splits must be evaluated by every setting, and a picture's by all as well."""
    first = next(iter(settings.values())).evaluation.splits
    for key, splits in (("splits", report.splits or first), ("figure_split", (report.figure_split,))):
        for name, config in settings.items():
            wrong = [split for split in splits if split not in config.evaluation.splits]
            if wrong:
                raise GridError(
                    f"{file}: report.{key}: {wrong[0]!r} is not evaluated by setting {name!r}; "
                    f"its evaluation.splits are {', '.join(config.evaluation.splits)}"
                )


def load_preset(file: Path, machine: Mapping[str, Any] | None = None, progress: Progress | None = None) -> RunConfig:
    """A preset file as a configuration of its own; see `load_grid`."""
    values = _merged(read_yaml(file), {"machine": dict(machine or {})})
    return _checked(file, None, _resolved(file, None, values), progress)


def is_preset(file: Path) -> bool:
    """Whether a file is a preset (one configuration) rather than a grid."""
    return "title" not in read_yaml(file)


def check_grid(grid: Grid, weights: bool = True) -> None:
    """All that shows only when the models are built; with `weights`, also that their files are there and fit.

    Raises:
        GridError: names file and setting.
    """
    from workbench.models.build import check_config, check_weights

    for name, config in grid.settings.items():
        try:
            check_config(config)
            _check_trackers(config)
            if weights:
                check_weights(config)
        except WorkbenchError as error:
            raise GridError(f"{grid.file}: setting {name!r}: {error}") from None


def _check_trackers(config: RunConfig) -> None:
    from accelerate.utils import LoggerType

    known = [str(kind.value) for kind in LoggerType if kind.value != "all"]
    for name in config.machine.trackers:
        if name not in known:
            raise ConfigError("machine.trackers", unknown_name("tracker", name, known))


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML mapping; GridError says where it cannot be read, or which key stands twice."""
    try:
        loaded = OmegaConf.load(file)
    except FileNotFoundError:
        raise GridError(f"{file}: no such file") from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise GridError(f"{file}: unreadable YAML{line}: {problem}") from None
    content = OmegaConf.to_container(loaded, resolve=False)
    if not isinstance(content, dict):
        raise GridError(f"{file}: a mapping of keys is expected, not a list")
    return {str(key): value for key, value in content.items()}


def _with_presets(file: Path, where: str, own: dict[str, Any]) -> dict[str, Any]:
    """A mapping's own keys over those of the presets it names, a later preset's over an earlier one's."""
    names = own.get("preset", [])
    layers = []
    for name in names if isinstance(names, list) else [names]:
        places = [file.parent / "presets" / f"{name}.yaml", file.parent / str(name), Path(str(name))]
        preset = next((place for place in places if place.is_file()), None)
        if preset is None:
            known = sorted(p.stem for p in (file.parent / "presets").glob("*.yaml"))
            raise GridError(f"{file}: {where}.preset: {unknown_name('preset', name, known)}")
        layers.append(read_yaml(preset))
    return _merged(*layers, {key: value for key, value in own.items() if key != "preset"})


def _expanded(file: Path, grid: GridFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every setting's name and overrides: `settings` crossed with `axes`, less what `exclude` matches."""
    names: dict[str, dict[str, Any]] = {name: over or {} for name, over in grid.settings.items()}
    if not names and not grid.axes:
        raise GridError(f"{file}: nothing to run: give settings, axes, or both")
    for key, values in grid.axes.items():
        if not values:
            raise GridError(f"{file}: axes.{key}: at least one value is needed")
    for rule in grid.exclude:
        for key, value in rule.items():
            known = list(names) if key == "setting" else grid.axes.get(key)
            if known is None:
                raise GridError(f"{file}: exclude: {unknown_name('axis', key, ['setting', *grid.axes])}")
            if value not in known:
                raise GridError(f"{file}: exclude.{key}: {value!r} is none of its values, {known}")
    found = False
    for name, overrides in (names or {"": {}}).items():
        for chosen in itertools.product(*grid.axes.values()):
            point = dict(zip(grid.axes, chosen, strict=True))
            if any(
                all({**point, "setting": name}.get(key) == value for key, value in rule.items())
                for rule in grid.exclude
            ):
                continue
            parts = [name] * bool(name) + [f"{key.rpartition('.')[2]}={_short(v)}" for key, v in point.items()]
            found = True
            yield " ".join(parts), {**overrides, **point}
    if not found:
        raise GridError(f"{file}: exclude: no setting is left")


def _short(value: Any) -> str:
    return ":".join(f"{k}:{v}" for k, v in value.items()) if isinstance(value, dict) else str(value).replace(" ", "")


REPLACED = frozenset({"fusion.layers", "exclude"})
"""Keys whose mapping is one value: a later one takes the place of an earlier one instead of joining it."""


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later layers over earlier ones, dotted keys spelled out; nothing is resolved yet."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            *parents, last = str(key).split(".")
            for parent in reversed(parents):
                value, last = {last: value}, parent
            _put(merged, last, value, "")
    return merged


def _put(into: dict[str, Any], key: str, value: Any, above: str) -> None:
    path = f"{above}.{key}".lstrip(".")
    if not isinstance(value, dict) or path in REPLACED:
        into[key] = value
        return
    if not isinstance(into.get(key), dict):
        into[key] = {}
    for name, inner in value.items():
        *parents, last = str(name).split(".")
        for parent in reversed(parents):
            inner, last = {last: inner}, parent
        _put(into[key], last, inner, path)


def _resolved(file: Path, setting: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """OmegaConf's interpolations filled in."""
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    except OmegaConfBaseException as error:
        raise GridError(f"{_where(file, setting)}: {str(error).splitlines()[0]}") from None
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _checked(file: Path, setting: str | None, values: dict[str, Any], progress: Progress | None) -> RunConfig:
    try:
        config = RunConfig.parse(values)
        if config.data.recipe is not None or config.data.sha256 is not None:
            return config
        from workbench.data.datasets import pinned

        return pinned(config, progress)
    except ConfigError as error:
        raise GridError(f"{_where(file, setting)}: {error}") from None


def _where(file: Path, setting: str | None) -> str:
    return f"{file}: setting {setting!r}" if setting else str(file)


__all__ = ["Grid", "GridError", "Run", "check_grid", "is_preset", "load_grid", "load_preset"]

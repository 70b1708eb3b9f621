"""A grid file to its runs: settings × seeds, merged by OmegaConf, checked by pydantic, then by building each model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from workbench.config import RunConfig
from workbench.errors import ConfigError, WorkbenchError, lines_of, with_more
from workbench.grids.checked import check
from workbench.grids.equal_flops import equal_flops
from workbench.grids.file import GridError, GridFile, read_yaml
from workbench.grids.grid import Grid, Need, check_report
from workbench.grids.merging import merged, plain, resolved
from workbench.grids.mistakes import Mistakes, place_of
from workbench.grids.reference import methods, unknown_methods
from workbench.grids.tuning import TuneConfig, Tuning, read_tuning
from workbench.registry import unknown_name
from workbench.validation import mistakes

Progress = Callable[[int, int], None]
PRESETS = Path(__file__).resolve().parents[2] / "ablations" / "presets"
"""The project's own, which a grid may name wherever it lies."""
MOST_SETTINGS = 10_000
MOST_WRONG = 50
"""Settings whose models cannot be built, after which no others are looked at: that takes time, and tells little new."""
WHOLE = ("backbone.name", "data.dataset")
"""What a preset must say to be a configuration of its own."""


@dataclass(frozen=True)
class _Reading:
    """What holds for all files that one grid is read from.

    Attributes:
        machine: fields of `machine` that override the files' own.
        changes: dotted keys that override those of each of the grid's settings.
        preset: in place of the first one that the base names.
        above: the grids that are being read, each of which begins from the next.
        sources: the files that were read for the innermost, with their SHA-256.
        presets: those that are being read, each of which names the next.
    """

    machine: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None
    progress: Progress | None = None
    above: tuple[Path, ...] = ()
    sources: dict[Path, str] = field(default_factory=dict)
    presets: tuple[Path, ...] = ()


def load_grid(
    file: Path,
    machine: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    changes: Mapping[str, Any] | None = None,
    preset: str | None = None,
) -> Grid:
    """Read and check a grid file; nothing is built or run.

    Args:
        machine: fields of `machine` that override the file's own.
        progress: called with (steps done, steps in all) while a data set is prepared, which is done where its files
            are here and its digest, a part of the ids, is not known yet.
        changes: dotted keys and their values, which override those of every setting.
        preset: in place of the first preset that the base names, as a miniature for the real data's; what the file's
            `instead` has for it takes the place of the same keys.

    Raises:
        GridError: names file, setting, key and value of each mistake.
    """
    return _load(file, _Reading(machine or {}, changes or {}, preset, progress))


def _load(file: Path, reading: _Reading) -> Grid:
    if file.resolve() in reading.above:
        raise GridError(f"{file}: starts from itself, through {', '.join(p.name for p in reading.above)}")
    reading = replace(reading, above=(*reading.above, file.resolve()), sources={})
    grid = _grid_file(file, reading)
    base = OmegaConf.create(_with_presets(file, "base", grid.base, reading))
    settings: dict[str, RunConfig] = {}
    needs: dict[str, Need] = {}
    labels: dict[str, str] = {}
    budgets: dict[str, Any] = {}
    expanded = list(_expanded(file, grid))
    wrong = Mistakes(file, len(expanded))
    for name, label, overrides in expanded:
        if not name.isprintable():
            raise GridError(f"{file}: the setting's name {name!r} holds a character that is not printed")
        if "budget" in overrides:
            budgets[name] = overrides.pop("budget")
        try:
            config, need = _setting(file, name, overrides, base, reading)
        except GridError as error:
            wrong.add(name, error)
            continue
        if need is not None:
            needs[name] = need
        if name in settings:
            wrong.lines.append(f"{file}: two settings are named {name!r}")
        settings[name] = config
        if label is not None:
            labels[name] = label
    # With a budget of its own, a setting may be another's configuration until its steps are known.
    wrong.lines += _repeated(file, {name: config for name, config in settings.items() if name not in budgets})
    if grid.baseline is not None and grid.baseline not in (names := [name for name, _, _ in expanded]):
        wrong.lines.append(f"{file}: baseline: {unknown_name('setting', grid.baseline, names)}")
    wrong.raise_any()
    try:
        settings, equal = equal_flops(settings, budgets)
    except WorkbenchError as error:
        raise GridError(f"{file}: {error}") from None
    tuning = None if grid.tune is None else _tuning(file, grid.tune, settings, reading)
    if tuning is not None:
        settings = {name: tuning.tuned(name) for name in settings}
    _check_distinct(file, settings)
    check_report(file, grid.report, settings)
    _check_labels(file, labels, settings)
    loaded = Grid(
        file=file,
        title=grid.title,
        settings=settings,
        seeds=tuple(sorted(grid.seeds)),
        baseline=grid.baseline,
        report=grid.report,
        needs=needs,
        then=grid.then,
        sources=reading.sources,
        labels=labels,
        preset=reading.preset,
        tuning=tuning,
        equal_flops=equal,
    )
    loaded.chosen(grid.report.settings)
    return loaded


def _grid_file(file: Path, reading: _Reading) -> GridFile:
    try:
        return GridFile.model_validate(_with_preset(file, read_yaml(file, reading.sources), reading.preset))
    except ValidationError as error:
        first, *others = [f"{file}: {mistake}" for mistake in mistakes(error, GridFile)]
        raise with_more(GridError(first), others) from None


def setting_names(file: Path, preset: str | None = None) -> list[str]:
    """The names of a grid's settings, its configurations unread.

    Raises:
        GridError: says what is wrong in the file.
    """
    grid = _grid_file(file, _Reading(preset=preset))
    return [name for name, _, _ in _expanded(file, grid)]


def _setting(
    file: Path, name: str, overrides: dict[str, Any], base: DictConfig, reading: _Reading
) -> tuple[RunConfig, Need | None]:
    """A setting's configuration, and the run of another grid that it begins from."""
    own = _with_presets(file, f"settings.{name}", overrides, reading)
    place = place_of(file, name)
    values = resolved(place, merged(place, own, {"machine": reading.machine}, reading.changes, below=base))
    need = _need(file, name, values, reading)
    return _checked(place, values, reading.progress), need


def _tuning(file: Path, tune: TuneConfig, settings: Mapping[str, RunConfig], reading: _Reading) -> Tuning:
    """What the grid's settings try; checked as far as nothing is run."""
    name = file.stem if reading.preset is None else f"{file.stem}-{reading.preset}"
    if len(settings) * len(tune.points) > MOST_SETTINGS:
        raise GridError(
            f"{file}: tune: {len(settings) * len(tune.points):,} trials; at most {MOST_SETTINGS:,} are taken"
        )
    tuning = read_tuning(file, name, tune, settings, reading.sources)
    outcomes: dict[str, RunConfig] = {}
    for setting, config in settings.items():
        if tune.split == config.data.train_split:
            raise GridError(
                f"{file}: tune.split: {tune.split!r} is trained on by setting {setting!r}; name another split"
            )
        try:
            outcomes |= tuning.outcomes(setting)
            _check_distinct(file, tuning.trials(setting), "tune: trials")
        except ConfigError as error:
            raise GridError(f"{file}: tune: a trial of setting {setting!r}: {error}") from None
    _check_distinct(file, outcomes, "tune: trials")
    return tuning


def _check_distinct(file: Path, settings: Mapping[str, RunConfig], what: str = "settings") -> None:
    for line in _repeated(file, settings, what):
        raise GridError(line)


def _repeated(file: Path, settings: Mapping[str, RunConfig], what: str = "settings") -> list[str]:
    """A line for each setting that is another's configuration."""
    owner: dict[str, str] = {}
    firsts = {name: owner.setdefault(config.setting_id, name) for name, config in settings.items()}
    return [
        f"{file}: {what} {first!r} and {name!r} are the same configuration"
        for name, first in firsts.items()
        if first != name
    ]


def _check_labels(file: Path, labels: Mapping[str, str], settings: Mapping[str, RunConfig]) -> None:
    """Whoever reads a figure must know which setting is meant."""
    owner: dict[str, str] = {name: name for name in settings if name not in labels}
    for name, label in labels.items():
        if label in owner:
            raise GridError(f"{file}: settings.{name}.label: {label!r} is what {owner[label]!r} is called")
        owner[label] = name


def _with_preset(file: Path, values: dict[str, Any], preset: str | None) -> dict[str, Any]:
    """A grid file's keys with another preset in place of the first of its base."""
    if preset is None:
        return values
    base, instead = values.get("base"), values.get("instead")
    named = base.get("preset") if isinstance(base, dict) else None
    if not named or not isinstance(base, dict):
        raise GridError(f"{file}: base.preset: the grid has none that {preset!r} could replace")
    rest = named[1:] if isinstance(named, list) else []
    own = instead.get(preset) if isinstance(instead, dict) else None
    return {**values, "base": {**base, "preset": [preset, *rest]}, **(own if isinstance(own, dict) else {})}


def _need(file: Path, name: str, values: dict[str, Any], reading: _Reading) -> Need | None:
    """What `start_from: {grid: FILE, setting: NAME}` means; the values then name the setting's id in its place."""
    start = values.get("start_from")
    if not isinstance(start, dict) or "grid" not in start:
        return None
    place = f"{place_of(file, name)}: start_from"
    other = file.parent / str(start["grid"])
    grid = _load(other, replace(reading, changes={}))
    reading.sources.update(grid.sources)
    setting = str(start.get("setting"))
    if setting not in grid.settings:
        raise GridError(f"{place}.setting: {unknown_name('setting', setting, list(grid.settings))} (of {other})")
    if setting in grid.waiting:
        raise GridError(f"{place}.setting: {setting!r} is not tuned yet; first: workbench submit {grid.argument}")
    rest = {key: value for key, value in start.items() if key not in ("grid", "setting")}
    values["start_from"] = {**rest, "run": grid.settings[setting].setting_id}
    return Need(grid, setting)


def load_preset(
    file: Path,
    machine: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    changes: Mapping[str, Any] | None = None,
) -> RunConfig:
    """A preset file as a configuration of its own; see `load_grid`. GridError for one that is only a part."""
    where = str(file)
    values = merged(where, _preset(file, _Reading()), {"machine": machine or {}}, changes or {})
    if missing := [key for key in WHOLE if _is_missing(values, key)]:
        raise GridError(
            f"{file}: a part of a configuration, without {' and '.join(missing)}; name it as 'preset:' in a grid"
        )
    return _checked(where, resolved(where, values), progress)


def _is_missing(values: DictConfig, key: str) -> bool:
    try:
        return OmegaConf.select(values, key) is None
    except OmegaConfBaseException:  # something of another kind stands there, of which more is said later
        return False


def is_preset(file: Path) -> bool:
    """Whether a file is a preset (one configuration) rather than a grid."""
    return "title" not in read_yaml(file)


def check_grid(grid: Grid, weights: bool = True) -> None:
    """All that shows only when the models are built; with `weights`, also that their files are there and fit.

    Also that the published methods exist that the grid's table is to show: who trains it would learn that too late.

    Raises:
        GridError: names file and setting of each mistake, of at most `MOST_WRONG` settings.
    """
    wrong, count = Mistakes(grid.file, len(grid.settings)), 0
    if grid.report.published:
        wrong.lines += [f"{grid.file}: {line}" for line in unknown_methods(grid.report.published, methods())]
    for name, config in grid.settings.items():
        try:
            check(config, weights)
        except WorkbenchError as error:
            wrong.add(name, error)
            if (count := count + 1) == MOST_WRONG:
                break
    wrong.raise_any()


def _with_presets(file: Path, key: str, own: dict[str, Any], reading: _Reading) -> dict[str, Any]:
    """A mapping's own keys over those of the presets it names, a later preset's over an earlier one's."""
    names = own.get("preset", [])
    layers = []
    for name in names if isinstance(names, list) else [names]:
        folders = (file.parent if key == "preset" else file.parent / "presets", PRESETS)
        places = [*(folder / f"{name}.yaml" for folder in folders), file.parent / str(name), Path(str(name))]
        preset = next((place for place in places if place.is_file()), None)
        if preset is None:
            known = sorted({p.stem for folder in folders for p in folder.glob("*.yaml")})
            raise GridError(f"{file}: {key}.preset: {unknown_name('preset', name, known)}")
        layers.append(_preset(preset, reading))
    own = {key: value for key, value in own.items() if key != "preset"}
    return plain(OmegaConf.to_container(merged(f"{file}: {key}", *layers, own), resolve=False))


def _preset(file: Path, reading: _Reading) -> dict[str, Any]:
    """A preset's keys, over those of the presets that it names itself."""
    if file.resolve() in reading.presets:
        raise GridError(f"{file}: preset: it includes itself, through {', '.join(p.name for p in reading.presets)}")
    values = read_yaml(file, reading.sources)
    if "preset" not in values:
        return values
    return _with_presets(file, "preset", values, replace(reading, presets=(*reading.presets, file.resolve())))


def _label(file: Path, name: str, overrides: Mapping[str, Any]) -> str | None:
    label = overrides.get("label")
    if label is None or (isinstance(label, str) and label.strip() and label.isprintable() and len(label) <= 80):
        return label
    raise GridError(f"{file}: settings.{name}.label: one line of at most 80 characters is expected, not {label!r}")


def _expanded(file: Path, grid: GridFile) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """Every setting's name, label and overrides: `settings` crossed with `axes`, less what `exclude` matches."""
    labels = {name: _label(file, name, over or {}) for name, over in grid.settings.items()}
    names = {name: {k: v for k, v in (over or {}).items() if k != "label"} for name, over in grid.settings.items()}
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
    count = max(1, len(names)) * math.prod(len(values) for values in grid.axes.values())
    if count > MOST_SETTINGS:
        raise GridError(f"{file}: {count:,} settings; at most {MOST_SETTINGS:,} are taken, in several grids if need be")
    is_empty = True
    for name, overrides in (names or {"": {}}).items():
        for chosen in itertools.product(*grid.axes.values()):
            point = dict(zip(grid.axes, chosen, strict=True))
            if any(
                all({**point, "setting": name}.get(key) == value for key, value in rule.items())
                for rule in grid.exclude
            ):
                continue
            axes = [f"{key.rpartition('.')[2]}={_short(v)}" for key, v in point.items()]
            is_empty = False
            label = labels.get(name)
            yield (
                " ".join([name] * bool(name) + axes),
                None if label is None else ", ".join([label, *axes]),
                {**overrides, **point},
            )
    if is_empty:
        raise GridError(f"{file}: exclude: no setting is left")


def _short(value: Any) -> str:
    return ":".join(f"{k}:{v}" for k, v in value.items()) if isinstance(value, dict) else str(value).replace(" ", "")


def _checked(where: str, values: dict[str, Any], progress: Progress | None) -> RunConfig:
    try:
        config = RunConfig.parse(values)
        if config.data.is_pinned:
            return config
        from workbench.data.datasets import pinned

        return pinned(config, progress)
    except ConfigError as error:
        first, *others = [f"{where}: {line}" for line in lines_of(error)]
        raise with_more(GridError(first), others) from None

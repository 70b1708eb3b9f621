"""A checked grid: settings × seeds, what they begin from, and the document that a submission keeps of it."""

from __future__ import annotations

import fnmatch
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from workbench.config import RunConfig
from workbench.errors import ConfigError, with_more
from workbench.files import digest_of
from workbench.grids.document import Document, GridDocument
from workbench.grids.equal_flops import EqualFlops
from workbench.grids.file import GridError, ReportConfig
from workbench.grids.seeds import seeds_in
from workbench.grids.tuning import Choice, TuneConfig, Tuning, waiting
from workbench.registry import did_you_mean, unknown_name
from workbench.results.record import RunId
from workbench.validation import Damage, first_mistake, parse_record


@dataclass(frozen=True)
class Run:
    """One training: a setting and a seed.

    Attributes:
        id: a `RunId` as text.
    """

    setting: str
    config: RunConfig
    seed: int
    id: str


@dataclass(frozen=True)
class Need:
    """A setting of another grid, whose trained weights a setting begins from."""

    grid: Grid
    setting: str


@dataclass(frozen=True)
class Grid:
    """A checked grid.

    Attributes:
        file: the grid file.
        settings: configurations by their names.
        needs: what a setting begins from, by its name.
        then: what is made when all runs have ended: table, figure.
        sources: every file that was read for it (grid, presets, grids of earlier stages), with its SHA-256.
        submitted: whether it comes from a submission's record, so that its files may have changed since.
        all_settings: of a grid that was narrowed, those that it had before; empty for any other.
        labels: of settings that have one, what tables and figures call them; no part of a run's identity.
        preset: what `--preset` put in place of the file's own.
        tuning: None of a grid that is not tuned.
        equal_flops: of settings that are trained for the FLOPs of another, how many steps that is.
    """

    file: Path
    title: str
    settings: Mapping[str, RunConfig]
    seeds: tuple[int, ...]
    baseline: str | None
    report: ReportConfig
    needs: Mapping[str, Need] = field(default_factory=dict)
    then: tuple[str, ...] = ()
    sources: Mapping[Path, str] = field(default_factory=dict)
    submitted: bool = False
    all_settings: Mapping[str, RunConfig] = field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    preset: str | None = None
    tuning: Tuning | None = None
    equal_flops: Mapping[str, EqualFlops] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's name without its ending, and another preset's; its outputs lie in `results/<name>`."""
        return self.file.stem if self.preset is None else f"{self.file.stem}-{self.preset}"

    @property
    def argument(self) -> str:
        """How a shell's command names this grid."""
        return shlex.join([str(self.file), *(() if self.preset is None else ("--preset", self.preset))])

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the table shows."""
        return self.report.splits or next(iter(self.settings.values())).evaluation.splits

    @property
    def waiting(self) -> list[str]:
        """The settings whose values are still to be chosen: they have trials, and no runs yet."""
        return waiting(self.tuning, list(self.settings))

    @property
    def trials(self) -> Grid | None:
        """The trials of the settings that wait for them, as a grid of its own; None where none waits."""
        if self.tuning is None or self.submitted or not self.waiting:
            return None
        tune, trials = self.tuning.config, {name: self.tuning.trials(name) for name in self.waiting}
        by_id: dict[str, tuple[str, RunConfig]] = {}
        for own in trials.values():
            for name, config in own.items():
                by_id.setdefault(config.setting_id, (name, config))
        return replace(
            self,
            settings=dict(by_id.values()),
            seeds=tune.seeds,
            baseline=None,
            report=ReportConfig(splits=(tune.split,), metrics=(tune.metric,), figure_split=tune.split),
            needs={name: need for of, need in self.needs.items() for name in trials.get(of, {})},
            then=(),
            all_settings={},
            labels={},
            tuning=None,
            equal_flops={},
        )

    def with_choices(self, choices: Mapping[str, Choice]) -> Grid:
        """The same with values chosen for more of its settings, which are also kept beside its file."""
        assert self.tuning is not None
        tuning = self.tuning.with_choices(choices)

        def tuned(settings: Mapping[str, RunConfig]) -> dict[str, RunConfig]:
            return {name: tuning.tuned(name) if name in choices else config for name, config in settings.items()}

        sources = {**self.sources, tuning.file.absolute(): digest_of(tuning.file)}
        whole = tuned(self.all_settings)
        return replace(self, settings=tuned(self.settings), all_settings=whole, tuning=tuning, sources=sources)

    def label(self, setting: str) -> str:
        """What tables and figures call a setting."""
        return self.labels.get(setting, setting)

    def matching(self, wanted: str) -> list[str]:
        """The settings of that name or label; where there is none, those whose names match it as a shell pattern."""
        exact = [name for name in self.settings if wanted in (name, self.label(name))]
        return exact or [name for name in self.settings if fnmatch.fnmatchcase(name, wanted)]

    def chosen(self, wanted: Sequence[str]) -> list[str]:
        """The settings that names, labels or shell patterns name, in their order; of none, all.

        Raises:
            GridError: one names no setting.
        """
        names: dict[str, None] = {}
        for pattern in wanted:
            matched = self.matching(pattern)
            if not matched:
                unknown = unknown_name("setting", pattern, list(self.settings))
                raise GridError(f"{self.file}: report.settings: {unknown}")
            names |= dict.fromkeys(matched)
        return list(names or self.settings)

    def runs(self) -> list[Run]:
        """All runs, seed by seed, of the settings whose values are chosen."""
        undecided = set(self.waiting)
        ids = {name: config.setting_id for name, config in self.settings.items() if name not in undecided}
        return [
            Run(name, self.settings[name], seed, str(RunId(setting_id, seed)))
            for seed in self.seeds
            for name, setting_id in ids.items()
        ]

    def needed(self, runs: Iterable[Run]) -> list[Run]:
        """The runs of other grids that these begin from, each once."""
        needed: dict[str, Run] = {}
        for run in runs:
            if (need := self.needs.get(run.setting)) is not None:
                config = need.grid.settings[need.setting]
                name = run.config.start_from.run_for(run.seed)
                assert name is not None
                needed[name] = Run(need.setting, config, RunId.parse(name).seed, name)
        return list(needed.values())

    def narrowed(self, only: str | None, seeds: tuple[int, ...] | None) -> Grid:
        """The settings whose names match a shell pattern, with other seeds; GridError when none matches."""
        settings = {n: c for n, c in self.settings.items() if only is None or fnmatch.fnmatchcase(n, only)}
        if not settings:
            hint = did_you_mean(only, self.settings)
            raise GridError(f"{self.file}: no setting matches {only!r}{hint}; there are {', '.join(self.settings)}")
        whole = self.all_settings or self.settings
        return replace(self, settings=settings, seeds=self.seeds if seeds is None else seeds, all_settings=whole)

    def whole(self) -> Grid:
        """With all the settings that it had before it was narrowed; the seeds stay."""
        return replace(self, settings=self.all_settings, all_settings={}) if self.all_settings else self

    def document(self) -> Document:
        """The whole resolved grid as plain JSON values, without `needs`: its runs name what they begin from."""
        equal_flops = {name: made.model_dump(mode="json") for name, made in self.equal_flops.items()}
        return {
            "name": self.name,
            "title": self.title,
            "file": str(self.file.absolute()),
            "settings": {
                name: with_absolute_paths(config).model_dump(mode="json")
                for name, config in self.whole().settings.items()
            },
            "seeds": list(self.seeds),
            "baseline": self.baseline,
            "report": self.report.model_dump(mode="json"),
            "then": list(self.then),
            **({} if self.preset is None else {"preset": self.preset}),
            "sources": {str(file): digest for file, digest in self.sources.items()},
            "labels": dict(self.labels),
            **({} if self.tuning is None else {"tuning": self.tuning.document()}),
            **({"equal_flops": equal_flops} if equal_flops else {}),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any] | GridDocument) -> Grid:
        """The grid that a document was made of, its ids the same.

        Raises:
            GridError: names the first wrong field.
        """
        checked = document if isinstance(document, GridDocument) else _checked(document)
        settings: dict[str, RunConfig] = {}
        for name, values in checked.settings.items():
            try:
                settings[name] = RunConfig.parse(values)
            except ConfigError as error:
                raise GridError(f"{RECORDED}: settings.{name}.{error}") from None
        check_report(RECORDED, checked.report, settings)
        try:
            tuning = None if checked.tuning is None else Tuning.from_document(checked.tuning)
        except ValidationError as error:
            raise GridError(f"{RECORDED}: tuning.tune.{first_mistake(error, TuneConfig)}") from None
        return cls(
            file=Path(checked.file),
            title=checked.title,
            settings=settings,
            seeds=tuple(sorted(checked.seeds)),
            baseline=checked.baseline,
            report=checked.report,
            then=checked.then,
            sources={Path(file): digest for file, digest in checked.sources.items()},
            submitted=True,
            labels=checked.labels,
            preset=checked.preset,
            tuning=tuning,
            equal_flops=checked.equal_flops,
        )

    def changed_sources(self) -> list[Path]:
        """The files it was read from that hold something else now, or are gone."""
        return [file for file, digest in self.sources.items() if _digest(file) != digest]


RECORDED = "the grid as submitted"
"""In place of a file's name, where a document is wrong."""


def _checked(document: Mapping[str, Any]) -> GridDocument:
    try:
        return parse_record(json.dumps(dict(document)).encode(), GridDocument)
    except Damage as damage:
        raise GridError(f"{RECORDED}: {damage}") from None
    except (TypeError, ValueError, RecursionError) as error:  # no plain JSON values
        raise GridError(f"{RECORDED}: {error}") from None


def _digest(file: Path) -> str | None:
    try:
        return digest_of(file)
    except (OSError, ValueError):
        return None


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same, to be read in another working folder."""
    roots = {name: getattr(config.machine, name).absolute() for name in ("data_root", "checkpoint_root")}
    return config.model_copy(update={"machine": config.machine.model_copy(update=roots)})


def check_report(where: object, report: ReportConfig, settings: Mapping[str, RunConfig]) -> None:
    """A table's splits must be evaluated by every setting, and a picture's as well; GridError begins with `where`."""
    first = next(iter(settings.values())).evaluation.splits
    lines: dict[tuple[str, str], str] = {}
    for key, splits in (("splits", report.splits or first), ("figure_split", (report.figure_split,))):
        for name, config in settings.items():
            evaluated = config.evaluation.splits
            for split in splits:
                if split not in evaluated and (key, split) not in lines:
                    lines[key, split] = (
                        f"{where}: report.{key}: {split!r} is not evaluated by setting {name!r}"
                        f"{did_you_mean(split, evaluated)}; its evaluation.splits are {', '.join(evaluated)}"
                    )
    if lines:
        message, *others = lines.values()
        raise with_more(GridError(message), others)


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds of `--seeds`, see `seeds_in`; GridError says what is wrong."""
    try:
        return seeds_in(text)
    except ValueError as error:
        raise GridError(f"--seeds: {error}") from None

"""Damaged inputs through the commands: one line that says what is wrong, never a traceback or a wait, no number moved.

`WORKBENCH_DAMAGE_INPUTS` says how many; without it, a sample. `WORKBENCH_DAMAGE_FIRST` begins elsewhere.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from tests import stored
from tests.conftest import EXHAUSTIVE, Outcome
from tests.damage.ground import Ground, slurm
from tests.damage.inputs import FAMILIES, Case, make
from tests.damage.places import PLACES, replaced
from tests.damage.supplies import Supplies, supply

CASES = int(os.environ.get("WORKBENCH_DAMAGE_INPUTS", "3000" if EXHAUSTIVE else "30"))
FIRST = int(os.environ.get("WORKBENCH_DAMAGE_FIRST", "0"))
BATCH = 50
SECONDS = 20
SPLITS = ("val", "testA")
DRAWS = {"a": 1000, "b": 2000}
Command = Callable[..., Outcome]
Numbers = dict[tuple[str, str], float]


class Hang(BaseException):
    """A command took longer than any of these may; no handler of errors catches it."""


def _ring(number: int, frame: FrameType | None) -> None:
    raise Hang


@pytest.fixture(scope="module")
def supplies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supplies]:
    folder = tmp_path_factory.mktemp("inputs")
    with slurm(folder).on_the_path():
        yield supply(folder)


@pytest.fixture(autouse=True)
def _elsewhere(supplies: Supplies, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working folder in which nothing is, so that relative names lead nowhere, and an alarm clock."""
    place = supplies.folder / "here" / "below" / "deep" / "down"
    place.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(place)
    monkeypatch.setenv("WORKBENCH_RESULTS", str(supplies.ground.results))
    before = signal.signal(signal.SIGALRM, _ring)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("family", ["stored", "weights", "typed", "written"])
def test_all_is_sound_before_anything_is_damaged(family: str, workbench: Command, supplies: Supplies) -> None:
    for words in dict.fromkeys(getattr(supplies, family).values()):
        outcome = workbench(*words)
        assert outcome.code == 0, outcome.err
        assert "damaged" not in outcome.err
        if words[0] == "import-released":
            for file in (supplies.folder / "out").glob("released.*"):
                file.unlink()
    if family == "stored":
        _check_numbers("all is sound", supplies.ground, set())


@pytest.mark.parametrize("batch", range(-(-CASES // BATCH)))
def test_damage_is_said_in_one_line_and_moves_no_number(batch: int, workbench: Command, supplies: Supplies) -> None:
    before, aside = _stamps(supplies), supplies.folder / "aside"
    wrong: list[str] = []
    for number in range(FIRST + batch * BATCH, FIRST + min(CASES, (batch + 1) * BATCH)):
        case = make(number, supplies)
        try:
            if case.file is None or case.put is None:
                _meet(case, workbench, supplies)
            else:
                with replaced(case.file, case.put, aside):
                    _meet(case, workbench, supplies)
            assert _stamps(supplies) == before, "a stored file was changed"
        except (Exception, Hang) as error:
            words = " ".join(word[:100] for word in case.words)
            what = f"{case.file and case.file.relative_to(supplies.folder)}: {case.what}"
            wrong.append(
                f"case {number}, {case.family}, {what}: {words!r}: {type(error).__name__}: {str(error)[:1500]}"
            )
    assert not wrong, "\n\n".join(wrong)


def _meet(case: Case, workbench: Command, supplies: Supplies) -> None:
    signal.alarm(SECONDS)
    try:
        outcome = workbench(*case.words)
    finally:
        signal.alarm(0)
    for file in (supplies.folder / "out").glob("released.*"):
        file.unlink()
    finds = "check" in case.words[:2]  # 1: something was found
    assert outcome.code in ((0, 1, 2) if finds else (0, 2)), f"exit {outcome.code}: {outcome.err}"
    assert "Traceback" not in outcome.err + outcome.out, outcome.err
    said = [line for line in outcome.err.splitlines() if not line.startswith("warning: ")]
    if outcome.code == 2 and case.family != "arguments":
        assert said, "nothing is said"
        assert all(line.startswith("error: ") for line in said), outcome.err
        # Where several files say one thing together, another of them or their folder may be named.
        place = supplies.folder if case.file is None else case.file.parent
        # A profile and a scored model are called by their names.
        named = (*(file.name for file in place.iterdir()), str(place), str(place.parent), "profile profile", "'other'")
        assert any(name in outcome.err for name in named), f"no file is named: {outcome.err}"
    if case.words[0] == "table" and outcome.code == 0 and case.file is not None:
        ground = supplies.ground
        touched = {run for run in _completed() if case.file.is_relative_to(ground.run(*run).path)}
        if "summary" in case.file.parts:
            touched = {run for run in _completed() if case.file.stem == ground.run(*run).name.replace("/", "-")}
            touched = _completed() if case.file.name == "runs.parquet" else touched
        _check_numbers(f"{outcome.out}{outcome.err}", ground, touched, case.file)


def _completed() -> set[tuple[str, int]]:
    return {(setting, seed) for setting in DRAWS for seed in (0, 1, 2)}


def _check_numbers(said: str, ground: Ground, touched: set[tuple[str, int]], damaged: Path | None = None) -> None:
    """Each sound run is shown, and what is shown has the numbers that were drawn for it."""
    folder = ground.results / "ground"
    if damaged in (folder / "table.json", folder / "table.csv"):
        return
    seeds = json.loads((folder / "table.json").read_text())["seeds"]
    shown = {(setting, seed) for setting, several in seeds.items() for seed in several}
    assert _completed() - touched <= shown, f"a sound run is not shown: {said}"
    with (folder / "table.csv").open() as stream:
        rows = {(row["setting"], row["split"]): row for row in csv.DictReader(stream) if row["metric"] == "miou"}
    for (setting, split), row in rows.items():
        frames = [stored.expressions(SPLITS, DRAWS[setting] + seed) for seed in seeds[setting]] if seeds[setting] else [
            stored.expressions(SPLITS, 5000)] if setting == "other" else []  # fmt: skip
        if frames and row["value"]:
            mean = sum(stored.mean_iou(frame, split) for frame in frames) / len(frames)
            assert float(row["value"]) == pytest.approx(mean, abs=1e-6), f"{setting} {split} moved in silence: {said}"


def _stamps(supplies: Supplies) -> list[tuple[str, int, int]]:
    """What shows that a file was changed."""
    stats = [(str(file), os.lstat(file)) for file in supplies.all_files()]
    return [(file, stat.st_mtime_ns, stat.st_size) for file, stat in stats]


def test_every_family_and_place_is_drawn(supplies: Supplies) -> None:
    cases = [make(number, supplies) for number in range(300)]
    assert Counter(case.family for case in cases) == dict.fromkeys(FAMILIES, 60)
    assert {case.what for case in cases if case.family == "places"} == {*PLACES}
    assert [case.words for case in cases] == [make(number, supplies).words for number in range(300)]
    commands = {case.words[0] for case in cases if case.family == "arguments" and case.words}
    assert len({name for name in commands if re.fullmatch(r"[a-z-]{2,}", name)}) >= 15

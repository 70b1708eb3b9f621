from __future__ import annotations

import copy
import json
import random
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Outcome
from workbench.grids import Grid, GridError, load_grid, parse_seeds
from workbench.grids.seeds import seeds_as_text

Write = Callable[..., Path]


@pytest.mark.parametrize(("text", "seeds"), [("3", (3,)), ("0-4", (0, 1, 2, 3, 4)), ("5-6,0", (0, 5, 6))])
def test_seeds_are_parsed(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "3-1", "1,1", "-2"])
def test_seeds_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(GridError, match=f"--seeds: {text!r}"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("seeds", "text"),
    [((3,), "3"), ((0, 1), "0,1"), (range(100), "0-99"), ((7, 0, 2, 1, 8), "0-2,7,8"), ((5, 3, 1), "1,3,5")],
)
def test_seeds_are_written_as_short_as_they_can_be_read(seeds: Sequence[int], text: str) -> None:
    assert seeds_as_text(seeds) == text
    assert parse_seeds(text) == tuple(sorted(seeds))


def test_a_command_names_a_grid_so_that_a_shell_finds_it(tmp_path: Path, workbench: Callable[..., Outcome]) -> None:
    (tmp_path / "my grids" / "presets").mkdir(parents=True)
    for name in ("long", "a short"):
        (tmp_path / "my grids" / "presets" / f"{name}.yaml").write_text("{training.steps: 2, data.recipe.seed: 3}\n")
    file = tmp_path / "my grids" / "l'été.yaml"
    file.write_text("title: t\nbase: {preset: long}\nsettings: {a: {}}\n")
    assert shlex.split(load_grid(file).argument) == [str(file)]
    named = load_grid(file, preset="a short").argument
    assert shlex.split(named) == [str(file), "--preset", "a short"]
    refused = workbench("table", file, "--results", tmp_path / "none").err
    words = shlex.split(refused.partition("train with: ")[2])
    assert words == ["workbench", "submit", str(file)]


def test_a_grid_is_narrowed_by_pattern_and_seeds(grid_file: Callable[..., Path]) -> None:
    grid = load_grid(grid_file("settings: {a1: {}, a2: {fusion.variant: l_dit}, b: {fusion.variant: e_dit}}\n"))
    assert [(run.setting, run.seed) for run in grid.narrowed("a*", (3,)).runs()] == [("a1", 3), ("a2", 3)]
    with pytest.raises(GridError, match="no setting matches 'c'; there are a1, a2, b"):
        grid.narrowed("c", None)


def test_one_setting_is_named_by_name_label_or_pattern(grid_file: Callable[..., Path]) -> None:
    grid = load_grid(grid_file("settings: {a: {label: b}, a rate=0.1: {fusion.variant: l_dit}}\n"))
    assert grid.matching("a") == grid.matching("b") == ["a"]
    assert grid.matching("a*0.1") == ["a rate=0.1"]
    assert grid.matching("a*") == ["a", "a rate=0.1"]
    assert grid.matching("c") == []


def test_too_many_seeds_are_refused_at_once() -> None:
    with pytest.raises(GridError, match="more than 100,000 seeds"):
        parse_seeds("0-999999999")


def test_a_narrowed_grid_still_knows_the_whole_and_documents_it(grid_file: Write) -> None:
    grid = load_grid(grid_file("settings: {a1: {}, a2: {fusion.variant: l_dit}, b: {fusion.variant: e_dit}}\n"))
    narrow = grid.narrowed("a*", (3,)).narrowed("a1", None)
    assert (list(narrow.settings), list(narrow.whole().settings)) == (["a1"], ["a1", "a2", "b"])
    assert narrow.whole().seeds == (3,)
    assert list(narrow.document()["settings"]) == ["a1", "a2", "b"]


LARGE = ROOT / "ablations" / "text_injection.yaml"
FILES = [f for f in sorted((ROOT / "ablations").glob("*.yaml")) if f != LARGE]


@pytest.mark.parametrize(
    "file", [*FILES, pytest.param(LARGE, marks=pytest.mark.exhaustive)], ids=lambda file: file.stem
)
def test_a_document_gives_the_same_grid_with_the_same_ids(file: Path) -> None:
    grid = load_grid(file)
    document = json.loads(json.dumps(grid.document()))
    again = Grid.from_document(document)
    assert [run.id for run in again.runs()] == [run.id for run in grid.runs()]
    assert (again.title, again.baseline, again.report, again.then) == (
        grid.title, grid.baseline, grid.report, grid.then
    )  # fmt: skip
    assert again.document() == document
    assert (grid.submitted, again.submitted) == (False, True)


def test_a_document_names_absolute_paths(grid_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid_file("settings: {a: {machine.data_root: here}}\n")
    monkeypatch.chdir(tmp_path)
    document = load_grid(Path("grid.yaml")).document()
    assert document["file"] == str(tmp_path / "grid.yaml")
    assert document["settings"]["a"]["machine"]["data_root"] == str(tmp_path / "here")
    assert document["settings"]["a"]["machine"]["checkpoint_root"] == str(tmp_path / "checkpoints")


def test_every_file_that_was_read_is_a_source_and_its_change_is_seen(grid_file: Write, tmp_path: Path) -> None:
    presets = tmp_path / "presets"
    presets.mkdir()
    for name in ("one", "two", "three"):
        (presets / f"{name}.yaml").write_text("training.steps: 1\n")
    first = grid_file("  preset: three\nsettings: {base: {fusion.variant: l_dit}}\n", name="first")
    file = grid_file(
        "  preset: one\nsettings:\n  a: {preset: two}\n"
        "  b: {fusion.variant: l_dit, start_from: {grid: first.yaml, setting: base}}\n"
    )
    grid = Grid.from_document(load_grid(file).document())
    assert set(grid.sources) == {file, first, *(presets / f"{name}.yaml" for name in ("one", "two", "three"))}
    assert grid.changed_sources() == []
    first.write_text(first.read_text() + "# a comment\n")
    (presets / "two.yaml").unlink()
    assert set(grid.changed_sources()) == {first, presets / "two.yaml"}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("title",), 3, "title: 3 is not valid: input should be a valid string"),
        (("seeds",), [0, 0], "seeds: a seed is listed twice"),
        (("seeds",), [-1], "seeds.0: -1 is not valid"),
        (("seeds",), [], "seeds: "),
        (("baseline",), "c", "baseline: unknown setting 'c'; known: a, b"),
        (("report", "metrics"), ["iou"], "report.metrics: unknown metric 'iou'"),
        (("report", "splits"), ["testB"], "report.splits: 'testB' is not evaluated by setting 'a'"),
        (("settings",), {}, "settings: "),
        (("settings", "a"), [], "settings.a: [] is not valid"),
        (("settings", "a", "training", "steps"), "x", "settings.a.training.steps: 'x' is not valid"),
        (("settings", "a", "odd"), 1, "settings.a.odd: unknown key 'odd'"),
        (("then",), ["report"], "then.0: 'report' is not valid"),
        (("sources",), {"/x": "y"}, "sources./x: 'y' is not valid"),
        (("name",), "other", "name: 'other' is not that of the file"),
        (("title",), "\ud800", ""),
        (("seeds",), [1e400], ""),
    ],
)
def test_a_damaged_document_is_one_line_that_names_the_field(
    grid_file: Write, path: tuple[str, ...], value: object, message: str
) -> None:
    document = load_grid(grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\n")).document()
    inside: Any = document
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    with pytest.raises(GridError) as raised:
        Grid.from_document(document)
    assert str(raised.value).startswith(f"the grid as submitted: {message}")
    assert "\n" not in str(raised.value)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, one in inner for place in places(one, (*path, key))]


def test_no_mutation_of_a_document_gives_anything_but_a_grid_or_one_line(grid_file: Write) -> None:
    sound = load_grid(grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\nthen: [table]\n")).document()
    chance = random.Random(0)
    deep: Any = []
    for _ in range(3000):
        deep = [deep]
    messages = []
    for place in places(sound):
        document = copy.deepcopy(sound)
        inside: Any = document
        for key in place[:-1]:
            inside = inside[key]
        if chance.random() < 0.3:
            del inside[place[-1]]
        else:
            inside[place[-1]] = chance.choice([None, 3, -1, 10**30, 1e300, "x", [], {}, [[]], {"a": 1}, True, deep])
        try:
            Grid.from_document(document).document()
        except GridError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert not any("\n" in message for message in messages)

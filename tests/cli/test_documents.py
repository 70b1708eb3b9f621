"""What commands print with --json: one document, nothing else, with the numbers that their text has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tests import stored
from tests.conftest import ROOT, Outcome
from workbench import cli
from workbench.grids import load_grid
from workbench.results.folders import RunFolder

Command = Callable[..., Outcome]
WITHOUT = {"lab": "it becomes a server", "pretrain": "it prints JSON as it is"}


def commands(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def test_every_command_that_shows_something_has_json() -> None:
    known = dict(commands(typer.main.get_command(cli.app)))
    assert {"plan", "data show", "trace verify", "notebooks run"} <= set(known)
    options = {name: {option for p in command.params for option in p.opts} for name, command in known.items()}
    assert {name for name, names in options.items() if "--json" not in names} == set(WITHOUT)


@pytest.fixture
def grid(grid_file: Callable[..., Path], tmp_path: Path) -> Path:
    """Of two settings, one of them trained, the other failed."""
    file = grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\nseeds: [0]\nbaseline: a\n")
    settings = load_grid(file).settings
    stored.complete(tmp_path / "results", settings["a"], 0)
    stored.fail(tmp_path / "results", settings["b"], 0)
    return file


@pytest.fixture
def document(workbench: Command, tmp_path: Path) -> Callable[..., Any]:
    """What a command prints, read as JSON from its first character to its last."""

    def read(*arguments: object, code: int = 0) -> Any:
        done = workbench(*arguments, "--json")
        assert done.code == code, done.err
        return json.loads(done.out)

    return read


def test_of_a_grid(document: Callable[..., Any], workbench: Command, grid: Path, tmp_path: Path) -> None:
    where = ("--results", tmp_path / "results")
    ids = {setting: f"{config.setting_id}/seed0" for setting, config in load_grid(grid).settings.items()}
    planned = document("submit", grid, "--dry-run", *where)
    assert (planned["dry_run"], planned["chosen"], planned["left_alone"]) == (True, [], [ids["b"]])
    assert [run["state"] for run in planned["runs"]] == ["completed", "failed"]
    assert document("retry", grid, "--dry-run", *where)["chosen"] == [ids["b"]]
    logged = document("logs", grid, "[a]", "--lines", "2", *where)
    assert (logged["run"], logged["state"]) == (ids["a"], "completed")
    assert [event["event"] for event in logged["events"]] == ["step", "end"]
    assert logged["events"][0]["loss"] == 0.5
    several = workbench("logs", grid, "?", *where)
    assert (several.code, "'?' names 2 settings, not one: a, b" in several.err) == (2, True)
    (planned_grid,) = document("reproduce", grid, *where)["grids"]
    assert planned_grid["states"] == {"completed": 1, "failed": 1}
    assert (planned_grid["to_train"], planned_grid["table"]) == ([], False)
    freed = document("gc", "--dry-run", *where)
    assert (freed["dry_run"], freed["freed_bytes"]) == (True, 0)


@pytest.mark.exhaustive
def test_of_tables_and_figures(document: Callable[..., Any], grid: Path, tmp_path: Path) -> None:
    where = ("--results", tmp_path / "results")
    run = f"{load_grid(grid).settings['a'].setting_id}/seed0"
    made = document("table", grid, *where)
    assert [Path(file).name for file in made["files"]] == ["table.md", "table.csv", "table.json"]
    (miou,) = [r for r in made["rows"] if (r["setting"], r["split"], r["metric"]) == ("a", "val", "miou")]
    frame = RunFolder(tmp_path / "results", run).expressions()
    assert miou["value"] == pytest.approx(stored.mean_iou(frame, "val"), abs=1e-12)
    assert made["source"]["runs"]["a"] == [run]
    explained = document("table", grid, "--explain", "a", "val", "miou", *where)
    assert (explained["setting"], explained["metric"]) == ("a", "miou")
    assert any(run in line for line in explained["lines"])
    drawn = document("figure", "bars", grid, *where)
    assert sorted(Path(file).suffix for file in drawn["files"]) == [".json", ".pdf", ".png"]
    again = document("figure", "bars", grid, *where)
    assert again["files"] == []
    assert again["up_to_date"]
    assert all(Path(file).is_file() for file in drawn["files"] + again["up_to_date"])
    (summary,) = document("summarise", grid, *where)["files"]
    assert (Path(summary) / "runs.parquet").is_file()
    kept = document("report", grid, "--from", summary, *where)
    assert Path(kept["files"][0]).stat().st_size == kept["bytes"]


def test_of_what_is_wrong(document: Callable[..., Any], workbench: Command, grid: Path, tmp_path: Path) -> None:
    """The exit code says it too."""
    where = ("--results", tmp_path / "results")
    page = tmp_path / "page.md"
    page.write_text(f"It reaches 99.99<!-- workbench: grid={grid} setting=a split=val metric=miou -->.\n")
    checked = document("check", page, *where, code=1)
    assert (checked["wrong"], checked["files"][0]["numbers"]) == (1, 1)
    assert "99.99" in checked["files"][0]["mistakes"][0]
    profile = tmp_path / "here.yaml"
    profile.write_text("backend: local\n")
    examined = document("doctor", "--profile", profile, *where)
    assert examined["failed"] == 0
    assert {"name", "passed", "found", "remedy"} == set(examined["checks"][0])
    for command in (
        ["logs", grid, "a", "--follow"],
        ["table", grid, "--format", "csv"],
        ["reproduce", grid, "--submit"],
    ):
        refused = workbench(*command, "--json", *where)
        assert refused.code == 2
        assert "--json" in refused.err


def test_of_data_sets(document: Callable[..., Any], data_root: Path, data_folder: Path, tmp_path: Path) -> None:
    name, root = data_folder.name, ("--root", data_root)
    prepared = document("data", "prepare", name, *root, "--results", ROOT / "results")
    assert prepared["counts"]["all"]["images"] > 40
    assert prepared["sha256"]
    checked = document("data", "check", name, *root, "--text-encoder", "bert_mini")
    assert (checked["wrong"], checked["expressions"]) == (0, prepared["counts"]["all"]["expressions"])
    shown = document("data", "show", name, "--index", "0", *root, "--results", tmp_path)
    assert all(Path(file).is_file() for file in shown["files"])
    probed = document("data", "probe", name, *root)
    assert probed["runs"] == []
    made = document("data", "make", "refshapes", "--train-images", "2", "--eval-images", "1", "--root", tmp_path)
    assert (Path(made["folder"]) / "instances.json").is_file()


@pytest.mark.exhaustive
def test_of_a_training(document: Callable[..., Any], grid: Path, tmp_path: Path) -> None:
    where = ("--results", tmp_path / "other")
    trained = document("train", grid, "--setting", "b", *where)
    assert Path(trained["folder"]).is_dir()
    assert 0 <= trained["metrics"]["val"]["miou"] <= 1
    looked = document("attention", trained["run"], "--images", "2", "--expressions", "1", *where)
    (of_run,) = looked["runs"]
    assert all(Path(file).is_file() for file in of_run["files"])
    assert of_run["best"][0]["statistic"] == "pointing"
    verified = document("trace", "verify", trained["run"], *where)
    (verdicts,) = verified.values()
    assert {verdict["kind"] for verdict in verdicts} == {"read", "write", "gradient"}


def test_relative_results_folders_are_named_in_full(
    workbench: Command, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    full = str(tmp_path / "results")
    for command in (["plan", grid], ["status", grid], ["submit", grid, "--dry-run"]):
        said = workbench(*command, "--results", "results")
        assert f"results in {full}\n" in said.out, command
    assert f"results in {full}" not in workbench("plan", grid, "--results", full).out
    assert workbench("status", "--results", "empty").out == f"no runs in {tmp_path / 'empty'}\n"
    assert f"wrote {full}/grid/table.md\n" in workbench("table", grid, "--results", "results").out
    assert workbench("summarise", grid, "--results", "results").out.startswith(f"wrote {full}/grid/summary (")

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome
from workbench.benchmarks.fake_slurm import FakeSlurm
from workbench.errors import WorkbenchError
from workbench.grids import load_grid
from workbench.launch.profiles import Profile
from workbench.launch.room import check_room, needs
from workbench.training.memory import step_memory

Write = Callable[[str], Path]
Command = Callable[..., Outcome]


def cluster(**keys: object) -> Profile:
    return Profile.model_validate({"name": "small", "backend": "slurm", **keys})


def test_settings_that_need_the_same_are_counted_once(grid_file: Write) -> None:
    grid = load_grid(
        grid_file("settings: {a: {}, b: {training.steps: 9}, c: {training.batch_size: 8}}\nseeds: [0, 1]\n")
    )
    one, two = needs(grid.runs(), processes=2)
    assert (one.settings, two.settings) == (("a", "b"), ("c",))
    assert one.memory == step_memory(grid.settings["a"], 2)
    assert str(two).startswith("c: 0.0")
    assert two.memory.activations > one.memory.activations


def test_of_dropout_only_whether_there_is_any_counts(grid_file: Write) -> None:
    grid = load_grid(grid_file("axes: {fusion.variant: [l_dit], fusion.dropout: [0, 0.1, 0.2]}\n"))
    none, some = needs(grid.runs())
    assert (len(none.settings), len(some.settings)) == (1, 2)
    assert step_memory(grid.settings[some.settings[1]]) == some.memory
    assert some.memory.activations > none.memory.activations


def test_parts_that_do_not_fit_together_name_the_setting(grid_file: Write) -> None:
    grid = load_grid(grid_file("settings: {a: {fusion.variant: l_dit, fusion.layers: [9]}}\n"))
    with pytest.raises(WorkbenchError, match=r"setting 'a': fusion\.layers: no layer 9"):
        needs(grid.runs())


def test_runs_that_train_nothing_need_nothing(grid_file: Write) -> None:
    earlier = grid_file("settings: {a: {}}\n")
    later = earlier.with_name("later.yaml")
    later.write_text(
        earlier.read_text().replace("settings:", f"  start_from: {{grid: {earlier}, setting: a}}\nsettings:")
        .replace("{a: {}}", "{a: {training.steps: 0}}")
    )  # fmt: skip
    grid = load_grid(later)
    assert needs(grid.runs()) == []
    check_room(grid.runs(), cluster(gpu_memory_gib=0.001))


def test_a_card_that_is_too_small_is_refused(grid_file: Write) -> None:
    runs = load_grid(grid_file("settings: {a: {fusion.variant: l_dit}}\n")).runs()
    (need,) = needs(runs)
    check_room(runs, cluster())
    check_room(runs, cluster(gpu_memory_gib=need.memory.gib))
    with pytest.raises(WorkbenchError) as raised:
        check_room(runs, cluster(gpu_memory_gib=need.memory.gib / 2))
    said = str(raised.value)
    assert said.startswith(f"setting 'a': each GPU would need {need.memory}, and the profile small has ")
    assert "machine.micro_batch" in said
    assert "machine.checkpoint_activations" in said
    assert "\n" not in said


def test_processes_that_cannot_share_a_batch_are_refused(grid_file: Write) -> None:
    runs = load_grid(grid_file("settings: {a: {}}\n")).runs()
    check_room(runs, cluster(nodes=2, tasks_per_node=2))
    with pytest.raises(WorkbenchError, match=r"setting 'a': training\.batch_size: 4 .* by 3 processes; 3 or 6 can"):
        check_room(runs, cluster(nodes=3))


def test_plan_prints_the_memory_and_refuses_what_cannot_fit(
    workbench: Command, grid_file: Write, tmp_path: Path
) -> None:
    grid, profile = grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\n"), tmp_path / "card.yaml"
    profile.write_text("backend: local\ngpu_memory_gib: 0.01\n")
    done = workbench("plan", grid, "--results", tmp_path / "r")
    assert done.code == 0
    assert "memory of a GPU that a run needs:\n  a: 0.0" in done.out
    plain = json.loads(workbench("plan", grid, "--results", tmp_path / "r", "--json").out)["gpu_memory_bytes"]
    assert [need["settings"] for need in plain] == [["a"], ["b"]]
    assert plain[0]["total"] == sum(size for name, size in plain[0].items() if name not in ("settings", "total"))
    refused = workbench("plan", grid, "--results", tmp_path / "r", "--profile", profile)
    assert refused.code == 2
    assert "  b: 0.0" in refused.out
    assert "error: setting 'a': each GPU would need 0.0" in refused.err


@pytest.mark.parametrize("keys", ["nodes: 3", "gpu_memory_gib: 0.01"])
def test_submit_refuses_before_anything_is_submitted(
    workbench: Command, grid_file: Write, tmp_path: Path, slurm: FakeSlurm, keys: str
) -> None:
    profile = tmp_path / "small.yaml"
    profile.write_text(f"backend: slurm\n{keys}\n")
    grid = grid_file("settings: {a: {}}\n")
    for option in ("--dry-run", "--seeds=0-1"):
        done = workbench("submit", grid, "--results", tmp_path / "r", "--profile", profile, option)
        assert done.code == 2
        assert "error: setting 'a': " in done.err
    assert slurm.jobs() == []

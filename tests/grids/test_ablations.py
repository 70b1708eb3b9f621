"""The grids of the paper's tables: each is sound on the real data and in miniature, and says what it costs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import ROOT, Outcome
from workbench.grids import GridError, load_grid, load_preset

GRIDS = (
    "fusion_schemes", "freezing", "text_injection", "layer_subsets", "projectors", "backbones", "text_encoders",
    "comparison", "gres", "combined",
)  # fmt: skip


QUICK = ("backbones", "gres", "combined")


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        pytest.param(name, preset, marks=() if preset and name in QUICK else pytest.mark.exhaustive)
        for name in GRIDS
        for preset in (None, "refshapes-mini")
    ],
)
def test_each_grid_is_planned_on_the_real_data_and_in_miniature(
    workbench: Callable[..., Outcome], tmp_path: Path, data_root: Path, name: str, preset: str | None
) -> None:
    file = ROOT / "ablations" / f"{name}.yaml"
    chosen = [] if preset is None else ["--preset", preset]
    planned = workbench("plan", file, *chosen, "--results", tmp_path, "--data-root", data_root)
    assert planned.code == 0, planned.err
    grid = load_grid(file, {"data_root": str(data_root)}, preset=preset)
    assert planned.out.count(" new ") == len(grid.settings) * len(grid.seeds) == len({run.id for run in grid.runs()})
    names = {config.backbone.name for config in grid.settings.values()}
    assert names <= ({"vit_mini"} if preset else {"vit_b", "vit_l", "vit_h"})
    assert grid.baseline in grid.settings
    assert grid.name == (name if preset is None else f"{name}-{preset}")


REFCOCO = [name for name in GRIDS if name not in ("gres", "combined")]
OTHERS = {"refcoco+-vitb": ("refcoco+", "unc"), "refcocog-umd-vitb": ("refcocog", "umd"),
          "refcocog-google-vitb": ("refcocog", "google")}  # fmt: skip
"""Presets of the real data beside RefCOCO's, with data set and split."""


@pytest.mark.parametrize("preset", OTHERS)
@pytest.mark.parametrize(
    "name", [REFCOCO[0], *(pytest.param(name, marks=pytest.mark.exhaustive) for name in REFCOCO[1:])]
)
def test_each_grid_on_refcoco_is_one_on_the_others_by_its_preset(name: str, preset: str) -> None:
    file = ROOT / "ablations" / f"{name}.yaml"
    first, other = load_grid(file), load_grid(file, preset=preset)
    dataset, split_by = OTHERS[preset]
    assert {(config.data.dataset, config.data.split_by) for config in other.settings.values()} == {(dataset, split_by)}
    assert list(other.settings) == list(first.settings)
    assert other.name == f"{name}-{preset}"
    splits = {"unc": ("val", "testA", "testB"), "umd": ("val", "test"), "google": ("val",)}[split_by]
    assert other.splits == splits
    changed = {"data", "evaluation", "training"}
    for setting, config in first.settings.items():
        mine, theirs = (one.model_dump(exclude=changed) for one in (config, other.settings[setting]))
        assert mine == theirs
    assert f"--preset {', '.join(list(OTHERS)[:2])} or {list(OTHERS)[2]}" in file.read_text()


def test_the_other_data_sets_are_trained_for_as_many_epochs() -> None:
    table = pd.read_csv(ROOT / "results" / "reference" / "dataset_statistics.csv", dtype=str)
    refs = table[(table["metric"] == "refs") & (table["split"] == "train")].set_index("dataset")["value"].astype(int)
    for dataset in ("refcoco", "refcoco+", "refcocog-umd", "refcocog-google"):
        config = load_preset(ROOT / "ablations" / "presets" / f"{dataset}-vitb.yaml")
        assert config.training.steps == 40 * (refs[dataset] // config.training.batch_size)


HERE = [
    found.groups()
    for file in sorted((ROOT / "ablations").glob("*.yaml"))
    for found in re.finditer(r"workbench submit (ablations/\S+)(?: --preset (\S+))? --workers", file.read_text())
]
"""The commands in the grids' first lines that train on the machine at hand."""


@pytest.mark.parametrize(
    ("file", "preset"),
    [
        pytest.param(*one, marks=() if "schemes" in one[0] or "protocols" in one[0] else pytest.mark.exhaustive)
        for one in HERE
    ],
)
def test_what_a_grid_says_to_submit_can_be_submitted(
    workbench: Callable[..., Outcome], tmp_path: Path, data_root: Path, file: str, preset: str | None
) -> None:
    chosen = [] if preset is None else ["--preset", preset]
    arguments = ("submit", ROOT / file, *chosen, "--dry-run", "--results", tmp_path, "--data-root", data_root)
    submitted = workbench(*arguments)
    assert submitted.code == 0, submitted.err


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_opens_with_its_command_and_its_cost(name: str) -> None:
    lines = (ROOT / "ablations" / f"{name}.yaml").read_text().splitlines()
    header = [line for line in lines if line.startswith("#")]
    assert lines[0].startswith(f"# workbench submit ablations/{name}.yaml")
    assert "GPU-hours: not measured" in " ".join(header)


def test_another_preset_takes_the_place_of_the_bases_own(grid_file: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    for name, steps in (("long", 9), ("short", 2)):
        (tmp_path / "presets" / f"{name}.yaml").write_text(f"training: {{steps: {steps}, batch_size: 4}}\n")
    file = tmp_path / "g.yaml"
    body = "title: t\nbase: {preset: long}\nsettings: {a: {}}\nseeds: [0]\n"
    file.write_text(body + "instead: {short: {seeds: [5, 6]}}\n")
    grid, short = load_grid(file), load_grid(file, preset="short")
    assert (grid.settings["a"].training.steps, grid.seeds, grid.name) == (9, (0,), "g")
    assert (short.settings["a"].training.steps, short.seeds, short.name) == (2, (5, 6), "g-short")
    assert type(grid).from_document(short.document()).name == "g-short"
    with pytest.raises(GridError, match="preset"):
        load_grid(file, preset="shrt")
    with pytest.raises(GridError, match="the grid has none that 'short' could replace"):
        load_grid(grid_file("settings: {a: {}}\n"), preset="short")

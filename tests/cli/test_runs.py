from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import ROOT
from workbench.config import DataConfig, RefshapesRecipe
from workbench.data import refshapes
from workbench.data.datasets import open_data
from workbench.grids import load_grid
from workbench.results.folders import RunFolder

Write = Callable[..., Path]


def fails(outcome: Any, *parts: str) -> None:
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1, outcome.err
    for part in parts:
        assert part in outcome.err


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['workbench', '--help']\n"
        "from workbench import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'pandas', 'pydantic', 'numpy', 'omegaconf'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("plan", "submit", "status", "table", "figure", "train", "pretrain", "lab", "data"):
        assert command in done.stdout


def test_help_lists_commands_in_the_order_of_use_with_whole_sentences(workbench: Any) -> None:
    shown = workbench("--help").out
    lines = shown.partition("Commands:")[2].splitlines()
    names = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert names[:4] == ["plan", "submit", "status", "logs"]
    assert "..." not in shown.partition("Commands:")[2]
    assert re.fullmatch(r"dit-workbench \d+\.\d+.*\n", workbench("--version").out)


def test_overrides_are_laid_over_every_setting(workbench: Any, grid_file: Write, tmp_path: Path) -> None:
    grid = grid_file("settings: {a: {training.steps: 9}, b: {fusion.variant: l_dit}}\n")
    given = ("-o", "training.steps=3", "-o", "evaluation.splits=[val]")
    for setting in ("a", "b"):
        shown = json.loads(workbench("config", grid, setting, *given, "--json").out)
        assert (shown["config"]["training"]["steps"], shown["config"]["evaluation"]["splits"]) == (3, ["val"])
        text = workbench("config", grid, setting, *given).out
        assert yaml.safe_load(text) == shown["config"]
        assert text.splitlines()[0] == f"# {shown['id']}"
        assert shown["id"] in workbench("plan", grid, *given, "--json").out
        assert shown["id"] not in workbench("plan", grid, "--json").out
    done = workbench("submit", grid, "--only", "a", *given, "--results", tmp_path / "results")
    assert done.code == 0, done.err
    (record,) = (tmp_path / "results" / "runs").glob("*/seed0/run.json")
    assert json.loads(record.read_text())["steps"] == 3
    fails(workbench("plan", grid, "-o", "training.stepz=3"), "all 2 settings: training.stepz", "did you mean 'steps'?")
    fails(workbench("plan", grid, "-o", "training.steps"), "-o training.steps", "KEY=VALUE is expected")
    fails(workbench("plan", grid, "-o", "training.steps=[1"), "not readable as YAML")
    fails(workbench("plan", grid, "-o", f"training.steps={'9' * 5000}"), "-o training.steps", "5,000 digits")
    fails(workbench("plan", grid, "-o", "machine=&a [*a]"), "-o machine", "*a is inside the value that it refers to")
    fails(workbench("config", grid, "c"), "unknown setting 'c'", "known: a, b")
    fails(workbench("config", grid), "name a setting of the grid: a, b")


def test_another_preset_takes_the_place_of_the_grids_wherever_a_grid_is_named(
    workbench: Any, data_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "presets").mkdir()
    for name, steps in (("long", 9), ("short", 2)):
        (tmp_path / "presets" / f"{name}.yaml").write_text(
            "backbone.name: vit_mini\ndata: {dataset: refshapes, recipe: {seed: 3, train_images: 40, eval_images: 6}}\n"
            f"training: {{steps: {steps}, batch_size: 4}}\nevaluation.splits: [val]\nmachine.trackers: [tensorboard]\n"
        )
    grid, profile = tmp_path / "g.yaml", tmp_path / "here.yaml"
    grid.write_text("title: t\nbase: {preset: long}\nsettings: {a: {}}\n")
    profile.write_text("backend: local\n")
    data, short = ("--data-root", data_root), ("--preset", "short")
    for options, steps in (((), 9), (short, 2)):
        assert f"steps: {steps}\n" in workbench("config", grid, "a", *options, *data).out
    trained = workbench("train", grid, "--setting", "a", *short, *data, "--results", tmp_path / "r")
    assert trained.code == 0, trained.err
    assert (tmp_path / "r" / "tensorboard" / "g-short" / "a" / "seed0").is_symlink()
    probed = ("data", "probe", "--grid", grid, "--root", data_root, "--results", tmp_path / "r")
    assert [run["setting"] for run in json.loads(workbench(*probed, *short, "--json").out)["runs"]][:1] == ["a"]
    assert json.loads(workbench(*probed, "--json").out)["runs"] == []
    doctor = ("doctor", "--profile", profile, *data, "--results", tmp_path / "r")
    assert workbench(*doctor, "--grid", grid, *short).code == 0
    for command in (("config", grid, "a"), ("train", grid, "--setting", "a"), (*doctor, "--grid", grid), probed):
        fails(workbench(*command, "--preset", "shrt"), "unknown preset 'shrt' (did you mean 'short'?)")
    for command in (doctor, ("data", "probe", "refshapes"), ("notebooks", "run")):
        fails(workbench(*command, *short), "name the grid with --grid")
    fails(workbench("config", tmp_path / "presets" / "long.yaml", *short), "a preset itself")


def test_a_setting_that_waits_for_its_trials_is_trained_with_a_warning(
    workbench: Any, grid_file: Write, tmp_path: Path
) -> None:
    tune = "tune: {field: training.optimizer.learning_rate, values: [1.0e-3, 2.0e-3]}\n"
    grid = grid_file("settings: {a: {}}\n" + tune)
    for command in (("config", grid, "a"), ("train", grid, "--setting", "a", "--results", tmp_path / "r")):
        done = workbench(*command)
        assert done.code == 0, done.err
        assert "warning: 'a' is not tuned yet: training.optimizer.learning_rate as the grid states it" in done.err
        assert f"first: workbench submit {grid}" in done.err
    untuned = grid_file("settings: {a: {}}\n", "untuned")
    assert workbench("config", untuned, "a").err == ""


def test_a_part_of_a_configuration_is_not_trained(workbench: Any, tmp_path: Path) -> None:
    for command in ("train", "config"):
        fails(workbench(command, ROOT / "ablations" / "presets" / "corrected.yaml"), "a part of a configuration",
              "without backbone.name and data.dataset", "name it as 'preset:' in a grid")  # fmt: skip
    assert workbench("config", ROOT / "ablations" / "presets" / "refshapes-mini.yaml").code == 0


def test_a_grid_anywhere_finds_the_presets_and_writes_seeds_as_a_range(workbench: Any, tmp_path: Path) -> None:
    grid = tmp_path / "mine.yaml"
    grid.write_text("title: t\nbase: {preset: refshapes-mini}\nsettings: {a: {}}\nseeds: 0-2,7\n")
    planned = json.loads(workbench("plan", grid, "--json").out)
    assert [run["seed"] for run in planned["runs"]] == [0, 1, 2, 7]
    grid.write_text("title: t\nbase: {preset: refshapes-mimi}\nsettings: {a: {}}\n")
    fails(workbench("plan", grid), "unknown preset 'refshapes-mimi' (did you mean 'refshapes-mini'?)")
    grid.write_text("title: t\nsettings: {a: {}}\nseeds: 3..5\n")
    fails(workbench("plan", grid), "seeds", "'3..5' is none of the forms 3, 0-4 and 0,2,5-7")


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("{fusion.variannt: l_dit}", ["fusion.variannt", "unknown key", "known: variant"]),
        ("{fusion.variant: m_dit}", ["fusion.variant", "'m_dit'", "known: default, e_dit, e_dit_reprojected"]),
        ("{fusion.variant: l_dit, fusion.layers: {frist: 2}}", ["fusion.layers", "one of all, {first: k}", "a list"]),
        ("{fusion.variant: l_dit, fusion.layers: 3}", ["fusion.layers", "one of all, {first: k}", "a list"]),
        ("{fusion.variant: l_dit, fusion.layers: {last: 5}}", ["fusion.layers.last", "5 is more than the encoder's 4"]),
        (
            "{fusion.variant: l_dit, fusion.projector.type: liner}",
            ["fusion.projector.type", "unknown projector type 'liner'", "'linear'"],
        ),
        (
            "{fusion.variant: l_dit, fusion.projector.init: zeros}",
            ["fusion.projector.init", "'zeros' is not valid", "'zero'", "'normal'"],
        ),
        (
            "{fusion.variant: l_dit, fusion.projector: {type: bottleneck, rank: 65}}",
            ["fusion.projector.rank", "65", "64 to 64", "at most 64"],
        ),
        (
            "{fusion.variant: l_dit, fusion.projector.rank: 8}",
            ["fusion.projector", "'rank' is only for the type bottleneck"],
        ),
        (
            "{fusion.variant: l_dit, fusion.projector: {type: gated, init: zero}}",
            ["fusion.projector", "a gate of zero", "can never learn"],
        ),
        (
            "{fusion.variant: l_dit, fusion.projector: {type: identity, init: normal}}",
            ["fusion.projector", "no weights to initialise"],
        ),
        (
            "{fusion.variant: l_dit, fusion.projector.type: identity, backbone: {name: vit_b, checkpoint: null}}",
            ["identity needs equal widths", "64", "768"],
        ),
        (
            "{fusion.variant: l_dit_tokens, backbone: {name: vit_b, checkpoint: null}}",
            ["fusion.variant", "fusion.text_projection: true"],
        ),
        ("{fusion.variant: l_dit_tokens, fusion.dropout: 0.2}", ["fusion.dropout", "does not read it", "l_dit_tokens"]),
        ("{fusion: {variant: l_dit_cross_attention, cross_attention.heads: 7}}", ["512", "not a multiple", "7 heads"]),
        (
            "{fusion.variant: l_dit, fusion.projector.type: gated, training.freeze.fusion: true}",
            ["training.freeze.fusion", "gate is closed"],
        ),
        ("{training.cache_features: true}", ["training.cache_features", "set training.freeze.image_encoder to true"]),
        ("{start_from.file: /none/ours.safetensors}", ["start_from", "'file' and 'sha256' must be set together"]),
        ("{fusion.variant: l_dit, fusion.layers: [0, 7]}", ["fusion.layers", "no layer 7", "0 to 3"]),
        ("{fusion.variant: l_dit, training.freeze.fusion: true}", ["training.freeze.fusion", "init is zero"]),
        ("{backbone.checkpoint: /none/sam_vit_b.pth}", ["missing checkpoint", "/none/sam_vit_b.pth"]),
        ("{text_encoder.name: /none/bert}", ["missing text encoder", "/none/bert"]),
        ("{evaluation.splits: [val, testA, tast]}", ["no split 'tast'", "testC"]),
    ],
)
def test_a_bad_grid_is_one_line_and_nothing_is_written(
    workbench: Any, grid_file: Write, tmp_path: Path, setting: str, parts: list[str]
) -> None:
    results = tmp_path / "results"
    fails(workbench("submit", grid_file(f"settings: {{a: {setting}}}\n"), "--results", results), *parts)
    assert not results.exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("settings: {a: {}, a: {fusion.variant: l_dit}}\n", ["duplicate key a"]),
        ("settings: {a: {}, b: {}}\n", ["'a' and 'b' are the same configuration"]),
        ("settings: {a: [\n", ["unreadable YAML in line"]),
    ],
)
def test_a_bad_file_is_one_line(workbench: Any, grid_file: Write, tmp_path: Path, text: str, parts: list[str]) -> None:
    for command in ("plan", "submit", "status", "table"):
        fails(workbench(command, grid_file(text), "--results", tmp_path / "results"), *parts)
    assert not (tmp_path / "results").exists()


def test_bad_weights_are_one_line(workbench: Any, grid_file: Write, tmp_path: Path) -> None:
    from workbench.models.backbones import backbones

    state = backbones["vit_mini"].build().state_dict()
    file = tmp_path / "sam.pth"
    grid = grid_file(f"settings: {{a: {{backbone.checkpoint: {file}}}}}\n")
    results = tmp_path / "results"
    torch.save({k: v for k, v in state.items() if k != "mask_decoder.iou_token.weight"} | {"odd": torch.ones(1)}, file)
    fails(workbench("submit", grid, "--results", results), "mask_decoder.iou_token.weight", "1 unexpected key (odd)")
    torch.save(state, file)
    file.write_bytes(file.read_bytes()[:-5000])
    fails(workbench("submit", grid, "--results", results), "sam.pth: truncated or damaged")
    assert not results.exists()


def test_bad_data_is_one_line(workbench: Any, grid_file: Write, tmp_path: Path) -> None:
    root = tmp_path / "own"
    folder = refshapes.ensure(root, RefshapesRecipe(seed=3, train_images=40, eval_images=6))
    grid = grid_file("settings: {a: {}}\n")
    results = tmp_path / "results"
    (folder / "images" / "COCO_train2014_000000000011.png").rename(tmp_path / "away.png")
    command = ("submit", grid, "--results", results, "--data-root", root)
    fails(workbench(*command), "missing image COCO_train2014_000000000011.png")
    (tmp_path / "away.png").rename(folder / "images" / "COCO_train2014_000000000011.png")
    (folder / "refs(unc).p").write_bytes(pickle.dumps(Path("x")))
    fails(workbench(*command), "refs(unc).p: refused: it wants to import pathlib")
    assert not results.exists()


def test_the_paper_s_preset_says_which_file_is_missing(workbench: Any, tmp_path: Path) -> None:
    from tests.conftest import ROOT
    from workbench.models.backbones import backbones

    preset = ROOT / "ablations" / "presets" / "refcoco-vitb.yaml"
    roots = ("--data-root", tmp_path / "data", "--checkpoint-root", tmp_path / "weights", "--results", tmp_path / "r")
    fails(workbench("train", preset, *roots), f"no file {tmp_path}/weights/sam_vit_b_01ec64.pth")
    (tmp_path / "weights").mkdir()
    torch.save(backbones["vit_b"].build().state_dict(), tmp_path / "weights" / "sam_vit_b_01ec64.pth")
    fails(workbench("train", preset, *roots), "missing text encoder 'bert-base-uncased'", f"{tmp_path}/weights")
    from transformers import BertConfig, BertModel

    from workbench.data.scenes import WORDS
    from workbench.training.pretrain import build_tokenizer

    folder = tmp_path / "weights" / "bert-base-uncased"
    BertModel(
        BertConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    ).save_pretrained(folder)
    build_tokenizer(WORDS).save_pretrained(folder)
    fails(workbench("train", preset, *roots), f"missing file {tmp_path}/data/refcoco/instances.json")
    assert not (tmp_path / "r").exists()


def test_data_make_is_repeatable_and_its_folder_is_printed(workbench: Any, tmp_path: Path) -> None:
    command = ("data", "make", "refshapes", "--root", tmp_path, "--train-images", 2, "--eval-images", 1)
    first = workbench(*command)
    assert first.code == 0
    assert Path(first.out.strip()).is_dir()
    assert workbench(*command).out == first.out
    fails(workbench("data", "make", "shapes"), "'shapes' cannot be made (did you mean 'refshapes'?); known: refshapes")


def test_train_runs_one_setting_in_the_foreground(workbench: Any, grid_file: Write, tmp_path: Path) -> None:
    grid = grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\n")
    outcome = workbench("train", grid, "--setting", "b", "--results", tmp_path / "r")
    assert outcome.code == 0, outcome.err
    assert "val: mIoU " in outcome.out
    assert "6/6 steps" in outcome.err
    fails(workbench("train", grid, "--setting", "c"), "unknown setting 'c'", "known: a, b")
    status = workbench("status", grid, "--results", tmp_path / "r")
    assert "new" in status.out
    assert "completed" in status.out


def test_what_the_system_refuses_is_one_line(workbench: Any, grid_file: Write, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    grid = grid_file("settings: {a: {}}\n")
    for command in ("plan", "status", "submit", "table"):
        fails(workbench(command, grid, "--results", tmp_path / "file"), "Not a directory", str(tmp_path / "file"))


def test_a_broken_image_is_named_also_by_a_loader_worker(workbench: Any, grid_file: Write, tmp_path: Path) -> None:
    root = tmp_path / "own"
    data = open_data(DataConfig(recipe=RefshapesRecipe(seed=3, train_images=40, eval_images=6)), root)
    for image in data.image_folder.iterdir():
        image.write_bytes(image.read_bytes()[:60])  # its head is whole
    grid = grid_file("settings: {a: {machine.loader_workers: 2}}\n")
    outcome = workbench("train", grid, "--setting", "a", "--data-root", root, "--results", tmp_path / "r")
    fails(outcome, ".png: image cannot be decoded")


def test_a_table_without_runs_says_how_to_get_them(workbench: Any, grid_file: Write, tmp_path: Path) -> None:
    grid = grid_file("settings: {a: {}}\n")
    fails(workbench("table", grid, "--results", tmp_path), "no completed run yet", "workbench submit")
    fails(workbench("figure", "bars", grid, "--results", tmp_path), "no completed run yet")


def test_many_runs_are_shown_by_setting(workbench: Any, grid_file: Write, tmp_path: Path) -> None:
    grid, results = grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\nseeds: 0-29\n"), tmp_path / "results"
    done, failed = [RunFolder(results, run.id) for run in load_grid(grid).runs() if run.seed < 1]
    done.update(state="completed", steps=6)
    failed.update(state="failed", error={"class": "bad_data", "message": "no image"})
    shown = workbench("status", grid, "--results", results).out.splitlines()
    assert [line.split()[:2] for line in shown[1:3]] == [["a", "30"], ["b", "30"]]
    assert "1 completed, 29 new" in shown[1]
    assert "1 failed, 29 new" in shown[2]
    assert "a line per run: --all" in shown
    assert "60 runs: 1 completed, 1 failed, 58 new" in shown
    assert any(line.startswith("1 × bad_data: no image") for line in shown), "what failed is named all the same"
    assert len(shown) < 10
    every = workbench("status", grid, "--results", results, "--all").out.splitlines()
    assert sum(line.startswith(("a ", "b ")) for line in every) == 60


def test_watching_waits_for_a_beginning(
    workbench: Any, grid_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, results = grid_file("settings: {a: {}}\n"), tmp_path / "results"
    (run,) = load_grid(grid).runs()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            RunFolder(results, run.id).update(state="completed", steps=6)

    monkeypatch.setattr("workbench.cli.cluster.time.sleep", sleep)
    shown = workbench("status", grid, "--results", results, "--watch")
    assert shown.code == 0
    assert len(slept) == 2
    assert shown.out.count("nothing has begun yet; still watching") == 2
    assert shown.out.rstrip().endswith("1 run: 1 completed")

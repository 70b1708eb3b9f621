from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from workbench import receipts
from workbench.config import RunConfig
from workbench.grids import GridError, check_grid, fitting, load_grid, read_yaml
from workbench.launch.submit import stages
from workbench.models.fusion import variants

SETTINGS = "settings: {default: {}, l_dit: {fusion.variant: l_dit}}\n"
Write = Callable[..., Path]


def ids(file: Path) -> list[str]:
    return [run.id for run in load_grid(file).runs()]


def test_a_grid_is_settings_crossed_with_axes_and_seeds(grid_file: Write) -> None:
    grid = load_grid(
        grid_file(
            "settings: {e_dit: {fusion.variant: e_dit}, l_dit: {fusion: {variant: l_dit}}}\n"
            "axes: {fusion.layers: [all, {first: 2}, [0, 3]], fusion.dropout: [0.0, 0.5]}\n"
            "exclude: [{setting: e_dit, fusion.dropout: 0.5}]\n"
            "seeds: [1, 0]\n"
        )
    )
    assert len(grid.settings) == 3 * 2 * 2 - 3
    assert len(grid.runs()) == 9 * 2
    assert len({run.id for run in grid.runs()}) == 18
    config = grid.settings["l_dit layers=first:2 dropout=0.5"]
    assert config.fusion.layers == {"first": 2}
    assert grid.settings["l_dit layers=[0,3] dropout=0.0"].fusion.layers == (0, 3)


def test_ids_do_not_follow_how_the_file_is_written(grid_file: Write, data_root: Path) -> None:
    text = SETTINGS + "seeds: [0, 1]\n"
    first = ids(grid_file(text))
    file = grid_file("# a comment\nseeds: [1, 0]\n" + "settings: {l_dit: {fusion: {variant: l_dit}}, default: {}}\n")
    assert sorted(ids(file)) == sorted(first)
    moved = file.read_text().replace(str(data_root), "/elsewhere").replace("log_steps: 1", "loader_workers: 3")
    file.write_text(moved)
    assert sorted(ids(file)) == sorted(first)
    reordered = "\n".join(reversed(moved.splitlines()[2:5]))
    file.write_text("title: other title\nbase:\n" + reordered + "\n" + "\n".join(moved.splitlines()[5:]) + "\n")
    assert sorted(ids(file)) == sorted(first)
    file.write_text(moved.replace("steps: 6", "steps: 7"))
    assert not set(ids(file)) & set(first)


def test_a_preset_lies_under_its_overrides(tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "small.yaml").write_text("training: {steps: 3, batch_size: 2}\nfusion: {variant: l_dit}\n")
    file = tmp_path / "grid.yaml"
    file.write_text(
        "title: t\nbase: {preset: small, training.steps: 4}\nsettings: {a: {}, b: {training: {steps: 5}}}\n"
    )
    grid = load_grid(file)
    assert [(c.training.steps, c.training.batch_size, c.fusion.variant) for c in grid.settings.values()] == [
        (4, 2, "l_dit"), (5, 2, "l_dit")
    ]  # fmt: skip


def test_a_rule_of_layers_replaces_the_one_below_it(grid_file: Write) -> None:
    grid = load_grid(
        grid_file(
            "settings: {a: {fusion.variant: l_dit, fusion.layers: {last: 1}}}\naxes: {fusion.layers: [{first: 2}]}\n"
        )
    )
    assert next(iter(grid.settings.values())).fusion.layers == {"first": 2}


def test_a_misspelt_tracker_lists_the_known(grid_file: Write) -> None:
    grid = load_grid(grid_file("settings: {a: {machine.trackers: [tensorbord]}}\n"))
    with pytest.raises(
        GridError, match=r"machine\.trackers: unknown tracker 'tensorbord' \(did you mean 'tensorboard'"
    ):
        check_grid(grid)


def test_interpolations_are_resolved(grid_file: Write) -> None:
    grid = load_grid(grid_file("settings: {a: {training.batch_size: 2, training.steps: '${training.batch_size}'}}\n"))
    assert grid.settings["a"].training.steps == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "settings: {a: {fusion.varian: x}}\n",
            r"setting 'a': fusion\.varian: unknown key 'varian' \(did you mean 'variant'",
        ),
        ("settings: {a: {}, a: {fusion.variant: l_dit}}\n", r"unreadable YAML in line 7: found duplicate key a"),
        ("settings: {a: {}, b: {}}\n", r"settings 'a' and 'b' are the same configuration"),
        ("settings: {a: {}}\nsetings: {}\n", r"setings: unknown key 'setings' \(did you mean 'settings'\?\)"),
        ("settings: {a: {}}\nbaseline: b\n", r"baseline: unknown setting 'b'.*known: a"),
        ("settings: {a: {}}\nseeds: [0, 0]\n", r"seeds: whole numbers from 0, none twice"),
        ("settings: {a: {}}\nseeds: []\n", r"seeds: "),
        ("settings: {a: {}}\nseeds: 3\n", r"seeds: a list such as \[0, 1, 2\], or a range such as 0-2, not 3"),
        (
            "axes: {fusion.dropout: 0.1, fusion.layers: [all]}\n",
            r"axes: fusion\.dropout: a list of values such as \[a, b\], not 0\.1",
        ),
        ("settings: {a: {}}\nreport: {metrics: [iou]}\n", r"report\.metrics: unknown metric 'iou' .*known: oiou, miou"),
        (
            "settings: {a: {}}\nreport: {splits: [testB]}\n",
            r"report\.splits: 'testB' is not evaluated .* are val, testA",
        ),
        ("settings: {a: {}}\nreport: {metrics: []}\n", r"report\.metrics: "),
        ("settings: {a: {}}\nreport: {figure_split: testC}\n", r"report\.figure_split: 'testC' is not evaluated"),
        (
            "settings: {a: {}, b: {evaluation.splits: [val]}}\n",
            r"report\.splits: 'testA' is not evaluated by setting 'b'",
        ),
        ("axes: {fusion.dropout: []}\n", r"axes\.fusion\.dropout: at least one value"),
        ("axes: {fusion.dropout: [0.1]}\nexclude: [{dropout: 0.1}]\n", r"exclude: unknown axis 'dropout'"),
        (
            "axes: {fusion.dropout: [0.1]}\nexclude: [{fusion.dropout: 0.2}]\n",
            r"exclude\.fusion\.dropout: 0\.2 is none",
        ),
        ("settings: {a: {training.steps: many}}\n", r"setting 'a': training\.steps: 'many' is not valid"),
        ("settings: {a: {training.steps: '${nowhere}'}}\n", r"setting 'a': .*nowhere"),
        ("settings: {a: [}\n", r"unreadable YAML in line \d+"),
        ("axes: {fusion.dropout: [0.1, '0.1']}\n", r"two settings are named 'dropout=0.1'"),
        ("", r"nothing to run: give settings, axes, or both"),
        ("axes: {fusion.dropout: [0.1]}\nexclude: [{fusion.dropout: 0.1}]\n", r"exclude: no setting is left"),
    ],
)
def test_a_mistake_names_file_key_and_value(grid_file: Write, text: str, message: str) -> None:
    file = grid_file(text)
    with pytest.raises(GridError, match=message) as raised:
        load_grid(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert "\n" not in str(raised.value)


def test_an_unknown_preset_lists_the_known(tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "small.yaml").write_text("training: {steps: 3}\n")
    (tmp_path / "g.yaml").write_text("title: t\nbase: {preset: smal}\nsettings: {a: {}}\n")
    with pytest.raises(
        GridError, match=r"base\.preset: unknown preset 'smal' \(did you mean 'small'\?\); known: .*small"
    ):
        load_grid(tmp_path / "g.yaml")
    with pytest.raises(GridError, match="no such file"):
        load_grid(tmp_path / "none.yaml")


def test_what_shows_when_the_model_is_built_names_the_setting(grid_file: Write) -> None:
    grid = load_grid(grid_file("settings: {a: {}, deep: {fusion.variant: l_dit, fusion.layers: [0, 9]}}\n"))
    with pytest.raises(GridError, match=r"grid\.yaml: setting 'deep': fusion\.layers: no layer 9"):
        check_grid(grid)


def test_a_model_is_built_once_for_all_settings_that_have_the_same(
    grid_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(receipts.VARIABLE, str(tmp_path / "cache"))
    built = []
    honest = fitting.surely_fits

    def seen(config: RunConfig, weights: bool) -> bool:
        built.append(config.fusion.layers)
        return honest(config, weights)

    monkeypatch.setattr(fitting, "surely_fits", seen)
    settings = (
        "settings: {a: {training.steps: 9, evaluation.splits: [val]}, b: {fusion: {variant: l_dit, layers: [0]}}, "
        "c: {fusion: {variant: l_dit, layers: [1], dropout: 0}}, "
        "d: {fusion: {variant: l_dit, layers: [1], dropout: 0.2}}}\n"
    )
    axes = "axes: {training.optimizer.learning_rate: [1.0e-3, 2.0e-3], data.horizontal_flip: [0.0, 0.5]}\n"
    check_grid(load_grid(grid_file(settings + axes)))
    assert built == ["all", (0,), (1,)]
    text = "settings: {a: {}, frozen: {training: {cache_features: true, optimizer.learning_rate: 1.0e-4}}}\n"
    with pytest.raises(
        GridError, match=r"setting 'frozen': training\.cache_features: true needs a frozen image encoder"
    ):
        check_grid(load_grid(grid_file(text)))
    assert built == ["all", (0,), (1,), "all"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(file.stem, marks=pytest.mark.exhaustive if file.stem == "text_injection" else [])
        for file in sorted((ROOT / "ablations").glob("*.yaml"))
    ],
)
def test_every_grid_of_the_project_is_valid_and_builds(name: str) -> None:
    grid = load_grid(ROOT / "ablations" / f"{name}.yaml")
    check_grid(grid, weights=False)
    assert {run.setting for run in grid.runs()} == set(grid.settings)


def test_plan_prints_runs_as_json(workbench: Any, tmp_path: Path) -> None:
    outcome = workbench("plan", ROOT / "ablations" / "demo.yaml", "--json", "--results", tmp_path / "none")
    runs = json.loads(outcome.out)["runs"]
    assert [run["setting"] for run in runs] == 3 * ["default", "e_dit", "l_dit"]
    assert all(run["run"].startswith(f"refshapes-vit_mini-{run['setting']}-") for run in runs)
    assert all(run["state"] == "new" for run in runs)
    assert not (tmp_path / "none").exists()


PRESETS = ROOT / "ablations" / "presets"


def test_the_two_protocols_name_the_same_fields_and_differ_in_each() -> None:
    corrected, released = (read_yaml(PRESETS / f"{name}.yaml") for name in ("corrected", "as_released"))
    only_released = {"training.steps", "training.epochs", "fusion.projector.init"}
    # How often to validate changes nothing where the last step is evaluated; a precision is the machine's to choose.
    only_released |= {"validation.every", "validation.metric", "training.precision"}
    assert set(corrected) == set(released) - only_released
    assert all(corrected[key] != released[key] for key in corrected)
    plain = RunConfig.parse({"training": {"steps": 1}}).model_dump(mode="json")
    for key, value in corrected.items():
        section: Any = plain
        for part in key.split("."):
            section = section[part]
        assert section == value, f"{key}: the corrected protocol is what holds by default"


@pytest.mark.parametrize("variant", list(variants))
@pytest.mark.parametrize("base", ["refshapes-mini", "refcoco-vitb"])
def test_both_protocols_fit_every_variant(variant: str, base: str, tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    names = {name: str(PRESETS / f"{name}.yaml") for name in (base, "corrected", "as_released")}
    file.write_text(
        f"title: t\nbase: {{preset: {names[base]}, fusion.variant: {variant}}}\n"
        f"settings: {{corrected: {{preset: {names['corrected']}}}, as_released: {{preset: {names['as_released']}}}}}\n"
    )
    grid = load_grid(file)
    check_grid(grid, weights=False)
    released = grid.settings["as_released"]
    assert (released.training.epochs, released.training.steps) == ("released", None)
    assert released.text_encoder.layer == 1
    assert grid.settings["corrected"].fusion.projector.init == "zero"


def test_of_several_presets_a_later_one_stands_over_an_earlier_and_own_keys_over_all(tmp_path: Path) -> None:
    for name, text in (("one", "training: {steps: 1, batch_size: 7}\n"), ("two", "training.steps: 2\n")):
        (tmp_path / f"{name}.yaml").write_text(text)
    file = tmp_path / "grid.yaml"
    file.write_text("title: t\nbase: {preset: [one.yaml, two.yaml]}\nsettings: {a: {}, b: {training.steps: 3}}\n")
    settings = load_grid(file).settings
    assert (settings["a"].training.steps, settings["a"].training.batch_size) == (2, 7)
    assert settings["b"].training.steps == 3
    file.write_text("title: t\nbase: {preset: one.yaml}\nsettings: {a: {preset: three}}\n")
    with pytest.raises(GridError, match=r"settings\.a\.preset: unknown preset 'three'"):
        load_grid(file)


def test_a_preset_may_stand_over_another(tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    for name, text in (
        ("one", "training: {steps: 1, batch_size: 7}\n"), ("two", "preset: one\ntraining.steps: 2\n"),
        ("round", "preset: about\n"), ("about", "preset: round\n"),
    ):  # fmt: skip
        (tmp_path / "presets" / f"{name}.yaml").write_text(text)
    file = tmp_path / "grid.yaml"
    file.write_text("title: t\nbase: {preset: two}\nsettings: {a: {}}\n")
    grid = load_grid(file)
    assert (grid.settings["a"].training.steps, grid.settings["a"].training.batch_size) == (2, 7)
    assert {source.name for source in grid.sources} == {"grid.yaml", "one.yaml", "two.yaml"}
    file.write_text("title: t\nbase: {preset: round}\nsettings: {a: {}}\n")
    with pytest.raises(GridError, match=r"round\.yaml: preset: it includes itself, through round\.yaml, about\.yaml"):
        load_grid(file)


def test_a_setting_can_begin_from_another_grids(grid_file: Callable[..., Path]) -> None:
    first = load_grid(grid_file("settings: {base: {fusion.variant: l_dit}}\nseeds: [0]\n", name="first"))
    grid = load_grid(
        grid_file(
            "  start_from: {grid: first.yaml, setting: base}\nsettings: {same: {}, fixed: {start_from.seed: 7}}\n"
            "seeds: [1, 2]\n",
            name="second",
        )
    )
    base = first.settings["base"].setting_id
    assert grid.settings["same"].start_from.run == base
    needed = {run.id for run in grid.needed(grid.runs())}
    assert needed == {f"{base}/seed1", f"{base}/seed2", f"{base}/seed7"}
    order = [(stage.grid.name, len(stage.runs)) for stage in stages(grid)]
    assert order == [("first", 3), ("second", 4)]
    assert grid.settings["same"].setting_id != grid.settings["fixed"].setting_id
    plain = grid_file("settings: {same: {}}\n", name="plain")
    assert load_grid(plain).settings["same"].setting_id != grid.settings["same"].setting_id


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("{grid: first.yaml, setting: bas}", "start_from.setting: unknown setting 'bas' (did you mean 'base'?)"),
        ("{grid: nope.yaml, setting: base}", "nope.yaml: no such file"),
        ("{grid: second.yaml, setting: a}", "second.yaml: starts from itself, through second.yaml"),
        ("{grid: first.yaml, setting: base, file: x, sha256: y}", "either a file or a run, not both"),
        ("{seed: 3}", "'seed' is only for a 'run' to begin from"),
    ],
)
def test_a_wrong_beginning_says_what_is_wrong(grid_file: Callable[..., Path], start: str, message: str) -> None:
    grid_file("settings: {base: {}}\n", name="first")
    with pytest.raises(GridError) as raised:
        load_grid(grid_file(f"settings: {{a: {{start_from: {start}}}}}\n", name="second"))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("base", "setting", "expected"),
    [
        ("{training: {steps: 6, batch_size: 4}}", "{training.steps: 7}", {"training.batch_size": 4}),
        ("{training.epochs: 2, training.steps: null}", "{training: {steps: 7, epochs: null}}", {"training.steps": 7}),
        ("{fusion.layers: [0, 1]}", "{fusion: {layers.first: 2}}", {"fusion.layers": {"first": 2}}),
        ("{fusion: {layers: {first: 2}}}", "{fusion.layers.last: 1}", {"fusion.layers": {"last": 1}}),
        ("{fusion.layers: {last: 1}}", "{fusion.dropout: 0.5}", {"fusion.layers": {"last": 1}, "fusion.dropout": 0.5}),
        ("{training.steps: 3}", "{training.batch_size: '${training.steps}'}", {"training.batch_size": 3}),
        ("{training.batch_size: '${training.steps}'}", "{training.steps: 8}", {"training.batch_size": 8}),
        ("{training: {optimizer.betas: [0.1, 0.2]}}", "{training.optimizer: {betas: [0.3, 0.4]}}",
         {"training.optimizer.betas": [0.3, 0.4]}),
    ],
)  # fmt: skip
def test_later_layers_win_and_mappings_join(tmp_path: Path, base: str, setting: str, expected: dict[str, Any]) -> None:
    file = tmp_path / "g.yaml"
    (tmp_path / "small.yaml").write_text("fusion.variant: l_dit\ntraining: {steps: 1, batch_size: 2}\n")
    file.write_text(f"title: t\nbase: {{preset: small.yaml, {base[1:-1]}}}\nsettings: {{a: {setting}}}\n")
    values: Any = load_grid(file).settings["a"].model_dump(mode="json")
    for path, value in expected.items():
        inside = values
        for part in path.split("."):
            inside = inside[part]
        assert inside == value


def test_a_mapping_over_a_list_is_one_line(grid_file: Write) -> None:
    file = grid_file("settings: {a: {evaluation.splits.first: val}}\n")
    with pytest.raises(GridError, match=r"setting 'a': Cannot merge incompatible container types") as raised:
        load_grid(file)
    assert "\n" not in str(raised.value)

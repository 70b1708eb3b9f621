from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.grids import Grid, GridError, load_grid
from workbench.grids.tuning import Choice, Trial, with_values
from workbench.launch.plan import runs_of
from workbench.validation import DamagedFile

Write = Callable[..., Path]
RATE = "training.optimizer.learning_rate"
TUNE = f"tune: {{field: {RATE}, values: [1.0e-3, 2.0e-3], seeds: [7, 8]}}\n"
SETTINGS = "settings: {default: {}, l_dit: {fusion.variant: l_dit}}\nseeds: [0, 1]\nbaseline: default\n"


def choice(grid: Grid, setting: str, rate: float) -> Choice:
    assert grid.tuning is not None
    trials = tuple(Trial(values=values, runs=("a/seed0",), score=0.5) for values in grid.tuning.config.points)
    return Choice(untuned=grid.tuning.untuned[setting].setting_id, values={RATE: rate}, trials=trials)


def rates(grid: Grid) -> dict[str, float]:
    return {name: config.training.optimizer.learning_rate for name, config in grid.settings.items()}


def test_every_setting_has_the_same_trials_on_validation_alone(grid_file: Write) -> None:
    grid = load_grid(grid_file(SETTINGS + TUNE))
    trials = grid.trials
    assert trials is not None
    assert list(trials.settings) == [
        "default · learning_rate=0.001", "default · learning_rate=0.002",
        "l_dit · learning_rate=0.001", "l_dit · learning_rate=0.002",
    ]  # fmt: skip
    assert [rates(trials)[name] for name in trials.settings] == [1e-3, 2e-3] * 2
    assert {config.evaluation.splits for config in trials.settings.values()} == {("val",)}
    assert {config.validation.every is None for config in trials.settings.values()} == {True}
    assert {run.seed for run in trials.runs()} == {7, 8}
    # Nothing of the grid itself is run before its values are chosen.
    assert (grid.runs(), grid.waiting) == ([], ["default", "l_dit"])
    assert len({run.id for run in runs_of(grid)}) == 8
    assert [run.id for run in Grid.from_document(trials.document()).runs()] == [run.id for run in trials.runs()]


def test_what_is_chosen_is_kept_beside_the_grid_and_read_again(grid_file: Write) -> None:
    file = grid_file(SETTINGS + TUNE)
    grid = load_grid(file)
    half = grid.with_choices({"l_dit": choice(grid, "l_dit", 2e-3)})
    again = load_grid(file)
    for one in (half, again):
        assert rates(one) == {"default": 1e-3, "l_dit": 2e-3}
        assert one.waiting == ["default"]
        assert {run.setting for run in one.runs()} == {"l_dit"}
        assert [run.setting for run in runs_of(one)][:2] == [
            f"default · learning_rate={rate}" for rate in (0.001, 0.002)
        ]
    kept = file.parent / "tuned" / "grid.json"
    assert kept.absolute() in again.sources
    # Beside a choice that another process made.
    grid.with_choices({"default": choice(grid, "default", 1e-3)})
    whole = load_grid(file)
    assert (whole.waiting, whole.trials) == ([], None)
    assert [(run.setting, run.seed) for run in whole.runs()] == [
        ("default", 0), ("l_dit", 0), ("default", 1), ("l_dit", 1),
    ]  # fmt: skip
    plain = load_grid(grid_file(f"  {RATE}: 2.0e-3\n" + SETTINGS, name="plain"))
    assert whole.settings["l_dit"].setting_id == plain.settings["l_dit"].setting_id
    stored = Grid.from_document(whole.document())
    assert stored.tuning is not None
    assert whole.tuning is not None
    assert stored.tuning.choices == whole.tuning.choices
    assert (stored.waiting, stored.trials) == ([], None)


def test_a_choice_holds_for_its_setting_and_its_trials_alone(grid_file: Write) -> None:
    grid = load_grid(grid_file(SETTINGS + TUNE))
    grid.with_choices({name: choice(grid, name, 2e-3) for name in grid.settings})
    assert load_grid(grid_file(SETTINGS + TUNE)).waiting == []
    changed = SETTINGS.replace("fusion.variant: l_dit", "fusion.variant: l_dit, training.batch_size: 2")
    assert load_grid(grid_file(changed + TUNE)).waiting == ["l_dit"]
    more = load_grid(grid_file(SETTINGS + TUNE.replace("2.0e-3", "2.0e-3, 3.0e-3")))
    assert more.waiting == ["default", "l_dit"]
    assert rates(more) == {"default": 1e-3, "l_dit": 1e-3}


def test_narrowing_leaves_trials_to_the_settings_that_are_left(grid_file: Write) -> None:
    narrowed = load_grid(grid_file(SETTINGS + TUNE)).narrowed("l_dit", (5,))
    assert narrowed.trials is not None
    assert {name.partition(" ")[0] for name in narrowed.trials.settings} == {"l_dit"}
    tuned = narrowed.with_choices({"l_dit": choice(narrowed, "l_dit", 2e-3)})
    assert [run.seed for run in tuned.runs()] == [5]
    assert rates(tuned.whole()) == {"default": 1e-3, "l_dit": 2e-3}


def test_settings_that_differ_only_in_what_they_are_asked_share_their_trials(grid_file: Write) -> None:
    asked = "  l_dit, asked no words: {fusion.variant: l_dit, evaluation.words: dropped}\n"
    settings = f"settings:\n  l_dit: {{fusion.variant: l_dit}}\n{asked}seeds: [0]\n"
    grid = load_grid(grid_file(settings + TUNE))
    assert grid.trials is not None
    assert list(grid.trials.settings) == ["l_dit · learning_rate=0.001", "l_dit · learning_rate=0.002"]
    assert grid.tuning is not None
    one, other = (list(grid.tuning.trials(name).values()) for name in grid.settings)
    assert one == other


def test_what_begins_from_a_setting_waits_until_that_is_tuned(grid_file: Write) -> None:
    first = load_grid(grid_file(SETTINGS + TUNE, name="first"))
    later = "  start_from: {grid: first.yaml, setting: l_dit}\nsettings: {a: {}}\n"
    with pytest.raises(
        GridError, match=r"start_from\.setting: 'l_dit' is not tuned yet; first: workbench submit .*first"
    ):
        load_grid(grid_file(later, name="second"))
    tuned = first.with_choices({"l_dit": choice(first, "l_dit", 2e-3)})
    second = load_grid(grid_file(later, name="second"))
    assert second.settings["a"].start_from.run == tuned.settings["l_dit"].setting_id


def test_several_fields_are_crossed(grid_file: Write) -> None:
    fields = f"{{{RATE}: [1.0e-3, 2.0e-3], training.optimizer.weight_decay: [0.0, 0.1]}}"
    grid = load_grid(grid_file(SETTINGS + f"tune: {{fields: {fields}, seeds: 0}}\n"))
    assert grid.trials is not None
    assert list(grid.trials.settings)[1] == "default · learning_rate=0.001 weight_decay=0.1"
    assert len(grid.trials.settings) == 8


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ("{field: a, values: [1, 2], split: testA}", "nothing is chosen on a test split, and testA is one"),
        ("{field: a, values: [1, 2], split: refcoco/testB}", "nothing is chosen on a test split"),
        ("{field: training.batch_size, values: [2, 4], split: train}", "'train' is trained on by setting 'default'"),
        ("{field: a, values: [1, 2], metric: iou}", "unknown metric 'iou'"),
        ("{field: a, values: [1]}", "there is nothing to choose from"),
        ("{field: a, values: [1, 1]}", "a: at least one value, none twice"),
        ("{field: a}", "either 'field' and 'values', or 'fields'"),
        (
            "{field: training.optimizer.rate, values: [1, 2]}",
            "a trial of setting 'default': training.optimizer.rate: unkn",
        ),
        (
            "{field: machine.threads, values: [1, 2]}",
            "tune: trials 'default · threads=1' and 'default · threads=2' are the",
        ),
        (
            "{field: fusion.variant, values: [e_dit, l_dit]}",
            "'default · variant=e_dit' and 'l_dit · variant=e_dit' are t",
        ),
        (
            "{field: evaluation.splits, values: [[val], [testA]]}",
            "splits=['testA']\" are the same configuration",
        ),
        ("{field: a, values: [1, 2], seeds: [0, 0]}", "none twice, not [0, 0]"),
    ],
)
def test_a_wrong_tuning_says_what_is_wrong(grid_file: Write, tune: str, message: str) -> None:
    with pytest.raises(GridError) as raised:
        load_grid(grid_file(f"{SETTINGS}tune: {tune}\n"))
    assert message in str(raised.value)


def test_a_damaged_file_of_choices_is_named(grid_file: Write) -> None:
    file = grid_file(SETTINGS + TUNE)
    grid = load_grid(file)
    grid.with_choices({"default": choice(grid, "default", 2e-3)})
    kept = file.parent / "tuned" / "grid.json"
    document = json.loads(kept.read_text())
    document["settings"]["default"]["values"] = 3
    kept.write_text(json.dumps(document))
    with pytest.raises(DamagedFile, match=r"tuned/grid\.json: damaged \(settings\.default\.values: .*; remove it, and"):
        load_grid(file)


def test_a_damaged_tuning_of_a_submission_is_one_line(grid_file: Write) -> None:
    document = load_grid(grid_file(SETTINGS + TUNE)).document()
    document["tuning"]["tune"]["split"] = "testA"
    with pytest.raises(
        GridError, match=r"the grid as submitted: tuning\.tune\.split: nothing is chosen on a test split"
    ):
        Grid.from_document(document)


def test_other_values_make_the_configuration_that_writing_them_makes(grid_file: Write) -> None:
    config = load_grid(grid_file(SETTINGS)).settings["l_dit"]
    assert with_values(config, {}).setting_id == config.setting_id
    other = with_values(config, {"training.optimizer.rates": {"neck": 0.1}, RATE: 5e-3})
    assert (other.training.optimizer.rates, other.training.optimizer.learning_rate) == ({"neck": 0.1}, 5e-3)

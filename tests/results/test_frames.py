from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests import stored
from workbench.config import RunConfig
from workbench.results.folders import RunFolder, StoreError
from workbench.results.frames import RunFolders, expressions_frame, kind_of, log_frame, runs_frame
from workbench.results.summary import Summary, write_summary
from workbench.validation import DamagedFile

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def configs(make_config: MakeConfig) -> tuple[RunConfig, RunConfig]:
    return make_config(), make_config(fusion__variant="l_dit", evaluation__splits=["val", "testA"])


@pytest.fixture
def results(tmp_path: Path, configs: tuple[RunConfig, RunConfig]) -> Path:
    """Seeds 0, 2 and 10 of one setting, seed 1 of another; and seed 3, which failed."""
    for seed in (10, 0, 2):
        stored.complete(tmp_path, configs[0], seed)
    stored.complete(tmp_path, configs[1], 1, provenance={"code": "abc"}, codes=["abc", "def"])
    stored.fail(tmp_path, configs[0], 3, "out of luck")
    return tmp_path


def test_every_seed_that_exists_is_there_with_its_state(results: Path, configs: tuple[RunConfig, RunConfig]) -> None:
    frame = runs_frame(RunFolders(results), [configs[0].setting_id])
    assert list(frame["seed"]) == [0, 2, 3, 10]
    assert list(frame["state"]) == ["completed", "completed", "failed", "completed"]
    assert frame["message"][2] == "out of luck"
    assert frame["split"].isna().tolist() == [False, False, True, False]
    expected = [stored.mean_iou(stored.expressions(["val"], 1000 + seed), "val") for seed in (0, 2, 10)]
    assert frame["miou"].dropna().tolist() == pytest.approx(expected)


def test_all_runs_are_the_same_with_and_without_the_index(results: Path, configs: tuple[RunConfig, RunConfig]) -> None:
    ids = sorted(config.setting_id for config in configs)
    by_setting = runs_frame(RunFolders(results), ids)
    for _ in range(2):  # made, and then read
        pd.testing.assert_frame_equal(runs_frame(RunFolders(results)), by_setting, check_like=True)


def test_filters_by_seed_state_code_and_data_set(results: Path, configs: tuple[RunConfig, RunConfig]) -> None:
    source = RunFolders(results)
    assert set(runs_frame(source, seeds=[1, 3])["seed"]) == {1, 3}
    assert set(runs_frame(source, states=["failed"])["seed"]) == {3}
    assert list(runs_frame(source, codes=["abc"])["split"]) == ["val", "testA"]
    assert set(runs_frame(source, codes=["abc"])["codes"]) == {"abc,def"}
    assert len(runs_frame(source, datasets=["refcoco"])) == 0
    assert len(runs_frame(source, datasets=["refshapes"])) == len(runs_frame(source))


def test_expressions_of_several_runs_stand_below_each_other(
    results: Path, configs: tuple[RunConfig, RunConfig]
) -> None:
    runs = [f"{configs[0].setting_id}/seed{seed}" for seed in (2, 10)]
    frame = expressions_frame(RunFolders(results), runs)
    assert frame.groupby("seed").size().to_dict() == {2: 15, 10: 15}
    assert "prediction" not in frame
    assert "prediction" in expressions_frame(RunFolders(results), runs, masks=True)
    here = frame[frame["seed"] == 10].reset_index(drop=True)
    pd.testing.assert_series_equal(here["intersection"], stored.expressions(["val"], 1010)["intersection"])


def test_a_summary_gives_the_same_frames(results: Path, configs: tuple[RunConfig, RunConfig], tmp_path: Path) -> None:
    source, ids = RunFolders(results), [config.setting_id for config in configs]
    runs = runs_frame(source, ids)
    completed = list(dict.fromkeys(runs.loc[runs["state"] == "completed", "run"]))
    write_summary(tmp_path / "kept", runs, {run: source.expressions(run) for run in completed})
    expected = expressions_frame(source, completed)
    shutil.rmtree(results / "runs")
    summary = Summary(tmp_path / "kept")
    pd.testing.assert_frame_equal(runs_frame(summary, ids), runs)
    pd.testing.assert_frame_equal(
        runs_frame(summary, ids[:1], states=["failed"]), runs_frame(summary, states=["failed"])
    )
    pd.testing.assert_frame_equal(expressions_frame(summary, completed), expected)
    with pytest.raises(StoreError, match="a summary holds no predicted masks"):
        expressions_frame(summary, completed, masks=True)


@pytest.mark.parametrize(
    ("document", "field"),
    [("{", ""), ('{"state": 4}', "state"), ('{"state": "completed"}', "metrics"),
     ('{"state": "completed", "metrics": {"val": {"miou": 0.5}}}', "identity")],
)  # fmt: skip
def test_a_damaged_record_is_a_row_that_says_so(
    results: Path, configs: tuple[RunConfig, RunConfig], document: str, field: str
) -> None:
    record = RunFolder(results, f"{configs[0].setting_id}/seed2").record_file
    record.write_text(document)
    for frame in (runs_frame(RunFolders(results)), runs_frame(RunFolders(results), [configs[0].setting_id])):
        (row,) = frame[frame["seed"] == 2].to_dict("records")
        assert row["state"] == "damaged"
        assert row["message"].startswith(f"{record}: damaged ({field}")
        assert set(frame.loc[frame["state"] == "completed", "seed"]) >= {0, 10}


def test_expressions_that_the_record_counts_otherwise_are_damaged(
    results: Path, configs: tuple[RunConfig, RunConfig]
) -> None:
    folder = RunFolder(results, f"{configs[0].setting_id}/seed2")
    folder.write_expressions(folder.expressions().iloc[:-1])
    with pytest.raises(DamagedFile, match=r"split: 14 expressions of val, but .*run\.json counts 15"):
        RunFolders(results).expressions(folder.name)


def test_a_folder_that_was_copied_to_another_seed_is_damaged(
    results: Path, configs: tuple[RunConfig, RunConfig]
) -> None:
    setting = results / "runs" / configs[0].setting_id
    shutil.copytree(setting / "seed0", setting / "seed7")
    (row,) = runs_frame(RunFolders(results), seeds=[7]).to_dict("records")
    assert row["state"] == "damaged"
    assert "seed: 0 is not that of its folder" in row["message"]


def test_a_metric_cannot_take_the_place_of_a_column(results: Path, configs: tuple[RunConfig, RunConfig]) -> None:
    stored.complete(results, configs[0], 4, metrics={"val": {"expressions": 15.0, "seed": 0.5, "run": 0.25}})
    frame = runs_frame(RunFolders(results), seeds=[4])
    assert frame["run"].tolist() == [f"{configs[0].setting_id}/seed4"]


def test_the_steps_of_several_logs(results: Path, configs: tuple[RunConfig, RunConfig]) -> None:
    folders = [RunFolder(results, f"{configs[0].setting_id}/seed{seed}") for seed in (0, 2)]
    frame = log_frame(folders)
    assert frame[["seed", "step", "loss"]].to_dict("records") == [
        {"seed": 0, "step": 6, "loss": 0.5}, {"seed": 2, "step": 6, "loss": 0.5},
    ]  # fmt: skip


def test_the_kind_of_a_run_is_what_its_speed_depends_on(make_config: MakeConfig) -> None:
    def kind(**overrides: object) -> str:
        return kind_of(make_config(**overrides).identity_document()["config"])

    assert kind() == kind(training__optimizer__learning_rate=0.5)
    assert kind() != kind(training__batch_size=8)
    assert kind() != kind(fusion__variant="l_dit")

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.training.test_train import identical, run
from workbench.config import RunConfig
from workbench.data.datasets import open_dataset
from workbench.errors import ConfigError, InterruptedRun
from workbench.results.folders import RunFolder
from workbench.results.record import LogEvent
from workbench.training.checkpointing import load_trained
from workbench.training.setup import split_of
from workbench.training.train import train
from workbench.training.validation import is_better, is_due

Make = Callable[..., RunConfig]
OVERFITS = {
    "fusion__variant": "l_dit",
    "training__steps": 12,
    "training__optimizer__learning_rate": 1e-3,
    "training__schedule__name": "constant",
    "training__schedule__warmup": 0.0,
    "validation__every": {"steps": 2},
    "evaluation__checkpoint": "best",
}
"""Six training images at a rate that soon does harm, so that the last step is not the best one."""


def validations(folder: RunFolder) -> list[LogEvent]:
    return [event for event in folder.log().events if event.event == "validate"]


@pytest.mark.parametrize(
    ("every", "steps"), [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (2.5, [3, 5]), (6, [6]), (7.2, [])]
)
def test_it_is_due_at_the_first_step_past_each_multiple(every: float, steps: list[int]) -> None:
    assert [step for step in range(1, 7) if is_due(step, every)] == steps


def test_an_equal_value_is_not_better() -> None:
    assert is_better("miou", 0.5, 0.4)
    assert not is_better("miou", 0.5, 0.5)


def test_the_best_step_is_the_one_that_the_log_shows(tmp_path: Path, make_config: Make) -> None:
    config = make_config(**OVERFITS)
    folder = run(tmp_path, config)
    events, record = validations(folder), folder.record()
    assert [event.step for event in events] == [2, 4, 6, 8, 10, 12]
    values = [event.value for event in events if event.value is not None]
    best = int(np.argmax(values))  # the first of equal ones
    assert best < len(values) - 1
    assert record.best is not None
    assert (record.best.step, record.best.value) == (events[best].step, values[best])
    assert record.evaluated_step == record.best.step
    assert record.metrics["val"]["miou"] == pytest.approx(values[best], abs=1e-12)
    assert identical(dict(load_trained(config, folder).state_dict()), load_file(folder.evaluated_weights()))
    assert {file.name for file in (folder.path / "checkpoint-best").iterdir()} == {
        f"step-{record.best.step:08d}.safetensors"
    }
    last = run(tmp_path / "last", make_config(**{**OVERFITS, "evaluation__checkpoint": "last"}))
    assert last.record().evaluated_step == 12
    assert last.record().metrics["val"]["miou"] == pytest.approx(values[-1], abs=1e-12)
    assert last.record().metrics["val"]["miou"] < record.metrics["val"]["miou"]


def test_a_last_step_that_is_the_best_needs_no_other_weights(tmp_path: Path, make_config: Make) -> None:
    config = make_config(fusion__variant="l_dit", validation__every={"steps": 6})
    folder = run(tmp_path, config)
    record, latest = folder.record(), folder.checkpoints.latest()
    assert record.best is not None
    assert latest is not None
    assert record.best.step == record.evaluated_step == 6
    assert folder.evaluated_weights() == latest.model
    load_trained(config, folder)


@pytest.mark.parametrize(
    "stop_at", [pytest.param(3, marks=pytest.mark.exhaustive), pytest.param(4, marks=pytest.mark.exhaustive), 7]
)
def test_a_resumed_run_takes_the_same_step(tmp_path: Path, make_config: Make, stop_at: int) -> None:
    config = make_config(**OVERFITS, training__ema__decay=0.5)
    whole = run(tmp_path / "whole", config)
    folder = RunFolder.of(tmp_path / "parts", config, 0)
    asked = iter([False] * (stop_at - 1) + [True] * 100)
    with pytest.raises(InterruptedRun):
        train(config, 0, folder, stop=lambda: next(asked))
    train(config, 0, folder)
    assert folder.record().best == whole.record().best
    assert folder.record().metrics == whole.record().metrics
    assert [(e.step, e.value) for e in validations(folder)] == [(e.step, e.value) for e in validations(whole)]
    assert identical(load_file(folder.evaluated_weights()), load_file(whole.evaluated_weights()))


@pytest.mark.exhaustive
def test_a_training_that_is_killed_after_its_best_step_finds_it_again(tmp_path: Path, make_config: Make) -> None:
    """The weights of a best step that no checkpoint knows yet are on disk; the checkpoint names an older one."""
    config = make_config(**OVERFITS)
    whole = run(tmp_path / "whole", config)
    best = whole.record().best
    assert best is not None
    folder = RunFolder.of(tmp_path / "parts", config, 0)
    asked = iter([False, True])
    with pytest.raises(InterruptedRun):
        train(config, 0, folder, stop=lambda: next(asked))
    with pytest.raises(KeyboardInterrupt):
        train(config, 0, folder, stop=lambda: killed() if folder.checkpoints.best(best.step).is_file() else None)
    latest = folder.checkpoints.latest()
    assert latest is not None
    assert latest.step < best.step
    train(config, 0, folder)
    assert folder.record().best == whole.record().best
    assert identical(load_file(folder.evaluated_weights()), load_file(whole.evaluated_weights()))


def killed() -> None:
    raise KeyboardInterrupt


def test_a_validation_that_is_stopped_is_done_on_the_way_back(tmp_path: Path, make_config: Make) -> None:
    config = make_config(**OVERFITS, machine__evaluation_batch_size=1)
    folder = RunFolder.of(tmp_path, config, 0)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3  # after steps 1 and 2, then in the middle of the validation

    with pytest.raises(InterruptedRun, match="stopped during the evaluation of val"):
        train(config, 0, folder, stop=stop)
    assert validations(folder) == []
    latest = folder.checkpoints.latest()
    assert latest is not None
    assert latest.step == 2
    train(config, 0, folder)
    assert [event.step for event in validations(folder)] == [2, 4, 6, 8, 10, 12]


def test_a_sample_is_of_whole_images_and_always_the_same(make_config: Make) -> None:
    config = make_config(validation__every={"epochs": 1}, validation__images=3)
    data = open_dataset(config)
    sample, again = (split_of(data, "val", config, 3).expressions for _ in range(2))
    whole = split_of(data, "val", config).expressions
    chosen = set(sample.column("image_id").tolist())
    assert len(chosen) == 3
    assert [e.sent_id for e in sample] == [e.sent_id for e in again]
    assert [e.sent_id for e in sample] == [e.sent_id for e in whole if e.image_id in chosen]


def test_what_changes_no_result_changes_no_id(make_config: Make) -> None:
    plain = make_config()
    validated = make_config(validation__every={"steps": 3}, validation__images=2)
    best = make_config(validation__every={"steps": 3}, evaluation__checkpoint="best")
    rarer = make_config(validation__every={"steps": 4}, evaluation__checkpoint="best")
    assert plain.setting_id == validated.setting_id
    assert len({plain.setting_id, best.setting_id, rarer.setting_id}) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"evaluation__checkpoint": "best"}, r"validation\.every must say how often to validate"),
        ({"validation__split": "testA"}, "must not be a test split, and testA is one"),
        ({"validation__every": {"steps": 2.5}}, "whole number of steps, not 2.5"),
        ({"validation__every": {"steps": 2, "epochs": 1}}, "either {steps: k} or {epochs: k}"),
        ({"validation__metric": "iou"}, "validation.metric"),
    ],
)
def test_a_validation_that_makes_no_sense_is_refused(make_config: Make, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(**fields)


def test_a_metric_that_the_split_does_not_have_is_named(tmp_path: Path, make_config: Make) -> None:
    config = make_config(validation__every={"steps": 2}, validation__metric="giou")
    with pytest.raises(ConfigError, match=r"validation\.metric.*giou is not defined on val; known: miou, oiou"):
        run(tmp_path, config)


def test_a_step_logs_the_mean_loss_and_the_gradient_by_part(tmp_path: Path, make_config: Make) -> None:
    fields = {"fusion__variant": "l_dit", "training__optimizer__rates": {"text_encoder": 0.1}}
    each = run(tmp_path / "each", make_config(**fields)).log().events
    losses = [event.loss for event in each if event.event == "step"]
    [*_, last] = [e for e in run(tmp_path / "all", make_config(**fields, machine__log_steps=6)).log().events if e.steps]
    assert last.loss == pytest.approx(np.mean([loss for loss in losses if loss is not None]), abs=2e-6)
    line = json.loads(json.dumps(last.details()))
    parts = {"image_encoder", "neck", "text_encoder", "mask_decoder", "fusion", "rest"}
    assert line["gradient_norm"].keys() == parts | {"total"}
    total = line["gradient_norm"].pop("total")
    assert total == pytest.approx(sum(norm**2 for norm in line["gradient_norm"].values()) ** 0.5, rel=1e-3)
    assert line["highest_gradient_norm"] >= total
    rates = line["learning_rate"]
    assert rates.keys() == parts
    assert rates["text_encoder"] == pytest.approx(0.1 * rates["rest"])

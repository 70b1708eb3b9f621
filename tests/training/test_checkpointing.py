"""Checkpoints that were hurt: named, and never a traceback or a cause that is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.config import RunConfig
from workbench.errors import CheckpointError, InterruptedRun
from workbench.results.folders import RunFolder
from workbench.training.checkpointing import load_trained
from workbench.training.train import train


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:3000])


def of_another_form(value: Any) -> Callable[[Path], None]:
    return lambda file: torch.save(value, file)


def without(key: str) -> Callable[[Path], None]:
    def drop(file: Path) -> None:
        state = torch.load(file, weights_only=True)
        del state[key]
        torch.save(state, file)

    return drop


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model", cut, "model.safetensors: truncated or damaged weights file"),
        ("ema", cut, "ema.safetensors: truncated or damaged weights file"),
        ("state", cut, "damaged checkpoint (RuntimeError); remove it to start again"),
        ("state", of_another_form([1]), "damaged checkpoint (it holds a list); remove it to start again"),
        ("state", of_another_form({}), "damaged checkpoint (it has another form: KeyError)"),
        ("state", without("optimizer"), "damaged checkpoint (it has another form: KeyError)"),
        ("state", of_another_form({"optimizer": 3, "ema_updates": 1}), "damaged checkpoint (it has another form"),
    ],
)
def test_a_hurt_checkpoint_is_named_when_a_run_resumes(
    tmp_path: Path, make_config: Callable[..., RunConfig], name: str, damage: Callable[[Path], None], message: str
) -> None:
    config = make_config(training__ema__decay=0.9)
    folder = RunFolder.of(tmp_path, config, 0)
    with pytest.raises(InterruptedRun):
        train(config, 0, folder, stop=lambda: True)
    checkpoint = folder.checkpoints.latest()
    assert checkpoint is not None
    damage(getattr(checkpoint, name))
    with pytest.raises(CheckpointError) as raised:
        train(config, 0, folder)
    assert message in str(raised.value)
    assert str(checkpoint.folder) in str(raised.value)
    record = folder.record()
    assert record.error is not None
    assert (record.state, record.error.cause) == ("failed", "bad_data")


def test_truncated_weights_of_a_finished_run_are_named(tmp_path: Path, make_config: Callable[..., RunConfig]) -> None:
    config = make_config()
    folder = RunFolder.of(tmp_path, config, 0)
    train(config, 0, folder)
    cut(folder.evaluated_weights())
    with pytest.raises(CheckpointError, match=r"model\.safetensors: truncated or damaged weights file"):
        load_trained(config, folder)

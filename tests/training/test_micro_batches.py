from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from workbench.config import RunConfig
from workbench.errors import ConfigError
from workbench.results.folders import RunFolder
from workbench.training.checkpointing import Counts
from workbench.training.loop import Loop
from workbench.training.memory import LiveBytes
from workbench.training.micro_batches import micro_batches
from workbench.training.reporting import Reporter
from workbench.training.setup import build_parts
from workbench.training.train import _accelerator, train

Make = Callable[..., RunConfig]
TRAINED: dict[str, Any] = {
    # With Adam's usual 1e-8, rounding becomes whole steps where a gradient is zero but for rounding: of the biases of
    # keys, which a softmax does not see.
    "training__steps": 10, "training__batch_size": 8, "training__optimizer__eps": 1e-4,
    "training__ema__decay": 0.9,
}  # fmt: skip


def trained(tmp_path: Path, config: RunConfig) -> tuple[dict[str, Tensor], list[float]]:
    """Weights and moving average after all steps, and the loss of each."""
    folder = RunFolder.of(tmp_path, config, 0)
    accelerator = _accelerator(config, folder)
    parts = build_parts(config, 0, folder, accelerator.device)
    losses: list[float] = []
    training = Loop(
        parts, Counts(), accelerator, Reporter(folder, None, accelerator, lambda event: None), lambda: False
    )
    step = training._step

    def seen(*arguments: Any) -> tuple[Tensor, Tensor]:
        loss, norm = step(*arguments)
        losses.append(loss.item())
        return loss, norm

    monkey: Any = training
    monkey._step = seen
    training.run(lambda: None)
    assert parts.ema is not None
    average = {f"average {name}": value for name, value in parts.ema.module.state_dict().items()}
    return {**parts.model.state_dict(), **average}, losses


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


@pytest.mark.parametrize(
    ("size", "parts"), [(None, [7]), (9, [7]), (7, [7]), (4, [3, 4]), (3, [2, 2, 3]), (1, [1] * 7)]
)
def test_a_batch_in_parts_is_the_batch(size: int | None, parts: list[int]) -> None:
    batch: dict[str, Any] = {"mask": torch.arange(7), "sentence": [str(k) for k in range(7)]}
    found = list(micro_batches(batch, size))
    assert [len(part.batch["sentence"]) for part in found] == parts
    assert torch.equal(torch.cat([part.batch["mask"] for part in found]), batch["mask"])
    assert [word for part in found for word in part.batch["sentence"]] == batch["sentence"]
    assert sum(part.share for part in found) == pytest.approx(1)
    assert [part.last for part in found] == [False] * (len(parts) - 1) + [True]


@pytest.mark.parametrize("fields", [{}, {"fusion__layers": {"last": 2}, "backbone__attention": "windowed"}])
def test_parts_of_a_batch_train_to_the_same_weights(
    tmp_path: Path, make_config: Make, still_bert: Path, fields: dict[str, Any]
) -> None:
    fields = fields | {"fusion__variant": "l_dit", "fusion__dropout": 0.0, "text_encoder__name": str(still_bert)}
    whole, losses = trained(tmp_path, make_config(**TRAINED, **fields))
    parts, losses_of_parts = trained(tmp_path, make_config(**TRAINED, **fields, machine__micro_batch=3))
    assert furthest(whole, parts) < 1e-6
    assert losses_of_parts == pytest.approx(losses, abs=1e-5)
    assert losses[0] != pytest.approx(losses[-1], abs=1e-2)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "fields",
    [
        {"fusion__variant": "l_dit"},
        {"fusion__variant": "e_dit_tokens", "training__precision": "bf16", "backbone__attention": "windowed"},
        {
            "fusion__variant": "l_dit_cross_attention", "fusion__layers": [1, 3], "training__cache_features": True,
            "training__freeze__image_encoder": True, "machine__micro_batch": 3,
        },
    ],
)  # fmt: skip
def test_activations_that_are_computed_again_train_to_the_same_weights(
    tmp_path: Path, make_config: Make, fields: dict[str, Any]
) -> None:
    """With dropout, which must draw the same the second time."""
    kept, losses = trained(tmp_path, make_config(**TRAINED, **fields))
    again, losses_again = trained(tmp_path, make_config(**TRAINED, **fields, machine__checkpoint_activations=True))
    assert furthest(kept, again) == 0
    assert losses_again == losses


def peak(tmp_path: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> int:
    """The most bytes of a step's tensors at once, the gradients included."""
    live = LiveBytes()
    step = Loop._step

    def counted(*arguments: Any) -> tuple[Tensor, Tensor]:
        with live:
            return step(*arguments)

    monkeypatch.setattr(Loop, "_step", counted)
    trained(tmp_path, config)
    monkeypatch.undo()
    return live.peak


@pytest.mark.exhaustive
def test_both_need_less_memory(tmp_path: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {**TRAINED, "training__steps": 1, "training__batch_size": 32, "fusion__variant": "l_dit"}
    whole, parts, again, both = (
        peak(tmp_path, make_config(**fields, **machine), monkeypatch)
        for machine in (
            {},
            {"machine__micro_batch": 8},
            {"machine__checkpoint_activations": True},
            {"machine__micro_batch": 8, "machine__checkpoint_activations": True},
        )
    )
    assert parts < 0.35 * whole
    assert again < 0.6 * whole
    assert both < again


RUN = """
import json, sys
from pathlib import Path
from workbench.config import RunConfig
from workbench.errors import ConfigError
from workbench.results.folders import RunFolder
from workbench.training.train import train
config = RunConfig.parse(json.loads(sys.argv[1]))
train(config, 0, RunFolder.of(Path(sys.argv[2]), config, 0))
"""


@pytest.mark.exhaustive
def test_two_processes_with_parts_train_to_the_weights_of_one_without(
    tmp_path: Path, make_config: Make, still_bert: Path
) -> None:
    fields = {**TRAINED, "text_encoder__name": str(still_bert), "fusion__variant": "l_dit", "fusion__dropout": 0.0}
    alone, _ = trained(tmp_path, make_config(**fields))
    config = make_config(**fields, machine__device="cpu", machine__micro_batch=3, machine__checkpoint_activations=True)
    script = tmp_path / "run.py"
    script.write_text(RUN)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    document = json.dumps(config.model_dump(mode="json"))
    done = subprocess.run([*launcher, document, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = RunFolder.of(tmp_path, config, 0)
    checkpoint = folder.checkpoints.latest()
    assert checkpoint is not None
    assert folder.record().processes == 2
    weights = load_file(checkpoint.model)
    assert furthest(weights, {name: alone[name] for name in weights}) < 1e-6


def test_a_training_refuses_a_batch_that_its_processes_cannot_share(
    tmp_path: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def refuse(self: RunConfig, processes: int) -> None:
        asked.append(processes)
        raise ConfigError("training.batch_size", "no")

    monkeypatch.setattr(RunConfig, "check_processes", refuse)
    folder = RunFolder.of(tmp_path, make_config(**TRAINED), 0)
    with pytest.raises(ConfigError, match=r"training\.batch_size"):
        train(make_config(**TRAINED), 0, folder)
    assert asked == [1]
    assert folder.state() == "failed"

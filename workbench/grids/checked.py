"""The checks of a configuration that need its model, done once for each state of its files and of the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from workbench.config import (
    SHIPPED_BERTS,
    DataConfig,
    EvaluationConfig,
    FusionConfig,
    MachineConfig,
    RunConfig,
    TrainingConfig,
    ValidationConfig,
)
from workbench.errors import ConfigError
from workbench.receipts import remembered, state_of
from workbench.registry import unknown_name

MODULES = {"tensorboard": ("tensorboard", "tensorboardX")}
"""Modules of which a tracker needs one; those of all others have their tracker's name."""
OWN_DROPOUT = 0.5
"""Stands for any but the default."""


def check(config: RunConfig, weights: bool) -> None:
    """All that shows only when the model is built; with `weights`, also that its files are there and fit.

    Raises:
        WorkbenchError: says what is wrong.
    """

    asked = of_the_model(config)

    def build() -> bool:
        from workbench.grids.fitting import surely_fits
        from workbench.models.build import check_config, check_weights

        if not surely_fits(asked, weights):
            check_config(asked)
            if weights:
                check_weights(asked)
        _check_trackers(asked)
        return True

    if on_a_hub(config):
        build()
    else:
        inputs = [asked.model_dump(mode="json"), str(Path.cwd()), weights, state_of(named_places(config))]
        remembered("check", inputs, build)
    for name in config.machine.trackers:
        if not any(importlib.util.find_spec(module) for module in MODULES.get(name, (name,))):
            raise ConfigError("machine.trackers", f"{name} is not installed here; install it, or leave it out")


def of_the_model(config: RunConfig) -> RunConfig:
    """All of a configuration that building its model may read: a grid over data, rates or steps is checked once."""
    training, machine = config.training, config.machine
    return config.model_copy(
        update={
            "data": DataConfig(),
            "fusion": _with_plain_dropout(config.fusion),
            "training": TrainingConfig(
                steps=0 if training.steps == 0 else 1, freeze=training.freeze, cache_features=training.cache_features
            ),
            "validation": ValidationConfig(),
            "evaluation": EvaluationConfig(),
            "machine": MachineConfig(checkpoint_root=machine.checkpoint_root, trackers=machine.trackers),
        }
    )


def _with_plain_dropout(fusion: FusionConfig) -> FusionConfig:
    """With one probability for all that set one of their own: whether it is set, not its value, is checked."""
    own = fusion.dropout != FusionConfig().dropout
    return fusion.model_copy(update={"dropout": OWN_DROPOUT}) if own else fusion


def named_places(config: RunConfig) -> list[Path]:
    """Where the files may be that a configuration names; what is shipped goes with the code."""
    root = config.machine.checkpoint_root
    names = [config.backbone.checkpoint, config.start_from.file, config.text_encoder.name]
    paths = [Path(name).expanduser() for name in names if name is not None]
    return [place for path in paths for place in (path, root / path)]


def on_a_hub(config: RunConfig) -> bool:
    """Whether the text encoder is none of the shipped ones, nor in a folder here: a hub may change its mind."""
    name = config.text_encoder.name
    path = Path(name).expanduser()
    return name not in SHIPPED_BERTS and not any(p.is_dir() for p in (path, config.machine.checkpoint_root / path))


def _check_trackers(config: RunConfig) -> None:
    if not config.machine.trackers:
        return
    from accelerate.utils import LoggerType

    known = [str(kind.value) for kind in LoggerType if kind.value != "all"]
    for name in config.machine.trackers:
        if name not in known:
            raise ConfigError("machine.trackers", unknown_name("tracker", name, known))

"""Whether a model surely fits together, seen without `transformers`: importing it takes a third of a first `submit`."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from workbench.config import SHIPPED_BERTS, RunConfig, TextEncoderConfig
from workbench.errors import WorkbenchError
from workbench.models import checkpoints
from workbench.models.backbones import backbones
from workbench.models.build import assemble
from workbench.models.encoder_files import SHAPE
from workbench.models.text_encoder import WEIGHTS, TextEncoder


def surely_fits(config: RunConfig, weights: bool) -> bool:
    """Whether `check_config` would pass; with `weights`, also `check_weights`.

    False says only that they must be asked: a text encoder that is not shipped can have any shape, and what is wrong
    is theirs to say. The content of a shipped one was compared when the configuration was read.
    """
    training, text, root = config.training, config.text_encoder, config.machine.checkpoint_root
    if text.name not in SHIPPED_BERTS or training.steps == 0 or training.cache_features or training.freeze.fusion:
        return False
    try:
        with torch.device("meta"):
            sam = backbones[config.backbone.name].build(config.backbone.decoder_depth)
            model = assemble(config, sam, stand_in_of(text))
        if weights:
            checkpoints.check_backbone(config.backbone, root)
            if config.start_from.file is not None:
                checkpoints.read_start(model, config.start_from, root, config.backbone.name)
    except WorkbenchError:
        return False
    positions: int = _shape(text)["max_position_embeddings"]
    return config.backbone.image_size % sam.image_encoder.patch_size == 0 and text.max_tokens <= positions


def stand_in_of(text: TextEncoderConfig) -> TextEncoder:
    """With parameters of the names and sizes that the shipped ones have, and nothing that computes with them."""
    bert: Any = nn.Module()
    bert.encoder = nn.Module()
    bert.encoder.layer = nn.ModuleList(nn.Module() for _ in range(_shape(text)["num_hidden_layers"]))
    bert.config = SimpleNamespace(**_shape(text))
    with safe_open(SHIPPED_BERTS[text.name] / WEIGHTS[0], "pt") as file:
        for key in file.keys():  # noqa: SIM118 - no mapping
            part, (*path, last) = bert, key.split(".")
            for name in path:
                if not hasattr(part, name):
                    part.add_module(name, nn.Module())
                part = getattr(part, name)
            part.register_parameter(last, nn.Parameter(torch.empty(file.get_slice(key).get_shape())))
    return TextEncoder(bert, text.layer)


def _shape(text: TextEncoderConfig) -> dict[str, Any]:
    shape: dict[str, Any] = json.loads((SHIPPED_BERTS[text.name] / SHAPE).read_text())
    return shape

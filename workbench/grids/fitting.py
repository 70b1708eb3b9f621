"""Whether a model surely fits together, seen without `transformers`: importing it takes a third of a first `submit`."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from workbench.config import SHIPPED_BERTS, RunConfig, TextEncoderConfig
from workbench.errors import WorkbenchError
from workbench.models.backbones import backbones
from workbench.models.build import assemble
from workbench.models.encoder_files import SHAPE
from workbench.models.text_encoder import TextEncoder


def surely_fits(config: RunConfig) -> bool:
    """Whether `check_config` would pass, and `check_weights` as far as the text encoder is concerned.

    False says only that they must be asked: a text encoder that is not shipped can have any shape, and what is wrong
    is theirs to say. The content of a shipped one was compared when the configuration was read.
    """
    training, text = config.training, config.text_encoder
    if text.name not in SHIPPED_BERTS or config.start_from.file is not None:
        return False
    if training.steps == 0 or training.cache_features or training.freeze.fusion:
        return False
    try:
        with torch.device("meta"):
            sam = backbones[config.backbone.name].build(config.backbone.decoder_depth)
            assemble(config, sam, _stand_in(text))
    except WorkbenchError:
        return False
    positions: int = _shape(text)["max_position_embeddings"]
    return config.backbone.image_size % sam.image_encoder.patch_size == 0 and text.max_tokens <= positions


def _shape(text: TextEncoderConfig) -> dict[str, Any]:
    shape: dict[str, Any] = json.loads((SHIPPED_BERTS[text.name] / SHAPE).read_text())
    return shape


def _stand_in(text: TextEncoderConfig) -> TextEncoder:
    """As many layers of that width, with nothing in them."""
    shape, bert = _shape(text), nn.Module()
    bert.encoder = nn.Module()
    bert.encoder.layer = nn.ModuleList(nn.Identity() for _ in range(shape["num_hidden_layers"]))
    bert.config = SimpleNamespace(hidden_size=shape["hidden_size"])  # type: ignore[assignment]
    return TextEncoder(bert, text.layer)

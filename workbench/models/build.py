"""From a run's configuration to its model, and all the checks that need the model's shape but not its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from workbench.config import RunConfig
from workbench.errors import CheckpointError, ConfigError
from workbench.models import checkpoints
from workbench.models.backbones import Backbone, backbones
from workbench.models.fusion import Sizes, build_fusion, variants
from workbench.models.image_encoder import FusedImageEncoder
from workbench.models.referring_sam import ReferringSam
from workbench.models.text_encoder import (
    TextEncoder,
    build_from_shape,
    check_text_encoder,
    load_text_encoder,
    locate,
    weights_file,
)
from workbench.receipts import known_digest


def build_model(config: RunConfig) -> ReferringSam:
    """The model of a run with all weights loaded and its parts frozen; random parts follow torch's global seed.

    Raises:
        ConfigError: the parts do not fit together.
        CheckpointError: a weights file is missing or belongs to another model.
    """
    check_config(config)
    sam = checkpoints.load_backbone(config.backbone, config.machine.checkpoint_root)
    text_encoder = load_text_encoder(config.text_encoder, config.machine.checkpoint_root)
    model = assemble(config, sam, text_encoder)
    if config.start_from.file is not None:
        model.load_state_dict(_start(model, config), strict=False)
    return model


def _start(model: ReferringSam, config: RunConfig) -> dict[str, Tensor]:
    name = f"{config.backbone.name} with variant {config.fusion.variant}"
    return checkpoints.read_start(model, config.start_from, config.machine.checkpoint_root, name)


def check_config(config: RunConfig) -> ReferringSam:
    """The checks of a configuration that need the built model, but neither weights nor data.

    Returns:
        The model on the meta device, for counting.

    Raises:
        ConfigError: names the field.
    """
    with torch.device("meta"):
        sam = backbones[config.backbone.name].build(config.backbone.decoder_depth)
    patch_size = sam.image_encoder.patch_size
    if config.backbone.image_size % patch_size:
        raise ConfigError(
            "backbone.image_size",
            f"{config.backbone.image_size} is not a multiple of the patch size, {patch_size}",
        )
    _check_frozen_fusion(config)
    if config.training.steps == 0 and not config.start_from.given:
        raise ConfigError("training.steps", "0 trains nothing, so start_from must name the weights to evaluate")
    if config.training.cache_features and not config.training.freeze.image_encoder:
        raise ConfigError(
            "training.cache_features",
            "true needs a frozen image encoder: set training.freeze.image_encoder to true",
        )
    with torch.device("meta"):
        text_encoder = build_from_shape(config.text_encoder, config.machine.checkpoint_root)
        model = assemble(config, sam, text_encoder)
    if config.training.cache_features and model.image_encoder.first_fused == 0:
        raise ConfigError(
            "training.cache_features",
            "true has nothing to cache, because the first block is fused; set it to false, or fuse later layers",
        )
    return model


def _check_frozen_fusion(config: RunConfig) -> None:
    """A frozen projector that lets no text through is the released code's `VIS_FREEZE` trap."""
    kind, projector = variants[config.fusion.variant], config.fusion.projector
    init = kind.released_init if projector.init == "released" else projector.init
    closed = "init is zero" if init == "zero" else "gate is closed" if projector.type == "gated" else None
    fresh = not config.start_from.given
    if config.training.freeze.fusion and fresh and closed and "projector" in kind.reads:
        raise ConfigError(
            "training.freeze.fusion",
            f"true freezes a projector whose {closed}, so text could never reach the image encoder; "
            "set it to false, or fusion.projector.init to default with a type that is not gated",
        )


def check_weights(config: RunConfig) -> None:
    """Check the weights files as `build_model` would; CheckpointError names file and keys."""
    checkpoints.check_backbone(config.backbone, config.machine.checkpoint_root)
    check_text_encoder(config.text_encoder, config.machine.checkpoint_root)
    if config.start_from.file is not None:
        _start(check_config(config), config)


def weights_digests(config: RunConfig) -> dict[str, str | None]:
    """SHA-256 of the weights files a run starts from; None for random weights and for those of a hub."""
    root = config.machine.checkpoint_root
    backbone = checkpoints.locate(config.backbone, root)
    text = weights_file(locate(config.text_encoder, root)) if config.text_encoder.pretrained else None
    start = checkpoints.locate_start(config.start_from, root)
    files = {"checkpoint_sha256": backbone, "text_encoder_sha256": text, "start_from_sha256": start}
    return {name: None if file is None else known_digest(file) for name, file in files.items()}


def check_digests(config: RunConfig, stored: Mapping[str, Any], run: str) -> None:
    """CheckpointError when a started run's weights files are no longer those it started from."""
    for name, digest in weights_digests(config).items():
        if name in stored and stored[name] != digest:
            raise CheckpointError(
                f"{run}: not the weights this run began with ({name} is {digest}, was {stored[name]}); "
                "give the file another name to train another run"
            )


def assemble(config: RunConfig, sam: Sam, text_encoder: TextEncoder) -> ReferringSam:
    """The model of a run around a SAM and a text encoder, its parts frozen; ConfigError where they do not fit."""
    backbone: Backbone = sam.image_encoder
    fusion = build_fusion(config.fusion, Sizes(text_encoder.width, backbone.widths, config.text_encoder.max_tokens))
    model = ReferringSam(
        FusedImageEncoder(
            backbone,
            fusion,
            windowed=config.backbone.attention == "windowed",
            checkpointed=config.machine.checkpoint_activations,
        ),
        sam,
        text_encoder,
        text_encoder.width,
        config.text_encoder.mask_padding,
    )
    model.freeze(config.training.freeze)
    return model

"""Converts a checkpoint of the released DIT code to a file of ours and a configuration that evaluates it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from workbench.config import RunConfig
from workbench.errors import CheckpointError
from workbench.files import digest_of, write_text
from workbench.models import checkpoints, released
from workbench.models.backbones import backbones
from workbench.models.backbones.vit import ViTShape

CONFIGURATION = """\
# Written by: workbench import-released {source} --variant {variant}
# Evaluates those weights on RefCOCO as the released code does: workbench train {file}
# To tune them further, give training.steps or training.epochs.
"""


@dataclass(frozen=True)
class Imported:
    """The result of an import.

    Attributes:
        files: the weights, and the configuration where the sizes are those of a registered backbone.
        unused: released keys that no output depends on.
    """

    sizes: released.ReleasedSizes
    backbone: str | None
    files: list[Path]
    unused: list[str]

    def summary(self) -> str:
        """One line."""
        shape = self.sizes.backbone
        backbone = self.backbone or "no registered backbone, so there is no configuration"
        return (
            f"{self.sizes.fusion.variant}: {shape.depth} layers of width {shape.width} with {shape.heads} heads "
            f"({backbone}), decoder depth {self.sizes.decoder_depth}, text width {self.sizes.text_width}"
        )


def import_checkpoint(
    file: Path,
    variant: str,
    out: Path,
    decoder_heads: int = released.HEADS,
    fusion_heads: int = released.HEADS,
    text_heads: int = released.TEXT_HEADS,
) -> Imported:
    """Read a released checkpoint and write `<name>.safetensors`, and `<name>.yaml` for a registered backbone.

    Args:
        decoder_heads, fusion_heads, text_heads: see `checkpoints.load_released`.

    Raises:
        CheckpointError: the file is damaged, a key is missing, left over or of the wrong size, or an output file
            exists already; nothing is written.
        ConfigError: an unknown variant.
    """
    weights, written = out / f"{file.stem}.safetensors", out / f"{file.stem}.yaml"
    for place in (weights, written):
        if place.exists():
            raise CheckpointError(f"{place} is there already; remove it, or name another folder")
    state = checkpoints.read_state_dict(file)
    heads = (decoder_heads, fusion_heads, text_heads)
    try:
        model = checkpoints.load_released(state, variant, *heads)
        parts = released.take_apart(state, variant)
        sizes = released.sizes_of(parts.model, variant, *heads)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    checkpoints.write_model(weights, model, sizes)
    files = [weights]
    name = _registered(sizes)
    if name is not None:
        values = released_configuration(sizes, name, has_text=bool(parts.text_encoder)) | {
            "start_from": {"file": weights.name, "sha256": digest_of(weights)},
            "machine": {"checkpoint_root": str(weights.parent)},
        }
        RunConfig.parse(values)
        files.append(written)
        head = CONFIGURATION.format(source=file.name, variant=variant, file=written)
        write_text(written, head + OmegaConf.to_yaml(OmegaConf.create(values)))
    return Imported(sizes, name, files, parts.unused)


def _registered(sizes: released.ReleasedSizes) -> str | None:
    """The backbone whose sizes these are, rel-pos tables included."""
    for name, shape in backbones.items():
        if not isinstance(shape, ViTShape):
            continue
        window, whole = 2 * shape.window_size - 1, 2 * (shape.image_size // shape.patch_size) - 1
        tables = tuple((whole,) * 2 if i in shape.global_layers else (window,) * 2 for i in range(shape.depth))
        if asdict(shape) == asdict(sizes.backbone) and tables == sizes.tables:
            return name
    return None


def released_configuration(sizes: released.ReleasedSizes, backbone: str, has_text: bool) -> dict[str, Any]:
    """A configuration that evaluates a released model on RefCOCO as the released code does, but for its weights.

    Args:
        backbone: the registered one of these sizes.
        has_text: whether the text encoder's weights are among the model's.
    """
    fusion: dict[str, Any] = {"variant": sizes.fusion.variant}
    if sizes.fusion.text_projection:
        fusion["text_projection"] = True
    if "cross_attention" in sizes.fusion.variant:
        fusion["cross_attention"] = sizes.fusion.cross_attention.model_dump()
    return {
        "backbone": {
            "name": backbone,
            "checkpoint": None,
            "image_size": 512,
            "attention": "global",
            "decoder_depth": sizes.decoder_depth,
            "mask_upsampling": "align_corners",
        },
        "fusion": fusion,
        "text_encoder": {
            "name": "bert-base-uncased",
            "layer": released.TEXT_LAYER,
            "max_tokens": sizes.max_tokens,
            "mask_padding": False,
            "pretrained": not has_text,
        },
        "data": {"dataset": "refcoco", "split_by": "unc", "padding": "centred"},
        "training": {"steps": 0},
        "evaluation": {"splits": ["val", "testA", "testB"], "threshold": 0.35, "masks": "dilated"},
    }

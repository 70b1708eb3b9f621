"""Weights files to models: official SAM checkpoints, our own, and the released DIT encoders.

Nothing is unpickled beyond plain tensors, and every missing or unexpected key is named.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segment_anything.modeling import Sam
from torch import Tensor

from workbench.config import ASSETS, BUILTIN, BackboneConfig, FusionConfig, digest_of
from workbench.errors import CheckpointError, ConfigError, MissingCheckpoint
from workbench.models.backbones import SAM_DECODER_DEPTH, BackboneShape, backbones, build_sam
from workbench.models.fusion import build_fusion, variants
from workbench.models.image_encoder import FusedImageEncoder
from workbench.models.referring_sam import ReferringSam

StateDict = Mapping[str, Tensor]


def locate(config: BackboneConfig, root: Path) -> Path | None:
    """The backbone's weights file; None for random weights, CheckpointError when it is not there."""
    if config.checkpoint is None:
        return None
    if config.checkpoint == BUILTIN:
        return ASSETS / f"{config.name}.safetensors"
    path = Path(config.checkpoint).expanduser()
    for candidate in (root / path, path):
        if candidate.is_file():
            return candidate
    places = str(path) if path.is_absolute() else f"{root / path} or {path}"
    raise MissingCheckpoint(f"missing checkpoint of {config.name}: no file {places}")


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` or `.pth` file, memory-mapped; nothing in it is executed.

    Raises:
        CheckpointError: missing, truncated, or holding more than tensors.
    """
    if not file.is_file():
        raise CheckpointError(f"missing checkpoint: no file {file}")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line] or ["it holds no plain tensors"]
        raise CheckpointError(f"{file}: refused, only tensors are loaded: {lines[0]}") from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{file}: truncated or damaged weights file: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{file}: a dictionary of tensors is expected, as SAM's own files are")
    return state


def load_backbone(config: BackboneConfig, root: Path) -> Sam:
    """SAM with a run's weights: the file's if one is named, else random ones.

    Raises:
        CheckpointError: the file is missing, damaged, not the pinned one, or of another model.
    """
    sam = build_sam(backbones[config.name], config.decoder_depth)
    file = locate(config, root)
    if file is not None:
        _check_pin(config, file)
        load_sam(sam, read_state_dict(file), str(file), config.name)
    return sam


def _check_pin(config: BackboneConfig, file: Path) -> None:
    if config.checkpoint_sha256 and (found := digest_of(file)) != config.checkpoint_sha256:
        raise CheckpointError(f"{file}: its SHA-256 is {found}, the configuration pins {config.checkpoint_sha256}")


def load_sam(sam: Sam, state: StateDict, source: str, name: str) -> None:
    """Copy an official SAM state dict into a SAM; decoder layers past the official two keep their random weights.

    Raises:
        CheckpointError: names the keys that are missing, left over, or of another size.
    """
    check_keys(sam.state_dict(), state, source, f"SAM {name}", optional=_extra_decoder_layers)
    sam.load_state_dict(dict(state), strict=False)


def check_keys(
    wanted: StateDict,
    found: StateDict,
    source: str,
    model: str,
    optional: Callable[[str], bool] = lambda key: False,
) -> None:
    """Compare two state dicts by key and size.

    Args:
        optional: a predicate of keys that may be missing.
    """
    missing = [key for key in wanted if key not in found and not optional(key)]
    unexpected = [key for key in found if key not in wanted]
    if missing or unexpected:
        raise CheckpointError(
            f"{source}: not weights of {model}: {_listed('missing', missing)}; {_listed('unexpected', unexpected)}"
        )
    for key, value in wanted.items():
        if key in found and found[key].shape != value.shape:
            raise CheckpointError(
                f"{source}: not weights of {model}: {key} is {_size(found[key])}, the model's is {_size(value)}"
            )


def check_backbone(config: BackboneConfig, root: Path) -> None:
    """What `load_backbone` would complain of, without reading the weights' values."""
    file = locate(config, root)
    if file is None:
        return
    with torch.device("meta"):
        sam = build_sam(backbones[config.name], config.decoder_depth)
    _check_pin(config, file)
    state = read_state_dict(file)
    check_keys(sam.state_dict(), state, str(file), f"SAM {config.name}", optional=_extra_decoder_layers)


def _extra_decoder_layers(key: str) -> bool:
    prefix = "mask_decoder.transformer.layers."
    return key.startswith(prefix) and int(key.removeprefix(prefix).split(".")[0]) >= SAM_DECODER_DEPTH


def _listed(what: str, keys: Iterable[str], most: int = 3) -> str:
    keys = list(keys)
    if not keys:
        return f"no {what} keys"
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return f"{len(keys)} {what} keys ({', '.join(keys[:most])}{more})"


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


_RELEASED_FUSION: dict[str, dict[str, str]] = {
    "default": {},
    "e_dit": {"probs": "projector"},
    "l_dit": {"probs": "projectors"},
}
"""Released names of a variant's own modules, to ours."""


def load_released(state_dict: Mapping[str, Tensor], variant: str, decoder_heads: int = 8) -> ReferringSam:
    """A model in evaluation mode from a released DIT state dict, without its text encoder; sizes come from the tensors.

    Args:
        state_dict: under the released key names, with or without `module.` in front.
        variant: `default`, `e_dit` or `l_dit`.
        decoder_heads: of the mask decoder; the one size that the tensors do not show.

    Raises:
        CheckpointError: a key is missing, left over, or of the wrong size.
    """
    if variant not in _RELEASED_FUSION:
        variants[variant]  # an unknown name lists the known ones
        raise ConfigError("variant", f"{variant!r} was not released; one of {', '.join(_RELEASED_FUSION)}")
    state = {key.removeprefix("module."): value for key, value in state_dict.items()}
    ours = {_renamed(key, _RELEASED_FUSION[variant]): value for key, value in state.items()}
    ours = {
        key: value
        for key, value in ours.items()
        if not key.startswith(("query_embeddings", "self_attention", "lang_encoder"))
    }
    try:
        shape: BackboneShape = released_shape(state, decoder_heads)
        text_width = state["text_proj.weight"].shape[1]
    except KeyError as error:
        raise CheckpointError(f"not a released checkpoint: no key {error.args[0]}") from None
    depths = {int(key.split(".")[3]) for key in state if key.startswith("mask_decoder.transformer.layers.")}
    sam = build_sam(shape, decoder_depth=max(depths, default=SAM_DECODER_DEPTH - 1) + 1)
    fusion = build_fusion(FusionConfig(variant=variant), shape.depth, text_width, shape.width)
    encoder = FusedImageEncoder(sam.image_encoder, fusion, windowed=False)
    model = ReferringSam(encoder, sam.prompt_encoder, sam.mask_decoder, None, text_width, mask_padding=False)
    check_keys(model.state_dict(), ours, "released checkpoint", f"variant {variant}")
    model.load_state_dict(ours)
    return model.eval()


def _renamed(key: str, fusion_names: Mapping[str, str]) -> str:
    if not key.startswith("visual_encoder."):
        return key
    first, _, rest = key.removeprefix("visual_encoder.").partition(".")
    if first in fusion_names:
        return f"image_encoder.fusion.{fusion_names[first]}.{rest}"
    return f"image_encoder.vit.{key.removeprefix('visual_encoder.')}"


def released_shape(state: StateDict, decoder_heads: int) -> BackboneShape:
    """Every size of a released model, read off its tensors; only the decoder's number of heads is not among them."""
    blocks = sorted({int(key.split(".")[2]) for key in state if key.startswith("visual_encoder.blocks.")})
    tables = {i: state[f"visual_encoder.blocks.{i}.attn.rel_pos_h"] for i in blocks}
    patch = state["visual_encoder.patch_embed.proj.weight"]
    grid = state["visual_encoder.pos_embed"].shape[1]
    global_rows = 2 * grid - 1
    windows = {(len(table) + 1) // 2 for table in tables.values() if len(table) != global_rows}
    if len(windows) > 1:
        raise CheckpointError(f"rel-pos tables of more than one window size: {sorted(windows)}")
    return BackboneShape(
        width=patch.shape[0],
        depth=len(blocks),
        heads=patch.shape[0] // tables[0].shape[1],
        global_layers=tuple(i for i, table in tables.items() if len(table) == global_rows),
        image_size=grid * patch.shape[2],
        patch_size=patch.shape[2],
        window_size=windows.pop() if windows else 0,
        mlp_ratio=state["visual_encoder.blocks.0.mlp.lin1.weight"].shape[0] / patch.shape[0],
        decoder_width=state["visual_encoder.neck.0.weight"].shape[0],
        decoder_heads=decoder_heads,
        decoder_mlp_width=state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
        iou_head_width=state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
        mask_channels=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
    )

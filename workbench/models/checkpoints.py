"""Weights files to models: official SAM checkpoints, our own, and the released DIT encoders.

Only plain tensors are unpickled, and every missing or unexpected key is named.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from segment_anything.modeling import Sam
from torch import Tensor, nn

from workbench.config import ASSETS, BUILTIN, SHIPPED_STARTS, BackboneConfig, StartConfig
from workbench.errors import CheckpointError, MissingCheckpoint, counted
from workbench.files import check_file, digest_of
from workbench.models import released
from workbench.models.backbones import SAM_DECODER_DEPTH, backbones
from workbench.models.fusion import Sizes, build_fusion
from workbench.models.image_encoder import FusedImageEncoder
from workbench.models.referring_sam import ReferringSam
from workbench.models.text_encoder import TextEncoder, text_encoder_of

StateDict = Mapping[str, Tensor]

SIZES = "sizes"
"""Where a file of an imported model holds its sizes."""


def locate(config: BackboneConfig, root: Path) -> Path | None:
    """The backbone's weights file; None for random weights, CheckpointError if it is missing."""
    if config.checkpoint is None:
        return None
    if config.checkpoint == BUILTIN:
        return ASSETS / f"{config.name}.safetensors"
    return _find(config.checkpoint, root, f"missing checkpoint of {config.name}")


def _find(name: str, root: Path, missing: str) -> Path:
    path = Path(name).expanduser()
    for candidate in (root / path, path):
        if candidate.is_file():
            return candidate
    places = str(path) if path.is_absolute() else f"{root / path} or {path}"
    raise MissingCheckpoint(f"{missing}: no file {places}")


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` or `.pth` file, memory-mapped; nothing in it is executed.

    Raises:
        CheckpointError: missing, truncated, or holding more than tensors.
    """
    if not file.exists():
        raise CheckpointError(f"missing checkpoint: no file {file}")
    try:
        check_file(file)
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
            state = state["state_dict"]  # as training scripts save it, beside optimiser and epoch
    except pickle.UnpicklingError as error:
        lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line] or ["it holds no plain tensors"]
        raise CheckpointError(f"{file}: refused, only tensors are loaded: {lines[0]}") from None
    except Exception as error:  # a broken archive raises many types of error
        raise _damaged(file, error) from None
    if not isinstance(state, dict) or not all(isinstance(k, str) and _is_plain(v) for k, v in state.items()):
        raise CheckpointError(f"{file}: a dictionary of tensors is expected, as SAM's own files are")
    return state


def _damaged(file: Path, error: Exception) -> CheckpointError:
    reason = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[0]
    return CheckpointError(f"{file}: truncated or damaged weights file: {reason}")


def _is_plain(value: object) -> bool:
    """Whether it is a tensor with values that can be copied: not sparse, quantised, or without any."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and value.device.type == "cpu"
    )


def load_backbone(config: BackboneConfig, root: Path) -> Sam:
    """SAM with a run's weights: the file's if one is named, else random ones.

    Raises:
        CheckpointError: the file is missing, damaged, not the pinned one, or of another model.
    """
    sam = backbones[config.name].build(config.decoder_depth)
    file = locate(config, root)
    if file is not None:
        _check_pin(file, config.checkpoint_sha256)
        load_sam(sam, read_state_dict(file), str(file), config.name)
    return sam


def _check_pin(file: Path, pinned: str | None) -> None:
    if pinned and (digest := digest_of(file)) != pinned:
        raise CheckpointError(f"{file}: its SHA-256 is {digest}, the configuration pins {pinned}")


def load_sam(sam: Sam, state: StateDict, source: str, name: str) -> None:
    """Copy an official SAM state dict into a SAM; decoder layers past the official two keep their random weights.

    Raises:
        CheckpointError: names the keys that are missing, left over, or of another size.
    """
    check_keys(sam.state_dict(), state, source, f"SAM {name}", optional=_extra_decoder_layers)
    sam.load_state_dict(dict(state), strict=False)


def check_keys(
    expected: StateDict,
    actual: StateDict,
    source: str,
    model: str,
    optional: Callable[[str], bool] = lambda key: False,
) -> None:
    """Compare two state dicts by key and size, and by whether values are whole numbers.

    Args:
        optional: a predicate of keys that may be missing.
    """
    missing = [key for key in expected if key not in actual and not optional(key)]
    unexpected = [key for key in actual if key not in expected]
    if missing or unexpected:
        raise CheckpointError(
            f"{source}: not weights of {model}: {_listed('missing', missing)}; {_listed('unexpected', unexpected)}"
        )
    for key, value in expected.items():
        if key in actual and actual[key].shape != value.shape:
            raise CheckpointError(
                f"{source}: not weights of {model}: {key} is {_size(actual[key])}, the model's is {_size(value)}"
            )
        if key in actual and actual[key].is_floating_point() != value.is_floating_point():
            raise CheckpointError(
                f"{source}: not weights of {model}: {key} is of {_type(actual[key])}, the model's is of {_type(value)}"
            )


def check_backbone(config: BackboneConfig, root: Path) -> None:
    """Check as `load_backbone` would, without reading the weights' values."""
    file = locate(config, root)
    if file is None:
        return
    with torch.device("meta"):
        sam = backbones[config.name].build(config.decoder_depth)
    _check_pin(file, config.checkpoint_sha256)
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
    return f"{counted(len(keys), f'{what} key')} ({', '.join(keys[:most])}{more})"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


def locate_start(config: StartConfig, root: Path) -> Path | None:
    """The file of a whole model's weights; None where none is named, CheckpointError if it is missing."""
    if config.file is None:
        return None
    return SHIPPED_STARTS.get(config.file) or _find(config.file, root, "start_from.file: missing weights")


def read_start(model: ReferringSam, config: StartConfig, root: Path, name: str) -> dict[str, Tensor]:
    """Weights of a whole model, checked against it; all those of the text encoder or of the fusion may be missing.

    Args:
        name: of the model, for messages.

    Raises:
        CheckpointError: the file is missing, damaged, not the pinned one, or of another model.
    """
    file = locate_start(config, root)
    assert file is not None
    _check_pin(file, config.sha256)
    state = read_state_dict(file)
    absent = tuple(part for part in ("text_encoder.", "image_encoder.fusion.") if not _has(state, part))
    check_keys(model.state_dict(), state, str(file), name, lambda key: key.startswith(absent))
    return state


def _has(state: StateDict, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in state)


def write_model(file: Path, model: ReferringSam, sizes: released.ReleasedSizes) -> None:
    """Write a whole model as safetensors that also hold its sizes; `load_model` reads it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.part")
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, temporary, metadata={SIZES: sizes.as_json()})
    temporary.replace(file)


def read_metadata(file: Path) -> dict[str, str]:
    """What a safetensors file says of itself beside its tensors; CheckpointError where it is damaged."""
    try:
        check_file(file)
        with safe_open(file, "pt") as opened:
            return dict(opened.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from None


def sizes_of(file: Path) -> released.ReleasedSizes:
    """The sizes of a model that `write_model` wrote; CheckpointError for anything else."""
    text = read_metadata(file).get(SIZES)
    if text is None:
        raise CheckpointError(f"{file}: it does not hold its sizes; only files written by import-released do")
    try:
        return released.ReleasedSizes.from_json(text)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file}: the sizes that it holds are damaged: {type(error).__name__}") from None


def load_model(file: Path) -> ReferringSam:
    """A model that `write_model` wrote, in evaluation mode; CheckpointError for anything else."""
    state, sizes = read_state_dict(file), sizes_of(file)
    _check_sizes(file, sizes, state)
    prefix = "text_encoder.bert."
    text = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    model = assemble_released(sizes, text_encoder_of(text, sizes.text_heads, str(file)) if text else None)
    check_keys(model.state_dict(), state, str(file), f"variant {sizes.fusion.variant}")
    model.load_state_dict(state)
    return model.eval()


def _check_sizes(file: Path, sizes: released.ReleasedSizes, state: StateDict) -> None:
    """CheckpointError where the sizes that a file holds are not those of its tensors, before anything is built."""
    wrong = CheckpointError(f"{file}: the sizes that it holds are not those of its tensors")
    if max(sizes.backbone.depth, sizes.decoder_depth) > len(state):
        raise wrong
    try:
        with torch.device("meta"):
            expected = assemble_released(sizes, None).state_dict()
    except Exception:  # modules take such sizes in many ways
        raise wrong from None
    held = {key: value for key, value in state.items() if not key.startswith("text_encoder.")}
    check_keys(expected, held, str(file), f"variant {sizes.fusion.variant}")


def load_released(
    state_dict: Mapping[str, Tensor],
    variant: str,
    decoder_heads: int = released.HEADS,
    fusion_heads: int = released.HEADS,
    text_heads: int = released.TEXT_HEADS,
) -> ReferringSam:
    """A model in evaluation mode from a released DIT state dict; every other size comes from the tensors.

    The text encoder is built where the file has one (BERT's first layer, as released); without it `encode_image` and
    `decode` take text features B×L×C. Keys that the released code never reads are ignored (`released.take_apart`).

    Args:
        state_dict: under the released key names, with or without the prefix `module.`.
        variant: a released one.
        decoder_heads, fusion_heads, text_heads: of the mask decoder, the cross-attention variants and BERT; the sizes
            that tensors do not show.

    Raises:
        CheckpointError: a key is missing, left over, or of the wrong size.
        ConfigError: an unknown variant.
    """
    parts = released.take_apart(state_dict, variant)
    sizes = released.sizes_of(parts.model, variant, decoder_heads, fusion_heads, text_heads)
    # SAM halves the width in its cross-attention, and asserts that the heads divide it.
    if (width := sizes.backbone.decoder_width // 2) % decoder_heads:
        raise CheckpointError(f"{decoder_heads} decoder heads do not divide the width {width}")
    text = None if not parts.text_encoder else text_encoder_of(parts.text_encoder, text_heads)
    model = assemble_released(sizes, text)
    wanted = {k: v for k, v in model.state_dict().items() if not k.startswith("text_encoder.")}
    check_keys(wanted, parts.model, "released checkpoint", f"variant {variant}")
    model.load_state_dict(parts.model, strict=False)
    return model.eval()


def assemble_released(sizes: released.ReleasedSizes, text_encoder: TextEncoder | None) -> ReferringSam:
    """The model of a released checkpoint, before its weights: every block global, padding words visible."""
    sam = sizes.backbone.build(sizes.decoder_depth)
    blocks: Any = sam.image_encoder.blocks
    for block, (rows_h, rows_w) in zip(blocks, sizes.tables, strict=True):
        head_width = block.attn.rel_pos_h.shape[1]
        block.attn.rel_pos_h = nn.Parameter(torch.zeros(rows_h, head_width))
        block.attn.rel_pos_w = nn.Parameter(torch.zeros(rows_w, head_width))
    fusion = build_fusion(sizes.fusion, Sizes(sizes.text_width, sam.image_encoder.widths, sizes.max_tokens))
    encoder = FusedImageEncoder(sam.image_encoder, fusion, windowed=False)
    return ReferringSam(encoder, sam, text_encoder, sizes.text_width, mask_padding=False)

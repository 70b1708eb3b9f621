"""State dicts of the released DIT code: their key names to ours, and every size taken from their tensors."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from workbench.config import CrossAttentionConfig, FusionConfig
from workbench.errors import CheckpointError, ConfigError
from workbench.models.backbones import SAM_DECODER_DEPTH
from workbench.models.backbones.vit import ViTShape
from workbench.models.fusion import variants

StateDict = Mapping[str, Tensor]
HEADS = 8
"""Of SAM's mask decoder and of the cross-attention variants; tensors do not show it."""
TEXT_HEADS = 12
"""BERT-base's."""
TEXT_LAYER = 1
"""The released code intends to take the last of BERT's layers, but takes the first."""


@dataclass(frozen=True)
class Parts:
    """A released state dict, split into parts.

    Attributes:
        model: everything but the text encoder, under our key names.
        text_encoder: BERT's tensors under transformers' names without a prefix; empty where the file has none.
        unused: released keys that the released code never reads.
    """

    model: dict[str, Tensor]
    text_encoder: dict[str, Tensor]
    unused: list[str]


def take_apart(state: StateDict, variant: str) -> Parts:
    """Sort a released state dict by what its tensors are for; `module.` prefixes are dropped.

    Raises:
        ConfigError: the variant is unknown or was not released.
    """
    if variant not in _RENAMED:
        variants[variant]  # an unknown name lists the known ones
        raise ConfigError("variant", f"{variant!r} was not released; one of {', '.join(_RENAMED)}")
    parts = Parts({}, {}, [])
    for released, value in state.items():
        key = released.removeprefix("module.")
        if key.startswith("lang_encoder.bert."):
            name = _bert_name(key.removeprefix("lang_encoder.bert."))
            if name is None:
                parts.unused.append(released)
            else:
                parts.text_encoder[name] = value
        elif key == "query_embeddings" or key.startswith("self_attention."):
            parts.unused.append(released)
        else:
            try:
                name = _renamed(key, _RENAMED[variant])
            except ValueError:
                raise CheckpointError(f"not a released checkpoint of {variant}: key {released}") from None
            if name in parts.model:
                raise CheckpointError(f"{key} occurs twice, with and without the prefix module.")
            parts.model[name] = value
    return parts


def _bert_name(key: str) -> str | None:
    """transformers' name of a pytorch_pretrained_bert key; None for keys that no output depends on."""
    layer = re.match(r"encoder\.layer\.(\d+)\.", key)
    if key.startswith("pooler.") or key.endswith("position_ids") or (layer and int(layer[1]) >= TEXT_LAYER):
        return None
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _renamed(key: str, names: Mapping[str, str | Callable[[str], str]]) -> str:
    if not key.startswith("visual_encoder."):
        return key
    first, dot, rest = key.removeprefix("visual_encoder.").partition(".")
    ours = names.get(first)
    if ours is None:
        return f"image_encoder.vit.{first}{dot}{rest}"
    return f"image_encoder.fusion.{ours(rest) if callable(ours) else f'{ours}{dot}{rest}'}"


def _behind_the_first(module: str, rename: Callable[[str], str] = lambda rest: rest) -> Callable[[str], str]:
    """Names in a list that starts at the second block."""

    def renamed(rest: str) -> str:
        number, _, inner = rest.partition(".")
        return f"{module}.{int(number) + 1}.{rename(inner)}"

    return renamed


def _attention(inner: str) -> str:
    return re.sub(r"linear_(q|k|v|merge)\b", lambda m: "out_proj" if m[1] == "merge" else f"{m[1]}_proj", inner)


def _layer(rest: str) -> str:
    number, _, inner = rest.partition(".")
    inner = inner.replace("mhatt.", "attention.").replace("ffn.mlp.fc.linear.", "lin1.")
    return f"attentions.{number}.{_attention(inner.replace('ffn.mlp.linear.', 'lin2.'))}"


_PROJECTION: dict[str, str | Callable[[str], str]] = {"prob_text": "text_projection"}
_RENAMED: dict[str, dict[str, str | Callable[[str], str]]] = {
    "default": {},
    "e_dit": {"probs": "projector", **_PROJECTION},
    "e_dit_reprojected": {"probs": "projectors", **_PROJECTION},
    "e_dit_tokens": {"probs": "projector", "tokens": "table", **_PROJECTION},
    "l_dit": {"probs": "projectors", **_PROJECTION},
    "l_dit_tokens": {"tokens": "table", **_PROJECTION},
    "l_dit_cross_attention": {
        "probs": "projectors",
        "cross": _behind_the_first("attentions", _attention),
        "ln": _behind_the_first("norms"),
        **_PROJECTION,
    },
    "l_dit_cross_attention_ffn": {"cross": _layer, "ln": "norms", **_PROJECTION},
}
"""Released names of a variant's own modules under `visual_encoder.`, to ours under `image_encoder.fusion.`."""


@dataclass(frozen=True)
class ReleasedSizes:
    """All sizes of a released model that its tensors show."""

    backbone: ViTShape
    decoder_depth: int
    text_width: int
    max_tokens: int
    fusion: FusionConfig
    tables: tuple[tuple[int, int], ...]
    """Rows of each block's two rel-pos tables."""
    text_heads: int

    def as_json(self) -> str:
        """All of it as text."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields |= {"backbone": dataclasses.asdict(self.backbone), "fusion": self.fusion.model_dump(mode="json")}
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> ReleasedSizes:
        """What `as_json` wrote."""
        fields = json.loads(text)
        backbone = fields["backbone"]
        backbone["global_layers"] = tuple(backbone["global_layers"])
        fields |= {
            "backbone": ViTShape(**backbone),
            "fusion": FusionConfig.model_validate(fields["fusion"]),
            "tables": tuple((h, w) for h, w in fields["tables"]),
        }
        return cls(**fields)


def sizes_of(
    model: StateDict, variant: str, decoder_heads: int = HEADS, fusion_heads: int = HEADS, text_heads: int = TEXT_HEADS
) -> ReleasedSizes:
    """Sizes of a released model from `Parts.model`.

    Raises:
        CheckpointError: a key that shows a size is missing, or the tensors contradict one another.
    """
    try:
        return _sizes_of(model, variant, decoder_heads, fusion_heads, text_heads)
    except KeyError as error:
        raise CheckpointError(f"not a released checkpoint: no key {_released_name(str(error.args[0]))}") from None
    except (ValueError, IndexError) as error:  # an invalid number in a key, or a tensor of another rank
        raise CheckpointError(f"not a released checkpoint: {str(error).splitlines()[0]}") from None


def _released_name(key: str) -> str:
    return key.replace("image_encoder.vit.", "visual_encoder.")


def _sizes_of(model: StateDict, variant: str, decoder_heads: int, fusion_heads: int, text_heads: int) -> ReleasedSizes:
    vit = "image_encoder.vit."
    patch = model[f"{vit}patch_embed.proj.weight"]
    width, depth = patch.shape[0], _count(model, f"{vit}blocks.")
    grid = model[f"{vit}pos_embed"].shape[1]
    tables = [
        (model[f"{vit}blocks.{i}.attn.rel_pos_h"], model[f"{vit}blocks.{i}.attn.rel_pos_w"]) for i in range(depth)
    ]
    if not tables:
        raise KeyError(f"{vit}blocks.0.attn.rel_pos_h")
    head_width = tables[0][0].shape[1]
    if width % head_width or any(table.shape[1] != head_width for pair in tables for table in pair):
        raise CheckpointError(
            f"not a released checkpoint: rel-pos tables of widths {sorted({t.shape[1] for p in tables for t in p})} "
            f"do not make whole heads of width {width}"
        )
    rows = tuple((len(h), len(w)) for h, w in tables)
    global_rows = (2 * grid - 1, 2 * grid - 1)
    backbone = ViTShape(
        width=width,
        depth=depth,
        heads=width // head_width,
        global_layers=tuple(i for i, pair in enumerate(rows) if pair == global_rows),
        image_size=grid * patch.shape[2],
        patch_size=patch.shape[2],
        window_size=max(((h + 1) // 2 for h, w in rows if (h, w) != global_rows), default=0),
        mlp_ratio=model[f"{vit}blocks.0.mlp.lin1.weight"].shape[0] / width,
        decoder_width=model[f"{vit}neck.0.weight"].shape[0],
        decoder_heads=decoder_heads,
        decoder_mlp_width=model["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
        iou_head_width=model["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
        mask_channels=model["prompt_encoder.mask_downscaling.3.weight"].shape[0],
    )
    table = model.get("image_encoder.fusion.table")
    return ReleasedSizes(
        backbone,
        max(_count(model, "mask_decoder.transformer.layers."), SAM_DECODER_DEPTH),
        model["text_proj.weight"].shape[1],
        20 if table is None else table.shape[1],
        FusionConfig(
            variant=variant,
            text_projection="image_encoder.fusion.text_projection.weight" in model,
            cross_attention=_cross_attention(model, fusion_heads),
        ),
        rows,
        text_heads,
    )


def _count(model: StateDict, prefix: str) -> int:
    numbers = {int(key.removeprefix(prefix).split(".")[0]) for key in model if key.startswith(prefix)}
    return max(numbers, default=-1) + 1


def _cross_attention(model: StateDict, heads: int) -> CrossAttentionConfig:
    def rows(ending: str) -> int | None:
        start = "image_encoder.fusion.attentions."
        return next((len(v) for k, v in model.items() if k.startswith(start) and k.endswith(ending)), None)

    standard = CrossAttentionConfig()
    width = rows("k_proj.weight")
    if width is None:
        return standard
    return CrossAttentionConfig(keys="text", width=width, heads=heads, mlp_width=rows("lin1.weight") or 2048)

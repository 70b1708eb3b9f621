"""Counts what each fusion variant costs on a backbone, from the built model; `variant_table` shows and keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from workbench.config import RunConfig
from workbench.errors import ConfigError
from workbench.models.backbones import backbones
from workbench.models.build import check_config
from workbench.models.fusion import variants
from workbench.models.referring_sam import ReferringSam
from workbench.models.variant_table import WORDS, VariantRow, VariantTable, page, ship

BERT_BASE_WIDTH = 768


def catalog(backbone: str) -> list[VariantRow]:
    """Every registered variant, and the released settings of them, on a backbone; nothing is loaded.

    Raises:
        ConfigError: an unknown backbone.
    """
    settings: list[dict[str, Any]] = []
    for name in variants:
        settings.append({"fusion.variant": name})
        settings += _RELEASED_SETTINGS.get(name, [])
    return [count(backbone, setting) for setting in settings]


_RELEASED_SETTINGS: dict[str, list[dict[str, Any]]] = {
    "default": [{"fusion.variant": "default", "backbone.decoder_depth": depth} for depth in (4, 6)],
    "l_dit_cross_attention": [{"fusion.variant": "l_dit_cross_attention", "fusion.cross_attention.keys": "text"}],
}


def config_of(backbone: str, setting: Mapping[str, Any]) -> RunConfig:
    """A setting's dotted keys on a backbone as a configuration; with a text projection where the widths differ.

    Raises:
        ConfigError: an unknown backbone, or a key that is none of a section's.
    """
    widths = set(_widths(backbone))
    mini = backbone == "vit_mini"
    values: dict[str, Any] = {
        "backbone": {"name": backbone, "checkpoint": None, "image_size": _side(backbone)},
        "fusion": {},
        "text_encoder": {"name": "bert_mini" if mini else "bert-base-uncased", "max_tokens": WORDS},
        "training": {"steps": 1},
    }
    for key, value in setting.items():
        section, dot, rest = key.partition(".")
        if not dot:
            raise ConfigError(key, "a field of a section is expected, such as fusion.layers")
        *inner, last = rest.split(".")
        place = values.setdefault(section, {})
        for part in inner:
            place = place.setdefault(part, {})
        place[last] = value
    if not mini and widths != {BERT_BASE_WIDTH} and setting["fusion.variant"] != "default":
        values["fusion"]["text_projection"] = True
    return RunConfig.parse(values)


def count(backbone: str, setting: dict[str, Any]) -> VariantRow:
    """One row: a setting's dotted keys on a backbone."""
    config = config_of(backbone, setting)
    model = check_config(config)
    kind = variants[setting["fusion.variant"]]
    return VariantRow(
        setting,
        kind.rule,
        kind.source,
        sum(p.numel() for p in model.fusion.parameters()),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        _flops(model, config.backbone.image_size) / 1e9,
    )


@dataclass(frozen=True)
class Cost:
    """What a configuration's model costs; see `VariantRow`."""

    trainable: int
    gflops: float


def cost_of(config: RunConfig) -> Cost:
    """The cost of a configuration's model, its frozen parts not counted as trainable; no weights are loaded.

    Raises:
        ConfigError: it cannot be built.
    """
    model = check_config(config)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Cost(trainable, _flops(model, config.backbone.image_size, config.text_encoder.max_tokens) / 1e9)


def _widths(backbone: str) -> tuple[int, ...]:
    with torch.device("meta"):
        widths: tuple[int, ...] = backbones[backbone].build().image_encoder.widths
    return widths


def _side(backbone: str) -> int:
    return 64 if backbone == "vit_mini" else 512


def _flops(model: ReferringSam, side: int, words: int = WORDS) -> int:
    """Counted on the meta device, so no number is computed; only plain matrix products are counted."""
    model.eval()
    model.image_encoder.implementation = "eager"
    image = torch.empty(1, 3, side, side, device="meta")
    text = torch.empty(1, words, model.text_proj.in_features, device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.decode(model.encode_image(image, text), text)
    return int(counter.get_total_flops())


def as_markdown(backbone: str, rows: list[VariantRow]) -> str:
    """The page of the documentation."""
    return page(VariantTable(backbone, _side(backbone), _widths(backbone), tuple(rows)))


def table_of(backbone: str) -> VariantTable:
    """All that `workbench variants` shows of a backbone.

    Raises:
        ConfigError: an unknown backbone.
    """
    return VariantTable(backbone, _side(backbone), _widths(backbone), tuple(catalog(backbone)))


def recount() -> list[VariantTable]:
    """The tables of all registered backbones, counted anew and written for the next who asks."""
    tables = [table_of(backbone) for backbone in backbones]
    ship(tables)
    return tables

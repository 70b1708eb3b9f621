"""All fusion variants in one table: what is known of each without building a model, which `catalog` does."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.files import write_atomically

WORDS = 20
SHIPPED = Path(__file__).resolve().parent.parent / "assets" / "variants.json"
"""The tables of the backbones, so that nobody who only wants to read them waits for torch."""
FUSION = Path(__file__).resolve().parent / "fusion"


@dataclass(frozen=True)
class VariantRow:
    """One variant on one backbone.

    Attributes:
        setting: the dotted keys and values that a grid would set.
        rule, source: see `Fusion`.
        fusion_parameters: what the variant adds to the image encoder.
        trainable_parameters: of the whole model with its text encoder, nothing frozen (SAM's parts that no expression
            reaches are not counted).
        gflops: of a forward pass of image encoder and mask decoder for one image and one expression of 20 tokens; a
            multiplication and an addition are two. The text encoder's are left out.
    """

    setting: dict[str, Any]
    rule: str
    source: str
    fusion_parameters: int
    trainable_parameters: int
    gflops: float

    @property
    def name(self) -> str:
        """The variant, and what else is set."""
        name, *rest = (
            f"{value}" if key == "fusion.variant" else f"{key}: {value}" for key, value in self.setting.items()
        )
        return ", ".join([name, *rest])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class VariantTable:
    """The variants on one backbone.

    Attributes:
        side: of the square image, in pixels, that GFLOPs are counted for.
        widths: of the tokens that enter each block of the image encoder.
    """

    backbone: str
    side: int
    widths: tuple[int, ...]
    rows: tuple[VariantRow, ...]


def shipped(backbone: str) -> VariantTable | None:
    """The table that comes with the package; None of another backbone, or where variants were added or changed."""
    try:
        document = json.loads(SHIPPED.read_bytes())
    except (OSError, ValueError):
        return None
    tables = {values["backbone"]: values for values in document["tables"]}
    if document["sources"] != _sources() or backbone not in tables:
        return None
    values = tables[backbone]
    rows = tuple(VariantRow(**row) for row in values["rows"])
    loaded: Any = sys.modules.get("workbench.models.fusion")
    if loaded is not None and set(loaded.variants) != {row.setting["fusion.variant"] for row in rows}:
        return None  # somebody registered one in this process, as a notebook does
    return VariantTable(backbone, values["side"], tuple(values["widths"]), rows)


def ship(tables: Iterable[VariantTable]) -> None:
    """Write the tables that come with the package."""
    document = {"sources": _sources(), "tables": [asdict(table) for table in tables]}
    write_atomically(SHIPPED, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())


def _sources() -> str:
    """A digest of the variants' files, of which a new one adds a row and a changed one may change its own."""
    digest = hashlib.sha256()
    for file in sorted(FUSION.glob("*.py")):
        if file.name not in ("__init__.py", "base.py"):
            digest.update(f"{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()


_PAGE = """\
# Fusion variants

Written by `workbench variants --backbone {backbone} --markdown`. Parameters and GFLOPs are counted from the built
model: {backbone} ({depth} layers of width {width}) at {side} px, {words} text tokens, every block global.

- Fusion parameters: what a variant adds to the image encoder.
- Trainable: all weights of the model that learn when nothing is frozen, the text encoder's included.
- GFLOPs: a forward pass of image encoder and mask decoder, one image and one expression.

In the rules y are the text features, t the text tokens in the image encoder, and P a projector. The layers can be
chosen for each variant, projector type and initialisation for each that has a projector: see `FusionConfig` in
[`workbench/config/sections.py`](../workbench/config/sections.py).

| setting | rule | released as | fusion parameters | trainable | GFLOPs |
"""


def page(table: VariantTable) -> str:
    """The page of the documentation."""
    width = " and ".join(map(str, dict.fromkeys(table.widths)))
    depth = len(table.widths)
    head = _PAGE.format(backbone=table.backbone, depth=depth, width=width, side=table.side, words=WORDS)
    lines = [head + "|---|---|---|---:|---:|---:|"]
    lines += [
        f"| `{row.name}` | {row.rule} | {row.source} | {row.fusion_parameters:,} | "
        f"{row.trainable_parameters / 1e6:.1f} M | {row.gflops:.1f} |"
        for row in table.rows
    ]
    return "\n".join(lines) + "\n"

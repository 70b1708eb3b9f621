"""What a run is: `RunConfig`, checked field by field, and the identity made from it.

Whether the parts fit together (a layer past the encoder's depth, a missing file) is checked where they are built.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, get_args

from pydantic import BaseModel, ValidationError, model_validator

from workbench.errors import ConfigError
from workbench.registry import unknown_name
from workbench.sections import (
    BUILTIN,
    AugmentationConfig,
    BackboneConfig,
    CrossAttentionConfig,
    DataConfig,
    EmaConfig,
    EvaluationConfig,
    FreezeConfig,
    FusionConfig,
    LossConfig,
    MachineConfig,
    OptimizerConfig,
    ProjectorConfig,
    RefshapesRecipe,
    ScheduleConfig,
    Section,
    StartConfig,
    TextEncoderConfig,
    TrainingConfig,
)

__all__ = [
    "ASSETS", "BERT_MINI", "BUILTIN", "AugmentationConfig", "BackboneConfig", "CrossAttentionConfig", "DataConfig",
    "EmaConfig", "EvaluationConfig", "FreezeConfig", "FusionConfig", "LossConfig", "MachineConfig", "OptimizerConfig",
    "ProjectorConfig", "RefshapesRecipe", "RunConfig", "ScheduleConfig", "Section", "StartConfig", "TextEncoderConfig",
    "TrainingConfig", "difference", "digest_of", "run_id",
]  # fmt: skip

SCHEMA_VERSION = 1
"""Part of every identity; raised when a field changes its meaning."""

ASSETS = Path(__file__).parent / "assets"
BERT_MINI = ASSETS / "bert_mini"

LATER_FIELDS: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("start_from", "run"), None),
    (("start_from", "seed"), "same"),
    (("data", "sha256"), None),
    (("data", "augmentation"), AugmentationConfig().model_dump(mode="json")),
    (("data", "recipe", "targets"), "one"),
    (("evaluation", "no_target_area"), 0),
)
"""Fields younger than many stored runs, and what they were before: at that they stay out, so that older ids last."""


class RunConfig(Section):
    """Everything that defines one training but its seed, plus how this machine runs it (`machine`)."""

    backbone: BackboneConfig = BackboneConfig()
    fusion: FusionConfig = FusionConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    start_from: StartConfig = StartConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    machine: MachineConfig = MachineConfig()

    @model_validator(mode="before")
    @classmethod
    def _pin_shipped_weights(cls, values: Any) -> Any:
        """Shipped weights enter the identity by content, so a package with other weights makes other runs."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        backbone = values.get("backbone", {})
        if isinstance(backbone, dict) and backbone.get("checkpoint", BUILTIN) == BUILTIN:
            name = backbone.get("name", "vit_mini")
            asset = ASSETS / f"{name}.safetensors"
            if not asset.is_file():
                raise ValueError(
                    f"backbone.checkpoint: no weights of {name!r} are shipped; name an official SAM file, or null"
                )
            values["backbone"] = {**backbone, "checkpoint_sha256": _pinned(backbone, "checkpoint_sha256", asset)}
        text = values.get("text_encoder", {})
        if isinstance(text, dict) and text.get("name", "bert_mini") == "bert_mini":
            values["text_encoder"] = {**text, "sha256": _pinned(text, "sha256", BERT_MINI / "model.safetensors")}
        return values

    @model_validator(mode="after")
    def _features_of_unchanging_images(self) -> RunConfig:
        if self.training.cache_features and self.data.augmentation.changes_pixels:
            raise ValueError(
                "training.cache_features keeps what the encoder makes of each image, so data.augmentation must leave "
                "scale and colour alone"
            )
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> RunConfig:
        """Check a plain mapping; ConfigError names the first wrong field, its value and what it may be."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise _first_mistake(error) from None

    def identity_document(self) -> dict[str, Any]:
        """The fully resolved config without what belongs to the machine, as plain JSON values."""
        document: dict[str, Any] = self.model_dump(mode="json", exclude={"machine"})
        if (checkpoint := self.backbone.checkpoint) is not None:
            document["backbone"]["checkpoint"] = PurePath(checkpoint).name
        if (start := self.start_from.file) is not None:
            document["start_from"]["file"] = PurePath(start).name
        for path, former in LATER_FIELDS:
            _leave_out(document, path, former)
        if self.fusion.variant == "default":
            # Nothing else of the section means anything there.
            document["fusion"] = {"variant": "default"}
        if _is_path(self.text_encoder.name):
            document["text_encoder"]["name"] = PurePath(self.text_encoder.name).name
        return {"schema": SCHEMA_VERSION, "config": document}

    @property
    def setting_id(self) -> str:
        """`<dataset>-<backbone>-<variant>-<12 hex digits>`, the digits from the identity document's SHA-256."""
        canonical = json.dumps(self.identity_document(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        prefix = f"{self.data.dataset}-{self.backbone.name}-{self.fusion.variant}"
        return f"{re.sub(r'[^A-Za-z0-9_+-]', '_', prefix)}-{digest[:12]}"


def _leave_out(document: dict[str, Any], path: tuple[str, ...], former: Any) -> None:
    *sections, name = path
    inside: Any = document
    for section in sections:
        inside = inside.get(section) or {}
    if inside.get(name) == former:
        inside.pop(name, None)


def run_id(config: RunConfig, seed: int) -> str:
    """`<setting id>/seed<N>`, which is also the run's folder under `results/runs`."""
    return f"{config.setting_id}/seed{seed}"


def difference(one: Any, other: Any, key: str = "") -> list[str]:
    """Where two plain documents differ, a line a value: `key: one -> other`."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted(one.keys() | other.keys())
        return [
            line for name in names for line in difference(one.get(name), other.get(name), f"{key}.{name}".lstrip("."))
        ]
    return [] if one == other else [f"{key}: {one!r} -> {other!r}"]


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pinned(section: Mapping[str, Any], key: str, asset: Path) -> str:
    digest = digest_of(asset)
    if section.get(key) not in (None, digest):
        raise ValueError(f"{key}: the shipped {asset.name} has SHA-256 {digest}, not {section[key]}")
    return digest


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or PurePath(name).is_absolute()


def _first_mistake(error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    known = _known_keys(location)
    # A union of types reports one location a branch; the branch's name is no key of the file.
    key = ".".join(part for part in location if part.isidentifier() or part.isdigit()) or "config"
    if first["type"] == "extra_forbidden":
        return ConfigError(key, unknown_name("key", location[-1], known))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return ConfigError(key, "is required")
    if isinstance(first["input"], dict | BaseModel) and first["type"] == "value_error":
        return ConfigError(key, message)
    return ConfigError(key, f"{first['input']!r} is not valid: {message[0].lower()}{message[1:]}")


def _known_keys(location: list[str]) -> list[str]:
    section: Any = RunConfig
    for part in location[:-1]:
        field = section.model_fields.get(part) if hasattr(section, "model_fields") else None
        if field is None:
            break
        section = next((t for t in _types_of(field.annotation) if hasattr(t, "model_fields")), None)
    return list(section.model_fields) if hasattr(section, "model_fields") else []


def _types_of(annotation: Any) -> list[Any]:
    return [annotation, *get_args(annotation)]

"""What a run is: `RunConfig`, checked field by field, and the identity made from it.

Whether the parts fit together (a layer past the encoder's depth, a missing file) is checked where they are built.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError, model_validator

from workbench.config.base import (
    Section,
)
from workbench.config.data import (
    AugmentationConfig,
    DataConfig,
)
from workbench.config.sections import (
    BUILTIN,
    BackboneConfig,
    EvaluationConfig,
    FusionConfig,
    MachineConfig,
    StartConfig,
    TextEncoderConfig,
    TrainingConfig,
    ValidationConfig,
)
from workbench.errors import ConfigError, shown, with_more
from workbench.files import digest_of
from workbench.validation import mistakes

SCHEMA_VERSION = 1
"""Part of every identity; raised when a field changes its meaning."""

ASSETS = Path(__file__).parent.parent / "assets"
REFERRING_MINI = ASSETS / "referring_mini.safetensors"
"""A whole default SAM of `vit_mini` and `bert_mini2` that knows the words of refshapes' second version."""
RELATING_MINI = ASSETS / "relating_mini.safetensors"
"""The same, trained on to read relations."""
RELATING_MINI_EARLY = ASSETS / "relating_mini_early.safetensors"
"""The same on the way there: it reads relations in part."""
SHIPPED_STARTS = {BUILTIN: REFERRING_MINI, **{file.stem: file for file in (RELATING_MINI, RELATING_MINI_EARLY)}}
"""Whole models that come with the package, by what `start_from.file` calls them."""
SHIPPED_BERTS = {name: ASSETS / name for name in ("bert_mini", "bert_mini2")}
"""Text encoders that come with the package: of refshapes' first version, and of its second, which has more words."""

LATER_FIELDS: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("start_from", "run"), None),
    (("start_from", "seed"), "same"),
    (("data", "sha256"), None),
    (("data", "sentence"), "sent"),
    (("data", "augmentation"), AugmentationConfig().model_dump(mode="json")),
    (("data", "recipe", "targets"), "one"),
    (("data", "recipe", "version"), 1),
    (("evaluation", "no_target_area"), 0),
    (("evaluation", "checkpoint"), "last"),
    (("training", "optimizer", "rates"), {}),
    (("training", "tf32"), False),
    (("training", "schedule", "warmup_epochs"), None),
    (("training", "ema", "start"), "first_step"),
    (("data", "drop_last"), False),
    (("data", "augmentation", "batch_scales"), None),
    (("data", "words"), "own"),
    (("data", "members"), []),
    (("evaluation", "words"), "own"),
    (("fusion", "text"), "words"),
)
"""Fields added after runs had been stored, each with its former fixed value.

At that value a field is left out of the identity, so that older ids stay valid.
"""


class RunConfig(Section):
    """Everything that defines one training except its seed, plus how this machine runs it (`machine`)."""

    backbone: BackboneConfig = BackboneConfig()
    fusion: FusionConfig = FusionConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    start_from: StartConfig = StartConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig
    validation: ValidationConfig = ValidationConfig()
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
        start = values.get("start_from", {})
        if isinstance(start, dict) and (shipped := SHIPPED_STARTS.get(str(start.get("file")))):
            values["start_from"] = {**start, "sha256": _pinned(start, "sha256", shipped)}
        text = values.get("text_encoder", {})
        if isinstance(text, dict) and (folder := SHIPPED_BERTS.get(str(text.get("name", "bert_mini")))):
            values["text_encoder"] = {**text, "sha256": _pinned(text, "sha256", folder / "model.safetensors")}
        return values

    @model_validator(mode="after")
    def _features_of_unchanging_images(self) -> RunConfig:
        if self.training.cache_features and self.data.augmentation.changes_pixels:
            raise ValueError(
                "training.cache_features stores the features of each image, so data.augmentation must leave its scale "
                "and colours unchanged"
            )
        return self

    @model_validator(mode="after")
    def _best_of_the_validated(self) -> RunConfig:
        if self.evaluation.checkpoint == "best" and self.validation.every is None:
            raise ValueError(
                "evaluation.checkpoint is best, so validation.every must say how often to validate, such as {epochs: 1}"
            )
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> RunConfig:
        """Check a plain mapping; ConfigError names each wrong field, its value and what it may be."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first, *others = mistakes(error, cls)
            raise with_more(ConfigError(first.key or "config", first.message), map(str, others)) from None

    def identity_document(self) -> dict[str, Any]:
        """The fully resolved config without what belongs to the machine, as plain JSON values."""
        document: dict[str, Any] = self.model_dump(mode="json", exclude={"machine"})
        if (checkpoint := self.backbone.checkpoint) is not None:
            document["backbone"]["checkpoint"] = PurePath(checkpoint).name
        if (start := self.start_from.file) is not None:
            document["start_from"]["file"] = PurePath(start).name
        document["data"]["members"] = [member.document() for member in self.data.members]
        for path, former in LATER_FIELDS:
            _leave_out(document, path, former)
        if self.evaluation.checkpoint == "last":
            del document["validation"]
        if self.fusion.variant == "default":
            # This variant reads nothing else of the section.
            document["fusion"] = {"variant": "default"}
        if _is_path(self.text_encoder.name):
            document["text_encoder"]["name"] = PurePath(self.text_encoder.name).name
        return {"schema": SCHEMA_VERSION, "config": document}

    def check_processes(self, processes: int) -> None:
        """ConfigError where the batch is not a multiple of the processes that share it.

        Each process's gradient counts the same, so unequal parts would weigh their examples differently.
        """
        size = self.training.batch_size
        if size % processes:
            below, above = size // processes * processes, -(-size // processes) * processes
            near = f"{below} or {above}" if below else str(above)
            raise ConfigError(
                "training.batch_size", f"{size} cannot be shared equally by {processes} processes; {near} can"
            )

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


def difference(first: Any, second: Any, key: str = "") -> list[str]:
    """Where two plain documents differ, one line per value: `key: first -> second`."""
    if isinstance(first, dict) and isinstance(second, dict):
        names = sorted(first.keys() | second.keys())
        return [
            line
            for name in names
            for line in difference(first.get(name), second.get(name), f"{key}.{name}".lstrip("."))
        ]
    return [] if first == second else [f"{key}: {shown(first)} -> {shown(second)}"]


_digest_of_shipped = functools.cache(digest_of)
"""What is shipped does not change while a process lives, and every setting of a grid asks for it."""


def _pinned(section: Mapping[str, Any], key: str, asset: Path) -> str:
    digest = _digest_of_shipped(asset)
    if section.get(key) not in (None, digest):
        raise ValueError(f"{key}: the shipped {asset.name} has SHA-256 {digest}, not {section[key]}")
    return digest


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or PurePath(name).is_absolute()

"""What a run is: `RunConfig`, checked field by field, and the identity made from it.

Whether the parts fit together (a layer past the encoder's depth, a missing file) is checked where they are built.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from workbench.errors import ConfigError
from workbench.registry import unknown_name

SCHEMA_VERSION = 1
"""Part of every identity; raised when a field changes its meaning."""

ASSETS = Path(__file__).parent / "assets"
BERT_MINI = ASSETS / "bert_mini"
BUILTIN = "builtin"

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Base of all sections: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class BackboneConfig(Section):
    """SAM's three parts. Weights come from `checkpoint`; null starts from random ones."""

    name: str = "vit_mini"
    checkpoint: str | None = BUILTIN
    """`builtin` (shipped, `vit_mini` only), a SAM file's path, or its name under `machine.checkpoint_root`."""
    checkpoint_sha256: str | None = None
    """Pins the file's content; filled in for `builtin`."""
    image_size: int = Field(64, ge=8)
    """Side of the square the image is fitted into, in pixels."""
    attention: Literal["global", "windowed"] = "global"
    decoder_depth: int = Field(2, ge=2)
    """Layers of the mask decoder's two-way transformer; those past SAM's two start from random weights."""
    mask_upsampling: Literal["half_pixel", "align_corners"] = "half_pixel"
    """How low-resolution logits are enlarged to the model's square: as SAM does, or as the released DIT code does."""


class ProjectorConfig(Section):
    """How text features become tokens of the image encoder."""

    type: str = "linear"
    """`linear`, `mlp`, `bottleneck`, `shared` (one for all layers), `identity` or `gated`."""
    init: Literal["zero", "default", "ones", "normal", "released"] = "zero"
    """Of the last affine map: all zero, torch's own, weights of one, N(0, 0.02), or the variant's as released."""
    rank: int | None = Field(None, ge=1)
    """Inner width, of `bottleneck` alone; 32 where not given."""

    @model_validator(mode="before")
    @classmethod
    def _of_its_type(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kind, init = values.get("type", "linear"), values.get("init")
        if kind == "bottleneck":
            values = {**values, "rank": 32 if values.get("rank") is None else values["rank"]}
        elif values.get("rank") is not None:
            raise ValueError(f"'rank' belongs to the type bottleneck alone, not to {kind}")
        if kind in ("gated", "identity") and init is None:
            values = {**values, "init": "default"}
        if kind == "gated" and init == "zero":
            raise ValueError("a gate of zero on a map of zero can never learn: set init to default or normal")
        if kind == "identity" and init not in (None, "default", "released"):
            raise ValueError(f"the type identity has no weights to initialise, so init {init!r} means nothing")
        return values


class CrossAttentionConfig(Section):
    """Of the variants whose words attend to something before they enter a block; the sizes are the released ones."""

    keys: Literal["image", "text"] = "image"
    """`l_dit_cross_attention` only: the image tokens, as intended, or the last block's text output, as released."""
    width: int = Field(512, ge=1)
    heads: int = Field(8, ge=1)
    mlp_width: int = Field(2048, ge=1)
    """`l_dit_cross_attention_ffn` only."""

    @model_validator(mode="after")
    def _whole_heads(self) -> CrossAttentionConfig:
        if self.width % self.heads:
            raise ValueError(f"the width, {self.width}, is not a multiple of the {self.heads} heads")
        return self


class FusionConfig(Section):
    """Where and how text enters the image encoder."""

    variant: str = "default"
    layers: Literal["all"] | dict[Literal["first", "last", "every"], int] | tuple[int, ...] = "all"
    """`all`, `{first: k}`, `{last: k}`, `{every: k}` (0, k, 2k, …) or a list of block indices from 0."""
    projector: ProjectorConfig = ProjectorConfig()
    text_projection: bool = False
    """A Linear from the text's width to the image encoder's before all else, as released for ViT-H."""
    cross_attention: CrossAttentionConfig = CrossAttentionConfig()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @field_validator("layers", mode="before")
    @classmethod
    def _a_known_form(cls, layers: Any) -> Any:
        known = layers == "all" or isinstance(layers, list | tuple)
        if not known and not (isinstance(layers, dict) and set(layers) <= {"first", "last", "every"}):
            raise ValueError("one of all, {first: k}, {last: k}, {every: k} and a list of layers from 0")
        return layers

    @field_validator("layers")
    @classmethod
    def _one_rule(cls, layers: Any) -> Any:
        if isinstance(layers, dict):
            if len(layers) != 1:
                raise ValueError(f"one of first, last and every, not {sorted(layers) or 'none'}")
            if (count := next(iter(layers.values()))) < 1:
                raise ValueError(f"a number of layers from 1, not {count}")
        elif isinstance(layers, tuple):
            if not layers:
                raise ValueError("an empty list fuses nothing; use the variant 'default' for that")
            if len(set(layers)) != len(layers):
                raise ValueError(f"a layer stands twice in {list(layers)}")
            return tuple(sorted(layers))
        return layers


class TextEncoderConfig(Section):
    """A BERT-like encoder from `transformers`."""

    name: str = "bert_mini"
    """`bert_mini` (shipped), a Hugging Face directory, its name under `machine.checkpoint_root`, or a hub name."""
    sha256: str | None = None
    """Pins the content of a directory's weights file; filled in for `bert_mini`."""
    pretrained: bool = True
    layer: int | None = Field(None, ge=1)
    """Take the output of this layer, counted from 1; null means the last."""
    max_tokens: int = Field(16, ge=3)
    """[CLS] and [SEP] included; longer sentences are cut."""
    mask_padding: bool = True


class StartConfig(Section):
    """Weights of a whole model to begin from, in place of those of its parts."""

    file: str | None = None
    """As `import-released` or a run's checkpoint holds them: a path, or a name under `machine.checkpoint_root`."""
    sha256: str | None = None
    """Of the file; required with it, for checkpoints of many runs share one name."""
    run: str | None = None
    """In the place of a file: a setting id, whose completed run is begun from. A grid file names it as
    `{grid: FILE, setting: NAME}`, and the run is then trained before."""
    seed: Annotated[int, Field(ge=0)] | Literal["same"] = "same"
    """Of that run; `same`: the seed that this one has."""

    @model_validator(mode="after")
    def _file_or_run(self) -> StartConfig:
        if (self.file is None) != (self.sha256 is None):
            raise ValueError("'file' and 'sha256' come together; sha256sum FILE prints the latter")
        if self.file is not None and self.run is not None:
            raise ValueError("either a file or a run, not both")
        if self.run is None and self.seed != "same":
            raise ValueError("'seed' belongs to a run to begin from")
        return self

    @property
    def given(self) -> bool:
        """Whether there are weights to begin from."""
        return self.file is not None or self.run is not None

    def run_for(self, seed: int) -> str | None:
        """The id of the run to begin from, for a training with this seed; None where none is named."""
        return self.run and f"{self.run}/seed{seed if self.seed == 'same' else self.seed}"


class RefshapesRecipe(Section):
    """What the procedural data set is made from; see `workbench.data.refshapes`."""

    seed: int = Field(0, ge=0)
    width: int = Field(64, ge=48)
    height: int = Field(64, ge=48)
    train_images: int = Field(6000, ge=1)
    eval_images: int = Field(150, ge=1)
    """Images of each of val, testA, testB and testC."""


class DataConfig(Section):
    """What is fed in, in training."""

    dataset: str = "refshapes"
    split_by: str = "unc"
    train_split: str = "train"
    recipe: RefshapesRecipe | None = None
    """Of `refshapes` only, and filled in there."""
    epoch: Literal["expressions", "referents"] = "expressions"
    """One pass is over every expression, or over every referent with one of its expressions drawn at random."""
    horizontal_flip: Fraction = 0.5
    padding: Literal["bottom_right", "centred"] = "bottom_right"

    @model_validator(mode="before")
    @classmethod
    def _recipe_of_refshapes(cls, values: Any) -> Any:
        if isinstance(values, dict):
            if values.get("dataset", "refshapes") == "refshapes":
                return {**values, "recipe": values.get("recipe") or {}}
            if values.get("recipe") is not None:
                raise ValueError("'recipe' belongs to the data set refshapes alone")
        return values


class FreezeConfig(Section):
    """Which parts keep their weights."""

    image_encoder: bool = False
    neck: bool = False
    text_encoder: bool = False
    mask_decoder: bool = False
    fusion: bool = False


class OptimizerConfig(Section):
    """Adam or AdamW."""

    name: Literal["adamw", "adam"] = "adamw"
    learning_rate: Positive = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: Positive | None = 1.0


class ScheduleConfig(Section):
    """The learning rate's course, as a share of its peak."""

    name: Literal["one_cycle", "warmup_cosine", "constant"] = "one_cycle"
    warmup: Fraction = 0.1
    """Share of all steps."""
    start: Fraction = 0.04
    end: Fraction = 0.0


class EmaConfig(Section):
    """Exponential moving average of the weights; when on, it is what is evaluated."""

    decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    """The decay at step t is min(decay, (1+t)/(10+t)); null turns it off."""


class LossConfig(Section):
    """Weights of the mean binary cross-entropy and of the Dice loss."""

    bce: Annotated[float, Field(ge=0)] = 5.0
    dice: Annotated[float, Field(ge=0)] = 1.0


class TrainingConfig(Section):
    """One training."""

    steps: int | None = Field(None, ge=0)
    """0 trains nothing: the weights that `start_from` names are evaluated."""
    epochs: Positive | Literal["released"] | None = None
    """Passes over the training split; `released`: as many as the released code gives the fusion variant."""
    batch_size: int = Field(64, ge=1)
    """Over all processes together."""
    freeze: FreezeConfig = FreezeConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema: EmaConfig = EmaConfig()
    loss: LossConfig = LossConfig()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    cache_features: bool = False
    """Compute what a frozen image encoder makes of each image before text comes in once, and keep it (in fp16)."""
    deterministic: bool = True
    explosion_factor: Annotated[float, Field(gt=1)] = 100.0
    """A loss over this many times the first one ends the run as diverged."""

    @model_validator(mode="after")
    def _one_budget(self) -> TrainingConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("exactly one of 'steps' and 'epochs' must be set")
        return self


class EvaluationConfig(Section):
    """Which splits, and how a mask is made from logits."""

    splits: tuple[str, ...] = ("val", "testA", "testB")
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability over which a pixel counts as predicted."""
    masks: Literal["upsampled", "dilated"] = "upsampled"
    """`upsampled` logits are cut at the original size. `dilated`: cut in the model's square, enlarged bilinearly, and
    every pixel that a predicted one touches counts, as in the released code; it scores a perfect disc of radius 12 at
    0.84 against itself."""

    @field_validator("splits")
    @classmethod
    def _unique(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        if not splits or len(set(splits)) != len(splits):
            raise ValueError(f"at least one split, none twice, not {list(splits)}")
        return splits


class MachineConfig(Section):
    """Where things lie here and how many hands there are. Changes no result, so it is not part of the identity."""

    data_root: Path = Path("data")
    checkpoint_root: Path = Path("checkpoints")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    """Compile the image encoder with torch.compile for training; the first steps then take minutes."""
    threads: int | None = Field(None, ge=1)
    loader_workers: int = Field(0, ge=0)
    cache_images: bool = True
    """Keep decoded images in memory while they fit in 2 GB."""
    evaluation_batch_size: int = Field(64, ge=1)
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 2.0
    log_steps: int = Field(20, ge=1)
    trackers: tuple[str, ...] = ("tensorboard",)
    """Names that accelerate knows (tensorboard, wandb, …)."""


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
        if self.start_from.run is None:  # came later than many runs, whose ids shall last
            del document["start_from"]["run"], document["start_from"]["seed"]
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

"""The sections of a configuration, field by field. `workbench.config` puts them together and makes the identity."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from workbench.config.base import Fraction, Positive, Section, is_test_split
from workbench.errors import shown
from workbench.registry import unknown_name

BUILTIN = "builtin"


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
    """Start of the last affine map: all zero, torch's own, weights of one, N(0, 0.02), or the variant's as released."""
    rank: int | None = Field(None, ge=1)
    """Inner width, for `bottleneck` only; 32 by default."""

    @model_validator(mode="before")
    @classmethod
    def _of_its_type(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kind, init = values.get("type", "linear"), values.get("init")
        if kind == "bottleneck":
            values = {**values, "rank": 32 if values.get("rank") is None else values["rank"]}
        elif values.get("rank") is not None:
            raise ValueError(f"'rank' is only for the type bottleneck, not for {kind}")
        if kind in ("gated", "identity") and init is None:
            values = {**values, "init": "default"}
        if kind == "gated" and init == "zero":
            raise ValueError("a gate of zero on a map of zero can never learn: set init to default or normal")
        if kind == "identity" and init not in (None, "default", "released"):
            raise ValueError(f"the type identity has no weights to initialise, so init {init!r} has no effect")
        return values


class CrossAttentionConfig(Section):
    """For variants whose text tokens attend to others before they enter a block; the sizes are the released ones."""

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
    """Apply a Linear from the text's width to the image encoder's first, as released for ViT-H."""
    cross_attention: CrossAttentionConfig = CrossAttentionConfig()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    text: Literal["words", "learned"] = "words"
    """What the fused blocks are fed: the words, or, as a control, as many tokens that are the same for every sentence:
    fixed random vectors, which the variant's own weights may learn to use freely. Weights and cost stay the same."""

    @field_validator("layers", mode="before")
    @classmethod
    def _a_known_form(cls, layers: Any) -> Any:
        all_or_list = layers == "all" or isinstance(layers, list | tuple)
        if not all_or_list and not (isinstance(layers, dict) and set(layers) <= {"first", "last", "every"}):
            raise ValueError("one of all, {first: k}, {last: k}, {every: k} and a list of layers from 0")
        return layers

    @field_validator("layers")
    @classmethod
    def _one_rule(cls, layers: Any) -> Any:
        if isinstance(layers, dict):
            if len(layers) != 1:
                raise ValueError(f"one of first, last and every, not {sorted(layers) or 'none'}")
            if (count := next(iter(layers.values()))) < 1:
                raise ValueError(f"the number of layers must be at least 1, not {count}")
        elif isinstance(layers, tuple):
            if not layers:
                raise ValueError("an empty list fuses nothing; use the variant 'default' for that")
            if len(set(layers)) != len(layers):
                raise ValueError(f"a layer is listed twice in {list(layers)}")
            return tuple(sorted(layers))
        return layers


class TextEncoderConfig(Section):
    """A BERT-like encoder from `transformers`."""

    name: str = "bert_mini"
    """`bert_mini` or `bert_mini2` (shipped, for refshapes' first and second version), a Hugging Face directory, its
    name under `machine.checkpoint_root`, or a hub name."""
    sha256: str | None = None
    """Pins the content of a directory's weights file; filled in for a shipped one."""
    pretrained: bool = True
    layer: int | None = Field(None, ge=1)
    """Take the output of this layer, counted from 1; null means the last."""
    max_tokens: int = Field(16, ge=3)
    """[CLS] and [SEP] included; longer sentences are cut."""
    mask_padding: bool = True


class StartConfig(Section):
    """Weights of a whole model to begin from, in place of those of its parts."""

    file: str | None = None
    """Of what is shipped for `vit_mini` with `bert_mini2`: `relating_mini`, which reads relations,
    `relating_mini_early`, which reads them in part, or `builtin`, which reads none. Or what `import-released` wrote, or
    a run's checkpoint: a path, or a name under `machine.checkpoint_root`. Weights of default SAM start any variant;
    what that adds to the image encoder then begins as configured."""
    sha256: str | None = None
    """The file's SHA-256; required with `file`, because checkpoints of many runs share one name."""
    run: str | None = None
    """Instead of a file: the setting id of the completed run to begin from. A grid file names it as
    `{grid: FILE, setting: NAME}`, and that run is then trained first."""
    seed: Annotated[int, Field(ge=0)] | Literal["same"] = "same"
    """The seed of that run; `same`: the seed of this one."""

    @field_validator("run")
    @classmethod
    def _a_setting(cls, run: str | None) -> str | None:
        if run is not None and not re.fullmatch(r"[A-Za-z0-9_+-]{1,255}", run):
            raise ValueError(f"{shown(run)} is no id of a setting; workbench plan prints them")
        return run

    @model_validator(mode="after")
    def _file_or_run(self) -> StartConfig:
        if (self.file is None) != (self.sha256 is None):
            raise ValueError("'file' and 'sha256' must be set together; sha256sum FILE prints the SHA-256")
        if self.file is not None and self.run is not None:
            raise ValueError("either a file or a run, not both")
        if self.run is None and self.seed != "same":
            raise ValueError("'seed' is only for a 'run' to begin from")
        return self

    @property
    def given(self) -> bool:
        """Whether there are weights to begin from."""
        return self.file is not None or self.run is not None

    def run_for(self, seed: int) -> str | None:
        """The id of the run to begin from, for a training with this seed; None where none is named."""
        return self.run and f"{self.run}/seed{seed if self.seed == 'same' else self.seed}"


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
    rates: dict[str, Positive] = {}
    """Part, as in `freeze`, to a factor on the learning rate; the others, and 1, mean the learning rate itself."""

    @field_validator("rates")
    @classmethod
    def _of_parts(cls, rates: dict[str, float]) -> dict[str, float]:
        for part in rates:
            if part not in FreezeConfig.model_fields:
                raise ValueError(unknown_name("part", part, list(FreezeConfig.model_fields)))
        return {part: rates[part] for part in FreezeConfig.model_fields if rates.get(part, 1.0) != 1.0}


class ScheduleConfig(Section):
    """How the learning rate changes, as a fraction of its peak."""

    name: Literal["one_cycle", "warmup_cosine", "constant"] = "one_cycle"
    warmup: Fraction = 0.1
    """Fraction of all steps."""
    warmup_epochs: Positive | None = None
    """Instead: passes over the training split, whatever the length of the training."""
    start: Fraction = 0.04
    end: Fraction = 0.0


class EmaConfig(Section):
    """Exponential moving average of the weights; when on, it is what is evaluated."""

    decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    """The decay at step t is min(decay, (1+t)/(10+t)); null turns it off."""
    start: Literal["first_step", "initial"] = "first_step"
    """The average begins from the weights after the first step, or, as released, from those before it."""


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
    tf32: bool = False
    """Let a GPU compute what is in fp32 with TF32's 10 bits of mantissa."""
    cache_features: bool = False
    """Compute the features that a frozen image encoder has of each image before text enters only once, and keep them
    (in fp16)."""
    deterministic: bool = True
    """On one device, the same run gives the same weights to the last bit. An operation that a GPU cannot do so
    ends the run with an error; a GPU is somewhat slower this way."""
    explosion_factor: Annotated[float, Field(gt=1)] = 100.0
    """A loss of more than this many times the first one ends the run as diverged."""

    @model_validator(mode="after")
    def _one_budget(self) -> TrainingConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("exactly one of 'steps' and 'epochs' must be set")
        return self

    @model_validator(mode="after")
    def _rates_of_what_learns(self) -> TrainingConfig:
        for part in self.optimizer.rates:
            if getattr(self.freeze, part):
                raise ValueError(f"'optimizer.rates' has a factor for {part}, which 'freeze.{part}' keeps as it is")
        return self


class ValidationConfig(Section):
    """Scoring while training, of the weights that would be evaluated. It changes no result, and so is part of the
    identity, only where it chooses the checkpoint (`evaluation.checkpoint: best`)."""

    every: dict[Literal["steps", "epochs"], Positive] | None = None
    """`{steps: k}` or `{epochs: k}`, and after the last step; null validates nothing."""
    split: str = "val"
    images: int | None = Field(None, ge=1)
    """A fixed sample: so many of the split's images, with all their expressions; null takes all."""
    metric: Literal["miou", "oiou", "giou", "ciou"] = "miou"
    """What the best checkpoint is best in."""

    @model_validator(mode="after")
    def _a_validation(self) -> ValidationConfig:
        if self.every is not None and len(self.every) != 1:
            raise ValueError("'every' is either {steps: k} or {epochs: k}")
        if self.every is not None and self.every.get("steps", 1) % 1:
            raise ValueError(f"'every' must be a whole number of steps, not {self.every['steps']}")
        if is_test_split(self.split):
            raise ValueError(f"'split' must not be a test split, and {self.split} is one")
        return self


class EvaluationConfig(Section):
    """Which weights and splits, and how a mask is made from logits."""

    checkpoint: Literal["last", "best"] = "last"
    """The last step's weights, or the best of those that were validated; of equal ones the earliest."""

    splits: tuple[str, ...] = ("val", "testA", "testB")
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability above which a pixel counts as predicted."""
    masks: Literal["upsampled", "dilated"] = "upsampled"
    """`upsampled`: logits are enlarged to the original size and thresholded there. `dilated`: they are thresholded in
    the model's square, the mask is enlarged bilinearly, and every pixel that a predicted one touches counts, as in the
    released code; it scores a perfect disc of radius 12 at 0.84 against itself."""
    no_target_area: int = Field(0, ge=0)
    """A mask of fewer pixels than this, at the original size, counts as a no-target answer; gRefCOCO's protocol has
    such a bound."""
    words: Literal["own", "shuffled", "dropped"] = "own"
    """A control: each expression is evaluated with its own words, with those about another image, or with none. It
    says what a trained model reads; validation keeps the own words."""

    @field_validator("splits")
    @classmethod
    def _unique(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        if not splits or len(set(splits)) != len(splits):
            raise ValueError(f"at least one split, none twice, not {list(splits)}")
        return splits


class MachineConfig(Section):
    """Paths, device, threads and workers on this machine. They change no result, so they are not in the identity."""

    data_root: Path = Path("data")
    checkpoint_root: Path = Path("checkpoints")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    """Compile the image encoder with torch.compile for training; the first steps then take minutes."""
    micro_batch: int | None = Field(None, ge=1)
    """At most so many examples of a process's part of a batch go through the model at once; their gradients add up."""
    checkpoint_activations: bool = False
    """Keep only the input of each block of the image encoder, and compute the rest again for the gradients."""
    threads: int | None = Field(None, ge=1)
    loader_workers: int = Field(0, ge=0)
    cache_images: bool = True
    """Keep decoded images in memory while they fit in 2 GB."""
    evaluation_batch_size: int = Field(64, ge=1)
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 2.0
    log_steps: int = Field(20, ge=1)
    trackers: tuple[str, ...] = ("tensorboard",)
    """Names that accelerate knows (tensorboard, wandb, …)."""

    @model_validator(mode="after")
    def _compiled_or_checkpointed(self) -> MachineConfig:
        if self.compile and self.checkpoint_activations:
            raise ValueError("'compile' and 'checkpoint_activations' do not go together; set one of them to false")
        return self

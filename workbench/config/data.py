"""The sections of a configuration that say which data is trained on, and how it is varied."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from workbench.config.base import Fraction, Positive, Section


class RefshapesRecipe(Section):
    """What the procedural data set is made from; see `workbench.data.refshapes`."""

    seed: int = Field(0, ge=0)
    width: int = Field(64, ge=48, le=4096)
    height: int = Field(64, ge=48, le=4096)
    train_images: int = Field(6000, ge=1)
    eval_images: int = Field(150, ge=1)
    """Images of each of val, testA, testB and testC."""
    targets: Literal["one", "any"] = "one"
    """`any` adds expressions that fit several shapes or none, and writes gRefCOCO's format."""
    version: Literal[1, 2] = 1
    """2: expressions in pairs that differ in one part and refer to different shapes, so that each part must be read
    (`workbench.data.paired_scenes`); 1: those of the first version, which shortcuts solve (docs/data.md)."""

    def document(self) -> dict[str, Any]:
        """The recipe that the folder is named after; a field that was added later is left out at its former value."""
        former = {"targets": "one", "version": 1}
        return {name: value for name, value in self.model_dump().items() if former.get(name) != value}


class AugmentationConfig(Section):
    """How training images vary, besides the flip. Evaluation sees every image as it is."""

    scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = None
    """One is drawn: the longer side as a fraction of the model's square. Released: 1, 0.9375, …, 0.625."""
    large_scale_jitter: tuple[Positive, Positive] | None = None
    """SAM's, [0.1, 2.0], which its paper (arXiv 2304.02643, appendix A) used while its data was limited: a
    fraction is drawn between the two, and, where the image becomes larger than the square, a window that shows the
    referent."""
    color_jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Brightness, contrast and saturation, in random order, each by a factor within 1 ± this. Released: 0.4."""
    color_jitter_probability: Fraction = 0.8
    batch_scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] | Literal["released"] | None = None
    """One is drawn for each batch, whose images and masks are resized to that fraction of the model's square (to whole
    patches), to the nearest pixel. `released`: 7/16 to 1 in steps of 1/16 for the variants with cross-attention, which
    alone were trained so, and none for the others."""
    swap: Literal["words", "substrings"] = "words"
    """What a flip exchanges in the sentence: the words left and right, or these letters anywhere, as released."""

    @model_validator(mode="after")
    def _one_scale(self) -> AugmentationConfig:
        if self.scales is not None and self.large_scale_jitter is not None:
            raise ValueError("either 'scales' or 'large_scale_jitter', not both")
        if self.scales is not None and not self.scales:
            raise ValueError("'scales' must not be empty; null leaves images as large as the square")
        if self.large_scale_jitter is not None and self.large_scale_jitter[0] > self.large_scale_jitter[1]:
            raise ValueError(f"'large_scale_jitter' goes from small to large, not {list(self.large_scale_jitter)}")
        return self

    @property
    def changes_pixels(self) -> bool:
        """Whether the same image can look different each time it is drawn."""
        random = (self.scales, self.large_scale_jitter, self.batch_scales)
        return any(option is not None for option in random) or self.color_jitter > 0


class DataConfig(Section):
    """The training data, and how it is fed in."""

    dataset: str = "refshapes"
    split_by: str = "unc"
    sentence: Literal["sent", "raw"] = "sent"
    """Which text of a sentence is read: `sent`, cleaned (no capitals, no punctuation), as by the released DIT code; or
    `raw`, as it was written, as by LAVT and ReLA."""
    sha256: str | None = None
    """Digest of the data set as `workbench data prepare` stores it; filled in from there, and pins the content."""
    train_split: str = "train"
    recipe: RefshapesRecipe | None = None
    """For `refshapes` only, where it is filled in."""
    epoch: Literal["expressions", "referents"] = "expressions"
    """One pass is over every expression, or over every referent with one of its expressions drawn at random."""
    drop_last: bool = False
    """Each pass over the training split leaves out its last, incomplete batch; else a batch may span two passes."""
    words: Literal["own", "shuffled"] = "own"
    """A control: train with each expression's own words, or with those of another image's, which say nothing of it."""
    horizontal_flip: Fraction = 0.5
    padding: Literal["bottom_right", "centred"] = "bottom_right"
    augmentation: AugmentationConfig = AugmentationConfig()

    @model_validator(mode="before")
    @classmethod
    def _recipe_of_refshapes(cls, values: Any) -> Any:
        if isinstance(values, dict):
            if values.get("dataset", "refshapes") == "refshapes":
                return {**values, "recipe": values.get("recipe") or {}}
            if values.get("recipe") is not None:
                raise ValueError("'recipe' is only for the data set refshapes")
        return values

    def same_set(self, other: DataConfig) -> bool:
        """Whether both hold the same expressions."""
        mine, others = ((d.dataset, d.split_by, d.sentence, d.recipe, d.sha256) for d in (self, other))
        return mine == others

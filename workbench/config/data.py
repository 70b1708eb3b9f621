"""The sections of a configuration that say which data is trained on, and how it is varied."""

from __future__ import annotations

from collections.abc import Mapping
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


JOIN = "&"
"""Between the names of data sets that are trained on together."""


class MemberConfig(Section):
    """One of several data sets that are trained on together."""

    name: Annotated[str, Field(pattern=r"^[\w.+-]{1,50}$")]
    """What its splits begin with: `refcoco/val`. Its data set's name, unless two members have the same data set."""
    dataset: str
    split_by: str = "unc"
    sha256: str | None = None
    recipe: RefshapesRecipe | None = None

    def document(self) -> dict[str, Any]:
        """As part of an identity."""
        recipe = None if self.recipe is None else self.recipe.document()
        return {**self.model_dump(mode="json"), "recipe": recipe}


class DataConfig(Section):
    """The training data, and how it is fed in."""

    dataset: str = "refshapes"
    """A name; or a list of names, and of mappings with the keys of `members`, to train on all of them together. The
    names of a list are then joined here, and `members` says what they are."""
    members: tuple[MemberConfig, ...] = ()
    """Filled in from a list in `dataset`. What a member does not say of split_by and recipe is said beside the list."""
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
            if isinstance(values.get("dataset"), list | tuple):
                return _with_members(values)
            if values.get("dataset", "refshapes") == "refshapes":
                return {**values, "recipe": values.get("recipe") or {}}
            if values.get("recipe") is not None:
                raise ValueError("'recipe' is only for the data set refshapes")
        return values

    @model_validator(mode="after")
    def _members_have_names(self) -> DataConfig:
        names = [member.name for member in self.members]
        if names and (len(names) < 2 or len(set(names)) < len(names)):
            raise ValueError(
                f"'dataset' as a list names two data sets or more, none twice, not {', '.join(names)}; two of the same "
                "need different names, as in {name: second, dataset: refshapes}"
            )
        if names and JOIN.join(names) != self.dataset:
            raise ValueError("'members' is filled in from a list in 'dataset'; write the list there")
        return self

    @property
    def parts(self) -> tuple[DataConfig, ...]:
        """The configuration of each member by itself; of a single data set, this one."""
        return tuple(map(self.of, self.members)) or (self,)

    def of(self, member: MemberConfig) -> DataConfig:
        """The configuration of a member as if it were alone."""
        own = {name: getattr(member, name) for name in ("dataset", "split_by", "sha256", "recipe")}
        return self.model_copy(update={**own, "members": ()})

    @property
    def is_pinned(self) -> bool:
        """Whether what it holds is known by recipe or digest, so that its runs have ids."""
        return all(part.recipe is not None or part.sha256 is not None for part in self.parts)

    def same_set(self, other: DataConfig) -> bool:
        """Whether both hold the same expressions."""
        mine, others = ((d.dataset, d.split_by, d.sentence, d.recipe, d.sha256, d.members) for d in (self, other))
        return mine == others


def _with_members(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a section whose `dataset` is a list, with its members spelled out.

    Raises:
        ValueError: an item is neither a name nor a mapping, or the section says what only single data sets have.
    """
    members = []
    shared = values.get("recipe")
    for item in values["dataset"]:
        if not isinstance(item, str | dict):
            raise ValueError(
                "'dataset' is a list of names and of mappings such as {dataset: refcocog, split_by: umd}, "
                f"not of {item!r}"
            )
        own = {"dataset": item} if isinstance(item, str) else item
        member = {"name": own.get("dataset"), "split_by": values.get("split_by", "unc"), **own}
        if own.get("dataset") == "refshapes":
            member["recipe"] = {**_plain(shared), **_plain(own.get("recipe"))}
        members.append(member)
    if shared is not None and not any(member.get("dataset") == "refshapes" for member in members):
        raise ValueError("'recipe' is only for the data set refshapes")
    if values.get("sha256") is not None:
        raise ValueError("'sha256' is that of one data set; of several, each has its own")
    names = JOIN.join(str(member["name"]) for member in members)
    return {**values, "dataset": names, "members": members, "recipe": None}


def _plain(recipe: Any) -> dict[str, Any]:
    if isinstance(recipe, RefshapesRecipe):
        return recipe.model_dump()
    if recipe is not None and not isinstance(recipe, dict):
        raise ValueError(f"'recipe' is a mapping, not {recipe!r}")
    return dict(recipe or {})

"""Where the words of a sentence look, in several runs at once: maps by layer, head, word and method, each kept.

What is shown is a `State`; `Explorer.view` answers with arrays. Drawing is left to `paper.explorer_view`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from workbench.analysis.points import reads_words
from workbench.analysis.predictor import Predictor
from workbench.analysis.relevance import relevance
from workbench.analysis.text_blocks import text_blocks
from workbench.analysis.words import Word, unread, words_of
from workbench.data.images import read_upright
from workbench.data.loading import ReferringDataset
from workbench.data.transforms import fitted, place, place_image, resize_image
from workbench.errors import DataError, WorkbenchError
from workbench.evaluation.evaluate import mask_of
from workbench.models.referring_sam import ReferringSam
from workbench.models.text_encoder import Tokenizer
from workbench.registry import unknown_name

T = TypeVar("T")
Method = Literal["words to image", "image to words", "gradient", "rollout", "rollout × gradient"]
METHODS: dict[Method, str] = {
    "words to image": "how much a word attends to each place, in multiples of uniform attention",
    "image to words": "how much each place attends to a word, in multiples of uniform attention",
    "gradient": "attention to a word × gradient of the mask's logit, in multiples of its mean",
    "rollout": "what a word draws from each place, in multiples of uniform attention",
    "rollout × gradient": "rollout weighted by the mask's gradient, in multiples of its mean",
}
ALL_BLOCKS: tuple[Method, ...] = ("rollout", "rollout × gradient")
"""Methods that go through all blocks of the image encoder, whatever layer and head are chosen."""
LARGEST = 1024
"""Pixels along the longer side of a picture of one's own: as many as SAM sees."""
MOST_KEPT = 64
"""Pictures with a sentence whose maps are kept for each run."""


@dataclass(frozen=True)
class Picture:
    """A picture to look at.

    Attributes:
        pixels: height×width×3.
        referents: masks height×width of the sentences that are known to mean something in it.
    """

    name: str
    pixels: NDArray[np.uint8]
    referents: Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class State:
    """What is chosen.

    Attributes:
        picture: its number.
        word: number in `Explorer.words`; None: the mean over all words.
        layer: a name out of `Explorer.layers`.
        head: None: the mean over heads.
        method: for those of ALL_BLOCKS, layer and head say nothing.
    """

    picture: int
    sentence: str
    layer: str
    word: int | None = None
    head: int | None = None
    method: Method = "words to image"


@dataclass(frozen=True)
class View:
    """One run's answer.

    Attributes:
        map: over the picture without padding, h×w in tokens' pixels of the model's square; None where the run has no
            such attention.
        why: in words, where there is no map.
        mask: the prediction, height×width of the picture.
        iou: with the referent; None where it is not known.
    """

    map: NDArray[np.float32] | None
    why: str
    mask: NDArray[np.bool_]
    iou: float | None


@dataclass(frozen=True)
class Recorded:
    """All attention of one run on one picture and sentence.

    Attributes:
        maps: by layer and method, heads×L×H×W over the model's square, in multiples of uniform attention.
        logits: of the mask, low resolution.
    """

    maps: Mapping[str, Mapping[Method, NDArray[np.float32]]]
    logits: Tensor


Relevant = Mapping[tuple[Method, str], NDArray[np.float32]]
"""By method and layer (none for ALL_BLOCKS), heads×L×H×W over the model's square."""


def record(model: ReferringSam, image: Tensor, ids: Tensor, mask: Tensor) -> Recorded:
    """The one place that knows how attention is recorded.

    Args:
        image: normalised, 1×3×S×S.
        ids, mask: of one sentence, 1×L.
    """
    recorded = text_blocks(model, image, ids, mask, keep_heads=True)
    maps: dict[str, dict[Method, NDArray[np.float32]]] = {}
    for part, layers in (("encoder", recorded.encoder), ("decoder", recorded.decoder)):
        for layer in layers:
            both: dict[Method, Tensor] = {"words to image": layer.word_to_image, "image to words": layer.image_to_word}
            maps[f"{part} {layer.layer}"] = {name: (map_ * layer.keys).cpu().numpy() for name, map_ in both.items()}
    return Recorded(maps, recorded.logits)


def relevant(model: ReferringSam, image: Tensor, ids: Tensor, mask: Tensor) -> Relevant:
    """Maps of the methods that need a backward pass or all blocks; of one head where they have none."""
    relevances, words = relevance(model, image, ids, mask), int(mask.sum())
    maps: dict[tuple[Method, str], NDArray[np.float32]] = {}
    for name, gradient in relevances.gradient.items():
        part, _, number = name.partition("[")
        maps["gradient", f"{part.split('.')[0]} {number.partition(']')[0]}"] = _over_mean(gradient)
    if relevances.rollout is not None and relevances.weighted is not None:
        keys = relevances.rollout[0].numel() + words
        maps["rollout", ""] = (relevances.rollout * keys)[None].cpu().numpy()
        maps["rollout × gradient", ""] = _over_mean(relevances.weighted[None])
    return maps


def _over_mean(values: Tensor) -> NDArray[np.float32]:
    mean = float(values.mean())
    relative: NDArray[np.float32] = (values / (mean or 1.0)).cpu().numpy()
    return relative


class Explorer:
    """Several runs and pictures to ask about.

    Args:
        predictors: by what they are called; their tokenizers must split sentences alike.
        pictures: at least one.

    Raises:
        DataError: there is no picture or no run.
    """

    def __init__(self, predictors: Mapping[str, Predictor], pictures: Sequence[Picture]) -> None:
        if not predictors or not pictures:
            raise DataError("at least one run and one picture are needed")
        self.predictors, self.pictures = dict(predictors), list(pictures)
        self._words: dict[str, list[Word]] = {}
        self._kept: OrderedDict[tuple[str, int, str], Recorded] = OrderedDict()
        self._relevant: OrderedDict[tuple[str, int, str], Relevant] = OrderedDict()

    @property
    def layers(self) -> list[str]:
        """Layers that any run has: the image encoder's first, as the model runs."""
        depths: dict[str, set[int]] = {"encoder": set(), "decoder": set()}
        for predictor in self.predictors.values():
            depths["encoder"] |= set(predictor.model.fusion.layers if reads_words(predictor.model) else ())
            depths["decoder"] |= set(range(predictor.config.backbone.decoder_depth))
        return [f"{part} {layer}" for part, layers in depths.items() for layer in sorted(layers)]

    def heads(self, state: State) -> int:
        """How many heads the layer has, in the run that has most."""
        recorded = (self.recorded(name, state).maps.get(state.layer) for name in self.predictors)
        return max((len(next(iter(maps.values()))) for maps in recorded if maps), default=0)

    def words(self, sentence: str) -> list[Word]:
        """The words of a sentence that have tokens, with [CLS] before and [SEP] behind them.

        Raises:
            DataError: the sentence says nothing.
        """
        if not sentence.strip():
            raise DataError("a sentence is needed, such as: the red circle")
        if sentence not in self._words:
            tokenizer = self._tokenizer
            last = int(tokenizer([sentence])[1].sum()) - 1
            own = [word for word in words_of(sentence, tokenizer) if word.tokens]
            ends = [Word(text, (token,), (text,), "read") for text, token in (("[CLS]", 0), ("[SEP]", last))]
            self._words = {sentence: [ends[0], *own, ends[1]]}
        return self._words[sentence]

    def unread(self, sentence: str) -> str:
        """What the models do not read of a sentence, in one line; empty where they read all."""
        return unread(words_of(sentence, self._tokenizer))

    @property
    def _tokenizer(self) -> Tokenizer:
        return next(iter(self.predictors.values())).tokenizer

    def start(self) -> State:
        """What is shown first: the first picture and its first sentence, the last layer of an image encoder."""
        sentence = next(iter(self.pictures[0].referents), "the object")
        encoder = [layer for layer in self.layers if layer.startswith("encoder")]
        return State(0, sentence, encoder[-1] if encoder else self.layers[0])

    def view(self, state: State) -> dict[str, View]:
        """Every run's answer.

        Raises:
            DataError: the sentence is empty, or a number is out of range.
            WorkbenchError: a layer or method of that name does not exist.
        """
        self._check(state)
        return {name: self._view(name, state) for name in self.predictors}

    def recorded(self, run: str, state: State) -> Recorded:
        """All maps of a run for the state's picture and sentence; they are computed once."""
        return self._once(self._kept, record, run, state)

    def _once(
        self,
        kept: OrderedDict[tuple[str, int, str], T],
        compute: Callable[[ReferringSam, Tensor, Tensor, Tensor], T],
        run: str,
        state: State,
    ) -> T:
        key = (run, state.picture, state.sentence)
        if key in kept:
            kept.move_to_end(key)
            return kept[key]
        predictor = self.predictors[run]
        image, ids, mask = self._inputs(predictor, self.pictures[state.picture], state.sentence)
        kept[key] = computed = compute(predictor.model, image, ids, mask)
        if len(kept) > MOST_KEPT * len(self.predictors):
            kept.popitem(last=False)
        return computed

    def _inputs(self, predictor: Predictor, picture: Picture, sentence: str) -> tuple[Tensor, Tensor, Tensor]:
        config, side = predictor.config, predictor.config.backbone.image_size
        pixels = torch.from_numpy(picture.pixels).permute(2, 0, 1)
        height, width = picture.pixels.shape[:2]
        placement = place(height, width, side, config.data.padding)
        square = place_image(resize_image(pixels, placement), placement, side)[None].to(predictor.device)
        content = torch.tensor([[placement.top, placement.left, placement.height, placement.width]])
        ids, mask = (tensor.to(predictor.device) for tensor in predictor.tokenizer([sentence]))
        return predictor.model.normalise(square, content), ids, mask

    def _view(self, run: str, state: State) -> View:
        predictor, picture = self.predictors[run], self.pictures[state.picture]
        recorded = self.recorded(run, state)
        height, width = picture.pixels.shape[:2]
        placement = place(height, width, predictor.config.backbone.image_size, predictor.config.data.padding)
        mask = mask_of(recorded.logits, placement, height, width, predictor.config).cpu().numpy()
        referent = picture.referents.get(state.sentence)
        iou = None if referent is None else float((mask & referent).sum() / max(1, (mask | referent).sum()))
        heads = self._heads_of(run, state)
        if heads is None:
            where = "the image encoder" if state.method in ALL_BLOCKS else state.layer
            return View(None, f"no words in {where}", mask, iou)
        head = None if state.method in ALL_BLOCKS else state.head
        if head is not None and head >= len(heads):
            return View(None, f"this layer has {len(heads)} heads", mask, iou)
        chosen = heads.mean(axis=0) if head is None else heads[head]
        words = self.words(state.sentence)
        picked = words[1:-1] if state.word is None else [words[state.word]]
        square = chosen[[token for word in picked for token in word.tokens]].mean(axis=0)
        patch = predictor.config.backbone.image_size // square.shape[0]
        pixels = np.kron(square, np.ones((patch, patch), dtype=np.float32))
        top, left = placement.top, placement.left
        return View(pixels[top : top + placement.height, left : left + placement.width], "", mask, iou)

    def _heads_of(self, run: str, state: State) -> NDArray[np.float32] | None:
        """The state's maps, heads×L×H×W; None where the run has none."""
        if state.method in ("words to image", "image to words"):
            maps = self.recorded(run, state).maps.get(state.layer)
            return None if maps is None else maps[state.method]
        layer = "" if state.method in ALL_BLOCKS else state.layer
        return self._once(self._relevant, relevant, run, state).get((state.method, layer))

    def _check(self, state: State) -> None:
        words = self.words(state.sentence)
        if not 0 <= state.picture < len(self.pictures):
            raise DataError(f"picture {state.picture}: there are 0 to {len(self.pictures) - 1}")
        if state.word is not None and not 0 <= state.word < len(words):
            raise DataError(f"word {state.word}: the sentence has 0 to {len(words) - 1}")
        for kind, name, known in (("layer", state.layer, self.layers), ("method", state.method, [*map(str, METHODS)])):
            if name not in known:
                raise WorkbenchError(unknown_name(kind, name, known))


def pictures_of(dataset: ReferringDataset, most: int = 20) -> list[Picture]:
    """The first pictures of a split, each with its sentences and what they mean."""
    by_image: OrderedDict[int, Picture] = OrderedDict()
    for expression in dataset.expressions:
        if expression.image_id not in by_image:
            if len(by_image) == most:
                break
            by_image[expression.image_id] = Picture(expression.file_name, dataset.image(expression), {})
        picture = by_image[expression.image_id]
        referents = {**picture.referents, expression.sentence: dataset.mask(expression) > 0}
        by_image[expression.image_id] = replace(picture, referents=referents)
    return list(by_image.values())


def own_picture(file: Path) -> Picture:
    """A picture of one's own, turned as the camera says, and made smaller where it is larger than a screen shows.

    Raises:
        DataError: it cannot be read.
    """
    pixels = read_upright(file)
    if max(pixels.shape) > LARGEST:
        height, width = fitted(pixels.shape[0], pixels.shape[1], LARGEST)
        pixels = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0))
    return Picture(file.name, pixels, {})

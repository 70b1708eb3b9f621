"""A picture, a sentence and the scalar that stands for the answer: a function of words, and a function of patches."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from workbench.analysis.games import BUDGET, Game, activation_bytes, batch_within
from workbench.analysis.predictor import Predictor
from workbench.analysis.scalar_targets import target_of
from workbench.analysis.words import words_of
from workbench.data.transforms import Placement, place, place_image, resize_image
from workbench.evaluation.evaluate import mask_of

WordBaseline = Literal["mask", "pad"]
ImageBaseline = Literal["blurred", "mean"]
MOST_CELLS = 16
"""Cells along the longer side of a map: of a large picture, a cell is several patches."""
BLUR = 1 / 8
"""Standard deviation of the blurred baseline, as a part of the square's side."""
WORD_BASELINES = {
    "mask": "the word's pieces become [MASK]; [CLS], [SEP] and padding stay",
    "pad": "the word's pieces become [PAD], still attended to; [CLS], [SEP] and padding stay",
}
IMAGE_BASELINES = {
    "blurred": f"the picture blurred by a Gaussian of {BLUR:g} of the square's side; padding stays",
    "mean": "the picture's mean colour; padding stays",
}


class Question:
    """What a run is asked, and what it answers as one number.

    Gradients of the model's parameters are turned off: only those of words and pixels are wanted. All is computed in
    fp32, whatever precision the run was trained in.

    Args:
        pixels: height×width×3, uint8.
        target: a key of `scalar_targets.DEFINITIONS`.
        referent: the true mask, height×width bool, for the target `soft_iou`.
        budget: bytes of activations that may be held at once.

    Attributes:
        words: the words of the sentence; `readable` of them have tokens, and only these are features.
        mask: the prediction for the unperturbed picture and sentence, height×width.
        embeddings, word_baseline: of the tokens, 1×L×D; the baseline differs from them at the words' tokens alone.
        image, image_baseline: normalised pixels, 1×3×S×S.
        grid: rows and columns of the cells that lie on the picture.

    Raises:
        DataError: the sentence has no words, or the target is not defined here.
    """

    def __init__(
        self,
        predictor: Predictor,
        pixels: NDArray[np.uint8],
        sentence: str,
        target: str = "mask_logit",
        referent: NDArray[np.bool_] | None = None,
        word_baseline: WordBaseline = "mask",
        image_baseline: ImageBaseline = "blurred",
        budget: int = BUDGET,
    ) -> None:
        self.words = words_of(sentence, predictor.tokenizer)
        self.readable = tuple(i for i, word in enumerate(self.words) if word.tokens)
        self.model, self.sentence, self.budget = predictor.model.requires_grad_(False), sentence, budget
        assert self.model.text_encoder is not None
        self._bert = cast(Any, self.model.text_encoder.bert)
        config, device = predictor.config, predictor.device
        side, height, width = config.backbone.image_size, *pixels.shape[:2]
        self.placement = place(height, width, side, config.data.padding)
        content = resize_image(torch.from_numpy(pixels).permute(2, 0, 1), self.placement)
        where = torch.tensor([[self.placement.top, self.placement.left, self.placement.height, self.placement.width]])
        square = place_image(content, self.placement, side)[None].to(device)
        self._ids, self._attention_mask = (part.to(device) for part in predictor.tokenizer([sentence]))
        patch = self.model.image_encoder.patch_size
        self._cells, self.grid = cells_of(self.placement, side, patch)
        with torch.no_grad():
            self.image = self.model.normalise(square, where)
            self.image_baseline = baseline_of(self.image, self.placement, image_baseline)
            table = self._bert.get_input_embeddings()
            self.embeddings: Tensor = table(self._ids)
            stand_in = table(torch.tensor(predictor.tokenizer.special_id(word_baseline), device=device))
            is_word = torch.stack([self._tokens_of(i) for i in self.readable]).any(dim=0)
            self.word_baseline = torch.where(is_word[None, :, None], stand_in, self.embeddings)
            self._features = self.model.before_text(self.image)
            self._text, self._text_mask = self.model.encode_text(self._ids, self._attention_mask)
            (logits,) = self._decoded(self._features, self._text, self._text_mask)
            self.mask: NDArray[np.bool_] = mask_of(logits, self.placement, height, width, config).cpu().numpy()
        self.target = target_of(target, self.mask, logits, self.placement, config, referent)
        self.answer = float(self.target.of(logits[None]))

    def value_of_words(self, embeddings: Tensor) -> Tensor:
        """The target, B, of word embeddings B×L×D before positions are added, with the picture as it is."""
        size = len(embeddings)
        with replaced_output(self._bert.get_input_embeddings(), embeddings):
            text, mask = self.model.encode_text(self._ids.expand(size, -1), self._attention_mask.expand(size, -1))
        return self.target.of(self._decoded(self._features.expand(size, *self._features.shape[1:]), text, mask))

    def value_of_image(self, image: Tensor) -> Tensor:
        """The target, B, of normalised pixels B×3×S×S, with the sentence as it is."""
        size = len(image)
        mask = None if self._text_mask is None else self._text_mask.expand(size, -1)
        return self.target.of(self._decoded(self.model.before_text(image), self._text.expand(size, -1, -1), mask))

    @functools.cached_property
    def word_batch(self) -> int:
        """How many sentences are computed at once, within the budget."""
        return self._batch(lambda: self.value_of_words(self.embeddings.clone().requires_grad_()))

    @functools.cached_property
    def image_batch(self) -> int:
        """How many pictures are computed at once, within the budget."""
        return self._batch(lambda: self.value_of_image(self.image.clone().requires_grad_()))

    @functools.cached_property
    def word_game(self) -> Game:
        """The target by which of the `readable` words are there; the others are the baseline's."""
        tokens = torch.stack([self._tokens_of(i) for i in self.readable])

        def value(presence: Tensor) -> Tensor:
            absent = (1 - presence.to(tokens.device)) @ tokens.double() > 0.5
            return self.value_of_words(torch.where(absent[..., None], self.word_baseline, self.embeddings))

        return Game(value, len(self.readable), self.word_batch)

    @functools.cached_property
    def patch_game(self) -> Game:
        """The target by which cells are there, rows×columns of them in reading order; the others are the baseline's."""

        def value(presence: Tensor) -> Tensor:
            outside = torch.ones(len(presence), 1, dtype=presence.dtype)
            kept = torch.cat([presence, outside], dim=1).to(self._cells.device)[:, self._cells] > 0.5
            return self.value_of_image(torch.where(kept[:, None], self.image, self.image_baseline))

        return Game(value, self.grid[0] * self.grid[1], self.image_batch)

    def per_word(self, of_tokens: Tensor) -> NDArray[np.float64]:
        """The sums over the `readable` words' pieces of something 1×L×D."""
        sums = of_tokens.double().sum(dim=(0, 2)).cpu().numpy()
        return np.array([sums[list(self.words[i].tokens)].sum() for i in self.readable])

    def per_cell(self, of_pixels: Tensor) -> NDArray[np.float64]:
        """The sums over each cell's pixels, rows·columns, of something 1×3×S×S."""
        count = self.grid[0] * self.grid[1]
        flat = of_pixels.double().sum(dim=(0, 1)).flatten().cpu().numpy()
        sums = np.bincount(self._cells.flatten().cpu().numpy(), flat, minlength=count + 1)
        return np.asarray(sums[:count], dtype=np.float64)

    def map_over_picture(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of cells for each pixel of the square that the picture covers, without the padding."""
        top, left = self.placement.top, self.placement.left
        cells = self._cells[top : top + self.placement.height, left : left + self.placement.width]
        shown: NDArray[np.float64] = values.ravel()[cells.cpu().numpy()]
        return shown

    def _tokens_of(self, word: int) -> Tensor:
        is_piece = torch.zeros(self._ids.shape[1], dtype=torch.bool, device=self._ids.device)
        is_piece[list(self.words[word].tokens)] = True
        return is_piece

    def _decoded(self, features: Tensor, text: Tensor, text_mask: Tensor | None) -> Tensor:
        embedding = self.model.after_text(features, text, text_mask)
        return self.model.decode(embedding, text, text_mask)[:, 0].float()

    def _batch(self, run: Any) -> int:
        weights = [*self.model.parameters(), *self.model.buffers()]
        return batch_within(self.budget, activation_bytes(run, weights))


@contextlib.contextmanager
def replaced_output(module: nn.Module, output: Tensor) -> Iterator[None]:
    """Let a module answer with `output`, whatever it is asked; as before after the block."""
    hook = module.register_forward_hook(lambda *_: output)
    try:
        yield
    finally:
        hook.remove()


def cells_of(placement: Placement, side: int, patch: int) -> tuple[Tensor, tuple[int, int]]:
    """Which cell each pixel of the square belongs to, S×S, and how many rows and columns of cells there are.

    Cells are squares of whole patches that begin at the picture's first patch; what they do not cover, padding, has
    the number after the last.
    """
    first_row, first_column = placement.top // patch, placement.left // patch
    rows = -(-(placement.top + placement.height) // patch) - first_row
    columns = -(-(placement.left + placement.width) // patch) - first_column
    size = -(-max(rows, columns) // MOST_CELLS)
    grid = (-(-rows // size), -(-columns // size))
    patches = torch.arange(side) // patch
    row, column = patches - first_row, patches - first_column
    number = (row // size)[:, None] * grid[1] + column // size
    inside = ((row >= 0) & (row < rows))[:, None] & (column >= 0) & (column < columns)
    return torch.where(inside, number, grid[0] * grid[1]), grid


def baseline_of(image: Tensor, placement: Placement, name: ImageBaseline) -> Tensor:
    """What stands for a picture that tells nothing, 1×3×S×S like the normalised image."""
    rows = slice(placement.top, placement.top + placement.height)
    columns = slice(placement.left, placement.left + placement.width)
    content = image[0, :, rows, columns].cpu().numpy()
    if name == "mean":
        told = np.broadcast_to(content.mean(axis=(1, 2), keepdims=True), content.shape)
    else:
        spread = BLUR * image.shape[-1]
        told = ndimage.gaussian_filter(content, (0, spread, spread), mode="nearest")
    baseline = image.clone()
    baseline[0, :, rows, columns] = torch.from_numpy(np.ascontiguousarray(told)).to(image.device)
    return baseline

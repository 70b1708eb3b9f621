"""Which words and which patches made a mask: attributions of a scalar target by captum, with their faithfulness.

What is perturbed, and what the target is, stands in `question`; the measures of faithfulness in `faithfulness`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from captum.attr import FeatureAblation, IntegratedGradients, Occlusion, ShapleyValueSampling
from numpy.typing import NDArray
from torch import Tensor

from workbench.analysis.faithfulness import DRAWS, Compared, Values, faithfulness
from workbench.analysis.games import BUDGET, Game
from workbench.analysis.predictor import Predictor
from workbench.analysis.question import IMAGE_BASELINES, WORD_BASELINES, ImageBaseline, Question, WordBaseline
from workbench.analysis.scalar_targets import DEFINITIONS
from workbench.analysis.words import Word
from workbench.errors import DataError

STEPS = 128
"""Of integrated gradients, Gauss-Legendre, at first."""
MAX_STEPS_FACTOR = 4
TOLERANCE = 0.02
"""Steps are doubled until the gap is at most this part of f(x) − f(baseline): trained models change steeply somewhere
on the way from the baseline, and few steps miss where."""
ORDERS = 50
"""Random orders of words for the Shapley values."""


def integrated_gradients(
    function: Callable[[Tensor], Tensor], inputs: Tensor, baseline: Tensor, steps: int, batch: int
) -> Tensor:
    """Sundararajan et al., arXiv 1703.01365: as large as the inputs, 1×…; its sum is f(inputs) − f(baseline), but for
    what so many steps miss.

    Args:
        function: from B×… to B.
        batch: the most steps that are computed at once.
    """
    method = IntegratedGradients(function)
    attributed: Tensor = method.attribute(inputs, baseline, n_steps=steps, internal_batch_size=batch)
    return attributed.detach()


def ablation(game: Game) -> Values:
    """f(all) − f(all but one), for each feature."""
    present = torch.ones(1, game.features, dtype=torch.float64)
    attributed = FeatureAblation(game).attribute(present, 0.0, perturbations_per_eval=game.batch)
    return np.asarray(attributed[0], dtype=np.float64)


def shapley(game: Game, orders: int, seed: int = 0) -> Values:
    """What a feature adds when the features come in a random order: its mean over orders.

    Štrumbelj and Kononenko, 2010. Each order adds up to f(all) − f(none), and so do the means.
    """
    present = torch.ones(1, game.features, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        attributed = ShapleyValueSampling(game).attribute(
            present, 0.0, n_samples=orders, perturbations_per_eval=game.batch
        )
    return np.asarray(attributed[0], dtype=np.float64)


def occlusion(game: Game, grid: tuple[int, int]) -> Values:
    """f(all) − f(all but one cell), for each cell of a grid rows×columns, flat; Zeiler and Fergus, arXiv 1311.2901."""
    present = torch.ones(1, *grid, dtype=torch.float64)
    attributed = Occlusion(game).attribute(present, (1, 1), baselines=0.0, perturbations_per_eval=game.batch)
    return np.asarray(attributed[0].flatten(), dtype=np.float64)


@dataclass(frozen=True)
class Effort:
    """How finely the methods compute.

    Attributes:
        steps: of integrated gradients, doubled up to `most_steps` while the gap is more than `tolerance` of the sum.
        orders: of Shapley values.
    """

    steps: int = STEPS
    most_steps: int = MAX_STEPS_FACTOR * STEPS
    tolerance: float = TOLERANCE
    orders: int = ORDERS


@dataclass(frozen=True)
class Method:
    """A way to attribute the target.

    Attributes:
        over: what gets a value: `words`, or `patches` (cells of the grid).
        label: for people.
        complete: whether the values are to add up to f(x) − f(baseline).
        of: the values, and how finely they were computed.
    """

    over: Literal["words", "patches"]
    label: str
    complete: bool
    of: Callable[[Question, Effort], tuple[Values, dict[str, int]]]


def _word_gradients(question: Question, effort: Effort) -> tuple[Values, dict[str, int]]:
    def values(steps: int) -> Values:
        function, batch = question.value_of_words, question.word_batch
        inputs, baseline = question.embeddings, question.word_baseline
        return question.per_word(integrated_gradients(function, inputs, baseline, steps, batch))

    return _in_enough_steps(values, question.word_game, effort)


def _patch_gradients(question: Question, effort: Effort) -> tuple[Values, dict[str, int]]:
    def values(steps: int) -> Values:
        function, batch = question.value_of_image, question.image_batch
        inputs, baseline = question.image, question.image_baseline
        return question.per_cell(integrated_gradients(function, inputs, baseline, steps, batch))

    return _in_enough_steps(values, question.patch_game, effort)


def _in_enough_steps(values: Callable[[int], Values], game: Game, effort: Effort) -> tuple[Values, dict[str, int]]:
    difference, steps = game.everything - game.nothing, effort.steps
    while True:
        attributed = values(steps)
        close = abs(float(attributed.sum()) - difference) <= effort.tolerance * abs(difference)
        if close or 2 * steps > effort.most_steps:
            return attributed, {"steps": steps}
        steps *= 2


def _shapley(question: Question, effort: Effort) -> tuple[Values, dict[str, int]]:
    return shapley(question.word_game, effort.orders), {"orders": effort.orders}


METHODS = {
    "word-gradients": Method("words", "integrated gradients", True, _word_gradients),
    "word-ablation": Method("words", "ablation", False, lambda question, _: (ablation(question.word_game), {})),
    "word-shapley": Method("words", "Shapley values", True, _shapley),
    "patch-gradients": Method("patches", "integrated gradients", True, _patch_gradients),
    "patch-occlusion": Method(
        "patches", "occlusion", False, lambda question, _: (occlusion(question.patch_game, question.grid), {})
    ),
}


@dataclass(frozen=True)
class Attribution:
    """What one method says of one sentence.

    Attributes:
        method: a key of `METHODS`.
        values: of words, one each, NaN where the model does not read the word; of patches, rows×columns of cells.
        baseline: in words.
        of_input, of_baseline: the target of the unperturbed input and of the baseline.
        fineness: steps or orders that were computed.
        faithfulness: by measure, with the same of random attributions.
    """

    method: str
    values: Values
    baseline: str
    of_input: float
    of_baseline: float
    fineness: dict[str, int]
    faithfulness: dict[str, Compared]

    @property
    def gap(self) -> float:
        """The sum of the values minus f(x) − f(baseline); about 0 where the method is `complete`."""
        return float(np.nansum(self.values)) - (self.of_input - self.of_baseline)

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        method = METHODS[self.method]
        return {
            "method": self.method,
            "over": method.over,
            "baseline": self.baseline,
            **self.fineness,
            "values": [[_number(value) for value in row] for row in self.values]
            if self.values.ndim == 2
            else [_number(value) for value in self.values],
            "completeness": {
                "promised": method.complete,
                "sum": float(np.nansum(self.values)),
                "of_input": self.of_input,
                "of_baseline": self.of_baseline,
                "gap": self.gap,
            },
            "faithfulness": {name: compared.document() for name, compared in self.faithfulness.items()},
        }


@dataclass(frozen=True)
class Explanation:
    """Why one sentence got its mask in one picture.

    Attributes:
        mask: height×width.
        target, answer, unit: the scalar that is attributed, and its value for the unperturbed input.
        maps: of each method over patches, its values for each pixel of the resized picture.
    """

    sentence: str
    words: tuple[Word, ...]
    mask: NDArray[np.bool_]
    target: str
    answer: float
    unit: str
    attributions: tuple[Attribution, ...]
    maps: dict[str, Values] = field(repr=False)

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "sentence": self.sentence,
            "words": [{"word": w.text, "pieces": list(w.pieces), "read": w.read} for w in self.words],
            "mask_area": float(self.mask.mean()),
            "target": {
                "name": self.target, "definition": DEFINITIONS[self.target], "unit": self.unit, "value": self.answer,
            },
            "attributions": [attribution.document() for attribution in self.attributions],
        }  # fmt: skip


def attribute(
    predictor: Predictor,
    pixels: NDArray[np.uint8],
    sentence: str,
    methods: Sequence[str] = tuple(METHODS),
    target: str = "mask_logit",
    referent: NDArray[np.bool_] | None = None,
    word_baseline: WordBaseline = "mask",
    image_baseline: ImageBaseline = "blurred",
    effort: Effort = Effort(),
    draws: int = DRAWS,
    budget: int = BUDGET,
) -> Explanation:
    """Attribute a run's answer about a picture to words and patches, by one or several methods.

    Args:
        pixels: height×width×3, uint8.
        methods: keys of `METHODS`.
        target: a key of `scalar_targets.DEFINITIONS`; `soft_iou` needs the `referent`, height×width bool.
        draws: random attributions that each measure of faithfulness is compared with.
        budget: bytes of activations that may be held at once; it decides how much is computed in one batch.

    Raises:
        DataError: an unknown method, no word to attribute to, or a target that is not defined here.
    """
    if unknown := [name for name in methods if name not in METHODS]:
        raise DataError(f"no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    with _gradients():
        question = Question(
            predictor, pixels, sentence, target, referent, word_baseline, image_baseline, budget
        )  # fmt: skip
        baselines = {"words": WORD_BASELINES[word_baseline], "patches": IMAGE_BASELINES[image_baseline]}
        attributions = tuple(
            _attribution(name, question, effort, draws, baselines[METHODS[name].over])
            for name in dict.fromkeys(methods)
        )
    over_patches = [attribution for attribution in attributions if METHODS[attribution.method].over == "patches"]
    maps = {attribution.method: question.map_over_picture(attribution.values) for attribution in over_patches}
    return Explanation(
        sentence, question.words, question.mask, target, question.answer, question.target.unit, attributions, maps
    )


def _attribution(name: str, question: Question, effort: Effort, draws: int, baseline: str) -> Attribution:
    method = METHODS[name]
    game = question.word_game if method.over == "words" else question.patch_game
    values, fineness = method.of(question, effort)
    shown: Values = np.full(len(question.words), np.nan)
    if method.over == "patches":
        shown = values.reshape(question.grid)
    else:
        shown[list(question.readable)] = values
    return Attribution(
        name, shown, baseline, game.everything, game.nothing, fineness, faithfulness(game, values, draws)
    )


@contextmanager
def _gradients() -> Iterator[None]:
    """Gradients are computed, also for a caller that has turned them off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)

"""Attributions against closed forms, planted truths, their completeness, and the largest batch that the model sees."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workbench.analysis.attribution import (
    METHODS,
    Effort,
    ablation,
    attribute,
    integrated_gradients,
    occlusion,
    shapley,
)
from workbench.analysis.games import Game
from workbench.analysis.predictor import Predictor
from workbench.analysis.question import Question
from workbench.config import RunConfig
from workbench.data.transforms import restore_logits
from workbench.errors import DataError
from workbench.models.build import build_model
from workbench.models.text_encoder import load_tokenizer

SENTENCE = "the red circle on the left"
FAST = Effort(steps=16, most_steps=16, orders=6)


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


def predictor_of(make_config: Callable[..., RunConfig], variant: str) -> Predictor:
    """A model whose words matter from the beginning, although it was never trained."""
    config = make_config(fusion__variant=variant, fusion__projector__init="default")
    torch.manual_seed(1)
    model = build_model(config)
    return Predictor(model, load_tokenizer(config.text_encoder, Path()), config, variant)


@pytest.fixture(scope="module", params=[pytest.param("default", marks=pytest.mark.exhaustive), "l_dit"])
def predictor(request: pytest.FixtureRequest, make_config: Callable[..., RunConfig]) -> Predictor:
    return predictor_of(make_config, request.param)


def test_a_linear_model_gets_its_closed_form() -> None:
    weights = torch.tensor([3.0, -1.0, 0.5, 2.0, 0.0, 7.0], dtype=torch.float64)
    game = Game(lambda presence: presence @ weights + 5, 6)
    for values in (ablation(game), shapley(game, 3), occlusion(game, (2, 3))):
        np.testing.assert_allclose(values, weights.numpy(), atol=1e-12)
    inputs, baseline = torch.randn(1, 4, 6), torch.randn(1, 4, 6)
    coefficients = torch.randn(4, 6)
    values = integrated_gradients(lambda x: (x * coefficients).sum((1, 2)), inputs, baseline, 3, batch=2)
    torch.testing.assert_close(values, coefficients * (inputs - baseline))


def test_shapley_values_are_the_means_over_all_orders() -> None:
    """A game with interactions, against the definition: the mean marginal contribution over all orders."""

    def value(presence: Tensor) -> Tensor:
        a, b, c = presence.unbind(1)
        return 2 * a * b + 3 * b * c - a + 4 * a * b * c

    def worth(members: set[int]) -> float:
        return float(value(torch.tensor([[float(i in members) for i in range(3)]]))[0])

    exact = np.zeros(3)
    for order in itertools.permutations(range(3)):
        for place, feature in enumerate(order):
            exact[feature] += (worth(set(order[: place + 1])) - worth(set(order[:place]))) / 6
    sampled = shapley(Game(value, 3), 3000)
    np.testing.assert_allclose(sampled, exact, atol=0.15)
    assert sampled.sum() == pytest.approx(worth({0, 1, 2}) - worth(set()))
    assert ablation(Game(value, 3)).tolist() == [worth({0, 1, 2}) - worth({0, 1, 2} - {i}) for i in range(3)]
    np.testing.assert_array_equal(shapley(Game(value, 3), 9), shapley(Game(value, 3), 9), "the draws are the same")


def test_the_gap_of_integrated_gradients_shrinks_with_steps() -> None:
    def smooth(x: Tensor) -> Tensor:
        return (3 * x).tanh().prod(dim=1) + x.exp().sum(dim=1)

    inputs, baseline = torch.tensor([[1.0, 0.8, -0.5]]).double(), torch.zeros(1, 3).double()
    difference = float(smooth(inputs) - smooth(baseline))
    gaps = [
        abs(float(integrated_gradients(smooth, inputs, baseline, steps, 4).sum()) - difference)
        for steps in (2, 4, 8, 32)
    ]
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3]
    assert gaps[3] < 1e-6


def test_words_and_patches_add_up_where_the_method_promises_it(predictor: Predictor, pixels: NDArray[np.uint8]) -> None:
    explanation = attribute(predictor, pixels, SENTENCE, target="picture_logit", draws=5)
    assert {one.method for one in explanation.attributions} == set(METHODS)
    for one in explanation.attributions:
        difference = one.of_input - one.of_baseline
        assert one.of_input == pytest.approx(explanation.answer, abs=1e-5)
        assert difference != 0
        if METHODS[one.method].complete:
            tolerance = 0.02 * abs(difference) if "gradients" in one.method else 1e-4
            assert abs(one.gap) <= tolerance, one.method
        assert set(one.faithfulness) == {"deletion", "insertion", "infidelity", "saco"}
        assert all(len(compared.random_values) == 5 for compared in one.faithfulness.values())
    coarse, fine = (abs(_gap(predictor, pixels, Effort(steps=steps, most_steps=steps, orders=1))) for steps in (2, 256))
    assert fine < coarse


def _gap(predictor: Predictor, pixels: NDArray[np.uint8], effort: Effort) -> float:
    (one,) = attribute(
        predictor, pixels, SENTENCE, ["word-gradients"], "picture_logit", effort=effort, draws=1
    ).attributions
    return one.gap


class OneWordEncoder(nn.Module):
    """A text encoder that by construction looks at the embedding of one token alone."""

    def __init__(self, bert: Any, token: int) -> None:
        super().__init__()
        self.table, self.token, self.config = bert.get_input_embeddings(), token, bert.config

    def get_input_embeddings(self) -> nn.Module:
        return self.table  # type: ignore[no-any-return]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        seen = self.table(input_ids) * (input_ids == self.token)[..., None]

        class Output:
            last_hidden_state = seen.sum(dim=1, keepdim=True).expand_as(seen)

        return Output


@pytest.mark.parametrize("variant", ["default", "l_dit"])
def test_a_model_that_looks_at_one_word_gets_it_all_there(
    variant: str, make_config: Callable[..., RunConfig], pixels: NDArray[np.uint8]
) -> None:
    predictor = predictor_of(make_config, variant)
    ids = predictor.tokenizer([SENTENCE])[0][0].tolist()
    circle = predictor.tokenizer.pieces(ids).index("circle")
    encoder: Any = predictor.model.text_encoder
    encoder.bert = OneWordEncoder(encoder.bert, ids[circle])
    words = [name for name, method in METHODS.items() if method.over == "words"]
    explanation = attribute(predictor, pixels, SENTENCE, words, "picture_logit", draws=40)
    for one in explanation.attributions:
        others = np.delete(one.values, 2)
        assert np.abs(others).max() < 1e-3 * abs(one.values[2]), "in fp32 another batch rounds differently"
        assert one.values[2] == pytest.approx(one.of_input - one.of_baseline, rel=0.03)


def test_a_patch_that_alone_is_looked_at_gets_it_all(
    make_config: Callable[..., RunConfig], pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = predictor_of(make_config, "default")
    question = Question(predictor, pixels, SENTENCE, "picture_logit")
    rows, columns = question.grid
    assert (rows, columns) == (6, 8)
    # The patch in row 2, column 5, is the square from 16 to 24 and from 40 to 48.
    monkeypatch.setattr(question, "value_of_image", lambda image: 3 * image[:, 1, 16:24, 40:48].sum((1, 2)))
    values = METHODS["patch-occlusion"].of(question, FAST)[0].reshape(rows, columns)
    gradients = METHODS["patch-gradients"].of(question, FAST)[0].reshape(rows, columns)
    expected = 3 * float((question.image - question.image_baseline)[0, 1, 16:24, 40:48].sum())
    for attributed in (values, gradients):
        assert attributed[2, 5] == pytest.approx(expected, rel=1e-3)
        assert np.delete(attributed.ravel(), 2 * columns + 5) == pytest.approx(0)
    shown = question.map_over_picture(values.ravel())
    assert shown.shape == (48, 64)
    np.testing.assert_allclose(shown[16:24, 40:48], expected, rtol=1e-3)


@pytest.mark.exhaustive
def test_the_model_never_sees_more_than_the_budget_allows(
    make_config: Callable[..., RunConfig], pixels: NDArray[np.uint8]
) -> None:
    predictor, batches = predictor_of(make_config, "l_dit"), list[int]()
    real = predictor.model.decode

    def counting(embedding: Tensor, *rest: Any, **named: Any) -> Tensor:
        batches.append(len(embedding))
        return real(embedding, *rest, **named)

    predictor.model.decode = counting  # type: ignore[method-assign]
    try:
        large, small = _largest(predictor, pixels, 2**30, batches), _largest(predictor, pixels, 2**23, batches)
        assert _largest(predictor, pixels, 1, batches) == 1
    finally:
        del predictor.model.decode
    assert 1 < small < large <= 256


def _largest(predictor: Predictor, pixels: NDArray[np.uint8], budget: int, batches: list[int]) -> int:
    batches.clear()
    effort, methods = Effort(steps=48, most_steps=48, orders=2), ["word-gradients", "word-shapley", "patch-gradients"]
    attribute(predictor, pixels, SENTENCE, methods, "picture_logit", effort=effort, draws=1, budget=budget)
    question = Question(predictor, pixels, SENTENCE, "picture_logit", budget=budget)
    assert max(batches) <= max(question.word_batch, question.image_batch)
    return max(batches)


def test_the_target_is_what_it_says(predictor: Predictor, pixels: NDArray[np.uint8]) -> None:
    question = Question(predictor, pixels, SENTENCE, "picture_logit")
    (prediction,) = predictor(pixels, [SENTENCE])
    np.testing.assert_array_equal(question.mask, prediction.mask)
    with torch.no_grad():
        text, mask = predictor.model.encode_text(*predictor.tokenizer([SENTENCE]))
        features = predictor.model.before_text(question.image)
        logits = predictor.model.decode(predictor.model.after_text(features, text, mask), text, mask)[0, 0]
    large = restore_logits(logits, question.placement, 64, 48, 64).double().numpy()
    assert question.answer == pytest.approx(large.mean(), abs=1e-5)
    if prediction.mask.any():
        inside = Question(predictor, pixels, SENTENCE)
        assert inside.answer == pytest.approx(large[prediction.mask].mean(), abs=1e-5)
    referent = np.zeros((48, 64), bool)
    referent[8:16, 24:40] = True
    soft = Question(predictor, pixels, SENTENCE, "soft_iou", referent)
    probability, size = 1 / (1 + np.exp(-logits.double().numpy())), len(logits)
    truth, picture = np.zeros((size, size)), np.zeros((size, size))
    scale = 64 // size
    truth[8 // scale : 16 // scale, 24 // scale : 40 // scale], picture[: 48 // scale] = 1, 1
    intersection = (probability * truth).sum()
    expected = intersection / ((probability * picture).sum() + truth.sum() - intersection)
    assert soft.answer == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1), (37, 53), (1, 1), (300, 200)])
def test_pictures_of_any_shape(make_config: Callable[..., RunConfig], shape: tuple[int, int]) -> None:
    predictor = predictor_of(make_config, "l_dit")
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    explanation = attribute(
        predictor, pixels, "red", ["patch-occlusion", "patch-gradients"], "picture_logit", effort=FAST, draws=2
    )
    height, width = shape
    for one in explanation.attributions:
        across = math.ceil(64 * width / max(shape) / 8), math.ceil(64 * height / max(shape) / 8)
        assert one.values.shape == (max(1, across[1]), max(1, across[0]))
        assert np.isfinite(one.values).all()
    assert explanation.mask.shape == shape
    json.dumps(explanation.document(), allow_nan=False)


def test_what_cannot_be_attributed_is_refused(predictor: Predictor, pixels: NDArray[np.uint8]) -> None:
    def refused(sentence: str = SENTENCE, **options: Any) -> str:
        with pytest.raises(DataError) as caught:
            attribute(predictor, pixels, sentence, **options)
        return str(caught.value)

    assert "a sentence is empty" in refused(" ")
    assert "keeps nothing of it" in refused("\u200b", target="picture_logit")
    assert "not valid text" in refused("\udc80 red")
    assert "no method 'magic'; there are word-gradients" in refused(methods=["magic"])
    assert "no target 'score'; there are mask_logit" in refused(target="score")
    assert "needs the referent's mask" in refused(target="soft_iou")
    assert "is 3×4, the picture 48×64" in refused(target="soft_iou", referent=np.ones((3, 4), bool))
    assert "referent's mask is empty" in refused(target="soft_iou", referent=np.zeros((48, 64), bool))
    predictor.model.eval()
    real = predictor.model.decode
    predictor.model.decode = lambda *a, **k: real(*a, **k) * 0 - 1  # type: ignore[method-assign]
    try:
        assert "the predicted mask is empty" in refused()
    finally:
        del predictor.model.decode

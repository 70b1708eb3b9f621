"""Controls: words of other images in training and evaluation, and learned tokens in place of words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.config import RunConfig
from workbench.data.controls import asked_words, with_words_of_other_images, words_of_other_images
from workbench.data.datasets import open_dataset
from workbench.data.loading import Expressions
from workbench.errors import ConfigError, DataError
from workbench.models.build import build_model, check_config
from workbench.models.catalog import cost_of
from workbench.models.fusion import variants
from workbench.results.folders import RunFolder
from workbench.training.train import train

Make = Callable[..., RunConfig]
FUSED = [name for name in variants if name != "default"]


def test_no_image_keeps_words_and_none_are_lost() -> None:
    images = np.repeat(np.arange(9), [1, 2, 3, 4, 5, 1, 2, 3, 4])
    source = words_of_other_images(images, 3)
    assert sorted(source) == list(range(len(images)))
    assert (images[source] != images).all()
    assert (source != words_of_other_images(images, 4)).any()
    assert (source == words_of_other_images(images, 3)).all()
    with pytest.raises(DataError, match="more than half"):
        words_of_other_images([1, 1, 1, 2], 0)


def test_words_that_are_asked(make_config: Make) -> None:
    expressions = Expressions(open_dataset(make_config()), "val")
    assert asked_words(expressions, "own") is None
    dropped, shuffled = asked_words(expressions, "dropped"), asked_words(expressions, "shuffled")
    assert dropped is not None
    assert shuffled is not None
    assert set(dropped.values()) == {""}
    assert len(dropped) == len(shuffled) == len(expressions)
    assert sorted(shuffled.values()) == sorted(e.sentence for e in expressions)
    exchanged = with_words_of_other_images(expressions, 0)
    assert [e.ann_ids for e in exchanged] == [e.ann_ids for e in expressions]
    assert [shuffled[e.ref_id, e.sent_id] for e in expressions] == [e.sentence for e in exchanged]


@pytest.mark.parametrize("variant", FUSED)
def test_learned_tokens_cost_what_words_cost(make_config: Make, variant: str) -> None:
    config = make_config(fusion__variant=variant)
    assert cost_of(make_config(fusion__variant=variant, fusion__text="learned")) == cost_of(config)


@pytest.mark.parametrize("variant", FUSED)
def test_the_encoder_does_not_hear_the_sentence_with_learned_tokens(make_config: Make, variant: str) -> None:
    torch.manual_seed(0)
    text, other = torch.randn(2, 1, 14, 128)
    mask, shorter = torch.ones(1, 14, dtype=torch.bool), torch.arange(14)[None] < 3
    for kind, hears in (("words", True), ("learned", False)):
        config = make_config(fusion__variant=variant, fusion__text=kind)
        length = config.text_encoder.max_tokens
        model = build_model(config).eval()
        with torch.no_grad():
            for parameter in model.fusion.parameters():  # they begin at zero, where words change nothing
                parameter.add_(torch.randn_like(parameter) * 0.2)
            image = torch.randn(1, 3, 64, 64)
            width = model.text_proj.in_features
            one = model.encode_image(image, text[:, :length, :width], mask[:, :length])
            two = model.encode_image(image, other[:, :length, :width], shorter[:, :length])
        assert torch.equal(one, two) is not hears


def test_what_learned_tokens_are_made_of_learns(make_config: Make) -> None:
    model = build_model(make_config(fusion__variant="l_dit", fusion__text="learned"))
    text = torch.randn(2, model.fusion.codes.shape[0], model.text_proj.in_features)  # type: ignore[union-attr]
    model.encode_image(torch.randn(2, 3, 64, 64), text).square().sum().backward()
    gradients = [p.grad for p in model.fusion.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fusion__variant": "default"}, "no fused block"),
        ({"fusion__variant": "l_dit", "fusion__projector__type": "identity"}, "weights to learn"),
    ],
)
def test_learned_tokens_that_cannot_learn_are_refused(make_config: Make, fields: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(make_config(fusion__text="learned", **fields))


def test_controls_are_runs_of_their_own_on_the_same_expressions(make_config: Make, tmp_path: Path) -> None:
    frames = {}
    for name, fields in {
        "own": {}, "train": {"data__words": "shuffled"}, "dropped": {"evaluation__words": "dropped"},
    }.items():  # fmt: skip
        config = make_config(**fields)
        folder = RunFolder.of(tmp_path, config, 0)
        train(config, 0, folder)
        frames[name] = folder.expressions()
    keys = ["split", "image_id", "ref_id", "sent_id", "sentence", "target_area"]
    for name in ("train", "dropped"):
        assert frames[name][keys].equals(frames["own"][keys])
        assert not frames[name]["intersection"].equals(frames["own"]["intersection"])

"""What the explorer answers: other choices give other arrays, kept answers are those of a fresh one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from workbench.analysis.explorer import Explorer, Picture, State, own_picture, record
from workbench.analysis.predictor import Predictor
from workbench.analysis.rollout import rollout
from workbench.analysis.text_blocks import text_blocks
from workbench.analysis.trace import trace
from workbench.errors import DataError, WorkbenchError
from workbench.models.build import build_model
from workbench.models.text_encoder import load_tokenizer

SENTENCE = "the red circle on the left"


def predictor(config: Any, name: str) -> Predictor:
    torch.manual_seed(5)
    model = build_model(config).eval()
    for module in model.fusion.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.3)  # begun with zeros, words would all look alike
    return Predictor(model, load_tokenizer(config.text_encoder, config.machine.checkpoint_root), config, name)


@pytest.fixture(scope="module")
def explorer(make_config: Any) -> Explorer:
    generator = np.random.default_rng(0)
    first, second = (generator.integers(0, 255, size, dtype=np.uint8) for size in ((48, 64, 3), (64, 64, 3)))
    referent = np.zeros((48, 64), dtype=bool)
    referent[10:20, 5:30] = True
    pictures = [Picture("a", first, {SENTENCE: referent}), Picture("b", second, {})]
    runs = {name: predictor(make_config(fusion__variant=name), name) for name in ("default", "l_dit")}
    return Explorer(runs, pictures)


def test_each_choice_changes_the_map(explorer: Explorer) -> None:
    start = replace(explorer.start(), word=2, head=0)
    others = {
        "layer": replace(start, layer="encoder 1"),
        "decoder": replace(start, layer="decoder 1"),
        "head": replace(start, head=1),
        "all heads": replace(start, head=None),
        "word": replace(start, word=3),
        "all words": replace(start, word=None),
        "method": replace(start, method="image to words"),
        "gradient": replace(start, method="gradient"),
        "gradient of the other head": replace(start, method="gradient", head=1),
        "gradient of the decoder": replace(start, method="gradient", layer="decoder 1"),
        "rollout": replace(start, method="rollout"),
        "rollout of another word": replace(start, method="rollout", word=3),
        "rollout × gradient": replace(start, method="rollout × gradient"),
        "sentence": replace(start, sentence="the blue square on the left"),
        "picture": replace(start, picture=1),
    }
    maps = {name: explorer.view(state)["l_dit"].map for name, state in {"start": start, **others}.items()}
    seen = {name: one.tobytes() for name, one in maps.items() if one is not None}
    assert len(seen) == len(maps)
    assert len(set(seen.values())) == len(maps)


def test_a_map_is_the_softmax_of_one_head_over_the_picture_alone(explorer: Explorer) -> None:
    state = State(0, SENTENCE, "encoder 3", word=2, head=1)
    view = explorer.view(state)["l_dit"]
    assert view.map is not None
    assert view.map.shape == (48, 64)  # the square's 16 rows of padding are cut off
    run = explorer.predictors["l_dit"]
    pixels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    pixels[0, :, :48] = torch.from_numpy(explorer.pictures[0].pixels).permute(2, 0, 1)
    assert run.config.data.padding == "bottom_right"
    ids, mask = run.tokenizer([SENTENCE])
    image = run.model.normalise(pixels, torch.tensor([[0, 0, 48, 64]]))
    layer = text_blocks(run.model, image, ids, mask, keep_heads=True).encoder[3]
    row = layer.word_to_image[1, 2] * layer.keys
    np.testing.assert_allclose(view.map[::8, ::8], row[:6].numpy(), rtol=1e-6)
    assert np.unique(view.map[:8, :8]).size == 1


def test_rollout_and_gradient_are_those_of_a_trace_of_its_own(explorer: Explorer) -> None:
    state = State(0, SENTENCE, "encoder 2", word=2, head=1, method="gradient")
    run = explorer.predictors["l_dit"]
    ids, mask = run.tokenizer([SENTENCE])
    image, *_ = explorer._inputs(run, explorer.pictures[0], SENTENCE)
    name = "encoder.blocks[2].attn.image_to_word"
    with trace(run.model, ["encoder.blocks[*].attn", name], gradient=True) as seen:
        logits = run.model(image, ids, mask)[0]
        (logits[logits > 0].mean() if (logits > 0).any() else logits.mean()).backward()
    run.model.zero_grad(set_to_none=True)
    weighted = (seen[name].weights * seen[name].gradient).clamp(min=0)[0]
    expected = {"gradient": weighted[1, 2] / weighted.mean()}
    expected["rollout"] = rollout(run.model, seen).image[0, 2] * (64 + int(mask.sum()))
    carried = rollout(run.model, seen, weighted=True).image[0]
    expected["rollout × gradient"] = carried[2] / carried.mean()
    for method, one in expected.items():
        view = explorer.view(replace(state, method=method))["l_dit"]
        assert view.map is not None
        np.testing.assert_allclose(view.map[::8, ::8], one[:6].detach().numpy(), rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in run.model.parameters())
    other = explorer.view(replace(state, method="rollout", layer="decoder 0", head=None))["l_dit"].map
    np.testing.assert_array_equal(other, explorer.view(replace(state, method="rollout"))["l_dit"].map)
    assert explorer.view(replace(state, method="rollout"))["default"].why == "no words in the image encoder"
    assert explorer.view(state)["default"].why == "no words in encoder 2"


def test_the_mean_of_heads_is_what_the_figure_shows(explorer: Explorer) -> None:
    run = explorer.predictors["l_dit"]
    ids, mask = run.tokenizer([SENTENCE])
    image = run.model.normalise(torch.full((1, 3, 64, 64), 90, dtype=torch.uint8))
    plain, kept = (text_blocks(run.model, image, ids, mask, keep_heads=heads) for heads in (False, True))
    for averaged, by_head in zip([*plain.encoder, *plain.decoder], [*kept.encoder, *kept.decoder], strict=True):
        torch.testing.assert_close(by_head.word_to_image.mean(dim=0), averaged.word_to_image)
        torch.testing.assert_close(by_head.image_to_word.mean(dim=0).squeeze(), averaged.image_to_word.squeeze())
    assert set(record(run.model, image, ids, mask).maps) == {
        *(f"encoder {i}" for i in range(4)),
        "decoder 0",
        "decoder 1",
    }


def test_kept_answers_equal_fresh_ones(explorer: Explorer) -> None:
    states = [State(number, SENTENCE, "encoder 2", word=2, head=0) for number in (0, 1)]
    first = [explorer.view(state)["l_dit"] for state in states]
    again = [explorer.view(state)["l_dit"] for state in states]
    fresh = [Explorer(explorer.predictors, explorer.pictures).view(state)["l_dit"] for state in states]
    for one, kept, new in zip(first, again, fresh, strict=True):
        assert one.map is not None
        np.testing.assert_array_equal(one.map, kept.map)
        np.testing.assert_array_equal(one.map, new.map)
        np.testing.assert_array_equal(one.mask, new.mask)


def test_the_mask_is_what_the_predictor_says(explorer: Explorer) -> None:
    picture = explorer.pictures[0]
    view = explorer.view(explorer.start())
    for name, run in explorer.predictors.items():
        [said] = run(picture.pixels, [SENTENCE])
        assert (view[name].mask != said.mask).mean() < 0.01
        union = (said.mask | picture.referents[SENTENCE]).sum()
        assert view[name].iou == pytest.approx((said.mask & picture.referents[SENTENCE]).sum() / union, abs=0.02)
    assert explorer.view(State(1, SENTENCE, "encoder 0"))["l_dit"].iou is None


def test_what_a_run_lacks_is_said_and_not_drawn_as_zero(explorer: Explorer) -> None:
    views = explorer.view(explorer.start())
    assert (views["default"].map, views["default"].why) == (None, "no words in encoder 3")
    decoder = explorer.view(State(0, SENTENCE, "decoder 0", method="image to words"))
    for one in decoder.values():
        assert one.map is not None
        assert one.map.max() > 0


def test_words_are_put_together_from_pieces(explorer: Explorer) -> None:
    words = explorer.words("the xylophone circle")
    assert [word.text for word in words] == ["[CLS]", "the", "xylophone", "circle", "[SEP]"]
    assert words[-1].text == "[SEP]"
    assert [token for word in words for token in word.tokens] == list(range(sum(len(word.tokens) for word in words)))


def test_wrong_choices_are_one_line(explorer: Explorer, tmp_path: Path) -> None:
    for wrong, message in {
        State(0, " ", "encoder 0"): "a sentence is needed",
        State(7, SENTENCE, "encoder 0"): "picture 7: there are 0 to 1",
        State(0, SENTENCE, "encoder 0", word=99): "word 99: the sentence has 0 to 7",
        State(0, SENTENCE, "encoder 9"): "unknown layer 'encoder 9'",
    }.items():
        with pytest.raises(WorkbenchError, match=message):
            explorer.view(wrong)
    with pytest.raises(DataError, match="at least one run"):
        Explorer({}, explorer.pictures)
    file = tmp_path / "odd.png"
    Image.fromarray(np.full((37, 53), 90, dtype=np.uint8)).save(file)
    odd = Explorer(explorer.predictors, [own_picture(file)])
    view = odd.view(odd.start())["l_dit"]
    assert view.mask.shape == (37, 53)
    assert view.map is not None
    assert abs(view.map.shape[0] / view.map.shape[1] - 37 / 53) < 0.02


def test_own_pictures_are_upright_and_as_large_as_a_screen_shows(explorer: Explorer, tmp_path: Path) -> None:
    pixels = np.zeros((200, 3000, 3), np.uint8)
    pixels[:, :1500, 0] = 255
    exif = Image.Exif()
    exif[274] = 6  # the camera's right side is up: a quarter turn clockwise
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    picture = own_picture(tmp_path / "photo.jpg")
    assert picture.pixels.shape == (1024, 68, 3)
    assert picture.pixels[:500, :, 0].min() > 240, "what was on the left is above"
    view = Explorer(explorer.predictors, [picture]).view(State(0, SENTENCE, "decoder 0"))["l_dit"]
    assert view.mask.shape == (1024, 68)


def test_words_are_named_as_they_are_written_and_what_is_not_read_is_said(explorer: Explorer) -> None:
    odd = "red 🙂 שלום \u200b"
    assert [word.text for word in explorer.words(odd)] == ["[CLS]", "red", "🙂", "שלום", "[SEP]"]
    assert explorer.unread(odd).startswith("unknown to the tokenizer: 🙂 שלום; left out by the tokenizer: ")
    assert explorer.unread(SENTENCE) == ""
    long = explorer.words(" ".join(["red"] * 60))
    room = explorer.predictors["l_dit"].tokenizer.max_tokens
    assert [word.tokens for word in long] == [(token,) for token in range(room)]
    for word in range(5):
        assert explorer.view(State(0, odd, "encoder 3", word=word))["l_dit"].map is not None
    with pytest.raises(DataError, match="the tokenizer keeps nothing of it"):
        explorer.view(State(0, "\u200b", "encoder 3"))


def test_learned_tokens_have_no_maps_of_words(explorer: Explorer, make_config: Any) -> None:
    learned = predictor(make_config(fusion__variant="l_dit", fusion__text="learned"), "learned")
    alone = Explorer({"learned": learned}, explorer.pictures)
    assert alone.layers == ["decoder 0", "decoder 1"]
    both = Explorer({**explorer.predictors, "learned": learned}, explorer.pictures)
    for method in ("words to image", "gradient", "rollout"):
        view = both.view(State(0, SENTENCE, "encoder 3", method=method))["learned"]
        assert view.map is None
        assert view.why.startswith("no words in ")

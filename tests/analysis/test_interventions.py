from __future__ import annotations

import pytest
import torch

from tests.analysis.test_trace import IDS, MASK, MakeConfig, built, images
from workbench.analysis.interventions import Effects, Intervention, InterventionError, intervene, words_of
from workbench.models.watching import is_watched

OTHER = torch.tensor([[2, 40, 41, 3, 0, 0], [2, 50, 51, 52, 3, 0]])
OTHER_MASK = (OTHER > 0).long()


@pytest.mark.parametrize("layout", ["global", "windowed"])
def test_hidden_words_everywhere_make_the_encoder_blind(make_config: MakeConfig, layout: str) -> None:
    model = built(make_config, "l_dit", layout)
    text, mask = model.encode_text(IDS, MASK)
    other, other_mask = model.encode_text(OTHER, OTHER_MASK)
    with torch.no_grad():
        assert not torch.allclose(model.encode_image(images(), text, mask), model.encode_image(images(), other, mask))
        with intervene(model, Intervention("hide_words", (0, 1, 2, 3))):
            one = model.encode_image(images(), text, mask)
            torch.testing.assert_close(one, model.encode_image(images(), other, other_mask))
        torch.testing.assert_close(one, model.encode_image(images(), None))
    assert not is_watched(model)


@pytest.mark.parametrize("layout", ["global", "windowed"])
def test_words_swapped_in_all_layers_are_the_other_sentence(make_config: MakeConfig, layout: str) -> None:
    model = built(make_config, "l_dit", layout)
    text, mask = model.encode_text(IDS, MASK)
    other, other_mask = model.encode_text(OTHER, OTHER_MASK)
    with torch.no_grad():
        with words_of(model) as words:
            expected = model.encode_image(images(), other, other_mask)
        with intervene(model, Intervention("swap_words", (0, 1, 2, 3)), words):
            swapped = model.encode_image(images(), text, mask)
        torch.testing.assert_close(swapped, expected)
        with intervene(model, Intervention("swap_words", (2,)), words):
            once = model.encode_image(images(), text, mask)
        assert not torch.allclose(once, expected)
        assert not torch.allclose(once, model.encode_image(images(), text, mask))


@pytest.mark.parametrize("layout", ["global", "windowed"])
def test_where_words_evolve_a_swap_goes_on_with_its_padding(make_config: MakeConfig, layout: str) -> None:
    """E-DIT's words enter once, so swapped at the first block they are the other sentence altogether."""
    model = built(make_config, "e_dit", layout)
    text, mask = model.encode_text(IDS, MASK)
    other, other_mask = model.encode_text(OTHER, OTHER_MASK)
    with torch.no_grad():
        with words_of(model) as words:
            expected = model.encode_image(images(), other, other_mask)
        with intervene(model, Intervention("swap_words", (0,)), words):
            torch.testing.assert_close(model.encode_image(images(), text, mask), expected)
        with intervene(model, Intervention("swap_words", (0, 2)), words) as effects:
            torch.testing.assert_close(model.encode_image(images(), text, mask), expected)
        assert effects.by_layer[2] == effects.by_layer[0], "at block 2 they are swapped already"
        with intervene(model, Intervention("mean_words", (0, 1, 2, 3)), text_mask=mask):
            together = model.encode_image(images(), text, mask)
        with intervene(model, Intervention("mean_words", (0,)), text_mask=mask):
            torch.testing.assert_close(together, model.encode_image(images(), text, mask))


def test_padding_has_no_part_in_the_mean_of_words(make_config: MakeConfig) -> None:
    model = built(make_config, "l_dit")
    text, mask = model.encode_text(IDS, MASK)
    assert mask is not None
    means = torch.stack([one[there].mean(dim=0).expand_as(one) for one, there in zip(text, mask, strict=True)])
    with torch.no_grad():
        with intervene(model, Intervention("mean_words", (0, 1, 2, 3)), text_mask=mask):
            found = model.encode_image(images(), text, mask)
        torch.testing.assert_close(found, model.encode_image(images(), means, mask))  # the projectors are affine


def test_effects_say_how_much_and_leave_rounding_out(make_config: MakeConfig) -> None:
    model = built(make_config, "l_dit")
    text, mask = model.encode_text(IDS, MASK)
    with torch.no_grad():
        with intervene(model, Intervention("heads_off", (1,))) as off:
            model.encode_image(images(), text, mask)
        assert off.by_layer == {1: 1.0}
        several = Effects(Intervention("mean_words", (1, 2)))
        before = torch.tensor([1.0, -4.0])
        several.note(1, before, before * (1 + 1e-7))
        several.note(2, before, torch.tensor([2.0, -4.0]))
        assert several.by_layer == {1: 0.0, 2: 0.25}
    with pytest.raises(InterventionError, match="mean_words at layers 1,2: it changed nothing at block 1"):
        several.check()


def test_heads_off_is_the_projection_without_their_columns(make_config: MakeConfig) -> None:
    model = built(make_config, "e_dit")
    text, mask = model.encode_text(IDS, MASK)
    with torch.no_grad():
        with intervene(model, Intervention("heads_off", (1,), (0,))):
            found = model.encode_image(images(), text, mask)
        model.image_encoder.vit.blocks[1].attn.proj.weight[:, :32] = 0
        torch.testing.assert_close(found, model.encode_image(images(), text, mask))


def test_what_changes_nothing_is_an_error(make_config: MakeConfig) -> None:
    model = built(make_config, "l_dit")
    for parameter in model.fusion.projectors.parameters():
        torch.nn.init.zeros_(parameter)
    text, mask = model.encode_text(IDS, MASK)
    nothing = pytest.raises(InterventionError, match="changed nothing at block 2")
    with torch.no_grad(), nothing, intervene(model, Intervention("mean_words", (2,))):
        model.encode_image(images(), text, mask)
    unseen = pytest.raises(InterventionError, match="no forward pass came to block 1")
    with unseen, intervene(model, Intervention("heads_off", (1,))):
        pass
    for wrong, message in (
        (Intervention("hide_words", (7,)), "the blocks that read words in this model: 0, 1, 2, 3"),
        (Intervention("swap_words", (1,), (0,)), "leave heads out"),
        (Intervention("heads_off", (1,), (5,)), "block 1 has heads 0 to 1"),
        (Intervention("swap_words", (1,)), "the words of 2 other sentences are needed"),
    ):
        with torch.no_grad(), pytest.raises(InterventionError, match=message), intervene(model, wrong):
            model.encode_image(images(), text, mask)
    wordless = pytest.raises(InterventionError, match="read words in this model: none")
    with wordless, intervene(built(make_config, "default"), Intervention("hide_words", (0,))):
        pass

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.analysis.test_trace import IDS, MASK, MakeConfig, built, images
from workbench.analysis.points import TraceError
from workbench.analysis.rollout import rollout
from workbench.analysis.trace import trace
from workbench.analysis.word_maps import METHODS, mean_inside, on_picture, word_maps
from workbench.data.transforms import Placement, place, place_image, resize_image

POINT = "encoder.blocks[2].attn.image_to_word"


@pytest.mark.parametrize("layout", ["global", "windowed"])
def test_methods_are_what_they_say_of_weights_and_gradients(make_config: MakeConfig, layout: str) -> None:
    model = built(make_config, "e_dit", layout, training__freeze__image_encoder=False)
    found = word_maps(model, images(72), IDS, MASK, [POINT], [name for name in METHODS if "rollout" not in name])
    with trace(model, [POINT], gradient=True) as seen:
        mean_inside(model(images(72), IDS, MASK)).sum().backward()
    weights, product = seen[POINT].weights, seen[POINT].weights * seen[POINT].gradient
    assert found.keys() == {f"{POINT}.{name}" for name in METHODS if "rollout" not in name}
    assert found[f"{POINT}.heads"].shape == (2, 2, 6, 9, 9)
    torch.testing.assert_close(found[f"{POINT}.heads"], weights)
    torch.testing.assert_close(found[f"{POINT}.mean"], weights.mean(dim=1))
    torch.testing.assert_close(found[f"{POINT}.gradient_input"], product.mean(dim=1))
    torch.testing.assert_close(found[f"{POINT}.gradient_weighted"], product.clamp(min=0).mean(dim=1))
    assert found[f"{POINT}.gradient_input"].amin() < 0 <= found[f"{POINT}.gradient_weighted"].amin()
    assert found[f"{POINT}.gradient_weighted"].amax() > 0


def test_rollouts_stand_beside_the_points_and_leave_no_gradients(make_config: MakeConfig) -> None:
    model = built(make_config, "e_dit", training__freeze__image_encoder=False)
    found = word_maps(model, images(), IDS, MASK, [POINT], ["mean", "rollout", "gradient_rollout"])
    assert found.keys() == {f"{POINT}.mean", "rollout", "gradient_rollout"}
    assert all(parameter.grad is None for parameter in model.parameters())
    with trace(model, ["encoder.blocks[*].attn"], gradient=True) as seen:
        mean_inside(model(images(), IDS, MASK)).sum().backward()
    torch.testing.assert_close(found["rollout"], rollout(model, seen).image)
    torch.testing.assert_close(found["gradient_rollout"], rollout(model, seen, weighted=True).image)


def test_what_has_no_map_is_an_error(make_config: MakeConfig) -> None:
    model = built(make_config, "l_dit")
    with pytest.raises(TraceError, match=r"unknown method 'rolout' \(did you mean 'rollout'"):
        word_maps(model, images(), IDS, MASK, [POINT], ["rolout"])
    with pytest.raises(TraceError, match="not of words by the image"):
        word_maps(model, images(), IDS, MASK, ["encoder.blocks[2].attn.word_to_word"], ["mean"])
    with pytest.raises(TraceError, match="nothing in this variant reads"):
        word_maps(model, images(), IDS, MASK, ["encoder.blocks[2].attn.word_to_image"], ["gradient_input"])


def test_the_mean_inside_of_no_mask_is_over_everything() -> None:
    logits = torch.tensor([[[2.0, 4.0], [-1.0, -3.0]], [[-1.0, -3.0], [-2.0, -2.0]]])
    assert mean_inside(logits).tolist() == [3.0, -2.0]


@pytest.mark.parametrize("padding", ["bottom_right", "centred"])
@pytest.mark.parametrize(("height", "width"), [(37, 53), (53, 37), (1, 100), (64, 64), (130, 90)])
def test_a_single_patch_lands_on_the_pixels_that_it_was_made_of(height: int, width: int, padding: str) -> None:
    side, patch = 64, 8
    placement = place(height, width, side, padding)  # type: ignore[arg-type]
    for row in range(8):
        for column in range(8):
            tokens = torch.zeros(2, 8, 8)
            tokens[1, row, column] = 1
            shown = on_picture(tokens, placement, side, height, width)
            expected = np.zeros((height, width))
            for y in range(height):
                for x in range(width):
                    down = placement.top + (y + 0.5) * placement.height / height
                    across = placement.left + (x + 0.5) * placement.width / width
                    expected[y, x] = (down // patch, across // patch) == (row, column)
            assert shown.shape == (2, height, width)
            assert (shown[1].numpy() == expected).all()
            assert not shown[0].any()


def test_a_bright_spot_of_an_odd_picture_comes_back_to_its_place() -> None:
    """Through the pipeline's own resizing and padding into tokens, and back."""
    pixels = torch.zeros(3, 37, 53, dtype=torch.uint8)
    pixels[:, 20:26, 31:37] = 255
    placement = place(37, 53, 64, "centred")
    square = place_image(resize_image(pixels, placement), placement, 64).float().mean(dim=0)
    tokens = torch.nn.functional.avg_pool2d(square[None], 8)[0]
    for smooth in (False, True):
        shown = on_picture(tokens, placement, 64, 37, 53, smooth)
        y, x = (shown == shown.max()).nonzero().double().mean(dim=0).tolist()
        assert abs(y - 22.5) < 4, (smooth, y)  # a token is 6.6 pixels wide
        assert abs(x - 33.5) < 4, (smooth, x)
        assert shown[:10].max() == 0


def test_smooth_maps_keep_a_constant_and_lie_between_their_neighbours() -> None:
    placement = Placement(0, 0, 64, 40)
    assert torch.equal(on_picture(torch.ones(1, 8, 8), placement, 64, 80, 50, smooth=True), torch.ones(1, 80, 50))
    ramp = torch.arange(8.0).repeat(8, 1)
    shown = on_picture(ramp, placement, 64, 80, 50, smooth=True)
    across = (torch.arange(50) + 0.5) * 40 / 50 / 8 - 0.5
    torch.testing.assert_close(shown, across.clamp(min=0).expand(80, 50), atol=1e-5, rtol=0)

from __future__ import annotations

from collections.abc import Callable

import torch

from workbench.config import RunConfig
from workbench.models.backbones import backbones
from workbench.models.build import build_model


def test_pixels_are_normalised_as_segment_anything_preprocesses_them(make_config: Callable[..., RunConfig]) -> None:
    model = build_model(make_config())
    pixels = torch.randint(0, 256, (2, 3, 40, 64), dtype=torch.uint8)
    expected = backbones["vit_mini"].build().preprocess(pixels)  # pads to 64×64 with zeros behind the content
    square = torch.nn.functional.pad(pixels, (0, 0, 0, 24), value=77)
    assert torch.equal(model.normalise(square, torch.tensor([[0, 0, 40, 64]] * 2)), expected)
    assert torch.equal(model.normalise(pixels), expected[:, :, :40])


def test_content_may_lie_anywhere_in_the_square(make_config: Callable[..., RunConfig]) -> None:
    model = build_model(make_config())
    normalised = model.normalise(torch.zeros(2, 3, 8, 8), torch.tensor([[2, 0, 4, 8], [0, 1, 8, 6]]))
    black = torch.tensor([-123.675 / 58.395, -116.28 / 57.12, -103.53 / 57.375])
    torch.testing.assert_close(normalised[0, :, 2, 0], black)
    torch.testing.assert_close(normalised[1, :, 7, 6], black)
    assert normalised[0, :, [0, 1, 6, 7]].eq(0).all()
    assert normalised[1, :, :, [0, 7]].eq(0).all()
    assert (normalised != 0).sum() == 3 * (4 * 8 + 8 * 6)


def test_the_statistics_of_pixels_are_in_no_checkpoint(make_config: Callable[..., RunConfig]) -> None:
    model = build_model(make_config())
    assert {"pixel_mean", "pixel_std"} <= {name for name, _ in model.named_buffers()}
    assert not any("pixel" in key for key in model.state_dict())

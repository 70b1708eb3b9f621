from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from workbench.config import AugmentationConfig, DataConfig
from workbench.data.augment import change_colours, draw
from workbench.data.language import swap_left_right
from workbench.data.transforms import Placement, place, place_mask, resize_image, target_of

RELEASED = {"scales": [1 - k / 16 for k in range(7)], "color_jitter": 0.4}


def config(**options: Any) -> DataConfig:
    return DataConfig(augmentation=AugmentationConfig.model_validate(options))


def mask_of(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """A blot, in the column order in which pycocotools decodes, and the box round it."""
    top, left = int(rng.integers(0, height - 6)), int(rng.integers(0, width - 6))
    down, across = int(rng.integers(2, height - top + 1)), int(rng.integers(2, width - left + 1))
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[top : top + down, left : left + across] = rng.random((down, across)) < 0.7
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.asfortranarray(mask), (0, 0, 0, 0)
    return np.asfortranarray(mask), (rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)


@pytest.mark.parametrize("side", [40, 64, 150])
def test_resizing_only_the_referent_s_box_is_resizing_the_whole_mask(side: int) -> None:
    """Against Pillow on the whole picture, as the released code does it: at most one step of 255 apart."""
    rng = np.random.default_rng(side)
    for _ in range(60):
        height, width = (int(v) for v in rng.integers(20, 120, 2))
        mask, box = mask_of(rng, height, width)
        placement = place(height, width, side, "centred", float(rng.uniform(0.3, 1.0)) * side)
        whole = Image.fromarray(np.ascontiguousarray(mask) * 255)
        expected = np.zeros((side, side))
        if (height, width) != (placement.height, placement.width):
            whole = whole.resize((placement.width, placement.height), Image.Resampling.BILINEAR)
        rows, columns = slice(placement.top, None), slice(placement.left, None)
        expected[rows, columns][: placement.height, : placement.width] = np.asarray(whole) / 255
        for found in (place_mask(mask, placement, side, box), place_mask(mask, placement, side)):
            assert np.abs(target_of(found).numpy() - expected).max() <= 1.01 / 255


def test_an_image_is_resized_as_pillow_does_to_two_grey_levels() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (90, 70, 3), dtype=np.uint8)
    placement = place(90, 70, 64, "bottom_right", 50)
    expected = np.asarray(
        Image.fromarray(pixels).resize((placement.width, placement.height), Image.Resampling.BILINEAR)
    )
    found = resize_image(torch.from_numpy(pixels).permute(2, 0, 1), placement).permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_colours_change_as_in_pillow(order: tuple[int, ...]) -> None:
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    factors = [0.65, 1.38, 0.72]
    image = Image.fromarray(pixels)
    enhancers: list[Any] = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    for kind in order:
        image = enhancers[kind](image).enhance(factors[kind])
    colours = tuple((kind, factors[kind]) for kind in order)
    found = change_colours(torch.from_numpy(pixels).permute(2, 0, 1), colours).permute(1, 2, 0).numpy()
    # Pillow rounds after every change, ours once.
    assert np.abs(found.astype(int) - np.asarray(image)).max() <= 3


def test_without_augmentation_only_the_flip_is_drawn() -> None:
    drawn = [draw(DataConfig(), seed, 48, 64, 64, (0, 0, 5, 5)) for seed in range(200)]
    assert {d.placement for d in drawn} == {place(48, 64, 64, "bottom_right")}
    assert {d.colours for d in drawn} == {()}
    assert 70 < sum(d.flipped for d in drawn) < 130


def test_released_scales_are_drawn_alike_and_the_flips_stay_what_they_were() -> None:
    plain = [draw(DataConfig(), seed, 480, 640, 512, (0, 0, 5, 5)) for seed in range(700)]
    drawn = [draw(config(**RELEASED), seed, 480, 640, 512, (0, 0, 5, 5)) for seed in range(700)]
    widths = [d.placement.width for d in drawn]
    assert set(widths) == {512, 480, 448, 416, 384, 352, 320}
    assert all(60 < widths.count(width) < 140 for width in set(widths))
    assert [d.flipped for d in drawn] == [d.flipped for d in plain]
    assert all(d.placement.height == round(d.placement.width * 0.75) for d in drawn)
    share = sum(bool(d.colours) for d in drawn) / len(drawn)
    assert 0.75 < share < 0.85
    factors = [factor for d in drawn for _, factor in d.colours]
    assert 0.6 <= min(factors) < 0.63
    assert 1.37 < max(factors) <= 1.4
    assert {tuple(kind for kind, _ in d.colours) for d in drawn} == {(), *itertools.permutations(range(3))}


def test_a_window_of_an_enlarged_image_shows_the_referent() -> None:
    options = config(large_scale_jitter=[0.1, 2.0])
    box = (300, 20, 90, 120)
    seen = set()
    for seed in range(300):
        placement = draw(options, seed, 480, 640, 512, box).placement
        seen.add(placement.window is None)
        if placement.window is None:
            assert max(placement.height, placement.width) <= 512
            continue
        top, left, height, width = placement.window
        assert 0 <= top <= 480 - height
        assert 0 <= left <= 640 - width
        assert top <= 300
        assert left <= 20
        assert top + height >= 390
        assert left + width >= 140
        # Down and across are enlarged alike, to half a pixel of the original.
        assert placement.height / height == pytest.approx(placement.width / width, rel=0.01)
    assert seen == {True, False}


def test_a_referent_larger_than_the_window_is_seen_in_its_middle() -> None:
    options = config(large_scale_jitter=[2.0, 2.0])
    for seed in range(50):
        placement = draw(options, seed, 480, 640, 512, (10, 20, 460, 600)).placement
        assert placement.window is not None
        top, left, height, width = placement.window
        assert top <= 240 < top + height
        assert left <= 320 < left + width


def test_image_and_mask_go_through_the_same_window() -> None:
    mask = np.zeros((60, 80), dtype=np.uint8)
    mask[20:40, 30:60] = 1
    picture = torch.from_numpy(mask * np.uint8(255)).expand(3, -1, -1)
    placement = Placement(0, 0, 64, 64, window=(10, 20, 40, 40))
    content = resize_image(picture, placement)
    target = target_of(place_mask(mask, placement, 64, (20, 30, 20, 30)))
    assert (content[0].float() / 255 - target).abs().max() <= 2 / 255
    assert target.sum() / 64**2 == pytest.approx(mask[10:50, 20:60].mean(), abs=0.01)


def test_words_and_letters_are_swapped_as_asked() -> None:
    assert swap_left_right("the bright one left of the rightmost") == "the bright one right of the leftmost"
    assert swap_left_right("the bright one on the left", substrings=True) == "the bleft one on the right"

"""A backbone that is no plain ViT, written as a reader would: one class, one builder, one registration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.analysis.trace import trace
from workbench.config import RunConfig
from workbench.errors import ConfigError
from workbench.models.attention import AttentionInput, attention
from workbench.models.backbones import (
    SAM_DECODER_DEPTH,
    Backbone,
    BlockOptions,
    DecoderShape,
    backbones,
    sam_around,
)
from workbench.models.build import build_model, check_config
from workbench.models.catalog import as_markdown, count
from workbench.models.fusion import variants
from workbench.models.watching import Call, watched

WIDTHS = (16, 16, 32, 32)
HEADS = 2
TEXT_WIDTH = 64  # bert_mini's
DECODER = DecoderShape(16, 2, 32, 8, 4)


class ToyBlock(nn.Module):
    """Attention; from `width` to `out_width`, and where these differ every 2×2 tokens become one."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * out_width)
        self.shortcut = nn.Linear(width, out_width) if width != out_width else nn.Identity()
        self.merges = width != out_width


class Hierarchical(Backbone):
    """Two stages of two blocks; the last block of the first widens the tokens and halves the grid."""

    def __init__(self, out_width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTHS[0], 4, stride=4)
        self.blocks = nn.ModuleList(ToyBlock(a, b) for a, b in zip(WIDTHS, (*WIDTHS[1:], WIDTHS[-1]), strict=True))
        self.neck = nn.Conv2d(WIDTHS[-1], out_width, 1)

    @property
    def patch_size(self) -> int:
        return 8

    @property
    def widths(self) -> tuple[int, ...]:
        return WIDTHS

    def embed(self, image: Tensor) -> Tensor:
        tokens: Tensor = self.patches(image).permute(0, 2, 3, 1)
        return tokens

    def run_block(
        self,
        layer: int,
        image: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
        keep_text: bool,
        options: BlockOptions,
    ) -> tuple[Tensor, Tensor | None]:
        block: Any = self.blocks[layer]
        grid, words = (image.shape[1], image.shape[2]), 0 if text is None else text.shape[1]
        sequence = image.flatten(1, 2) if text is None else torch.cat([text, image.flatten(1, 2)], dim=1)
        q, k, v = block.qkv(block.norm(sequence)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        call = Call(AttentionInput(q, k, v, grid, text_mask=text_mask), grid=grid)
        seen = watched(block, call, lambda inputs: attention(inputs, options.implementation))
        sequence = block.shortcut(sequence) + seen.transpose(1, 2).flatten(2)
        image = sequence[:, words:].unflatten(1, grid)
        if block.merges:
            image = F.max_pool2d(image.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        return image, sequence[:, :words] if keep_text else None

    def attention_of(self, layer: int) -> nn.Module:
        return self.blocks[layer]

    def embedding(self, tokens: Tensor) -> Tensor:
        embedding: Tensor = self.neck(tokens.permute(0, 3, 1, 2))
        return embedding


@dataclass(frozen=True)
class HierarchicalSam:
    decoder: DecoderShape = DECODER

    def build(self, decoder_depth: int = SAM_DECODER_DEPTH) -> Sam:
        return sam_around(Hierarchical(self.decoder.width), 64, self.decoder, decoder_depth)


@pytest.fixture
def hierarchical() -> Iterator[str]:
    backbones.register("toy_hierarchical")(HierarchicalSam())
    yield "toy_hierarchical"
    del backbones._things["toy_hierarchical"]


@pytest.fixture
def make(make_config: Callable[..., RunConfig], hierarchical: str) -> Callable[..., RunConfig]:
    """Configurations of the toy backbone; the words' projectors let something through from the start."""

    def config(variant: str, **fields: Any) -> RunConfig:
        if "projector" in variants[variant].reads:
            fields = {"fusion__projector__init": "default", **fields}
        return make_config(backbone__name=hierarchical, backbone__checkpoint=None, fusion__variant=variant, **fields)

    return config


def batch() -> tuple[Tensor, Tensor, Tensor]:
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    ids, mask = torch.randint(5, 40, (2, 6)), torch.ones(2, 6, dtype=torch.int64)
    mask[0, 4:] = 0
    return pixels, ids, mask


def test_each_layer_gets_words_of_its_own_width(make: Callable[..., RunConfig]) -> None:
    model = build_model(make("l_dit")).eval()
    weights = {name: tuple(p.shape) for name, p in model.fusion.named_parameters() if name.endswith("weight")}
    assert weights == {f"projectors.{layer}.weight": (width, TEXT_WIDTH) for layer, width in enumerate(WIDTHS)}
    pixels, ids, mask = batch()
    logits = model(model.normalise(pixels), ids, mask)
    assert logits.shape == (2, 32, 32), "four times the embedding's grid, 8×8"
    assert not torch.equal(logits, model(model.normalise(pixels), ids.flip(0), mask))
    logits.square().mean().backward()
    for name, parameter in model.image_encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("variant", "fields"),
    [
        ("default", {}),
        ("e_dit", {}),
        ("e_dit_reprojected", {}),
        ("e_dit_reprojected", {"fusion__layers": [0, 3]}),
        ("e_dit_tokens", {"fusion__layers": {"last": 2}}),
        ("l_dit_tokens", {"fusion__layers": {"last": 2}, "fusion__text_projection": True}),
        ("l_dit_cross_attention", {}),
        ("l_dit_cross_attention", {"fusion__cross_attention__keys": "text"}),
        ("l_dit_cross_attention_ffn", {"fusion__layers": {"first": 2}, "fusion__text_projection": True}),
        ("l_dit", {"fusion__layers": [2, 3], "fusion__projector__type": "shared"}),
    ],
)
def test_variants_fit_wherever_the_widths_let_them(
    make: Callable[..., RunConfig], variant: str, fields: dict[str, Any]
) -> None:
    model = build_model(make(variant, **fields)).eval()
    pixels, ids, mask = batch()
    image = model.normalise(pixels)
    logits = model(image, ids, mask)
    torch.testing.assert_close(model(None, ids, mask, model.before_text(image)), logits)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in model.fusion.parameters())


@pytest.mark.parametrize(
    ("variant", "fields", "message"),
    [
        ("e_dit", {"fusion__layers": [0, 2]}, r"the text tokens reach block 2, of width 32, with width 16; fuse"),
        ("e_dit_tokens", {}, r"one table, but the fused blocks' widths are 16 and 32; fuse blocks of one width"),
        ("l_dit_tokens", {"fusion__text_projection": True}, r"fused blocks' widths are 16 and 32"),
        ("l_dit_cross_attention_ffn", {}, r"fused blocks' widths are 16 and 32"),
        ("l_dit", {"fusion__projector__type": "shared"}, r"shared needs fused layers of one width, not \[16, 32\]"),
        ("l_dit", {"fusion__layers": [4]}, r"no layer 4; the encoder's layers are 0 to 3"),
        ("l_dit", {"backbone__image_size": 36}, r"36 is not a multiple of the patch size, 8"),
    ],
)
def test_widths_that_do_not_fit_are_named_before_anything_is_loaded(
    make: Callable[..., RunConfig], variant: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(make(variant, **fields))


def test_its_parts_are_frozen_and_observed_as_a_vit_s_are(make: Callable[..., RunConfig]) -> None:
    model = build_model(make("l_dit", fusion__layers=[3], training__freeze__image_encoder=True))
    assert model.image_encoder.first_fused == 3
    learning = {name for name, p in model.image_encoder.named_parameters() if p.requires_grad}
    assert learning == {"vit.neck.weight", "vit.neck.bias", "fusion.projectors.3.weight", "fusion.projectors.3.bias"}
    pixels, ids, mask = batch()
    with trace(model, ["encoder.blocks[*].attn.*", "encoder.blocks[*].attn.image_to_image[1:3]"]) as seen:
        model(model.normalise(pixels), ids, mask)
    shapes = {recording.point.name: tuple(recording.weights.shape) for recording in seen}
    rows = {
        f"encoder.blocks[{i}].attn.image_to_image[1:3]": (2, 2, 2, side, side) for i, side in enumerate((16, 16, 8, 8))
    }
    words = {
        f"encoder.blocks[3].attn.{part}": (2, 2, ids.shape[1], 8, 8) for part in ("word_to_image", "image_to_word")
    }
    assert shapes == rows | words | {"encoder.blocks[3].attn.word_to_word": (2, 2, ids.shape[1], ids.shape[1])}


def test_it_is_listed_with_its_widths(hierarchical: str) -> None:
    row = count(hierarchical, {"fusion.variant": "l_dit"})
    assert "(4 layers of width 16 and 32)" in as_markdown(hierarchical, [row])

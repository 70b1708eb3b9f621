from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from workbench.config import FusionConfig
from workbench.errors import ConfigError
from workbench.models.backbones.vit import SamViT, ViTShape, resized_positions
from workbench.models.fusion import BlockInput, Sizes, build_fusion, variants
from workbench.models.image_encoder import FusedImageEncoder
from workbench.models.watching import Watcher, watch

SMALL = ViTShape(32, 3, 4, (1,), image_size=96, patch_size=8, window_size=5, decoder_width=16, decoder_heads=2,
                 decoder_mlp_width=16, iou_head_width=8, mask_channels=4)  # fmt: skip

VIT_B = ViTShape(768, 12, 12, (2, 5, 8, 11))


def random_vit(shape: ViTShape) -> SamViT:
    vit: SamViT = shape.build().image_encoder.eval()
    for name, parameter in vit.named_parameters():
        if "pos" in name:  # zero in a new SAM, and then nothing would show
            nn.init.normal_(parameter, std=0.3)
    return vit


def encoder(vit: SamViT, variant: str, windowed: bool, **fields: object) -> FusedImageEncoder:
    """Over texts of width 24 and at most 8 tokens."""
    if "projector" in variants[variant].reads:
        fields = {"projector": {"init": "default"}, **fields}
    config = FusionConfig.model_validate({"variant": variant, "text_projection": True, **fields})
    fusion = build_fusion(config, Sizes(24, vit.widths, 8))
    return FusedImageEncoder(vit, fusion, windowed).eval()


@pytest.mark.parametrize("variant", list(variants))
@pytest.mark.parametrize("size", [(96, 96), (96, 64)])
def test_without_text_it_is_segment_anything_s_encoder(variant: str, size: tuple[int, int]) -> None:
    vit = random_vit(SMALL)
    image = torch.randn(2, 3, *size)
    with torch.inference_mode():
        if size == (96, 96):
            expected = vit(image)
        else:  # theirs has no resizing of absolute positions; give it the resized ones
            positions = resized_positions(vit.pos_embed, (12, 8))
            found = encoder(vit, variant, windowed=True)(image)
            vit.pos_embed = nn.Parameter(positions)
            torch.testing.assert_close(found, vit(image), rtol=1e-5, atol=1e-5)
            return
        torch.testing.assert_close(encoder(vit, variant, windowed=True)(image), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.exhaustive
def test_vit_b_at_1024_px_is_segment_anything_s_encoder() -> None:
    vit = random_vit(VIT_B)
    image = torch.randn(1, 3, 1024, 1024)
    with torch.inference_mode():
        expected = vit(image)
        for variant in ("default", "l_dit"):
            found = encoder(vit, variant, windowed=True)(image)
            assert ((found - expected).abs().max() / expected.abs().max()).item() < 1e-5, variant


def test_global_attention_equals_an_encoder_without_windows() -> None:
    vit = random_vit(SMALL)
    unwindowed = random_vit(dataclasses.replace(SMALL, window_size=0))
    state = {k: v for k, v in vit.state_dict().items() if "rel_pos" not in k}
    unwindowed.load_state_dict(state, strict=False)
    for mine, theirs in zip(vit.blocks, unwindowed.blocks, strict=True):
        for name in ("rel_pos_h", "rel_pos_w"):
            table = getattr(mine.attn, name)
            resized = nn.functional.interpolate(table.t()[None], size=23, mode="linear")[0].t()
            getattr(theirs.attn, name).data = resized.detach()
    image = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        found = encoder(vit, "default", windowed=False)(image)
        torch.testing.assert_close(found, unwindowed(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", [name for name in variants if name != "default"])
@pytest.mark.parametrize("windowed", [True, False])
def test_text_changes_the_embedding_and_padding_words_do_not(variant: str, windowed: bool) -> None:
    model = encoder(random_vit(SMALL), variant, windowed)
    image, text = torch.randn(2, 3, 96, 96), torch.randn(2, 6, 24)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    with torch.inference_mode():
        found = model(image, text, mask)
        assert (found - model(image)).abs().max() > 1e-3
        other = text.clone()
        other[0, 4:] = 50.0
        torch.testing.assert_close(model(image, other, mask), found, rtol=1e-5, atol=1e-5)
        assert (model(image, other, None) - found).abs().max() > 1e-3


def naive(model: FusedImageEncoder, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Global attention over [text | image] in the plainest way: every block runs on the whole sequence."""
    vit, fusion = model.vit, model.fusion
    tokens = vit.patch_embed(image) + vit.pos_embed
    height, width = tokens.shape[1:3]
    sequence, words, length = tokens.flatten(1, 2), None, text.shape[1]
    text = fusion.text_projection(text)
    for layer, block in enumerate(vit.blocks):
        if layer in fusion.layers:
            grid = sequence.unflatten(1, (height, width))
            words = fusion.tokens(BlockInput(layer, text, None, words, grid))
            sequence = torch.cat([words, sequence], dim=1)
        fused = length if layer in fusion.layers else 0
        x = block.norm1(sequence)
        q, k, v = block.attn.qkv(x).unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        for i in range(height * width):
            for j in range(height * width):
                for table, a, b in (
                    (block.attn.rel_pos_h, i // width, j // width), (block.attn.rel_pos_w, i % width, j % width)
                ):  # fmt: skip
                    rows = nn.functional.interpolate(table.t()[None], size=2 * height - 1, mode="linear")[0].t()
                    logits[:, :, fused + i, fused + j] += q[:, :, fused + i] @ rows[a - b + height - 1]
        sequence = sequence + block.attn.proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
        sequence = sequence + block.mlp(block.norm2(sequence))
        if fused:
            words, sequence = sequence[:, :length], sequence[:, length:]
            words = words if fusion.evolves else None
    return vit.neck(sequence.unflatten(1, (height, width)).permute(0, 3, 1, 2))


@pytest.mark.parametrize("variant", [name for name in variants if name != "default"])
@pytest.mark.parametrize("layers", ["all", [0, 2], {"last": 1}, {"first": 2}, {"every": 2}])
def test_skipping_unread_text_work_changes_nothing(variant: str, layers: object) -> None:
    shape = dataclasses.replace(SMALL, image_size=32, window_size=3)
    model = encoder(random_vit(shape), variant, False, layers=layers).double()
    image, text = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.randn(2, 5, 24, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(model(image, text), naive(model, image, text), rtol=1e-9, atol=1e-9)


def test_what_precedes_the_text_is_shared() -> None:
    model = encoder(random_vit(SMALL), "l_dit", True, layers={"last": 1})
    assert model.first_fused == 2
    image, text = torch.randn(2, 3, 96, 96), torch.randn(3, 5, 24)
    of = torch.tensor([0, 0, 1])
    with torch.inference_mode():
        shared = model.with_text(model.before_text(image)[of], text)
        torch.testing.assert_close(shared, model(image[of], text), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", list(variants))
@pytest.mark.parametrize("windowed", [True, False])
def test_checkpointed_blocks_have_the_same_gradients_with_dropout(variant: str, windowed: bool) -> None:
    model = encoder(random_vit(SMALL), variant, windowed, layers=[0, 2]).train()
    image, text = torch.randn(2, 3, 96, 96), torch.randn(2, 6, 24, requires_grad=True)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])

    def run(checkpointed: bool) -> list[torch.Tensor]:
        model.checkpointed = checkpointed
        model.zero_grad()
        text.grad = None
        torch.manual_seed(1)
        out = model(image, text, mask)
        out.square().mean().backward()
        drawn = torch.rand(())  # the random state is as it would be
        learnt = [parameter.grad for parameter in [*model.parameters(), text] if parameter.grad is not None]
        return [out.detach(), drawn, *learnt]

    kept, again = run(False), run(True)
    assert len(kept) == len(again)
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))


def test_checkpointed_blocks_are_run_again_only_for_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder(random_vit(SMALL), "l_dit", True)
    model.checkpointed = True
    image, text = torch.randn(1, 3, 96, 96), torch.randn(1, 5, 24)
    ran: list[int] = []
    run_block = SamViT.run_block

    def counted(self: SamViT, layer: int, *rest: Any) -> Any:
        ran.append(layer)
        return run_block(self, layer, *rest)

    monkeypatch.setattr(SamViT, "run_block", counted)
    model(image, text).mean().backward()  # not in training
    with torch.no_grad():
        model.train()(image, text)
    end = watch(model.vit.attention_of(1), Watcher())
    model(image, text).mean().backward()  # who watches is to see each block once
    end()
    assert ran == [0, 1, 2] * 3
    model(image, text).mean().backward()
    assert ran[9:] == [0, 1, 2, 2, 1, 0]


def test_a_size_that_is_no_multiple_of_a_patch_is_an_error() -> None:
    model = encoder(random_vit(SMALL), "default", windowed=False)
    with pytest.raises(ConfigError, match="100×96 is not a multiple of the patch size, 8"):
        model(torch.randn(1, 3, 100, 96))


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_encoder_computes_the_same() -> None:
    shape = dataclasses.replace(SMALL, depth=1, image_size=32, window_size=3)
    model = encoder(random_vit(shape), "l_dit", False)
    image, text = torch.randn(2, 3, 32, 32), torch.randn(2, 5, 24)
    mask = torch.arange(5)[None] < torch.tensor([[3], [5]])

    def run() -> list[torch.Tensor]:
        model.zero_grad()
        out = model(image, text, mask)
        out.square().mean().backward()
        return [out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    names = list(model.state_dict())
    plain = run()
    model.compile(dynamic=False)
    compiled = run()
    assert list(model.state_dict()) == names
    assert len(compiled) == len(plain)
    for one, other in zip(compiled, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

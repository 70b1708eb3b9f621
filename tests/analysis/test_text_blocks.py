from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from workbench.analysis.text_blocks import text_blocks
from workbench.config import RunConfig
from workbench.models import attention as attention_module
from workbench.models.attention import AttentionInput
from workbench.models.build import build_model


def plain_attention(inputs: AttentionInput) -> torch.Tensor:
    """The probabilities after SAM's formula: R_h and R_w against the unscaled image queries, padding shut off."""
    height, width = inputs.grid
    words = inputs.k.shape[2] - height * width
    logits = (inputs.q @ inputs.k.transpose(-2, -1)) / inputs.q.shape[-1] ** 0.5
    if inputs.relative_h is not None and inputs.relative_w is not None:
        query = inputs.q[:, :, -height * width :].unflatten(2, (height, width))
        rows = torch.einsum("bnhwc,hkc->bnhwk", query, inputs.relative_h)
        columns = torch.einsum("bnhwc,wkc->bnhwk", query, inputs.relative_w)
        both = rows[..., :, None] + columns[..., None, :]
        logits[:, :, -height * width :, words:] += both.flatten(4, 5).flatten(2, 3)
    if inputs.text_mask is not None:
        for sample, mask in enumerate(inputs.text_mask):
            for word, is_word in enumerate(mask.tolist()):
                if not is_word:
                    logits[sample, :, :, word] = float("-inf")
    return logits.softmax(-1)


@pytest.mark.parametrize("variant", ["default", "e_dit", "l_dit"])
@pytest.mark.parametrize("layout", ["global", "windowed"])
def test_tracing_leaves_the_output_alone_and_its_maps_are_the_softmax(
    make_config: Callable[..., RunConfig], variant: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(fusion__variant=variant, fusion__projector__init="default", backbone__attention=layout)
    model = build_model(config).eval()
    image = torch.randn(1, 3, 64, 64)
    ids, mask = torch.tensor([[2, 20, 21, 22, 3, 0]]), torch.tensor([[1, 1, 1, 1, 1, 0]])
    whole: list[torch.Tensor] = []
    real = attention_module.implementations["eager"]

    def spy(inputs: AttentionInput) -> torch.Tensor:
        whole.append(plain_attention(inputs))
        return real(inputs)

    monkeypatch.setitem(attention_module.implementations._things, "eager", spy)
    with torch.inference_mode():
        expected = model(image, ids, mask)[0]
    forward = list(whole)
    found = text_blocks(model, image, ids, mask)
    torch.testing.assert_close(found.logits, expected, rtol=0, atol=0)
    fused = {"default": 0, "e_dit": 4, "l_dit": 4}[variant]
    assert [layer.layer for layer in found.encoder] == list(range(fused))
    for layer in found.encoder:
        probabilities = forward[layer.layer].mean(dim=1)
        assert layer.word_to_image.shape == layer.image_to_word.shape == (6, 8, 8)
        assert layer.image_to_word[5].max() == 0, "nobody attends to padding"
        if layout == "global":
            columns = probabilities[0, -64:, :6].t().unflatten(1, (8, 8))
            torch.testing.assert_close(layer.image_to_word, columns, rtol=1e-5, atol=1e-7)
            if probabilities.shape[1] == 70:  # the last block computes no rows of words
                rows = probabilities[0, :6, 6:].unflatten(1, (8, 8))
                torch.testing.assert_close(layer.word_to_image, rows, rtol=1e-5, atol=1e-7)
        elif layer.layer in (0, 2):
            assert layer.keys == 16 + 5
            window = layer.image_to_word[:, :4, 4:]  # the second window
            torch.testing.assert_close(
                window, probabilities[1, -16:, :6].t().unflatten(1, (4, 4)), rtol=1e-5, atol=1e-7
            )
    assert [layer.layer for layer in found.decoder] == [0, 1]
    for layer in found.decoder:
        torch.testing.assert_close(layer.word_to_image.sum(dim=(1, 2)), torch.ones(6))


@pytest.mark.parametrize("layout", ["global", "windowed"])
def test_uniform_attention_reads_one_whatever_the_padding(make_config: Callable[..., RunConfig], layout: str) -> None:
    model = build_model(make_config(fusion__variant="l_dit", backbone__attention=layout)).eval()
    for block in model.image_encoder.vit.blocks:
        torch.nn.init.zeros_(block.attn.qkv.weight)
        torch.nn.init.zeros_(block.attn.qkv.bias)
    ids, mask = torch.tensor([[2, 20, 3, 0, 0, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0, 0, 0]])
    for layer in text_blocks(model, torch.randn(1, 3, 64, 64), ids, mask).encoder:
        torch.testing.assert_close(layer.word_to_image * layer.keys, torch.ones(7, 8, 8))


def test_decoder_rows_are_those_of_segment_anything_s_attention(make_config: Callable[..., RunConfig]) -> None:
    model = build_model(make_config()).eval()
    seen: list[torch.Tensor] = []
    block = model.mask_decoder.transformer.layers[0].cross_attn_token_to_image
    block.q_proj.register_forward_hook(lambda module, given, out: seen.append(out))
    block.k_proj.register_forward_hook(lambda module, given, out: seen.append(out))
    found = text_blocks(
        model, torch.randn(1, 3, 64, 64), torch.tensor([[2, 20, 3]]), torch.ones(1, 3, dtype=torch.int64)
    )
    q, k = (x.unflatten(-1, (4, -1)).transpose(1, 2) for x in seen[:2])
    expected = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1).mean(dim=1)[0, 5:].unflatten(1, (8, 8))
    torch.testing.assert_close(found.decoder[0].word_to_image, expected, rtol=1e-5, atol=1e-7)

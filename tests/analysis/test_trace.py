from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.analysis.reference import Spy, plain_weights
from workbench.analysis.points import TraceError, points_of
from workbench.analysis.rollout import rollout
from workbench.analysis.text_blocks import text_blocks
from workbench.analysis.trace import trace
from workbench.analysis.verify import verify
from workbench.config import RunConfig
from workbench.models.attention import implementations
from workbench.models.build import build_model
from workbench.models.fusion import variants
from workbench.models.referring_sam import ReferringSam
from workbench.models.watching import is_watched, watch

MakeConfig = Callable[..., RunConfig]
IDS = torch.tensor([[2, 20, 21, 22, 3, 0], [2, 30, 3, 0, 0, 0]])
MASK = (IDS > 0).long()
ALL = ["encoder.*", "decoder.*", "text_encoder.*", "encoder.blocks[0].attn.image_to_image[0:9]"]
LAYOUTS = ["global", "windowed"]


def built(make_config: MakeConfig, variant: str, layout: str = "global", **more: Any) -> ReferringSam:
    torch.manual_seed(1)
    fields = {"fusion__variant": variant, "backbone__attention": layout, **more}
    if "projector" in variants[variant].reads:
        fields["fusion__projector__init"] = "default"
    if variant in ("l_dit_cross_attention", "l_dit_cross_attention_ffn"):
        fields |= {"fusion__cross_attention__width": 32, "fusion__cross_attention__heads": 4}
    return build_model(make_config(**fields)).eval()


def images(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", list(variants))
@pytest.mark.parametrize("size", [64, pytest.param(96, marks=pytest.mark.exhaustive)])
def test_no_output_bit_changes_and_nothing_is_left_behind(
    make_config: MakeConfig, variant: str, layout: str, size: int
) -> None:
    """8×8 tokens run eagerly, 12×12 in chunks."""
    model = built(make_config, variant, layout)
    with torch.inference_mode():
        plain = model(images(size), IDS, MASK)
        with trace(model, ALL) as seen:
            traced = model(images(size), IDS, MASK)
        with trace(model, ["encoder.blocks[*].attn"], reductions=["entropy", "column_sum"]):
            reduced = model(images(size), IDS, MASK)
    assert torch.equal(plain, traced)
    assert torch.equal(plain, reduced)
    assert all(recording.values is None or recording.weights.isfinite().all() for recording in seen)
    assert not is_watched(model)


@pytest.mark.parametrize("precision", [pytest.param("float64", marks=pytest.mark.exhaustive), "bfloat16"])
@pytest.mark.parametrize("variant", list(variants))
def test_nor_in_other_precisions(make_config: MakeConfig, variant: str, precision: str) -> None:
    for layout in LAYOUTS:
        model, pixels = built(make_config, variant, layout), images()
        if precision == "float64":
            model, pixels = model.double(), pixels.double()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            plain = model(pixels, IDS, MASK)
            with trace(model, ALL):
                traced = model(pixels, IDS, MASK)
            with trace(model, ["encoder.blocks[*].attn"], reductions=["entropy", "column_sum"]):
                reduced = model(pixels, IDS, MASK)
        assert torch.equal(plain, traced)
        assert torch.equal(plain, reduced)
        assert not is_watched(model)


@pytest.mark.parametrize("variant", ["default", "e_dit", "l_dit", "l_dit_cross_attention"])
def test_with_gradients_neither_outputs_nor_gradients_change(make_config: MakeConfig, variant: str) -> None:
    model = built(make_config, variant, training__freeze__image_encoder=False)

    def step() -> tuple[Tensor, list[Tensor]]:
        out = model(images(96), IDS, MASK)
        learning = [p for p in model.parameters() if p.requires_grad]
        return out, [g for g in torch.autograd.grad(out.mean(), learning, allow_unused=True) if g is not None]

    plain, gradients = step()
    with trace(model, ALL, gradient=True):
        traced, traced_gradients = step()
    assert torch.equal(plain, traced)
    assert all(map(torch.equal, gradients, traced_gradients))


def test_nothing_is_left_after_an_exception(make_config: MakeConfig) -> None:
    model = built(make_config, "e_dit")
    with pytest.raises(RuntimeError, match="on the way"), trace(model, ALL):  # noqa: PT012
        assert is_watched(model)
        raise RuntimeError("on the way")
    assert not is_watched(model)
    assert not [module for module in model.modules() if module._forward_hooks]


def spied(model: ReferringSam, size: int) -> tuple[list[Spy], Any]:
    """Spies on every block, and a trace with all maps of the whole image."""
    spies = [Spy() for _ in range(model.image_encoder.depth)]
    ends = [watch(model.image_encoder.vit.attention_of(i), spy) for i, spy in enumerate(spies)]
    with torch.inference_mode(), trace(model, [*ALL, "encoder.blocks[*].attn.image_to_image"]) as seen:
        model(images(size), IDS, MASK)
    for end in ends:
        end()
    return spies, seen


@pytest.mark.parametrize("implementation", ["eager", "chunked", "sdpa", "augmented"])
@pytest.mark.parametrize("variant", ["e_dit", "l_dit"])
def test_maps_are_the_softmax_in_double_precision(make_config: MakeConfig, variant: str, implementation: str) -> None:
    model = built(make_config, variant)
    model.image_encoder.implementation = implementation
    spies, seen = spied(model, 64)
    for layer, spy in enumerate(spies):
        (call,) = spy.calls
        expected = plain_weights(call)
        text = call.inputs.q.shape[2] - 64
        name = f"encoder.blocks[{layer}].attn"
        whole = seen[f"{name}.image_to_image"].weights
        assert_same(whole, expected[:, :, text:, 6:].unflatten(3, (8, 8)))
        assert_same(seen[f"{name}.image_to_word"].weights, expected[:, :, text:, :6].mT.unflatten(3, (8, 8)))
        total = whole.sum(dim=(3, 4)) + seen[f"{name}.image_to_word"].weights.sum(dim=2).flatten(2)
        assert_same(total, torch.ones_like(total))
        if text:
            assert_same(seen[f"{name}.word_to_image"].weights, expected[:, :, :6, 6:].unflatten(3, (8, 8)))
            assert_same(seen[f"{name}.word_to_word"].weights, expected[:, :, :6, :6])
        words = seen[f"{name}.word_to_image"].weights.sum(dim=(3, 4)) + seen[f"{name}.word_to_word"].weights.sum(-1)
        assert_same(words, torch.ones_like(words))
    rows = seen["encoder.blocks[0].attn.image_to_image[0:9]"].weights
    assert torch.equal(rows, seen["encoder.blocks[0].attn.image_to_image"].weights[:, :, :9])


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=1e-6)


def test_word_rows_that_nothing_reads_are_those_the_block_would_have(make_config: MakeConfig) -> None:
    """L-DIT makes no queries of words; here they are made from the block's own weights."""
    model = built(make_config, "l_dit")
    block = model.image_encoder.vit.blocks[1]
    texts: list[Tensor] = []
    handle = block.norm1.register_forward_hook(lambda _, given, out: texts.append(out))
    spies, seen = spied(model, 64)
    handle.remove()
    image, text = texts
    qkv = block.attn.qkv(torch.cat([text, image.flatten(1, 2)], 1)).double().unflatten(-1, (3, 2, -1))
    q, k, _ = qkv.permute(2, 0, 3, 1, 4)
    logits = q[:, :, :6] @ k.mT / q.shape[-1] ** 0.5
    for sample in range(2):
        logits[sample, :, :, :6][:, :, MASK[sample] == 0] = float("-inf")
    expected = logits.softmax(-1)[..., 6:].unflatten(3, (8, 8))
    assert_same(seen["encoder.blocks[1].attn.word_to_image"].weights, expected)
    assert not points_of(model)["encoder.blocks[1].attn.word_to_image"].read
    assert points_of(model)["encoder.blocks[1].attn.image_to_word"].read
    assert spies[1].calls[0].inputs.q.shape[2] == 64


@pytest.mark.parametrize("variant", ["e_dit", "l_dit"])
def test_windows_and_their_padding_are_undone(make_config: MakeConfig, variant: str) -> None:
    """Windows of 4 over 9×9 tokens: three times three, the last ones padded."""
    model = built(make_config, variant, "windowed")
    spies, seen = spied(model, 72)
    name, (call,) = "encoder.blocks[0].attn", spies[0].calls
    expected = plain_weights(call)
    text = call.inputs.q.shape[2] - 16
    whole, words = seen[f"{name}.image_to_image"].weights, seen[f"{name}.image_to_word"].weights
    assert whole.shape == (2, 2, 81, 9, 9)
    assert words.shape == (2, 2, 6, 9, 9)
    for y, x in ((0, 0), (3, 5), (8, 8), (7, 2)):
        window, inner = (y // 4) * 3 + x // 4, (y % 4) * 4 + x % 4
        row = expected.unflatten(0, (2, 9))[:, window, :, text + inner]
        top, left = y // 4 * 4, x // 4 * 4
        inside = row[..., 6:].unflatten(2, (4, 4))[..., : 9 - top, : 9 - left]
        assert_same(whole[:, :, y * 9 + x, top : top + 4, left : left + 4], inside)
        assert_same(whole[:, :, y * 9 + x].sum(dim=(2, 3)), inside.sum(dim=(2, 3)))
        assert_same(words[..., y, x], row[..., :6])
    if text:
        rows = expected.unflatten(0, (2, 9))[:, 4, :, :6, 6:].unflatten(3, (4, 4))
        assert_same(seen[f"{name}.word_to_image"].weights[..., 4:8, 4:8], rows)
    assert seen[f"{name}.word_to_image"].keys.tolist() == [16 + 5, 16 + 3]


def test_decoder_cross_attention_and_bert_are_their_softmax(make_config: MakeConfig) -> None:
    model = built(make_config, "l_dit_cross_attention", fusion__cross_attention__keys="image")
    modules = {
        "decoder.layers[1].word_to_image": model.mask_decoder.transformer.layers[1].cross_attn_token_to_image,
        "decoder.layers[0].image_to_word": model.mask_decoder.transformer.layers[0].cross_attn_image_to_token,
        "decoder.layers[1].word_to_word": model.mask_decoder.transformer.layers[1].self_attn,
        "decoder.final.mask_to_image": model.mask_decoder.transformer.final_attn_token_to_image,
        "encoder.blocks[2].fusion.cross_attention": model.fusion.attentions["2"],
    }
    spies = {name: Spy() for name in modules}
    ends = [watch(module, spies[name]) for name, module in modules.items()]
    with torch.inference_mode(), trace(model, [*modules, "text_encoder.layers[0].word_to_word"]) as seen:
        model(images(64), IDS, MASK)
    for end in ends:
        end()
    cut: dict[str, Callable[[Tensor], Tensor]] = {
        "decoder.layers[1].word_to_image": lambda w: w[:, :, 5:].unflatten(3, (8, 8)),
        "decoder.layers[0].image_to_word": lambda w: w[..., 5:].mT.unflatten(3, (8, 8)),
        "decoder.layers[1].word_to_word": lambda w: w[:, :, 5:, 5:],
        "decoder.final.mask_to_image": lambda w: w[:, :, 1:2].unflatten(3, (8, 8)),
        "encoder.blocks[2].fusion.cross_attention": lambda w: w.unflatten(3, (8, 8)),
    }
    for name, spy in spies.items():
        assert_same(seen[name].weights, cut[name](plain_weights(spy.calls[0])))
        assert seen[name].weights.amax() > 0
    bert = model.text_encoder.bert  # type: ignore[union-attr]
    bert.set_attn_implementation("eager")
    expected = bert(input_ids=IDS, attention_mask=MASK, output_attentions=True).attentions[0]
    assert_same(seen["text_encoder.layers[0].word_to_word"].weights, expected)


def test_gradients_are_those_of_a_model_that_keeps_every_matrix(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(make_config, "e_dit", training__freeze__image_encoder=False).double()
    names = [f"encoder.blocks[{i}].attn.{part}" for i in (0, 2) for part in ("word_to_image", "image_to_word")]
    model.image_encoder.implementation = "chunked"
    with trace(model, names, gradient=True) as seen:
        model(images().double(), IDS, MASK).square().sum().backward()
    kept: list[Tensor] = []

    def keeping(inputs: Any) -> Tensor:
        (weights := plain_weights_with_graph(inputs)).retain_grad()
        kept.append(weights)
        return weights @ inputs.v

    monkeypatch.setitem(implementations._things, "eager", keeping)
    model.image_encoder.implementation = "eager"
    model(images().double(), IDS, MASK).square().sum().backward()
    for layer in (0, 2):
        expected = kept[layer].grad
        assert expected is not None
        rows = seen[f"encoder.blocks[{layer}].attn.word_to_image"].gradient
        torch.testing.assert_close(rows, expected[:, :, :6, 6:].unflatten(3, (8, 8)), rtol=1e-6, atol=1e-9)
        columns = seen[f"encoder.blocks[{layer}].attn.image_to_word"].gradient
        torch.testing.assert_close(columns, expected[:, :, 6:, :6].mT.unflatten(3, (8, 8)), rtol=1e-6, atol=1e-9)
        assert columns.abs().max() > 0


def plain_weights_with_graph(inputs: Any) -> Tensor:
    height, width = inputs.grid
    words = inputs.k.shape[2] - height * width
    logits = inputs.q @ inputs.k.mT / inputs.q.shape[-1] ** 0.5
    query = inputs.q[:, :, -height * width :].unflatten(2, (height, width))
    rows = torch.einsum("bnhwc,hkc->bnhwk", query, inputs.relative_h)
    columns = torch.einsum("bnhwc,wkc->bnhwk", query, inputs.relative_w)
    both = (rows[..., :, None] + columns[..., None, :]).flatten(4, 5).flatten(2, 3)
    logits = logits + torch.nn.functional.pad(both, (words, 0, inputs.q.shape[2] - height * width, 0))
    hidden = torch.nn.functional.pad(~inputs.text_mask, (0, height * width))
    weights: Tensor = logits.masked_fill(hidden[:, None, None], float("-inf")).softmax(-1)
    return weights


def test_what_a_variant_lacks_is_an_error_that_lists_what_it_has(make_config: MakeConfig) -> None:
    model = built(make_config, "default")
    with pytest.raises(TraceError) as error, trace(model, ["encoder.blocks[*].attn.word_to_image"]):
        pass
    assert "this model (Default) has no point 'encoder.blocks[*].attn.word_to_image'; it has" in str(error.value)
    assert "encoder.blocks[0-3].attn.image_to_image" in str(error.value)
    assert "decoder.layers[0-1].word_to_image" in str(error.value)
    with pytest.raises(TraceError, match="no point"), trace(built(make_config, "l_dit"), ["encoder.blocks[9].attn"]):
        pass


def test_learned_tokens_are_no_words(make_config: MakeConfig) -> None:
    """They stand where words would, the same for every sentence: a map named after a word must not be theirs."""
    model = built(make_config, "l_dit", fusion__text="learned")
    assert [name for name in points_of(model) if "word" in name and name.startswith("encoder")] == []
    no_words = pytest.raises(TraceError, match=r"\(LDIT, learned tokens in place of words\) has no point")
    with no_words, trace(model, ["encoder.blocks[1].attn.image_to_word"]):
        pass
    with torch.inference_mode(), trace(model, ["encoder.blocks[*].attn"]) as seen:
        model(images(), IDS, MASK)
    with pytest.raises(TraceError, match="no block of this model's image encoder reads words"):
        rollout(model, seen)
    blocks = text_blocks(model, images()[:1], IDS[:1], MASK[:1])
    assert (blocks.encoder, len(blocks.decoder)) == ([], 2)
    assert {verdict.kind for verdict in verify(model, 64) if verdict.error is None} == set()


def test_what_was_not_recorded_is_no_result(make_config: MakeConfig) -> None:
    model = built(make_config, "l_dit")
    rows, columns = "encoder.blocks[1].attn.word_to_image", "encoder.blocks[1].attn.image_to_word"
    with trace(model, [rows, columns], gradient=True) as seen:
        with pytest.raises(TraceError, match="no forward pass"):
            seen[rows]
        with torch.no_grad(), pytest.raises(TraceError, match="not one under no_grad"):
            model(images(), IDS, MASK)
        out = model(images(), IDS, MASK)
        with pytest.raises(TraceError, match="no backward pass"):
            _ = seen[columns].gradient
        out.sum().backward()
        assert seen[columns].gradient.abs().max() > 0
        with pytest.raises(TraceError, match="nothing in this variant reads"):
            _ = seen[rows].gradient
        with pytest.raises(TraceError, match="not traced"):
            seen["encoder.blocks[0].attn"]
    with pytest.raises(TraceError, match="rows are"), trace(model, ["encoder.blocks[0].attn.image_to_image[3:1]"]):
        pass

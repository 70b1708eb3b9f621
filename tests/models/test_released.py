"""The released variants beyond the golden ones, against a plain reading of their rules on released key names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from workbench.errors import CheckpointError
from workbench.models import checkpoints, released

GOLDEN = Path(__file__).parent.parent / "golden"
State = dict[str, Tensor]
WIDTH, DEPTH, HEADS, LENGTH = 48, 3, 4, 5


def base() -> State:
    """The golden weights without any variant's own; the blocks differ in the length of their tables."""
    state = load_file(GOLDEN / "default_sam.weights.safetensors")
    state["visual_encoder.blocks.2.attn.rel_pos_h"] = torch.randn(9, 12)
    state["visual_encoder.blocks.2.attn.rel_pos_w"] = torch.randn(21, 12)
    return state


def affine(state: State, name: str, out: int, into: int) -> None:
    state[f"visual_encoder.{name}.weight"] = torch.randn(out, into) / into**0.5
    state[f"visual_encoder.{name}.bias"] = torch.randn(out) * 0.1


def attention_weights(state: State, name: str, inner: int = 16) -> None:
    for part in "qkv":
        affine(state, f"{name}.linear_{part}", inner, WIDTH)
    affine(state, f"{name}.linear_merge", WIDTH, inner)


def norm_weights(state: State, name: str) -> None:
    state[f"visual_encoder.{name}.weight"] = torch.rand(WIDTH) + 0.5
    state[f"visual_encoder.{name}.bias"] = torch.randn(WIDTH) * 0.1


def weights_of(variant: str, text_width: int = WIDTH) -> State:
    state = base()
    if text_width != WIDTH:
        affine(state, "prob_text", WIDTH, text_width)
        state["text_proj.weight"] = torch.randn(32, text_width)
    if variant in ("e_dit", "e_dit_tokens"):
        affine(state, "probs", WIDTH, WIDTH)
    if variant in ("l_dit", "e_dit_reprojected", "l_dit_cross_attention"):
        for i in range(DEPTH):
            affine(state, f"probs.{i}", WIDTH, WIDTH)
    if variant.endswith("tokens"):
        count = DEPTH - (variant == "e_dit_tokens")
        state["visual_encoder.tokens"] = torch.randn(count, LENGTH + 2, WIDTH)
    if variant == "l_dit_cross_attention":
        for i in range(DEPTH - 1):
            attention_weights(state, f"cross.{i}")
            norm_weights(state, f"ln.{i}")
    if variant == "l_dit_cross_attention_ffn":
        for i in range(DEPTH):
            attention_weights(state, f"cross.{i}.mhatt")
            affine(state, f"cross.{i}.ffn.mlp.fc.linear", 24, WIDTH)
            affine(state, f"cross.{i}.ffn.mlp.linear", WIDTH, 24)
            for name in (f"cross.{i}.norm1", f"cross.{i}.norm2", f"ln.{i}"):
                norm_weights(state, name)
    return state


class Reading:
    """A released image encoder, straight from method and key names."""

    def __init__(self, state: State, variant: str) -> None:
        self.state = {k.removeprefix("visual_encoder."): v for k, v in state.items() if k.startswith("visual_encoder.")}
        self.variant = variant

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def sample_norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().sum(-1, keepdim=True) / (x.shape[-1] - 1)).sqrt()
        return self.state[f"{name}.weight"] * centred / (deviation + 1e-6) + self.state[f"{name}.bias"]

    def attend(self, name: str, q: Tensor, kv: Tensor, heads: int = 8) -> Tensor:
        q, k, v = (
            self.linear(f"{name}.linear_{part}", x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for part, x in (("q", q), ("k", kv), ("v", kv))
        )
        seen = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v
        return self.linear(f"{name}.linear_merge", seen.transpose(1, 2).flatten(2))

    def words(self, i: int, y: Tensor, t: Tensor, image: Tensor) -> Tensor:
        match self.variant:
            case "e_dit":
                return self.linear("probs", y) if i == 0 else t
            case "e_dit_reprojected":
                return self.linear(f"probs.{i}", y if i == 0 else t)
            case "e_dit_tokens":
                return self.linear("probs", y) if i == 0 else t + self.state["tokens"][i - 1][:LENGTH]
            case "l_dit":
                return self.linear(f"probs.{i}", y)
            case "l_dit_tokens":
                return y + self.state["tokens"][i][:LENGTH]
            case "l_dit_cross_attention":
                projected = self.linear(f"probs.{i}", y)
                if i == 0:
                    return projected
                return self.sample_norm(f"ln.{i - 1}", projected + self.attend(f"cross.{i - 1}", y, t))
            case "l_dit_cross_attention_ffn":
                q = self.sample_norm(f"cross.{i}.norm1", y + self.attend(f"cross.{i}.mhatt", y, image))
                inner = self.linear(f"cross.{i}.ffn.mlp.fc.linear", q).relu()
                q = self.sample_norm(f"cross.{i}.norm2", q + self.linear(f"cross.{i}.ffn.mlp.linear", inner))
                return self.sample_norm(f"ln.{i}", y + q)
        raise AssertionError(self.variant)

    def table(self, name: str, size: int) -> Tensor:
        rows = F.interpolate(self.state[name].t()[None], size=2 * size - 1, mode="linear")[0].t()
        return torch.stack([torch.stack([rows[i - j + size - 1] for j in range(size)]) for i in range(size)])

    def block(self, i: int, x: Tensor, side: int) -> Tensor:
        name, n = f"blocks.{i}", side * side
        normed = F.layer_norm(
            x, (WIDTH,), self.state[f"{name}.norm1.weight"], self.state[f"{name}.norm1.bias"], eps=1e-6
        )
        q, k, v = self.linear(f"{name}.attn.qkv", normed).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        grid = q[:, :, -n:].unflatten(2, (side, side))
        bias_h = torch.einsum("bnhwd,hkd->bnhwk", grid, self.table(f"{name}.attn.rel_pos_h", side))
        bias_w = torch.einsum("bnhwd,wkd->bnhwk", grid, self.table(f"{name}.attn.rel_pos_w", side))
        bias = (bias_h[..., :, None] + bias_w[..., None, :]).flatten(4).flatten(2, 3)
        logits[:, :, -n:, -n:] += bias
        x = x + self.linear(f"{name}.attn.proj", (logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
        normed = F.layer_norm(
            x, (WIDTH,), self.state[f"{name}.norm2.weight"], self.state[f"{name}.norm2.bias"], eps=1e-6
        )
        return x + self.linear(f"{name}.mlp.lin2", F.gelu(self.linear(f"{name}.mlp.lin1", normed)))

    def __call__(self, image: Tensor, y: Tensor) -> Tensor:
        weight, bias = self.state["patch_embed.proj.weight"], self.state["patch_embed.proj.bias"]
        tokens = F.conv2d(image, weight, bias, stride=weight.shape[-1])
        side = tokens.shape[-1]
        positions = F.interpolate(self.state["pos_embed"].permute(0, 3, 1, 2), size=(side, side), mode="bicubic")
        x = (tokens + positions).flatten(2).transpose(1, 2)
        if "prob_text.weight" in self.state:
            y = self.linear("prob_text", y)
        t = torch.zeros_like(y)
        for i in range(DEPTH):
            sequence = self.block(i, torch.cat([self.words(i, y, t, x), x], dim=1), side)
            t, x = sequence[:, :LENGTH], sequence[:, LENGTH:]
        return x.transpose(1, 2).unflatten(2, (side, side))


def before_the_neck(model: nn.Module, image: Tensor, text: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = model.image_encoder.vit.neck.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.encode_image(image, text)
    handle.remove()
    return seen[0]


VARIANTS = [name for name in released._RENAMED if name != "default"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("text_width", [WIDTH, 20])
def test_each_released_variant_computes_its_rule(variant: str, text_width: int) -> None:
    torch.manual_seed(1)
    state = weights_of(variant, text_width)
    image, text = torch.randn(2, 3, 64, 64), torch.randn(2, LENGTH, text_width)
    model = checkpoints.load_released(state, variant)
    with torch.inference_mode():
        found, expected = before_the_neck(model, image, text), Reading(state, variant)(image, text)
    assert ((found - expected).abs().max() / expected.abs().max()).item() < 1e-5
    assert [len(block.attn.rel_pos_w) for block in model.image_encoder.vit.blocks] == [27, 15, 21]


@pytest.mark.parametrize("depth", [4, 6])
def test_a_deeper_decoder_is_segment_anything_s(depth: int) -> None:
    torch.manual_seed(2)
    state = base()
    for key, value in list(state.items()):
        if match := re.match(r"mask_decoder\.transformer\.layers\.1\.(.*)", key):
            for i in range(2, depth):
                state[f"mask_decoder.transformer.layers.{i}.{match[1]}"] = torch.randn_like(value) / 6
    model = checkpoints.load_released(state, "default")
    embedding, text = torch.randn(2, 32, 4, 4), torch.randn(2, LENGTH, WIDTH)
    dense = model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, 4, 4)
    with torch.inference_mode():
        found = model.decode(embedding, text)
        for i in range(2):
            theirs, _ = model.mask_decoder(
                image_embeddings=embedding[i : i + 1],
                image_pe=model.prompt_encoder.pe_layer((4, 4))[None],
                sparse_prompt_embeddings=model.text_proj(text[i : i + 1]),
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            torch.testing.assert_close(found[i : i + 1], theirs, rtol=1e-5, atol=1e-5)


def bert_weights(old_names: bool) -> tuple[State, BertModel]:
    """A BERT under pytorch_pretrained_bert's names, all layers of it, and the model they come from."""
    torch.manual_seed(3)
    shape = BertConfig(
        vocab_size=30, hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=12, intermediate_size=20,
        max_position_embeddings=9,
    )  # fmt: skip
    bert = BertModel(shape).eval()
    state = {}
    for key, value in bert.state_dict().items():
        if old_names:
            key = re.sub(r"LayerNorm\.weight", "LayerNorm.gamma", re.sub(r"LayerNorm\.bias", "LayerNorm.beta", key))
        state[f"lang_encoder.bert.{key}"] = value
    return state, bert


@pytest.mark.parametrize("old_names", [True, False])
def test_the_text_encoder_is_bert_s_first_layer(old_names: bool) -> None:
    state, bert = bert_weights(old_names)
    extra = {"query_embeddings": torch.zeros(1, 4, 8), "self_attention.in_proj_bias": torch.zeros(3)}
    whole = {f"module.{key}": value for key, value in (weights_of("l_dit") | state | extra).items()}
    model = checkpoints.load_released(whole, "l_dit")
    ids = torch.tensor([[2, 7, 8, 3, 0], [2, 9, 3, 0, 0]])
    mask = (ids > 0).long()
    with torch.inference_mode():
        features, text_mask = model.encode_text(ids, mask)
        expected = bert(ids, mask, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    assert text_mask is None, "the released code lets padding be attended to"
    unused = released.take_apart(whole, "l_dit").unused
    assert {"module.query_embeddings", "module.self_attention.in_proj_bias"} < set(unused)
    assert "module.lang_encoder.bert.pooler.dense.weight" in unused
    assert sum("encoder.layer." in key for key in unused) == 2 * 16
    assert not any("encoder.layer.0." in key for key in unused)


@pytest.mark.parametrize(
    ("remove", "add", "message"),
    [
        ("visual_encoder.tokens", None, "1 missing key \\(image_encoder.fusion.table\\)"),
        ("visual_encoder.blocks.1.mlp.lin1.bias", None, "1 missing key \\(image_encoder.vit.blocks.1.mlp.lin1.bias"),
        ("visual_encoder.pos_embed", None, "no key visual_encoder.pos_embed"),
        (None, "visual_encoder.gates", "1 unexpected key \\(image_encoder.vit.gates\\)"),
        (None, "something_else", "1 unexpected key \\(something_else\\)"),
        (None, "visual_encoder.blocks.foo.attn.rel_pos_h", "not a released checkpoint: invalid literal"),
        (None, "module.visual_encoder.pos_embed", "pos_embed occurs twice, with and without the prefix module"),
    ],
)
def test_what_is_missing_or_left_over_is_named(remove: str | None, add: str | None, message: str) -> None:
    state = weights_of("l_dit_tokens")
    if remove:
        del state[remove]
    if add:
        state[add] = torch.zeros(2)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load_released(state, "l_dit_tokens")


def test_a_text_encoder_that_is_no_bert_is_named() -> None:
    state, _ = bert_weights(False)
    del state["lang_encoder.bert.encoder.layer.0.output.dense.bias"]
    with pytest.raises(CheckpointError, match=r"first lang_encoder\.bert\.encoder\.layer\.0\.output\.dense\.bias"):
        checkpoints.load_released(weights_of("l_dit") | state, "l_dit")

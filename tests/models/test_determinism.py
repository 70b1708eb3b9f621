"""What a GPU runs where a run is deterministic, without a GPU: see `fake_gpu`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch.nn import functional as F

from tests.models.fake_gpu import Recorded, fake_model, fake_step, pretended_gpu
from workbench.models import attention, determinism
from workbench.models.attention import UNORDERED_ON_GPU, AttentionInput
from workbench.models.fusion import variants
from workbench.models.referring_sam import image_positions
from workbench.training.setup import set_determinism

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
NOT_DETERMINISTIC = {
    *(f"upsample_{kind}_backward" for kind in ("linear1d", "bilinear2d", "bicubic2d", "trilinear3d")),
    *(f"_upsample_{kind}_aa_backward" for kind in ("bilinear2d", "bicubic2d")),
    *(f"{kind}_pad{n}d_backward" for kind in ("reflection", "replication") for n in (1, 2, 3)),
    *(f"adaptive_{kind}_pool{n}d_backward" for kind in ("avg", "max") for n in (2, 3)),
    *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "avg_pool3d_backward"),
    *("fractional_max_pool2d_backward", "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d"),
    *("grid_sampler_2d_backward", "grid_sampler_3d_backward", "_embedding_bag_backward", "nll_loss2d_forward"),
    *("_ctc_loss_backward", "put", "put_", "histc", "bincount", "kthvalue", "median", "scatter_reduce"),
    *("scatter_reduce_", "index_reduce", "index_reduce_", "cumsum", "cumsum_", "resize_"),
    "_scaled_dot_product_efficient_attention_backward",
    "_scaled_dot_product_cudnn_attention_backward",
    "flex_attention_backward",
}
"""Native operations that torch (2.11 or newer) refuses under its deterministic algorithms on a GPU, those of its older
releases among them, and fused backward passes that sum the gradients of a bias in no fixed order."""


@pytest.fixture
def deterministic() -> Iterator[None]:
    set_determinism(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(determinism, "must_be_deterministic", lambda device: True)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("variant", variants)
def test_a_deterministic_step_on_a_gpu_has_no_other_operation(variant: str, deterministic: None) -> None:
    with pretended_gpu() as gpu:
        model = fake_model(variant)
        for windowed, size, precision in itertools.product((False, True), (512, 1024), PRECISIONS.values()):
            model.image_encoder.windowed = windowed
            recorded = fake_step(gpu, model, size, precision)
            assert_deterministic(recorded)


def assert_deterministic(recorded: Recorded) -> None:
    assert not NOT_DETERMINISTIC & set(recorded.operations)
    assert recorded.masked_attention == 0
    assert {"convolution_backward", "embedding_dense_backward"} <= set(recorded.operations), "it went all along"


def step_of(variant: str, **fusion: Any) -> Recorded:
    with pretended_gpu() as gpu:
        return fake_step(gpu, fake_model(variant, **fusion), 512, torch.bfloat16)


def test_so_has_attention_to_words_among_padding(deterministic: None) -> None:
    assert_deterministic(step_of("l_dit_cross_attention", cross_attention={"keys": "text"}))


def test_a_step_that_need_not_be_deterministic_is_seen_not_to_be() -> None:
    recorded = step_of("l_dit")
    found = {name for name in NOT_DETERMINISTIC if recorded.operations[name]}
    assert found == {"upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward"}
    assert recorded.masked_attention > 0


@pytest.mark.parametrize("name", sorted(UNORDERED_ON_GPU))
def test_a_policy_cannot_choose_unordered_sums(name: str, deterministic: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "choose", lambda *of: name)
    with pretended_gpu(), torch.device("cuda"):
        q, k, v = (torch.zeros(1, 2, 16, 8, requires_grad=True) for _ in range(3))
        inputs = AttentionInput(q, k, v, (4, 4), torch.zeros(4, 4, 8), torch.zeros(4, 4, 8))
        assert attention._chosen(inputs) == "augmented"
        with torch.no_grad():
            assert attention._chosen(inputs) == name


SIZES = [(63, 127), (127, 63), (5, 9), (1, 4), (7, 1), (2, 3), (128, 512)]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_resizing_by_a_product_equals_interpolation(old: int, new: int, as_on_a_gpu: None) -> None:
    table = torch.randn(1, 3, old, dtype=torch.float64, requires_grad=True)
    found = determinism.resize(table, (new,), "linear")
    wanted = F.interpolate(table, size=new, mode="linear")
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    ours, theirs = (torch.autograd.grad(x.square().sum(), table)[0] for x in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    image = torch.randn(2, 3, old, 6, dtype=torch.float64)
    for mode, name in (("linear", "bilinear"), ("cubic", "bicubic")):
        for corners in (False, True):
            found = determinism.resize(image, (new, 11), mode, corners)  # type: ignore[arg-type]
            wanted = F.interpolate(image, size=(new, 11), mode=name, align_corners=corners)
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_resizing_in_single_precision_differs_by_rounding(as_on_a_gpu: None) -> None:
    image = torch.randn(1, 8, 64, 64)
    wanted = F.interpolate(image, size=(32, 32), mode="bicubic")
    torch.testing.assert_close(determinism.resize(image, (32, 32), "cubic"), wanted, rtol=1e-6, atol=1e-6)


def test_the_cpu_keeps_its_own_kernels(deterministic: None) -> None:
    image = torch.randn(1, 2, 9, 9)
    assert torch.equal(determinism.resize(image, (5, 7), "cubic"), F.interpolate(image, size=(5, 7), mode="bicubic"))
    q, k, v, mask = *torch.randn(3, 2, 2, 5, 8), torch.tensor([[True] * 4 + [False], [True] * 5])[:, None, None]
    assert torch.equal(determinism.attend(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def test_masked_attention_of_plain_products_equals_the_fused_one(as_on_a_gpu: None) -> None:
    q, k, v = torch.randn(3, 2, 4, 5, 8, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True, False], [True] * 5])[:, None, None]
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(determinism.attend(q, k, v, mask), wanted, rtol=1e-12, atol=1e-12)
    torch.manual_seed(0)
    dropped = determinism.attend(q, k, v, mask, dropout=0.5)
    assert (dropped - wanted).abs().max() > 0.01


@pytest.mark.parametrize("grid", [(4, 4), (3, 7)])
def test_positions_are_sams_own(grid: tuple[int, int]) -> None:
    encoding = PositionEmbeddingRandom(6)
    assert torch.equal(image_positions(encoding, *grid), encoding(grid)[None])

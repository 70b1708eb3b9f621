from __future__ import annotations

import pytest
import torch

from workbench.models.attention import AttentionInput, attention, implementations

CASES = [
    (grid, text, masked) for grid in ((5, 5), (4, 7), (1, 6)) for text, masked in ((0, False), (6, False), (6, True))
]


def example(
    grid: tuple[int, int], text: int, masked: bool, dtype: torch.dtype, all_queries: bool = True, batch: int = 2
) -> AttentionInput:
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=dtype).requires_grad_()

    height, width = grid
    tokens = height * width + text
    queries = tokens if all_queries else height * width
    mask = None
    if masked:
        mask = torch.arange(text) < torch.tensor([[2], [text]])[:batch]
    return AttentionInput(
        draw(batch, 3, queries, 8), draw(batch, 3, tokens, 8), draw(batch, 3, tokens, 8), grid,
        draw(height, height, 8), draw(width, width, 8), mask,
    )  # fmt: skip


@pytest.mark.parametrize("name", [n for n in implementations if n != "eager"])
@pytest.mark.parametrize(("grid", "text", "masked"), CASES)
@pytest.mark.parametrize("all_queries", [True, False])
@pytest.mark.parametrize(("dtype", "forward", "backward"), [(torch.float32, 1e-5, 1e-4), (torch.float64, 1e-10, 1e-10)])
def test_every_implementation_equals_the_eager_reference(
    name: str, grid: tuple[int, int], text: int, masked: bool, all_queries: bool, dtype: torch.dtype,
    forward: float, backward: float,
) -> None:  # fmt: skip
    outputs, gradients = [], []
    for implementation in ("eager", name):
        inputs = example(grid, text, masked, dtype, all_queries)
        out = attention(inputs, implementation)
        (out * torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)).sum().backward()
        outputs.append(out.detach())
        gradients.append([t.grad for t in (inputs.q, inputs.k, inputs.v, inputs.relative_h, inputs.relative_w)])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=forward, atol=forward)
    for mine, reference in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(mine, reference, rtol=backward, atol=backward)


@pytest.mark.parametrize("name", list(implementations))
def test_padding_words_change_nothing_when_masked(name: str) -> None:
    inputs = example((4, 4), 6, True, torch.float64)
    changed = AttentionInput(
        inputs.q, inputs.k.detach().clone(), inputs.v.detach().clone(), inputs.grid, inputs.relative_h,
        inputs.relative_w, inputs.text_mask,
    )  # fmt: skip
    changed.k[0, :, 2:6] += 100
    changed.v[0, :, 2:6] -= 7
    torch.testing.assert_close(attention(changed, name), attention(inputs, name), rtol=0, atol=1e-12)


def test_bfloat16_stays_close() -> None:
    inputs = example((8, 8), 6, True, torch.float32)
    exact = attention(inputs, "eager")
    half = AttentionInput(
        *(t.bfloat16() for t in (inputs.q, inputs.k, inputs.v)), inputs.grid,
        *(t.bfloat16() for t in (inputs.relative_h, inputs.relative_w) if t is not None), inputs.text_mask,
    )  # fmt: skip
    for name in implementations:
        assert (attention(half, name).float() - exact).abs().mean() < 0.02

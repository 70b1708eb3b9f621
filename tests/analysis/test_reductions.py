from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.analysis.reference import Spy, plain_weights
from tests.analysis.test_trace import IDS, MASK, MakeConfig, built, images
from workbench.analysis.points import TraceError
from workbench.analysis.reductions import REDUCTIONS
from workbench.analysis.trace import trace
from workbench.models.attention import AttentionInput, implementations, weights
from workbench.models.watching import watch


@pytest.mark.parametrize("implementation", ["chunked", "augmented"])
@pytest.mark.parametrize("layout", ["global", "windowed"])
def test_reductions_are_those_of_the_whole_matrix(make_config: MakeConfig, layout: str, implementation: str) -> None:
    model = built(make_config, "e_dit", layout)
    model.image_encoder.implementation = implementation
    referent = (torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(3)) > 0.7).float()
    spy = Spy()
    end = watch(model.image_encoder.vit.attention_of(0), spy)
    with torch.inference_mode(), trace(model, ["encoder.blocks[0].attn"], reductions=REDUCTIONS, mask=referent) as t:
        model(images(), IDS, MASK)
    end()
    found, side = t["encoder.blocks[0].attn"].reduced, 8 if layout == "global" else 4
    whole = plain_weights(spy.calls[0])
    windows = len(whole) // 2
    text = whole.shape[2] - side * side
    rows = whole.unflatten(0, (2, windows))

    def put(values: torch.Tensor) -> torch.Tensor:
        """2×windows×h×s² as 2×h×8×8."""
        across = 8 // side
        tiles = values.unflatten(1, (across, across)).unflatten(-1, (side, side))
        return tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    tiles = referent.unflatten(2, (-1, side)).unflatten(1, (-1, side)).permute(0, 1, 3, 2, 4).flatten(1, 2).flatten(2)
    at = torch.tensor([(y, x) for y in range(side) for x in range(side)], dtype=torch.float64)
    apart = (at[:, None] - at[None]).square().sum(-1).sqrt()
    image = rows[..., text:, 6:]
    logs = torch.where(rows > 0, rows.clamp_min(1e-300).log(), 0.0)
    expected = {
        "row_sum": torch.ones_like(rows[..., text:, 0]),
        "entropy": -(rows * logs).sum(-1)[..., text:],
        "text_mass": rows[..., text:, :6].sum(-1),
        "mask_mass": torch.einsum("bwhqk,bwk->bwhq", image, tiles.double()),
        "column_sum": rows[..., text:, :].sum(-2)[..., 6:],
        "distance": (image * apart).sum(-1) / image.sum(-1),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), put(value), rtol=1e-5, atol=1e-6, msg=name)
    by_word = rows[..., text:, :].sum(-2)[..., :6].sum(1)
    torch.testing.assert_close(found["column_sum_of_words"].double(), by_word, rtol=1e-5, atol=1e-6)
    assert found["entropy_of_words"].shape == (2, 2, 6)
    q, k = (x.double() for x in (spy.calls[0].inputs.q, spy.calls[0].inputs.k))
    # The heaviest key's logit is the largest: found from the log of its weight and of the row's sum.
    some = weights_logits(spy.calls[0].inputs)
    largest = some.amax(-1)[..., text:].unflatten(0, (2, windows))
    torch.testing.assert_close(found["maximum_logit"].double(), put(largest), rtol=1e-5, atol=1e-5)
    assert q.shape[2] == k.shape[2]


def weights_logits(inputs: AttentionInput) -> torch.Tensor:
    height, width = inputs.grid
    assert inputs.relative_h is not None
    assert inputs.relative_w is not None
    q, k = inputs.q.double(), inputs.k.double()
    logits = q @ k.mT / q.shape[-1] ** 0.5
    text = q.shape[2] - height * width
    query = q[:, :, text:].unflatten(2, (height, width))
    rows = torch.einsum("bnhwc,hkc->bnhwk", query, inputs.relative_h.double())
    columns = torch.einsum("bnhwc,wkc->bnhwk", query, inputs.relative_w.double())
    logits[:, :, text:, -height * width :] += (rows[..., :, None] + columns[..., None, :]).flatten(4, 5).flatten(2, 3)
    hidden = torch.nn.functional.pad(~inputs.text_mask, (0, height * width))  # type: ignore[operator]
    return logits.masked_fill(hidden[:, None, None], float("-inf"))


@pytest.mark.parametrize("text_queries", [True, False])
def test_any_rows_are_those_of_the_whole(text_queries: bool) -> None:
    """The bias of some rows is made for them alone, wherever they begin in the grid."""
    generator = torch.Generator().manual_seed(0)
    draw: Callable[..., torch.Tensor] = lambda *size: torch.randn(*size, generator=generator)  # noqa: E731
    rows = 20 + (4 if text_queries else 0)
    inputs = AttentionInput(draw(2, 3, rows, 8), draw(2, 3, 24, 8), draw(2, 3, 24, 8), (4, 5), draw(4, 4, 8),
                            draw(5, 5, 8), torch.tensor([[True] * 3 + [False], [True] * 4]))  # fmt: skip
    whole = weights(inputs)
    assert torch.equal(whole @ inputs.v, implementations["eager"](inputs))
    for start, stop in ((0, 2), (2, 9), (3, rows), (7, 8), (rows - 1, rows), (0, rows)):
        torch.testing.assert_close(weights(inputs, slice(start, stop)), whole[:, :, start:stop])


def test_memory_does_not_grow_with_the_images(make_config: MakeConfig) -> None:
    """A stream of images leaves no more behind than one."""
    import tracemalloc

    model, sizes = built(make_config, "l_dit"), []
    with torch.inference_mode(), trace(model, ["encoder.blocks[*].attn"], reductions=["entropy"]) as t:
        for number in range(12):
            if number == 2:
                tracemalloc.start()
            model(images(), IDS, MASK)
            sizes.append(tracemalloc.get_traced_memory()[0] if number >= 2 else 0)
            kept = sum(x.numel() for recording in t for x in recording.reduced.values())
            assert kept == 4 * 2 * 2 * 64
    tracemalloc.stop()
    assert sizes[-1] < sizes[4] + 200_000


def test_a_mask_is_needed_and_names_are_known(make_config: MakeConfig) -> None:
    model = built(make_config, "l_dit")
    for name, message in (("mask_mass", "needs a mask"), ("entropie", "unknown reduction 'entropie'; known: row_sum")):
        with trace(model, ["encoder.blocks[0].attn"], reductions=[name]), pytest.raises(TraceError, match=message):
            model(images(), IDS, MASK)

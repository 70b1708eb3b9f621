from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.analysis.reference import Spy, plain_weights
from tests.analysis.test_trace import IDS, MASK, MakeConfig, built, images
from workbench.analysis.points import TraceError
from workbench.analysis.rollout import rollout
from workbench.analysis.trace import trace
from workbench.models.watching import watch


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_carried_backwards_are_the_product_of_whole_matrices(make_config: MakeConfig, weighted: bool) -> None:
    """E-DIT, all attention global: N×N matrices of words and image tokens together, multiplied as they stand."""
    model = built(make_config, "e_dit", training__freeze__image_encoder=False)
    spies = [Spy() for _ in range(4)]
    ends = [watch(model.image_encoder.vit.attention_of(i), spy) for i, spy in enumerate(spies)]
    with trace(model, ["encoder.blocks[*].attn", "encoder.blocks[3].attn.word_to_*"], gradient=weighted) as seen:
        gradients: dict[int, Tensor] = {}
        out = model(images(), IDS, MASK)
        for i, spy in enumerate(spies):
            spy.outs[0].register_hook(lambda g, i=i: gradients.__setitem__(i, g))
        out.square().sum().backward()
    for end in ends:
        end()
    last = torch.cat(
        [seen[f"encoder.blocks[3].attn.word_to_{part}"].weights.flatten(3) for part in ("word", "image")], 3
    )
    first = last.mean(dim=1).double()
    identity = torch.eye(6, 70, dtype=torch.float64)
    rows = (first + identity) / 2
    for i in (2, 1, 0):
        matrix = plain_weights(spies[i].calls[0])
        if weighted:
            gradient = gradients[i].double() @ spies[i].calls[0].inputs.v.detach().double().mT
            step = (matrix * gradient).clamp(min=0).mean(dim=1) + torch.eye(70)
        else:
            step = (matrix.mean(dim=1) + torch.eye(70)) / 2
        rows = rows @ step
    found = rollout(model, seen, weighted)
    torch.testing.assert_close(found.image.flatten(2).double(), rows[..., 6:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.words.double(), rows[..., :6], rtol=1e-5, atol=1e-5)
    if not weighted:
        torch.testing.assert_close(found.words.sum(-1) + found.image.sum(dim=(2, 3)), torch.ones(2, 6))


def test_fresh_words_end_where_they_enter(make_config: MakeConfig) -> None:
    """L-DIT: what arrives at a block's words goes no further, so all of the rows still sum to one."""
    model = built(make_config, "l_dit")
    with torch.no_grad(), trace(model, ["encoder.blocks[*].attn"]) as seen:
        model(images(), IDS, MASK)
    found = rollout(model, seen)
    torch.testing.assert_close(found.words.sum(-1) + found.image.sum(dim=(2, 3)), torch.ones(2, 6))
    with pytest.raises(TraceError, match="gradient-weighted rollout needs"):
        rollout(model, seen, weighted=True)
    with torch.no_grad(), trace(built(make_config, "default"), ["encoder.blocks[0].attn"]) as other:
        pass
    with pytest.raises(TraceError, match="no block of this model's image encoder reads words"):
        rollout(built(make_config, "default"), other)

"""What the tests of tracing compare with: attention written out plainly in fp64, without the package's own masks."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.models.watching import Call, Watcher


def plain_weights(call: Call) -> Tensor:
    """B×h×Q×K in fp64, after SAM's formula: (q·R_h[i−i'] + q·R_w[j−j']) between image tokens, padding shut off."""
    inputs = call.inputs
    q, k = inputs.q.detach().double(), inputs.k.detach().double()
    height, width = inputs.grid
    size = height * width
    logits = torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5
    if inputs.relative_h is not None and inputs.relative_w is not None:
        table_h, table_w = inputs.relative_h.detach().double(), inputs.relative_w.detach().double()
        words, text = k.shape[2] - size, q.shape[2] - size
        for i in range(size):
            for j in range(size):
                bias = table_h[i // width, j // width] + table_w[i % width, j % width]
                logits[:, :, text + i, words + j] += q[:, :, text + i] @ bias
    if inputs.text_mask is not None:
        for image, mask in enumerate(inputs.text_mask.tolist()):
            for word, is_word in enumerate(mask):
                if not is_word:
                    logits[image, :, :, word] = float("-inf")
    return logits.softmax(-1)


class Spy(Watcher):
    """Keeps the calls and outputs of a module."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.outs: list[Tensor] = []

    def after(self, call: Call, out: Tensor) -> Tensor:
        self.calls.append(call)
        self.outs.append(out)
        return out

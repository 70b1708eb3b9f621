"""A training step on tensors that say they are on a GPU and hold nothing, so that it runs where there is none.

Devices, dtypes and shapes are checked operation by operation, forward and backward, and the operations are counted.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from workbench.config import RunConfig
from workbench.models.backbones.vit import ViTShape
from workbench.models.build import assemble
from workbench.models.referring_sam import ReferringSam, upsample
from workbench.models.text_encoder import build_from_shape
from workbench.training.losses import mask_loss

SHALLOW_VIT_B = ViTShape(768, 2, 12, (1,))
"""ViT-B's sizes with one windowed and one global block: the others run the same operations."""
WORDS = 20
LEAF = "torch::autograd::AccumulateGrad"


@dataclass
class Recorded:
    """What a step called.

    Attributes:
        operations: native operations by name, without their overloads.
        masked_attention: calls of PyTorch's attention with a mask that may choose a fused kernel.
    """

    operations: Counter[str]
    masked_attention: int = 0


class FakeGpu(FakeTensorMode):
    """Counts what is called; a mode of its own around this one would make every step twice as slow."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations[func.overloadpacket.__name__] += 1
        return super().__torch_dispatch__(func, types, args, kwargs)


class _Attention(TorchFunctionMode):
    """Without a GPU, a fused kernel is never chosen; so what it would be chosen for is recorded instead."""

    def __init__(self, recorded: Recorded) -> None:
        super().__init__()
        self._recorded = recorded

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        fused = torch.backends.cuda.mem_efficient_sdp_enabled()
        if func is F.scaled_dot_product_attention and kwargs.get("attn_mask") is not None and fused:
            self._recorded.masked_attention += 1
        return func(*args, **kwargs)


@contextlib.contextmanager
def pretended_gpu() -> Iterator[FakeGpu]:
    """Tensors hold nothing; autocast is told that there is a GPU."""
    unavailable = mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False)
    with unavailable, mock.patch("torch.cuda.is_bf16_supported", return_value=True), FakeGpu() as gpu:
        yield gpu


def fake_model(variant: str, **fusion: Any) -> ReferringSam:
    """A shallow ViT-B with a fusion variant; nothing is frozen. For use within `pretended_gpu`."""
    config = RunConfig.parse(
        {
            "backbone": {"name": "vit_b", "checkpoint": None},
            "data": {"recipe": {}},
            "fusion": {"variant": variant, "text_projection": variant != "default", **fusion},
            "text_encoder": {"max_tokens": WORDS, "layer": 1},
            "training": {"steps": 1, "freeze": {"text_encoder": False}},
        }
    )
    with torch.device("cuda"):
        text_encoder = build_from_shape(config.text_encoder, config.machine.checkpoint_root)
        model = assemble(config, SHALLOW_VIT_B.build(), text_encoder).train()
    # SAM makes these from lists, on the CPU whatever the default device is.
    model.pixel_mean, model.pixel_std = model.pixel_mean.to("cuda"), model.pixel_std.to("cuda")
    return model


def fake_step(gpu: FakeGpu, model: ReferringSam, size: int, precision: torch.dtype | None) -> Recorded:
    """Loss and gradients of a batch of two as a training computes them; returns what was called."""
    gpu.operations = Counter()
    recorded = Recorded(gpu.operations)
    with torch.device("cuda"), _Attention(recorded):
        pixels, content = torch.zeros(2, 3, size, size, dtype=torch.uint8), torch.zeros(2, 4, dtype=torch.int64)
        ids = torch.zeros(2, WORDS, dtype=torch.int64)
        with torch.autocast("cuda", dtype=precision, enabled=precision is not None):
            logits = model(model.normalise(pixels, content), ids, torch.ones_like(ids))
        loss = mask_loss(upsample(logits.float(), (size, size)), torch.zeros(2, size, size), 1.0, 1.0)
    assert loss.device.type == "cuda"
    backward(loss)  # out of the modes, each of which would cost as much time again
    return recorded


@torch.no_grad()
def backward(loss: Tensor) -> None:
    """Every node of the graph in order, by hand: autograd's own engine asks for the GPU's driver."""
    root: Any = loss.grad_fn
    users: Counter[Any] = Counter()
    found, unseen = {root}, [root]
    while unseen:
        for node, _ in unseen.pop().next_functions:
            users[node] += 1
            if node is not None and node not in found:
                found.add(node)
                unseen.append(node)
    gradients: dict[Any, dict[int, Tensor]] = {root: {0: torch.ones_like(loss)}}
    ready = [root]
    while ready:
        node = ready.pop()
        own = gradients.pop(node, {})
        if node.name() == LEAF:
            continue
        made = node(*(own.get(place) for place in range(len(node._input_metadata))))
        for (earlier, place), gradient in zip(node.next_functions, _tuple(made), strict=True):
            if earlier is None:
                continue
            if gradient is not None:
                _add(gradients.setdefault(earlier, {}), place, _as_expected(earlier, place, gradient))
            users[earlier] -= 1
            if not users[earlier]:
                ready.append(earlier)
    assert not any(count for node, count in users.items() if node is not None)


def _tuple(made: Any) -> tuple[Tensor | None, ...]:
    return made if isinstance(made, tuple) else (made,)


def _add(sums: dict[int, Tensor], place: int, gradient: Tensor) -> None:
    sums[place] = sums[place] + gradient if place in sums else gradient


def _as_expected(node: Any, place: int, gradient: Tensor) -> Tensor:
    """What autograd does between two nodes."""
    wanted = node.variable if node.name() == LEAF else node._input_metadata[place]
    return gradient.to(wanted.dtype).sum_to_size(wanted.shape)

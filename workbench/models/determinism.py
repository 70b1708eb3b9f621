"""Forms of a few operations whose gradients a GPU sums in the same order every time.

They are used on a GPU while torch's deterministic algorithms are on, and nowhere else: the CPU's own kernels are
deterministic, and what they compute stays the same to the last bit.
"""

from __future__ import annotations

import contextlib
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

Mode = Literal["linear", "cubic"]
CUBIC = -0.75
"""The constant of torch's bicubic kernel."""


def must_be_deterministic(device: torch.device) -> bool:
    """Whether an operation on this device may not sum in an order that changes from call to call, but could."""
    return device.type == "cuda" and torch.are_deterministic_algorithms_enabled()


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """softmax(q·kᵀ/√d) · v with some keys hidden.

    The fused kernels that take a mask sum its gradients, and those of q, in no fixed order, or do so by one block at a
    time; where that must not be, it is two plain products, which is little work at the sizes of text.

    Args:
        q: B×h×Q×d, and k, v: B×h×K×d.
        mask: broadcastable to B×h×Q×K, False at keys that must not be attended to.
        dropout: of the attention weights.
    """
    if mask is None or not must_be_deterministic(q.device):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    weights = logits.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return F.dropout(weights, dropout).to(v.dtype) @ v


def plain_attention(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """For other people's modules: their attention is made of plain products where it must be deterministic."""
    return sdpa_kernel(SDPBackend.MATH) if must_be_deterministic(device) else contextlib.nullcontext()


def resize(x: Tensor, size: tuple[int, ...], mode: Mode, align_corners: bool = False) -> Tensor:
    """`torch.nn.functional.interpolate` over the last one (linear) or two dimensions (linear or cubic) of B×C×….

    Args:
        x: B×C×N, or B×C×H×W.
        size: the new N, or the new (H, W).
    """
    if must_be_deterministic(x.device):
        return _product(x, size, mode, align_corners)
    name = {("linear", 1): "linear", ("linear", 2): "bilinear", ("cubic", 2): "bicubic"}[mode, len(size)]
    return F.interpolate(x, size=size, mode=name, align_corners=align_corners)


def _product(x: Tensor, size: tuple[int, ...], mode: Mode, align_corners: bool) -> Tensor:
    # In fp64, because a product in fp32 may be rounded to TF32; it is small.
    with torch.autocast(x.device.type, enabled=False):
        out = x.double() @ resizing(x.shape[-1], size[-1], mode, align_corners, x.device).t()
        if len(size) == 2:
            out = resizing(x.shape[-2], size[0], mode, align_corners, x.device) @ out
        return out.to(x.dtype)


def resizing(old: int, new: int, mode: Mode, align_corners: bool, device: torch.device) -> Tensor:
    """The matrix new×old in fp64 that resizes a column of `old` values as `interpolate` does."""
    at = torch.arange(new, dtype=torch.float64, device=device)
    if align_corners:
        at = at * ((old - 1) / (new - 1) if new > 1 else 0.0)
    else:
        at = (at + 0.5) * (old / new) - 0.5
    if mode == "linear":
        distance = at.clamp(0, old - 1)[:, None] - torch.arange(old, device=device)
        return (1 - distance.abs()).clamp(min=0)
    # Two more values at each end, which repeat the outermost.
    distance = (at[:, None] - torch.arange(-2, old + 2, device=device)).abs()
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
    inner = weights[:, 2 : old + 2]
    first, last = weights[:, :2].sum(dim=1, keepdim=True), weights[:, old + 2 :].sum(dim=1, keepdim=True)
    ends = torch.arange(old, device=device)
    return inner + first * (ends == 0) + last * (ends == old - 1)

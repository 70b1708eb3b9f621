"""How others see, and change, what an attention of the model computes, without a second copy of how it computes it.

Every attention of the model passes its call through `watched`, text tokens of the image encoder through `changed`.
Nothing watches a model unless somebody asks (`watch`), and then only the modules named: a plain forward pass takes one
look at an attribute. Code that torch compiles is not watched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.models.attention import AttentionInput
from workbench.models.chunked_attention import Grid
from workbench.models.determinism import attend

_WATCHERS = "_watchers"


@dataclass(frozen=True)
class Windows:
    """How an image was cut into windows.

    Attributes:
        side: of a window, in tokens.
        padded: (H, W) with the padding that makes whole windows.
        grid: (H, W) without it.
    """

    side: int
    padded: Grid
    grid: Grid

    @property
    def count(self) -> int:
        """Windows of one image."""
        return (self.padded[0] // self.side) * (self.padded[1] // self.side)


@dataclass(frozen=True)
class Call:
    """One attention as the forward pass is about to compute it.

    Attributes:
        inputs: queries, keys, values and what is added to the logits. With windows its batch is images × windows.
        windows: None for global attention.
        grid: (H, W) of the image that is attended to or that attends, windows put together; None without an image.
        word_queries: makes the words' queries, B×h×L×d, where the forward pass has no use for them.
    """

    inputs: AttentionInput
    windows: Windows | None = None
    grid: Grid | None = None
    word_queries: Callable[[], Tensor] | None = None


class Watcher:
    """Sees the calls of one module; the base class leaves everything as it is."""

    def before(self, call: Call) -> Call:
        """The call to compute instead."""
        return call

    def after(self, call: Call, out: Tensor) -> Tensor:
        """The output B×h×Q×d to use instead."""
        return out

    def tokens(self, place: int, tokens: Tensor) -> Tensor:
        """The text tokens B×L×C to use instead at a block."""
        return tokens


def watch(module: nn.Module, watcher: Watcher) -> Callable[[], None]:
    """Have a module's calls seen, after those who watch it already; the returned function ends it."""
    vars(module).setdefault(_WATCHERS, []).append(watcher)

    def end() -> None:
        watchers = vars(module).get(_WATCHERS, [])
        if watcher in watchers:
            watchers.remove(watcher)
        if not watchers:
            vars(module).pop(_WATCHERS, None)

    return end


def is_watched(module: nn.Module) -> bool:
    """Whether anybody watches a module or a part of it."""
    return any(_WATCHERS in vars(part) for part in module.modules())


def watched(module: Any, call: Call, compute: Callable[[AttentionInput], Tensor]) -> Tensor:
    """What `compute` makes of a call's inputs, B×h×Q×d; those who watch the module see it and may change it."""
    watchers = _watchers_of(module)
    for watcher in watchers:
        call = watcher.before(call)
    out = compute(call.inputs)
    for watcher in watchers:
        out = watcher.after(call, out)
    return out


def watched_attend(
    module: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None = None,
    dropout: float = 0.0,
    grid: Grid | None = None,
) -> Tensor:
    """`watched` around `determinism.attend`.

    Args:
        q, k, v: B×h×Q×d and B×h×K×d.
        key_mask: B×K, False at keys that must not be attended to.
        dropout: of the attention weights.
        grid: see `Call`.
    """

    def compute(inputs: AttentionInput) -> Tensor:
        mask = inputs.text_mask
        return attend(inputs.q, inputs.k, inputs.v, None if mask is None else mask[:, None, None], dropout)

    # In `inputs` no key is an image token, because only text can be masked there.
    return watched(module, Call(AttentionInput(q, k, v, (0, 0), text_mask=key_mask), grid=grid), compute)


def changed(module: Any, place: int, tokens: Tensor) -> Tensor:
    """Text tokens B×L×C as those who watch the module let them pass to a block."""
    for watcher in _watchers_of(module):
        tokens = watcher.tokens(place, tokens)
    return tokens


def _watchers_of(module: Any) -> Sequence[Watcher]:
    if torch.compiler.is_compiling():
        return ()
    # A copy: a watcher may end while it is called.
    return tuple(vars(module).get(_WATCHERS, ()))

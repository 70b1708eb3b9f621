"""The memory that a training step takes on a GPU, counted tensor by tensor in a step that computes nothing."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workbench.config import RunConfig
from workbench.models.attention_policy import choose
from workbench.models.build import check_config
from workbench.models.referring_sam import ReferringSam, upsample
from workbench.training.losses import mask_loss
from workbench.training.needs import Memory

COUNTABLE = ("eager", "sdpa", "augmented")
"""Implementations of attention that run without values; the others keep about as much as `augmented` does."""


def step_memory(config: RunConfig, processes: int = 1) -> Memory:
    """What a training needs, in each of so many processes, if its attention is what the policy chooses on a GPU.

    Raises:
        ConfigError: the parts of the model do not fit together.
    """
    model = check_config(config)
    with FakeTensorMode():
        model._apply(lambda t: torch.empty(t.shape, dtype=t.dtype))  # type: ignore[no-untyped-call]
        model.train()
        learning = [p for p in model.parameters() if p.requires_grad]
        for parameter in learning:
            parameter.grad = torch.empty_like(parameter)  # they are there when any but the first part begins
        peak = _peak_of_a_step(model, config, largest_part(config, processes)) if learning else 0
    trained = sum(map(_bytes, learning))
    weights = sum(map(_bytes, model.parameters()))
    return Memory(
        activations=max(peak, trained),  # Adam's step makes one more tensor as large as what it trains
        weights=weights,
        gradients=trained * (2 if processes > 1 else 1),
        optimizer=2 * trained,
        average=0 if config.training.ema.decay is None else weights,
    )


def largest_part(config: RunConfig, processes: int) -> int:
    """How many examples go through the model at once, in each of so many processes."""
    examples = -(-config.training.batch_size // processes)
    parts = -(-examples // (config.machine.micro_batch or examples))
    return -(-examples // parts)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is active, as long as each lives.

    Attributes:
        now: how many there are.
        peak: the most there were.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: dict[int, weakref.finalize[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and see what it made."""
        out = func(*args, **(kwargs or {}))
        for leaf in [out] if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(leaf, Tensor) and id(storage := leaf.untyped_storage()) not in self._known:
                given = (x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
                if not any(x.untyped_storage() is storage for x in given):  # else a view of what was there before
                    self._made(storage)
        return out

    def _made(self, storage: torch.UntypedStorage) -> None:
        name, size = id(storage), storage.nbytes()
        self._known[name] = weakref.finalize(storage, self._gone, name, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _gone(self, name: int, size: int) -> None:
        self._known.pop(name, None)
        self.now -= size


def _peak_of_a_step(model: ReferringSam, config: RunConfig, examples: int) -> int:
    """The most bytes that a forward and a backward pass of so many examples have at once, beside the model."""
    side, training = config.backbone.image_size, config.training
    dtype = {"bf16": torch.bfloat16, "fp16": torch.bfloat16}.get(training.precision)  # as wide, and the CPU has it
    tokens = (side // model.image_encoder.patch_size) ** 2 + config.text_encoder.max_tokens
    name = choose("cuda", str(dtype or torch.float32).removeprefix("torch."), True, tokens)
    model.image_encoder.implementation = name if name in COUNTABLE else "augmented"
    features = _features(model, examples, side) if training.cache_features else None
    with LiveBytes() as live:
        image = None if training.cache_features else torch.empty(examples, 3, side, side)
        mask = torch.empty(examples, side, side)
        words = torch.zeros(examples, config.text_encoder.max_tokens, dtype=torch.int64)
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            logits = model(image, words, torch.ones_like(words), features)
        square = upsample(logits.float(), (side, side))
        mask_loss(square, mask, training.loss.bce, training.loss.dice).backward()
    return int(live.peak) + (0 if features is None else _bytes(features))


def _features(model: ReferringSam, examples: int, side: int) -> Tensor:
    with torch.no_grad():
        return model.before_text(torch.empty(examples, 3, side, side))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

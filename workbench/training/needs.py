"""What a training needs of a GPU, apart from how it is counted, which takes torch."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """What one process keeps on its GPU, in bytes.

    Not counted: what CUDA and its libraries take, and what the allocator cannot use; that is 1 to 2 GiB.

    Attributes:
        activations: the most that the rest of a step takes at once, from images to intermediate results.
        weights: of the whole model, frozen parts included.
        gradients: with several processes twice, because they are added up in buffers of their own.
        optimizer: Adam's two moments of what is trained.
        average: the moving average of the weights.
    """

    activations: int
    weights: int
    gradients: int
    optimizer: int
    average: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.average + self.activations

    @property
    def gib(self) -> float:
        """All of it, in GiB."""
        return self.total / GIB

    def __str__(self) -> str:
        shown = [f"{name} {size / GIB:.3g}" for name, size in vars(self).items() if size]
        return f"{self.gib:.3g} GiB ({', '.join(shown)})"

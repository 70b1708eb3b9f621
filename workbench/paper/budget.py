"""What a setting's training costs (images seen, epochs, trainable weights, GFLOPs), and which settings differ in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from workbench.config import RunConfig
from workbench.errors import WorkbenchError
from workbench.grids.checked import of_the_model
from workbench.grids.evaluated import Evaluated
from workbench.receipts import remembered, state_of

TOLERANCE = 0.01
"""Settings within one per cent of the baseline's budget have the same one."""
NAMES = {
    "seen": "images seen", "epochs": "epochs", "trainable": "trainable weights", "gflops": "GFLOPs",
}  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """The cost of one training of a setting; None: not known here.

    Attributes:
        seen: images (one for each expression of a batch) in all steps that its completed runs took.
        epochs: passes over the training split, where the configuration counts so.
        trainable: weights that learn.
        gflops: of a forward pass for one image and one expression, without the text encoder.
    """

    seen: float | None = None
    epochs: float | None = None
    trainable: float | None = None
    gflops: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """For JSON."""
        return asdict(self)


def budgets(evaluated: Evaluated) -> dict[str, Budget]:
    """The budget of each setting of a grid."""
    completed = evaluated.runs[evaluated.runs["state"] == "completed"]
    by_setting = {}
    for name, config in evaluated.grid.settings.items():
        steps = completed["steps"][completed["setting"] == name].dropna()
        of_config = config.training.steps
        taken = float(steps.mean()) if len(steps) else None if of_config is None else float(of_config)
        epochs = config.training.epochs
        weights, gflops = _cost(config)
        by_setting[name] = Budget(
            None if taken is None else taken * config.training.batch_size,
            float(epochs) if isinstance(epochs, int | float) else None,
            weights,
            gflops,
        )
    return by_setting


def other_budgets(costs: Mapping[str, Budget], baseline: str | None) -> dict[str, str]:
    """The settings that cost something else than the baseline, each with what differs, in words."""
    if baseline is None or baseline not in costs:
        return {}
    reference = costs[baseline].as_dict()
    differing = {}
    for name, cost in costs.items():
        parts = [
            f"{value / base - 1:+.0%} {NAMES[key]}" if base else f"{value:,.0f} {NAMES[key]} instead of none"
            for key, value in cost.as_dict().items()
            if value is not None and (base := reference[key]) is not None and abs(value - base) > TOLERANCE * base
        ]
        if parts:
            differing[name] = ", ".join(parts)
    return differing


def _cost(config: RunConfig) -> tuple[float | None, float | None]:
    """Trainable weights and GFLOPs; None of a model that cannot be built here, as where its text encoder is away."""
    config = of_the_model(config)

    def count() -> list[float] | None:
        from workbench.models.catalog import cost_of

        try:
            cost = cost_of(config)
        except WorkbenchError:
            return None
        return [float(cost.trainable), cost.gflops]

    document: dict[str, Any] = config.identity_document()
    places = [config.machine.checkpoint_root / config.text_encoder.name]
    counted = remembered("cost", [document, str(config.machine.checkpoint_root), state_of(places)], count)
    return (None, None) if counted is None else (counted[0], counted[1])

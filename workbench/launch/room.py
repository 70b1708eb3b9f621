"""Whether runs fit what a profile gives them: processes that can share a batch, and GPUs with room for it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.config import RunConfig
from workbench.errors import WorkbenchError
from workbench.grids.checked import named_places
from workbench.launch.profiles import Profile
from workbench.receipts import remembered, state_of
from workbench.training.needs import Memory

if TYPE_CHECKING:
    from workbench.grids import Run


@dataclass(frozen=True)
class Need:
    """What settings need on a GPU, in each process, that need the same."""

    settings: tuple[str, ...]
    memory: Memory

    def __str__(self) -> str:
        return f"{', '.join(self.settings)}: {self.memory}"


def needs(runs: Iterable[Run], processes: int = 1) -> list[Need]:
    """The memory that runs need if `processes` share a batch; runs that train nothing are left out.

    Raises:
        WorkbenchError: a setting's parts do not fit together.
    """
    alike: dict[str, tuple[RunConfig, dict[str, None]]] = {}
    for run in runs:
        if run.config.training.steps != 0:
            alike.setdefault(_what_counts(run.config), (run.config, {}))[1][run.setting] = None
    return [_need(tuple(names), config, processes) for config, names in alike.values()]


def _need(settings: tuple[str, ...], config: RunConfig, processes: int) -> Need:
    def count() -> dict[str, int]:
        from workbench.training.memory import step_memory

        return vars(step_memory(config, processes))

    try:
        inputs = [_what_counts(config), processes, state_of(named_places(config))]
        return Need(settings, Memory(**remembered("memory", inputs, count)))
    except WorkbenchError as error:
        raise WorkbenchError(f"setting {settings[0]!r}: {error}") from None


def check_room(runs: Iterable[Run], profile: Profile, known: Iterable[Need] | None = None) -> None:
    """Refuse runs that cannot be trained with a profile.

    Args:
        known: their needs with the profile's processes, where those were counted before.

    Raises:
        WorkbenchError: names the setting, what it needs, and what would help.
    """
    runs = list(runs)
    for run in {run.setting: run for run in runs}.values():
        try:
            run.config.check_processes(profile.processes)
        except WorkbenchError as error:
            raise WorkbenchError(f"setting {run.setting!r}: {error} (profile {profile.name})") from None
    if profile.gpu_memory_gib is not None:
        for need in needs(runs, profile.processes) if known is None else known:
            _check_memory(need, profile.gpu_memory_gib, profile.name)


def _check_memory(need: Need, card: float, profile: str) -> None:
    if need.memory.gib > card:
        raise WorkbenchError(
            f"setting {need.settings[0]!r}: each GPU would need {need.memory}, and the profile {profile} has "
            f"{card:g} GiB (gpu_memory_gib); lower machine.micro_batch, or set machine.checkpoint_activations to true"
        )


def _what_counts(config: RunConfig) -> str:
    """All that a configuration's memory depends on, and more, as JSON."""
    document = config.model_dump(mode="json", include={
        "backbone": True, "fusion": True, "text_encoder": True, "machine": {"micro_batch", "checkpoint_activations"},
        "training": {"batch_size", "freeze", "ema", "loss", "precision", "cache_features"},
    })  # fmt: skip
    document["fusion"]["dropout"] = config.fusion.dropout > 0
    return json.dumps(document, sort_keys=True)

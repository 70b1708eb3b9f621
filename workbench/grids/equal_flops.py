"""Settings that are trained for as many FLOPs as another one: `budget: {same_flops_as: SETTING}` as a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.config import RunConfig
from workbench.errors import WorkbenchError
from workbench.grids.tuning import with_values
from workbench.receipts import remembered, state_of
from workbench.registry import unknown_name
from workbench.validation import Record, Whole

KEY = "same_flops_as"


class EqualFlops(Record):
    """How many steps a setting is trained so that it costs what another one does.

    Attributes:
        setting: the other one.
        steps: of this setting, in place of `own_steps`.
        flops, reference_flops: of one training step, here and there.
    """

    setting: str
    steps: Whole
    own_steps: Whole
    flops: Whole
    reference_flops: Whole
    reference_steps: Whole

    def __str__(self) -> str:
        return (
            f"{self.steps:,} steps instead of {self.own_steps:,}, for the FLOPs of {self.setting}'s "
            f"{self.reference_steps:,} steps ({self.reference_flops / 1e9:,.4g} GFLOPs against "
            f"{self.flops / 1e9:,.4g} a step)"
        )


def equal_flops(
    settings: Mapping[str, RunConfig], wanted: Mapping[str, Any]
) -> tuple[dict[str, RunConfig], dict[str, EqualFlops]]:
    """The settings with the steps that their budgets ask for, and the notes that say how these were computed.

    Args:
        wanted: by setting, what its `budget` says.

    Raises:
        WorkbenchError: begins with the setting's key.
    """
    resolved, made = dict(settings), dict[str, EqualFlops]()
    for name, budget in wanted.items():
        where = f"settings.{name}.budget"
        if not isinstance(budget, dict) or list(budget) != [KEY]:
            raise WorkbenchError(f"{where}: {{{KEY}: SETTING}} is expected, not {budget!r}")
        other = str(budget[KEY])
        if other not in settings or other == name:
            known = [setting for setting in settings if setting != name]
            raise WorkbenchError(f"{where}.{KEY}: {unknown_name('setting', other, known)}")
        if other in wanted:
            raise WorkbenchError(f"{where}.{KEY}: {other!r} has a budget itself; name one that says its steps")
        made[name] = _equal(where, settings[name], other, settings[other])
        resolved[name] = with_values(settings[name], {"training.steps": made[name].steps})
    return resolved, made


def _equal(where: str, config: RunConfig, other: str, reference: RunConfig) -> EqualFlops:
    steps, own = reference.training.steps, config.training.steps
    if steps is None or own is None:
        raise WorkbenchError(f"{where}: it and {other} must say training.steps; passes depend on the data")
    flops, reference_flops = _flops(where, config), _flops(where, reference)
    if not flops:
        raise WorkbenchError(f"{where}: training it costs no FLOPs, so no number of steps is enough")
    return EqualFlops(
        setting=other,
        steps=round(steps * reference_flops / flops),
        own_steps=own,
        flops=flops,
        reference_flops=reference_flops,
        reference_steps=steps,
    )


def _flops(where: str, config: RunConfig) -> int:
    """See `step_flops`; counted once for each state of the code and of the text encoder's files.

    What a step does not depend on is no part of the question: a grid on other data is answered without counting.
    """

    def count() -> int:
        from workbench.training.flops import step_flops

        return step_flops(config)

    document = config.identity_document()["config"]
    for section in ("data", "evaluation", "validation", "start_from"):
        document.pop(section, None)
    for field in ("steps", "epochs", "schedule", "ema"):
        document["training"].pop(field, None)
    places = [config.machine.checkpoint_root / config.text_encoder.name]
    try:
        return int(remembered("flops", [document, str(config.machine.checkpoint_root), state_of(places)], count))
    except WorkbenchError as error:
        raise WorkbenchError(f"{where}: its FLOPs cannot be counted: {error}") from None

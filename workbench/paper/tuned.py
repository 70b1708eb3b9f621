"""What a table says of tuning: what was tried for each setting, and what was chosen; or that nothing was."""

from __future__ import annotations

from collections.abc import Mapping

from workbench.errors import counted
from workbench.evaluation.metrics import metrics
from workbench.grids.tuning import Choice, Trial, Tuning, named

NOT_TUNED = "not tuned"


def tuned(tuning: Tuning | None, setting: str) -> str:
    """In a few words: `learning_rate=0.001, of 3 trials`, or that the setting is not tuned."""
    choice = None if tuning is None else tuning.choices.get(setting)
    return NOT_TUNED if choice is None else f"{named(choice.values)}, of {counted(len(choice.trials), 'trial')}"


def of_tuning(tuning: Tuning | None, labels: Mapping[str, str]) -> list[str]:
    """The notes below a table."""
    if tuning is None:
        return ["Not tuned: every setting has the values that the grid states."]
    tune = tuning.config
    tried = " × ".join(
        f"{key.rpartition('.')[2]} {', '.join(map(_short, values))}" for key, values in tune.fields.items()
    )
    seeds = f"seed{'s' * (len(tune.seeds) > 1)} {', '.join(map(str, tune.seeds))}"
    how = (
        f"Tuned by {metrics[tune.metric].label} on {tune.split} alone, {counted(len(tune.points), 'trial')} for each "
        f"setting ({tried}; {seeds})."
    )
    chosen = [f"{labels.get(name, name)} {_outcome(choice)}" for name, choice in tuning.choices.items()]
    return [how, f"Chosen, with the scores of all trials in their order: {'; '.join(chosen)}."] if chosen else [how]


def _outcome(choice: Choice) -> str:
    return f"{named(choice.values)} ({', '.join(map(_score, choice.trials))})"


def _score(trial: Trial) -> str:
    return "diverged" if trial.score is None else f"{100 * trial.score:.1f}"


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

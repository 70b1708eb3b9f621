"""What a submitted job does: train one run, whatever the backend that started it."""

from __future__ import annotations

import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.config import RunConfig


@dataclass(frozen=True)
class TrainingJob:
    """A picklable job. It holds plain values, so that the code that unpickles it is the code that runs.

    Attributes:
        config: the resolved configuration, as `RunConfig.model_dump(mode="json")`.
        results: the results folder, absolute.
        source: commit and state of the tree that submitted it.
    """

    config: dict[str, Any]
    seed: int
    results: str
    source: dict[str, Any]

    def __call__(self) -> str:
        """Train the run; returns its id."""
        stopping: list[int] = []
        # First of all: loading torch takes seconds in which a signal would be lost.
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:  # a local launcher keeps Ctrl-C for itself
                signal.signal(number, lambda received, frame: stopping.append(received))
        from workbench.errors import InterruptedRun
        from workbench.store import RunFolder
        from workbench.training.train import train

        logging.basicConfig(
            level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", force=True
        )
        config = RunConfig.parse(self.config)
        folder = RunFolder.of(Path(self.results), config, self.seed)
        try:
            train(config, self.seed, folder, stop=lambda: bool(stopping), source=self.source)
        except InterruptedRun as error:
            logging.warning("%s", error)
        return folder.name

    def checkpoint(self) -> Any:
        """Asked by submitit before a timeout or a preemption: the same job again, which resumes by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

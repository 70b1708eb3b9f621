"""What commands print of runs and submissions with --json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.launch.plan import PlannedRun
    from workbench.launch.submit import SubmissionOutcome


def run_document(planned: PlannedRun) -> dict[str, Any]:
    """A run and its state."""
    run = planned.run
    return {"run": run.id, "setting": run.setting, "seed": run.seed, "state": planned.state}


def submission_document(outcome: SubmissionOutcome) -> dict[str, Any]:
    """What became of a submission: `runs` as they stood before it, `after` as they stood in the end."""
    return {
        "runs": [run_document(planned) for planned in outcome.planned],
        "chosen": [planned.run.id for planned in outcome.chosen],
        "left_alone": [planned.run.id for planned in outcome.left_alone],
        "jobs": [{"job": array.array_id, "runs": list(array.submission.runs)} for array in outcome.arrays],
        "reports": [
            {"job": job.array_id, "then": list(job.submission.manifest.then), "grid": job.submission.grid}
            for job in outcome.reports
        ],
        "files": [file.absolute() for file in outcome.artefacts],
        "after": [run_document(planned) for planned in outcome.after],
    }

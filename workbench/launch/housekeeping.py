"""After a submission: cancelling runs, and removing what no job needs any more."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from workbench.launch import scheduler
from workbench.launch.ledger import REPORT, Ledger, latest
from workbench.launch.standing import Standing, look_at_queue, standings
from workbench.launch.submission import PlannedRun
from workbench.store import RunFolder, all_runs


def cancel(planned: Sequence[PlannedRun], results: Path) -> list[PlannedRun]:
    """Cancel those that wait or run on a cluster; a running one saves a checkpoint first.

    Returns:
        The cancelled ones. What other processes of this machine train is left alone: Ctrl-C there ends it.
    """
    found = [p for p in planned if p.standing.task is not None and p.state in ("queued", "running")]
    with Ledger(results).lock():
        handed = latest(Ledger(results).submissions())
        by_submission: dict[int, list[int]] = {}
        for one in found:
            submission, index = handed[one.run.id]
            by_submission.setdefault(submission.number, []).append(index)
        for submission in {handed[p.run.id][0].number: handed[p.run.id][0] for p in found}.values():
            # Remembered first: the word must be there when the job ends.
            submission.cancel(by_submission[submission.number])
        scheduler.cancel([p.standing.task for p in found if p.standing.task is not None])
    return found


def collect_garbage(results: Path, dry_run: bool, say: Callable[[str], None]) -> int:
    """Remove submissions whose runs are all completed or taken over by later ones, code that no submission runs, and
    what crashes left half-written.

    Returns:
        How many bytes it freed, or would free.
    """
    ledger = Ledger(results)
    if not ledger.folder.is_dir():
        return 0
    with ledger.lock():
        submissions = ledger.submissions()
        handed = latest(submissions)
        folders = [RunFolder(results, run) for run in handed]
        found = dict(zip(handed, standings(folders, results, look_at_queue), strict=True))
        kept = []
        doomed: list[Path] = []
        for submission in submissions:
            over = all(
                handed[run][0].number != submission.number or _is_over(run, found[run]) for run in submission.runs
            )
            (doomed.append(submission.folder) if over else kept.append(submission))
        code = {submission.code for submission in kept}
        doomed += [folder for folder in ledger.folder.glob("code-*") if folder.name not in code]
        doomed += list(ledger.folder.glob(".code-*"))
        runs = all_runs(results)
        trained_now = {run.name for run in runs if run.claimed()}
        if not trained_now:  # local jobs write their logs there, and run the code
            doomed += ledger.folder.glob("jobs-*")
        else:
            doomed = [path for path in doomed if not path.name.startswith("code-")]
        for folder in runs:
            if folder.name not in trained_now:
                doomed += [*folder.checkpoints.glob(".partial-*"), *folder.path.glob(".run.json-*")]
        freed = 0
        for path in doomed:
            size = _size(path)
            freed += size
            say(f"{'would remove' if dry_run else 'removed'} {path} ({size / 2**20:.1f} MB)")
            if not dry_run:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return freed


def _is_over(run: str, standing: Standing) -> bool:
    if run.startswith(REPORT):
        return standing.state not in ("queued", "running")
    return standing.state == "completed"


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file())

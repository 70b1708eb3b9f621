"""After a submission: cancelling runs, and removing what no job needs any more."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from workbench.grids import Grid
from workbench.launch import scheduler
from workbench.launch.guarded import MARK
from workbench.launch.local import is_in_use
from workbench.launch.plan import PlannedRun
from workbench.launch.reports import LIVE, ReportStatus, report_statuses
from workbench.launch.scheduler import Task
from workbench.launch.states import look_at_queue, run_states
from workbench.launch.submissions import REPORT, Submission, Submissions, is_abandoned, latest
from workbench.results.folders import RunFolder, all_runs

DOOMED = ".doomed-"
QUIET_SECONDS = 3600.0
"""A younger file may still be being written, where locks do not reach."""


def cancel(planned: Sequence[PlannedRun], results: Path) -> list[PlannedRun]:
    """Cancel those that wait or run on a cluster; a running one saves a checkpoint first.

    Returns:
        The cancelled ones. What other processes of this machine train is left alone: Ctrl-C there ends it.
    """
    live = [p for p in planned if p.run_state.task is not None and p.state in ("queued", "running")]
    with Submissions(results).lock():
        newest = latest(Submissions(results).all())
        by_submission: dict[int, list[int]] = {}
        for one in live:
            submission, index = newest[one.run.id]
            by_submission.setdefault(submission.number, []).append(index)
        for submission in {newest[p.run.id][0].number: newest[p.run.id][0] for p in live}.values():
            # Recorded first: it must be there when the job ends.
            submission.cancel(by_submission[submission.number])
        tasks = {p.run.id: p.run_state.task for p in live if p.run_state.task is not None}
        shared = [p for p in live if newest[p.run.id][0].tasks_of > 1]
        scheduler.cancel([tasks[p.run.id] for p in live if newest[p.run.id][0].tasks_of == 1])
        _cancel_shared({tasks[p.run.id]: newest[p.run.id][0] for p in shared}, newest, results)
    return live


def _cancel_shared(
    tasks: Mapping[Task, Submission], newest: Mapping[str, tuple[Submission, int]], results: Path
) -> None:
    """Cancel the shared tasks that have no runs left; in the others, stop the running run if it was cancelled.

    The running run is read after the cancellation was recorded: a run that begins later sees the record.

    Args:
        tasks: those with cancelled runs, and their submissions.
    """

    cancelled = {submission.number: submission.cancelled for submission in tasks.values()}

    def is_left(submission: Submission, index: int) -> bool:
        run = submission.runs[index]
        done = index in submission.turns.over or index in cancelled[submission.number]
        mine = newest[run][0].number == submission.number
        return mine and not done and RunFolder(results, run).state() != "completed"

    ended, interrupted = [], []
    for task, submission in tasks.items():
        current = submission.turns.current.get(task.index)
        if not any(is_left(submission, index) for index in submission.runs_of(task.index)):
            ended.append(task)
        elif current in cancelled[submission.number] and current not in submission.turns.over:
            interrupted.append(task)
    scheduler.cancel(ended)
    scheduler.interrupt(interrupted)


def cancel_report(grid: Grid, results: Path) -> ReportStatus | None:
    """Cancel the job that waits to make a grid's table and figures; None where none does."""
    with Submissions(results).lock():
        for report in report_statuses(results, grid):
            if report.state in LIVE and report.submission is not None and report.task is not None:
                report.submission.cancel([0])
                scheduler.cancel([report.task])
                return report
    return None


def collect_garbage(results: Path, dry_run: bool, say: Callable[[str], None]) -> int:
    """Remove submissions whose runs are all completed or taken over by later ones, code that no submission runs, and
    what crashes left half-written.

    Returns:
        How many bytes it freed, or would free.
    """
    submissions_folder = Submissions(results)
    if not submissions_folder.folder.is_dir():
        return 0
    with submissions_folder.lock():
        submissions = submissions_folder.all()
        newest = latest(submissions)
        names = [run for run in newest if not run.startswith(REPORT)]
        states = dict(
            zip(names, run_states([RunFolder(results, n) for n in names], results, look_at_queue), strict=True)
        )
        waiting = {
            r.submission.number for r in report_statuses(results) if r.submission is not None and r.state in LIVE
        }
        kept = []
        doomed: list[Path] = []
        for submission in submissions:
            over = all(
                newest[run][0].number != submission.number or states[run].state == "completed"
                for run in submission.runs
                if not submission.is_report
            )
            over = over and submission.number not in waiting
            (doomed.append(submission.folder) if over else kept.append(submission))
        runs = all_runs(results)
        in_use = {run for run, run_state in states.items() if run_state.state == "running"}
        in_use |= {run.name for run in runs if run.claimed()}
        open_ones = {submission.name for submission in kept}
        doomed += [mark for mark in submissions_folder.folder.glob(f"*{MARK}") if mark.stem not in open_ones]
        local = [folder for folder in submissions_folder.folder.glob("jobs-*") if is_in_use(folder)]
        doomed += [folder for folder in submissions_folder.folder.glob("jobs-*") if folder not in local]
        code = {submission.manifest.code for submission in kept}
        if not local and not in_use:  # local jobs run a copy of the code, and no record says which
            doomed += [folder for folder in submissions_folder.folder.glob("code-*") if folder.name not in code]
        doomed += [folder for _, folder in submissions_folder.folders() if is_abandoned(folder)]
        doomed += [*submissions_folder.folder.glob(".code-*"), *submissions_folder.folder.glob(f"{DOOMED}*")]
        for folder in runs:
            if folder.name not in in_use:
                halves = [*folder.checkpoints.leftovers(), *folder.path.glob(".run.json-*")]
                doomed += [path for path in halves if time.time() - path.stat().st_mtime > QUIET_SECONDS]
        freed = 0
        for path in doomed:
            size = _size(path)
            freed += size
            say(f"{'would remove' if dry_run else 'removed'} {path} ({size / 2**20:.1f} MB)")
            if not dry_run:
                _remove(path)
    return freed


def _remove(path: Path) -> None:
    """Rename it first, so that a crash cannot leave a half-removed folder that looks whole."""
    if path.is_dir():
        away = path if path.name.startswith(DOOMED) else path.rename(path.with_name(f"{DOOMED}{path.name}"))
        shutil.rmtree(away)
    else:
        path.unlink()


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file())

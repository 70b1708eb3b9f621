"""Commands that look after what was submitted: status, logs, cancel, gc and doctor."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.options import (
    RESULTS,
    CheckpointRoot,
    DataRoot,
    GridFile,
    Json,
    Only,
    Preset,
    Results,
    app,
    complete_setting,
    duration_of,
    load_grid_file,
    print_json,
    print_rows,
    print_written,
    state_of,
    warn,
    warning_once,
)
from workbench.errors import counted

if TYPE_CHECKING:
    from workbench.launch.reports import ReportStatus
    from workbench.launch.status import RunStatus

WATCH_SECONDS = 10.0
MOST_LINES = 50
"""The most runs that `status` lists one by one."""


@app.command()
def status(
    grid: Annotated[
        Path | None, typer.Argument(help="A grid; without one, every run is shown.", show_default=False)
    ] = None,
    only: Only = None,
    seeds: Annotated[
        str | None, typer.Option(help="Show these, e.g. 0-4; without it, the grid's own and every seed that exists.")
    ] = None,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Repeat every ten seconds until no run is queued or running.")
    ] = False,
    preset: Preset = None,
    every_run: Annotated[
        bool, typer.Option("--all", help=f"One line per run even if there are over {MOST_LINES}.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show each run's state, step, speed and time left, and what went wrong, grouped by cause."""
    from workbench.launch.reports import LIVE

    while True:
        statuses, reports = _statuses(grid, only, seeds, results, data_root, preset, as_json or every_run)
        if watch and sys.stdout.isatty():
            print("\033[2J\033[H", end="")
        if as_json:
            print_json([s.as_dict() for s in statuses] + [r.as_dict() for r in reports])
        else:
            _print_statuses(statuses, results, every_run)
            _print_reports(reports)
        begun = any(s.state != "new" for s in statuses)
        live = any(s.state in ("queued", "running") for s in statuses) or any(r.state in LIVE for r in reports)
        if not watch or (begun and not live):
            return
        if not begun and not as_json:
            print("nothing has begun yet; still watching, Ctrl-C ends this", flush=True)
        time.sleep(WATCH_SECONDS)


def _statuses(
    grid: Path | None,
    only: str | None,
    seeds: str | None,
    results: Path,
    data_root: Path | None,
    preset: str | None,
    each: bool,
) -> tuple[list[RunStatus], list[ReportStatus]]:
    """Runs and reports; of runs that are shown one by one (they are few, or `each`), also what the logs say."""
    from workbench.grids import parse_seeds
    from workbench.launch.plan import plan_runs, runs_of, with_existing_seeds
    from workbench.launch.reports import report_statuses
    from workbench.launch.states import forgiving, look_at_queue
    from workbench.launch.status import all_statuses, statuses
    from workbench.results.folders import all_runs

    tell = warning_once()
    look = forgiving(look_at_queue, tell)
    if grid is None:
        runs_shown = all_statuses(results, look, tell, each or len(all_runs(results)) <= MOST_LINES)
        return runs_shown, report_statuses(results, None, look, tell)
    loaded = load_grid_file(grid, data_root, preset=preset)
    loaded = loaded.narrowed(only, None if seeds is None else parse_seeds(seeds))
    runs = with_existing_seeds(loaded, results) if seeds is None else runs_of(loaded)
    runs_shown = statuses(plan_runs(runs, results, look, tell), each or len(runs) <= MOST_LINES)
    # plan_runs has warned of damaged submissions already.
    return runs_shown, report_statuses(results, loaded, look, lambda line: None)


def _print_reports(reports: list[ReportStatus]) -> None:
    from workbench.launch.reports import UNDONE

    for report in reports:
        job = f", job {report.task.id}" if report.task is not None and report.task.array_id else ""
        why = f": {report.message}" if report.message else ""
        print(f"{' and '.join(report.then) or 'report'} of {Path(report.grid).stem}: {report.state}{job}{why}")
        if report.state in UNDONE:
            print(f"    to make it: workbench submit {report.grid}")


def _print_statuses(statuses: list[RunStatus], results: Path, every_run: bool = False) -> None:
    from workbench.failures import WAY_OUT
    from workbench.launch.status import failures

    if not statuses:
        print(f"no runs in {results.absolute()}")
        return
    if len(statuses) > MOST_LINES and not every_run:
        _print_settings(statuses)
    else:
        _print_runs(statuses)
    counts = {state: sum(s.state == state for s in statuses) for state in dict.fromkeys(s.state for s in statuses)}
    left = [s.seconds_left for s in statuses if s.seconds_left is not None]
    slowest = f"; the slowest running one needs {duration_of(max(left))} more" if left else ""
    print(f"\n{counted(len(statuses), 'run')}: {', '.join(f'{n} {state}' for state, n in counts.items())}{slowest}")
    if not results.is_absolute():
        print(f"results in {results.absolute()}")
    completed = dict.fromkeys((s.setting for s in statuses), 0)
    for status in statuses:
        completed[status.setting] += status.state == "completed"
    if len(set(completed.values())) > 1 and (every_run or len(statuses) <= MOST_LINES):
        seeds = ", ".join(f"{setting} {count}" for setting, count in completed.items())
        print(f"completed seeds per setting: {seeds}")
    for line in (line for status in statuses for line in status.damage):
        warn(line)
    for failure in failures(statuses):
        named = ", ".join(failure.runs[:3]) + (f" and {len(failure.runs) - 3} more" if len(failure.runs) > 3 else "")
        print(f"{len(failure.runs)} × {failure.cause}: {failure.message} [{named}]")
        print(f"    to fix it: {WAY_OUT[failure.cause]}")


def _print_runs(statuses: list[RunStatus]) -> None:
    rows = [
        (
            s.setting,
            s.seed,
            state_of(s.state, s.cause),
            f"{s.step or 0}/{'?' if s.steps is None else s.steps}",
            f"{s.rate:.0f} expr/s" if s.rate else "–",
            duration_of(s.seconds_left),
            f"{s.score['metric']} {100 * s.score['value']:.1f} at {s.score['step']}" if s.score else "–",
            s.restarts or "",
            s.job or "",
            (s.error or "") if s.state in ("queued", "new") else "",
        )
        for s in statuses
    ]
    print_rows(
        ("setting", "seed", "state", "step", "speed", "left", "best validation", "restarts", "job", "waits for"), rows
    )


def _print_settings(statuses: list[RunStatus]) -> None:
    """A line per setting, where there are too many runs for a line each."""
    by_setting: dict[str, list[RunStatus]] = {}
    for status in statuses:
        by_setting.setdefault(status.setting, []).append(status)
    rows = []
    for setting, group in by_setting.items():
        states = ", ".join(f"{count} {state}" for state, count in Counter(s.state for s in group).items())
        rates = [s.rate for s in group if s.rate and s.state == "running"]
        left = [s.seconds_left for s in group if s.seconds_left is not None]
        speed = f"{sum(rates) / len(rates):.0f} expr/s" if rates else "–"
        rows.append((setting, len(group), states, speed, duration_of(max(left)) if left else "–"))
    print_rows(("setting", "runs", "states", "speed", "slowest left"), rows)
    print("a line per run: --all")


@app.command()
def logs(
    grid: GridFile,
    setting: Annotated[
        str,
        typer.Argument(
            help="A setting: its name, or a pattern of it alone.", show_default=False, autocompletion=complete_setting
        ),
    ],
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the run; by default the grid's first.")] = None,
    lines: Annotated[int, typer.Option(min=1, help="How many lines to print, the last ones.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", help="Keep printing until the run has ended.")] = False,
    preset: Preset = None,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Print what a run logged and, if its last job failed, what that job printed."""
    from workbench.errors import WorkbenchError
    from workbench.files import read_file
    from workbench.launch.submissions import Submissions, latest
    from workbench.registry import unknown_name
    from workbench.results.folders import RunFolder

    if follow and as_json:
        raise WorkbenchError("--follow has no end to print as one JSON document; leave out either it or --json")
    loaded = load_grid_file(grid, data_root, preset=preset)
    named = loaded.matching(setting)
    if not named:
        raise WorkbenchError(f"{grid}: {unknown_name('setting', setting, list(loaded.settings))}")
    if len(named) > 1:
        raise WorkbenchError(f"{grid}: {setting!r} names {len(named)} settings, not one: {', '.join(named)}")
    folder = RunFolder.of(results, loaded.settings[named[0]], loaded.seeds[0] if seed is None else seed)
    shown = 0
    while True:
        log = folder.log(all_lines=True)
        events = log.events
        for event in () if as_json else events[-lines:] if shown == 0 else events[shown:]:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
            rest = " ".join(f"{key}={value}" for key, value in event.details().items())
            print(f"{when} {event.event} {rest}", flush=True)
        shown = len(events)
        if not follow or folder.state() != "running":
            break
        time.sleep(1)
    for line in log.damage:
        warn(line)
    newest = latest(Submissions(results).all(warn)).get(folder.name)
    outputs = newest[0].output(newest[1]) if newest else []
    printed = {}
    for file in outputs:
        try:
            printed[str(file)] = read_file(file).decode(errors="replace").splitlines()[-lines:]
        except OSError as error:
            warn(f"{file}: {error.strerror}")
    if as_json:
        logged = [{"time": event.time, "event": event.event, **event.details()} for event in log.events[-lines:]]
        print_json({"run": folder.name, "state": folder.state(), "events": logged, "printed": printed})
    for name, last in () if as_json else printed.items():
        print(f"--- {name}")
        print("\n".join(last))
    if not shown and not outputs:
        raise WorkbenchError(f"{folder.name} has not begun (state: {folder.state()})")


@app.command()
def cancel(
    grid: GridFile,
    only: Only = None,
    seeds: Annotated[str | None, typer.Option(help="Only these seeds, e.g. 0-4.")] = None,
    preset: Preset = None,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Cancel a grid's queued and running jobs on the cluster; a running one saves first.

    If a job trains several runs one after another, its other runs continue.
    """
    from workbench.grids import parse_seeds
    from workbench.launch.housekeeping import cancel as cancel_runs
    from workbench.launch.housekeeping import cancel_report
    from workbench.launch.plan import plan
    from workbench.launch.states import look_at_queue

    loaded = load_grid_file(grid, data_root, preset=preset).narrowed(
        only, None if seeds is None else parse_seeds(seeds)
    )
    cancelled = cancel_runs(plan(loaded, results, look_at_queue), results)
    jobs = [
        {"setting": p.run.setting, "seed": p.run.seed, "run": p.run.id, "job": p.run_state.task and p.run_state.task.id}
        for p in cancelled
    ]
    for job in () if as_json else jobs:
        print(f"cancelled {job['setting']} seed {job['seed']} (job {job['job']})")
    report = cancel_report(loaded, results) if only is None and seeds is None else None
    if as_json:
        print_json({"cancelled": jobs, "report": report and report.as_dict()})
        return
    if report is not None and report.task is not None:
        print(f"cancelled the {' and '.join(report.then)} of {loaded.name} (job {report.task.id})")
    if not cancelled and report is None:
        print("none of its runs is queued or running on a cluster")


@app.command()
def gc(
    results: Results = RESULTS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what no job needs any more: old submissions, old copies of the code, half-written files."""
    from workbench.launch.housekeeping import collect_garbage

    lines: list[str] = []
    freed = collect_garbage(results, dry_run, lines.append if as_json else print)
    if as_json:
        print_json({"dry_run": dry_run, "freed_bytes": freed, "said": lines})
        return
    print(f"{'would free' if dry_run else 'freed'} {freed / 2**20:.1f} MB")


@app.command()
def doctor(
    profile: Annotated[
        Path | None, typer.Option(envvar="WORKBENCH_PROFILE", help="The profile to check, e.g. slurm/dev.yaml.")
    ] = None,
    grid: Annotated[Path | None, typer.Option(help="Also check that this grid's weights and data exist.")] = None,
    preset: Preset = None,
    results: Results = RESULTS,
    data_root: DataRoot = None,
    checkpoint_root: CheckpointRoot = None,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Instead, check and measure this machine's GPU, in ten minutes.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="With --gpu: the JSON file to write.")] = None,
    as_json: Json = False,
) -> None:
    """Check what a submission with this profile will need, and say how to fix what is missing."""
    from workbench.errors import WorkbenchError

    if gpu:
        _examine_gpu(out, as_json)
        return
    if profile is None:
        raise WorkbenchError("name a profile with --profile, such as slurm/local.yaml, or check a GPU with --gpu")
    if preset is not None and grid is None:
        raise WorkbenchError("--preset takes the place of a grid's own; name the grid with --grid")
    from workbench.launch.doctor import examine
    from workbench.launch.profiles import load_profile

    loaded = None if grid is None else load_grid_file(grid, data_root, checkpoint_root, preset=preset)
    wrong, checks = 0, []
    for check in examine(load_profile(profile), results, loaded):
        wrong += check.passed is False
        checks.append(vars(check))
        if as_json:
            continue
        mark: Any = {True: "ok  ", False: "FAIL", None: "skip"}[check.passed]
        print(f"{mark}  {check.name}: {check.found}", flush=True)
        if check.passed is False and check.remedy:
            print(f"      to fix it: {check.remedy}")
    if as_json:
        print_json({"profile": profile, "checks": checks, "failed": wrong})
    if wrong:
        raise WorkbenchError(f"{counted(wrong, 'check')} failed")


def _examine_gpu(out: Path | None, as_json: bool) -> None:
    from workbench.benchmarks.gpu import examine
    from workbench.errors import WorkbenchError

    stream = sys.stderr if as_json else sys.stdout
    answers = examine(out, lambda line: print(line, file=stream, flush=True))
    for goal, reached in answers["goals"].items():
        print(f"goal {goal}: {({True: 'reached', False: 'missed', None: 'not measured'})[reached]}", file=stream)
    if as_json:
        print_json(answers)
    elif out is not None:
        print_written([out])
    failed = [name for name, answer in answers.items() if answer.get("status") == "error"]
    if failed:
        raise WorkbenchError(f"{counted(len(failed), 'part')} failed: {', '.join(failed)}")

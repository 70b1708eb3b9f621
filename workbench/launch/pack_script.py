"""What the batch script of a pack executes: a loop over the runs of its task, each with its own attempt and output.

The function that trains one run opens in the set-up and closes after the command, which submitit writes between them.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from workbench.launch.epilogue import ATTEMPT, COMPLETED, TASK_ENDS
from workbench.launch.packing import OVER, TASK
from workbench.launch.profiles import Profile
from workbench.launch.submissions import Submission
from workbench.launch.tasks import STOPPED, TASK_BEGAN, TASK_RUN

EARLY_SECONDS = 60
"""Slurm may send the signal before a time limit so much early."""


def opening(submission: Submission) -> list[str]:
    """The lines before the command that trains a run, after what is set up once for all."""
    folder, notes = shlex.quote(str(submission.folder)), shlex.quote(str(submission.began_file))
    return [
        "told=",
        "trap told=yes TERM  # and no further run begins",
        f"export {TASK_BEGAN}=$(date +%s)",
        f'task={folder}/"$SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID"',
        f'echo "{TASK}$SLURM_ARRAY_TASK_ID" >> {notes}',
        "train_one() {",
        "began=$(date +%s)",
        f'echo "{ATTEMPT} ${{SLURM_RESTART_COUNT:-0}} on $(hostname) at $(date +%FT%T)"',
        f'echo "${TASK_RUN}" >> {notes}',
        'rm -f "$log"_[1-9]*_log.out  # of attempts before',
    ]


def step(command: str, srun_args: Sequence[str]) -> str:
    """The command that trains one run, as a step of the job that prints into the run's own files."""
    return f'srun --unbuffered --output "$log"_%t_log.out --open-mode=append {shlex.join(srun_args)} {command}'


def closing(submission: Submission, profile: Profile, epilogue: str) -> list[str]:
    """The lines after the command: how the run ended, and the loop over the task's runs.

    Args:
        epilogue: the command that runs `workbench.launch.epilogue`.
    """
    folder, notes = shlex.quote(str(submission.folder)), shlex.quote(str(submission.began_file))
    size, count = submission.tasks_of, len(submission.runs)
    latest = max(0, 60 * profile.time_minutes * size - profile.signal_seconds - EARLY_SECONDS)
    return [
        "status=$?",
        f"ended={COMPLETED}",
        "if [ $status -ne 0 ]; then",
        f"  {epilogue} {folder} $status $began",
        "  ended=$?",
        "fi",
        "}",
        "failed=0",
        "first=yes",
        f"for run in $(seq $((SLURM_ARRAY_TASK_ID * {size})) $((SLURM_ARRAY_TASK_ID * {size} + {size - 1}))); do",
        f'  [ "$run" -lt {count} ] || break',
        f'  grep -qx "{OVER}$run" {notes} && continue',
        f'  if [ -n "$told" ]; then echo "-{TASK}$SLURM_ARRAY_TASK_ID" >> {notes}; break; fi',
        f'  if [ -z "$first" ] && [ $(($(date +%s) - {TASK_BEGAN})) -gt {latest} ]; then',
        "    # Too late to be told of the time limit: the rest goes back into the queue.",
        f"    {epilogue} {folder}",
        f"    failed={STOPPED}",
        "    break",
        "  fi",
        "  first=",
        f'  export {TASK_RUN}="$run"',
        '  log="$task"_run"$run"',
        f'  echo "{ATTEMPT} of run $run at $(date +%FT%T)"',
        '  train_one >> "$log"_0_log.out 2>&1',
        f"  if [ $ended -eq {COMPLETED} ]; then",
        f'    echo "{OVER}$run" >> {notes}',
        '    [ $status -ne 0 ] || rm -f "$log"_*_log.out',
        "    continue",
        "  fi",
        "  failed=$status",
        f"  [ $ended -ne {TASK_ENDS} ] || break",
        "done",
        '[ $failed -ne 0 ] || rm -f "$task"_*_log.out',
        "exit $failed",
    ]

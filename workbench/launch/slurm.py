"""The Slurm backend: job arrays through submitit, each recorded before it is submitted."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import submitit
from submitit.core.utils import DelayedSubmission, FailedSubmissionError

from workbench.launch import pack_script, scheduler
from workbench.launch.epilogue import ATTEMPT, COMPLETED
from workbench.launch.profiles import Profile
from workbench.launch.submissions import Submission
from workbench.launch.tasks import ArrayTask, ReportTask

if TYPE_CHECKING:
    from workbench.launch.tasks import Report

PICKLE = "task.pkl"
MOST_NAMED = 100
"""More tasks of one array are not named one by one in a dependency, which would make it as long as the grid."""
NEVER = 10**6
"""Submitit's own count of timeouts, which takes every preemption of a short job for one; ours is the profile's."""


class ArrayExecutor(submitit.SlurmExecutor):  # type: ignore[misc]
    """submitit's executor, with one pickle for all tasks of an array, which each batch script lays out for itself.

    Submitit writes the tasks' pickles after sbatch has returned: a launcher that is killed in between would leave an
    array of jobs that wait for files that never come.

    Args:
        held: descriptors that sbatch keeps open.
    """

    def __init__(self, folder: Path, python: str | None, held: Sequence[int] = ()) -> None:
        super().__init__(folder=folder, max_num_timeout=NEVER, python=python and shlex.quote(python))
        self._held = held

    def submit_tasks(self, task: ArrayTask | ReportTask, count: int) -> str:
        """Submit an array of `count` equal tasks in one sbatch; returns its job id."""
        delayed = DelayedSubmission(task)
        delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
        (self.folder / PICKLE).write_bytes(cloudpickle.dumps(delayed))
        self.parameters["map_count"] = count
        script = self.folder / "array.sh"
        command = self._submitit_command_str
        if not self.parameters.get("use_srun", True):
            command = pack_script.step(command, self.parameters["srun_args"])
        script.write_text(self._make_submission_file_text(command, ""))
        said = scheduler.submit(str(script), self._held)
        try:
            return str(self._get_job_id_from_submission_command(said))
        except FailedSubmissionError:
            raise scheduler.SchedulerError(
                f"sbatch gives no number of the job that it took: {said.strip()!r}"
            ) from None


def submit_array(
    submission: Submission,
    profile: Profile,
    code: Path,
    held: Sequence[int] = (),
    after: Sequence[str] = (),
) -> str:
    """Submit a recorded submission as one job array; returns the scheduler's id of it.

    Args:
        code: put in front of the jobs' PYTHONPATH.
        after: tasks, as `123_4`, that must have ended before any of these may start.

    Raises:
        SchedulerError: sbatch refuses.
    """
    executor = ArrayExecutor(submission.folder, profile.python, held)
    executor.update_parameters(**_parameters(submission, profile, code, after))
    seconds = 60.0 * profile.time_minutes * submission.tasks_of
    task = ArrayTask(str(submission.folder), seconds, float(profile.signal_seconds))
    return executor.submit_tasks(task, submission.tasks)


def submit_report(
    submission: Submission, profile: Profile, code: Path, held: Sequence[int], after: Sequence[str], report: Report
) -> str:
    """Submit the job that makes a grid's table and figures once the tasks `after` have ended, however they did."""
    alone = profile.model_copy(update={"nodes": 1, "tasks_per_node": 1})
    executor = ArrayExecutor(submission.folder, profile.python, held)
    parameters = _parameters(submission, alone, code, after)
    executor.update_parameters(**{**parameters, "teardown": None})
    return executor.submit_tasks(ReportTask(str(submission.folder), report), 1)


def ends_of(tasks: Sequence[str]) -> str:
    """The dependency on the ends of tasks, however they end; of many tasks of one array, on the whole array's."""
    arrays: dict[str, list[str]] = {}
    for task in tasks:
        arrays.setdefault(task.partition("_")[0], []).append(task)
    named = [name for array, ends in arrays.items() for name in (ends if len(ends) <= MOST_NAMED else [array])]
    return f"afterany:{':'.join(named)}"


def _parameters(submission: Submission, profile: Profile, code: Path, after: Sequence[str]) -> dict[str, Any]:
    """A profile as submitit's parameters; `after` are the tasks whose ends are waited for."""
    python = shlex.quote(profile.python or sys.executable)
    plain = {
        name: getattr(profile, name)
        for name in ("partition", "account", "qos", "constraint", "exclude", "nodes", "cpus_per_task")
        if getattr(profile, name) is not None
    }
    extra: dict[str, Any] = {"requeue": True, **profile.sbatch}
    if after:
        extra["dependency"] = ends_of(after)
        extra["kill-on-invalid-dep"] = "yes"
    if profile.memory_gb is not None:
        extra["mem"] = f"{round(profile.memory_gb * 1024)}M"
    return {
        **plain,
        **({"gpus_per_node": profile.gpus_per_node} if profile.gpus_per_node else {}),
        "job_name": submission.job,
        "time": profile.time_minutes * submission.tasks_of,
        "ntasks_per_node": profile.tasks_per_node,
        "array_parallelism": profile.parallel,
        "signal_delay_s": profile.signal_seconds,
        "stderr_to_stdout": True,
        "setup": _setup(submission, profile, code),
        "teardown": _teardown(submission, profile, python),
        "use_srun": submission.tasks_of == 1,  # else the script calls it in a way of its own
        "additional_parameters": {name: value for name, value in extra.items() if value is not False},
        # If one process dies, the training cannot go on: do not let the others wait until the time limit.
        # srun does not take over --cpus-per-task in some versions, nor the environment at some sites.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={profile.cpus_per_task}", "--export=ALL"],
    }


def _setup(submission: Submission, profile: Profile, code: Path) -> list[str]:
    folder = shlex.quote(str(submission.folder))
    exports: Mapping[str, str] = {
        "OMP_NUM_THREADS": str(profile.cpus_per_task),
        **profile.environment,
        # The code as it was submitted, and nothing from the folder that the job stands in.
        "PYTHONPATH": str(code),
        "PYTHONSAFEPATH": "1",
    }
    once = [
        "trap : TERM  # the shell outlives a scancel for the lines after srun",
        *profile.setup,
        *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
    ]
    if submission.tasks_of > 1:
        return [*once, *pack_script.opening(submission, PICKLE)]
    return [
        *once,
        "began=$(date +%s)",
        f'echo "{ATTEMPT} ${{SLURM_RESTART_COUNT:-0}} on $(hostname) at $(date +%FT%T)"',
        f'echo "$SLURM_ARRAY_TASK_ID" >> {shlex.quote(str(submission.began_file))}',
        f'task={folder}/"$SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID"',
        f'cp {folder}/{PICKLE} "$task"_submitted.pkl',
        'rm -f "$task"_*.save_tmp "$task"_[1-9]*_log.out  # of attempts before',
    ]


def _teardown(submission: Submission, profile: Profile, python: str) -> list[str]:
    if submission.tasks_of > 1:
        return pack_script.closing(submission, profile, f"{python} -m workbench.launch.epilogue")
    folder = shlex.quote(str(submission.folder))
    return [
        "status=$?",
        'rm -f "$task"_submitted.pkl "$task"_*_result.pkl',
        "if [ $status -eq 0 ]; then",
        '  rm -f "$task"_*_log.out',
        "else",
        f"  {python} -m workbench.launch.epilogue {folder} $status $began",
        f"  [ $? -eq {COMPLETED} ] && status=0",
        "fi",
        "exit $status",
    ]

"""The Slurm backend: job arrays through submitit, each recorded before it is submitted."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import submitit
from submitit.core.utils import FailedSubmissionError

from workbench.launch import guarded, pack_script, scheduler
from workbench.launch.epilogue import ATTEMPT, COMPLETED
from workbench.launch.profiles import Profile
from workbench.launch.submissions import SEALED, Submission, SubmissionError
from workbench.launch.tasks import ArrayTask, ReportTask

if TYPE_CHECKING:
    from workbench.launch.tasks import Report

MOST_NAMED = 100
"""More tasks of one array are not named one by one in a dependency, which would make it as long as the grid."""
GUARD = '"${guard[@]}"'
"""In a batch script: Python with the guard and what was sealed."""
NEVER = 10**6
"""Submitit's own count of timeouts, which takes every preemption of a short job for one; ours is the profile's."""


class ArrayExecutor(submitit.SlurmExecutor):  # type: ignore[misc]
    """submitit's executor, with one pickle for all tasks of an array, which `workbench.launch.guarded` runs.

    Submitit writes the tasks' pickles after sbatch has returned: a launcher that is killed in between would leave an
    array of jobs that wait for files that never come.

    Args:
        code: the copy of the package that the jobs run.
        held: descriptors that sbatch keeps open.
    """

    def __init__(self, folder: Path, code: Path, python: str | None, held: Sequence[int] = ()) -> None:
        super().__init__(folder=folder, max_num_timeout=NEVER, python=python and shlex.quote(python))
        self._code, self._held = code, held

    @property
    def _submitit_command_str(self) -> str:
        return f"{GUARD} train"

    def submit_tasks(self, task: ArrayTask | ReportTask, count: int) -> str:
        """Submit an array of `count` equal tasks in one sbatch; returns its job id."""
        (self.folder / guarded.TASK).write_bytes(cloudpickle.dumps(task))
        self.parameters["map_count"] = count
        self.parameters["setup"] = [*self._guard(), *self.parameters["setup"]]
        command = self._submitit_command_str
        if not self.parameters.get("use_srun", True):
            command = pack_script.step(command, self.parameters["srun_args"])
        script = self._make_submission_file_text(command, "")
        (self.folder / "array.sh").write_text(script)  # for whoever wants to read it: sbatch is given the text
        answer = scheduler.submit(script, self._held)
        try:
            return str(self._get_job_id_from_submission_command(answer))
        except FailedSubmissionError:
            raise scheduler.SchedulerError(f"sbatch printed no job id: {answer.strip()!r}") from None

    def _guard(self) -> list[str]:
        """The lines that define what runs and checks the task, as an array of words."""
        try:
            sealed = guarded.seal(self.folder, self._code, [guarded.TASK, *SEALED])
        except guarded.Tampered as tampering:
            raise SubmissionError(f"nothing was submitted: {tampering}") from None
        text = Path(guarded.__file__).read_text()
        return [f"guard=({self.python} -u -c {shlex.quote(text)} \\\n  {shlex.join(sealed)})"]


def submit_array(
    submission: Submission,
    profile: Profile,
    code: Path,
    held: Sequence[int] = (),
    after: Sequence[str] = (),
) -> str:
    """Submit a recorded submission as one job array; returns the scheduler's id of it.

    Args:
        code: the copy of the package that the jobs run.
        after: tasks, as `123_4`, that must have ended before any of these may start.

    Raises:
        SchedulerError: sbatch refuses.
    """
    executor = ArrayExecutor(submission.folder, code, profile.python, held)
    executor.update_parameters(**_parameters(submission, profile, after))
    seconds = 60.0 * profile.time_minutes * submission.tasks_of
    task = ArrayTask(str(submission.folder), seconds, float(profile.signal_seconds))
    return executor.submit_tasks(task, submission.tasks)


def submit_report(
    submission: Submission, profile: Profile, code: Path, held: Sequence[int], after: Sequence[str], report: Report
) -> str:
    """Submit the job that makes a grid's table and figures once the tasks `after` have ended, however they did."""
    alone = profile.model_copy(update={"nodes": 1, "tasks_per_node": 1})
    executor = ArrayExecutor(submission.folder, code, profile.python, held)
    parameters = _parameters(submission, alone, after)
    executor.update_parameters(**{**parameters, "teardown": None})
    return executor.submit_tasks(ReportTask(str(submission.folder), report), 1)


def ends_of(tasks: Sequence[str]) -> str:
    """The dependency on the ends of tasks, however they end; of many tasks of one array, on the whole array's."""
    arrays: dict[str, list[str]] = {}
    for task in tasks:
        arrays.setdefault(task.partition("_")[0], []).append(task)
    named = [name for array, ends in arrays.items() for name in (ends if len(ends) <= MOST_NAMED else [array])]
    return f"afterany:{':'.join(named)}"


def _parameters(submission: Submission, profile: Profile, after: Sequence[str]) -> dict[str, Any]:
    """A profile as submitit's parameters; `after` are the tasks whose ends are waited for."""
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
        "setup": _setup(submission, profile),
        "teardown": _teardown(submission, profile),
        "use_srun": submission.tasks_of == 1,  # else the script calls it in a way of its own
        "additional_parameters": {name: value for name, value in extra.items() if value is not False},
        # If one process dies, the training cannot go on: do not let the others wait until the time limit.
        # srun does not take over --cpus-per-task in some versions, nor the environment at some sites.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={profile.cpus_per_task}", "--export=ALL"],
    }


def _setup(submission: Submission, profile: Profile) -> list[str]:
    folder = shlex.quote(str(submission.folder))
    exports: Mapping[str, str] = {
        "OMP_NUM_THREADS": str(profile.cpus_per_task),
        **profile.environment,
        # Nothing from the folder that the job stands in; the guard adds the code as it was submitted.
        "PYTHONSAFEPATH": "1",
    }
    once = [
        "trap : TERM  # the shell outlives a scancel for the lines after srun",
        *profile.setup,
        *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
        "unset PYTHONPATH",
        f"{GUARD} check  # before anything is written into the folder",
        f"[ $? -ne {guarded.REFUSED} ] || exit {guarded.REFUSED}",
    ]
    if submission.tasks_of > 1:
        return [*once, *pack_script.opening(submission)]
    return [
        *once,
        "began=$(date +%s)",
        f'echo "{ATTEMPT} ${{SLURM_RESTART_COUNT:-0}} on $(hostname) at $(date +%FT%T)"',
        f'echo "$SLURM_ARRAY_TASK_ID" >> {shlex.quote(str(submission.began_file))}',
        f'task={folder}/"$SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID"',
        'rm -f "$task"_[1-9]*_log.out  # of attempts before',
    ]


def _teardown(submission: Submission, profile: Profile) -> list[str]:
    if submission.tasks_of > 1:
        return pack_script.closing(submission, profile, f"{GUARD} epilogue")
    folder = shlex.quote(str(submission.folder))
    return [
        "status=$?",
        "if [ $status -eq 0 ]; then",
        '  rm -f "$task"_*_log.out',
        "else",
        f"  {GUARD} epilogue {folder} $status $began",
        f"  [ $? -eq {COMPLETED} ] && status=0",
        "fi",
        "exit $status",
    ]

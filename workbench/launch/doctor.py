"""What a submission will need, checked before it is made: on this machine, at the scheduler, and on a compute node."""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.config import BUILTIN, SHIPPED_BERTS
from workbench.errors import CheckpointError
from workbench.grids import Grid
from workbench.launch import capacity, scheduler
from workbench.launch.capacity import Check
from workbench.launch.profiles import Profile
from workbench.models.text_encoder import check_hub, place_of
from workbench.results.folders import SUBMISSIONS

NODE_SECONDS = 120
"""How long the check waits for a compute node."""
FREE_GB = 5.0


def examine(profile: Profile, results: Path, grid: Grid | None) -> Iterator[Check]:
    """All checks in the order in which they make sense; none of them changes anything that lasts."""
    yield _writable(results)
    yield _locks(results)
    yield _room(results)
    if grid is not None:
        yield from _inputs(grid, "here", lambda path: path.exists())
        yield from _hub_names(grid)
    if profile.backend == "local":
        at_once = 1 if grid is None else min(profile.workers or 1, len(grid.runs()))
        yield from capacity.shared_memory(grid, at_once, capacity.free_shared_memory(), "here")
        yield from capacity.gpu_memory(capacity.free_gpu_memory(), "here")
        return
    commands = _commands()
    yield commands
    if not commands.passed:
        return
    controller = _controller()
    yield controller
    if not controller.passed:
        return
    yield from _partition(profile)
    yield from _node(profile, results, grid)


def _writable(results: Path) -> Check:
    folder = results.absolute() / SUBMISSIONS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check("results folder", False, f"{folder}: {error.strerror}", "give --results a folder you may write in")
    return Check("results folder", True, f"{folder} can be written")


def _locks(results: Path) -> Check:
    folder = results.absolute() / SUBMISSIONS
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        remedy = "claims need flock: ask for the file system to be mounted with it, or put --results elsewhere"
        return Check("file locks", False, f"{folder}: {error.strerror}", remedy)
    return Check("file locks", True, "flock works here")


def _room(results: Path) -> Check:
    try:
        free = shutil.disk_usage(results.absolute()).free / 2**30
    except OSError as error:
        return Check("room on the disk", False, str(error), "give --results another folder")
    return Check(
        "room on the disk", free >= FREE_GB, f"{free:.0f} GB free", "free some: workbench gc; a ViT-H run needs 10 GB"
    )


def _inputs(grid: Grid, where: str, exists: Any) -> Iterator[Check]:
    for kind, path in _input_paths(grid):
        is_there = bool(exists(path))
        remedy = f"put it there, or name its folder with --{'data' if kind == 'data' else 'checkpoint'}-root"
        yield Check(f"{kind} {where}", is_there, f"{path}{'' if is_there else ' is missing'}", remedy)


def _input_paths(grid: Grid) -> list[tuple[str, Path]]:
    """The files and folders that a grid's runs read, beside what is shipped."""
    kinds: dict[Path, str] = {}
    for config in grid.settings.values():
        root = config.machine.checkpoint_root.absolute()
        for part in config.data.parts:
            if part.recipe is None:
                kinds[config.machine.data_root.absolute() / part.dataset] = "data"
        if config.backbone.checkpoint not in (None, BUILTIN):
            kinds[root / str(config.backbone.checkpoint)] = "checkpoint"
        text = place_of(config.text_encoder, root)
        if config.text_encoder.name not in SHIPPED_BERTS and not isinstance(text, str):
            kinds[text.absolute()] = "checkpoint"
        if config.start_from.file is not None:
            kinds[root / config.start_from.file] = "checkpoint"
    return [(kind, path) for path, kind in kinds.items()]


def _hub_names(grid: Grid) -> Iterator[Check]:
    """The text encoders that are in no folder and no cache: whether a hub answers with them."""
    asked = {(config.text_encoder.name, config.machine.checkpoint_root): config for config in grid.settings.values()}
    for (name, root), config in asked.items():
        if not isinstance(place_of(config.text_encoder, root), str):
            continue
        try:
            check_hub(name, root)
        except CheckpointError as error:
            remedy = f"put it into {root.absolute() / name}, or name its folder with --checkpoint-root"
            yield Check("text encoder here", False, str(error), remedy)
        else:
            yield Check("text encoder here", True, f"a hub answers with {name}; compute nodes must reach it, too")


def _commands() -> Check:
    try:
        scheduler.check_available()
    except scheduler.SchedulerError as error:
        return Check("Slurm's commands", False, str(error), "run this on the cluster's login node")
    return Check("Slurm's commands", True, "found")


def _controller() -> Check:
    try:
        size = scheduler.max_array_size()
    except scheduler.SchedulerError as error:
        told = "SLURM_CONF" in str(error)  # that message says what to do
        return Check("controller", False, str(error), "" if told else "try again later, or ask the cluster's people")
    return Check("controller", True, f"answers; MaxArraySize is {size}")


def _partition(profile: Profile) -> Iterator[Check]:
    chosen = [f"--partition={profile.partition}"] if profile.partition else []
    command = ["sinfo", "--noheader", "--format=%R|%l|%c|%m|%G|%a", *chosen]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line.split("|") for line in done.stdout.splitlines() if line]
    if not lines:
        known = subprocess.run(["sinfo", "--noheader", "--format=%R"], capture_output=True, text=True, check=False)
        names = ", ".join(sorted(set(known.stdout.split())))
        yield Check("partition", False, f"{profile.partition!r} does not exist", f"set partition to one of {names}")
        return
    yield Check(
        "partition", any(line[5] == "up" for line in lines), f"{lines[0][0]} is {lines[0][5]}", "choose another"
    )
    limit = max(_minutes(line[1]) for line in lines)
    allowed = "no limit" if limit == float("inf") else f"{limit:.0f} min allowed"
    minutes, shared = profile.time_minutes * profile.tasks_of, profile.tasks_of > 1
    longest = f"{limit / profile.tasks_of:.0f}, or lower tasks_of" if shared else f"{limit:.0f}"
    remedy = f"set time_minutes to at most {longest}; longer runs resume by themselves"
    times = f" ({profile.tasks_of} runs a task)" if shared else ""
    yield Check("time limit", minutes <= limit, f"{minutes} min asked{times}, {allowed}", remedy)
    cpus = max(_number(line[2]) for line in lines)
    asked = profile.cpus_per_task * profile.tasks_per_node
    remedy = f"lower cpus_per_task × tasks_per_node to {cpus:.0f}"
    yield Check("CPUs", asked <= cpus, f"{asked} a node asked, {cpus:.0f} there", remedy)
    if (memory := profile.memory_gb) is not None:
        there = max(_number(line[3]) for line in lines) / 1024
        remedy = f"lower memory_gb to at most {there:.1f}"
        yield Check("memory", memory <= there, f"{memory:g} GB a node asked, {there:.1f} there", remedy)
    if gpus := profile.gpus_per_node:
        most = max((int(n) for line in lines for n in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", line[4])), default=0)
        remedy = f"lower gpus_per_node to {most}, or choose another partition"
        yield Check("GPUs", gpus <= most, f"{gpus} a node asked, {most} there", remedy)


def _minutes(text: str) -> float:
    """Slurm's `days-hours:minutes:seconds`, any of which may be missing."""
    if text in ("infinite", "n/a"):
        return float("inf")
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    hours, minutes, seconds = {1: (0, parts[0], 0), 2: (0, *parts[:2])}.get(len(parts)) or parts
    return 1440 * int(days or 0) + 60 * hours + minutes + seconds / 60


def _number(text: str) -> float:
    return float(re.sub(r"\D", "", text) or 0)


def _node(profile: Profile, results: Path, grid: Grid | None) -> Iterator[Check]:
    """One small job of this profile, which looks around where it lands."""
    folder = results.absolute() / SUBMISSIONS
    inputs = [] if grid is None else _input_paths(grid)
    python = profile.python or sys.executable
    with tempfile.NamedTemporaryFile(dir=folder, prefix="doctor-") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        script = _probe(Path(held.name), [str(path) for _, path in inputs], profile.gpus_per_node)
        lines = [*profile.setup, f"exec {shlex.quote(python)} -c {shlex.quote(script)}"]
        step = ["bash", "-c", "\n".join(lines)]
        command = ["srun", "--quiet", "--ntasks=1", f"--immediate={NODE_SECONDS}", *_asked(profile), *step]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=NODE_SECONDS + 60)
        except subprocess.TimeoutExpired:
            yield Check("compute node", None, f"none was free within {NODE_SECONDS} s; the rest was not checked")
            return
    answer = None
    with contextlib.suppress(ValueError, IndexError):
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    if answer is None:
        errors = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        # srun's own words come last, and say less.
        last = next((line for line in reversed(errors) if not line.startswith("srun: error: ")), errors[-1])
        busy = "Unable to allocate" in done.stderr or "immediate" in done.stderr
        remedy = (
            "set python to an interpreter that the compute nodes see, on the shared file system, and check setup"
            if "not found" in last or "No such file" in last
            else "sbatch would be refused in the same way: fix what it names in the profile"
        )
        yield Check("compute node", None if busy else False, last, remedy)
        return
    yield from _findings(profile, python, answer, inputs)
    yield from capacity.shared_memory(grid, 1, answer["shared_memory"], f"on {answer['host']}", profile.tasks_per_node)
    yield from capacity.gpu_memory(answer["gpu_memory"], f"on {answer['host']}")


def _findings(profile: Profile, python: str, answer: dict[str, Any], inputs: list[tuple[str, Path]]) -> Iterator[Check]:
    """What the job saw."""
    host, sees, locked = answer["host"], answer["sees"], answer["locked"]
    yield Check("Python on a compute node", True, f"{python} is Python {answer['python']} on {host}")
    missing = ", ".join(answer["missing"])
    yield Check("packages there", not missing, missing or "all found", f"install the project for {python}: make setup")
    remedy = "put --results on a file system that the compute nodes share"
    yield Check("results folder there", sees, f"{'seen' if sees else 'not seen'} from {host}", remedy)
    if sees:
        remedy = "claims cross nodes only where flock does; states are then the scheduler's word alone"
        finding = f"a lock taken here {'holds' if locked else 'does not hold'} on {host}"
        yield Check("file locks there", locked, finding, remedy)
    if profile.gpus_per_node:
        remedy = "a driver, or a torch built for another CUDA; see nvidia-smi on the node"
        yield Check("GPU there", answer["gpu"], "torch finds it" if answer["gpu"] else "torch finds none", remedy)
    for (kind, path), is_seen in zip(inputs, answer["inputs"], strict=True):
        finding = f"{path} {'is seen' if is_seen else 'is not seen'} from {host}"
        yield Check(f"{kind} there", is_seen, finding, "move it to a folder that the compute nodes share")


def _asked(profile: Profile) -> list[str]:
    named = {name: getattr(profile, name) for name in ("partition", "account", "qos", "constraint", "exclude")}
    options = [f"--{name}={value}" for name, value in named.items() if value is not None]
    options += [f"--cpus-per-task={profile.cpus_per_task}", "--time=5"]
    options += [f"--gpus-per-node={profile.gpus_per_node}"] * bool(profile.gpus_per_node)
    options += [f"--mem={round(profile.memory_gb * 1024)}M"] if profile.memory_gb is not None else []
    return options + [f"--{name}={value}" for name, value in profile.sbatch.items() if not isinstance(value, bool)]


def _probe(held: Path, inputs: list[str], gpus: int) -> str:
    return f"""
import fcntl, importlib.util, json, os, platform, sys
names = ["torch", "segment_anything", "transformers", "accelerate", "submitit", "pandas"]
missing = [name for name in names if importlib.util.find_spec(name) is None]
sees, locked = os.path.exists({str(held)!r}), False
if sees:
    with open({str(held)!r}, "rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            locked = True
        except OSError:
            pass
gpu, gpu_memory, shared_memory = False, [], None
if "torch" not in missing and {gpus}:
    import torch
    gpu = torch.cuda.is_available()
    gpu_memory = [torch.cuda.mem_get_info(number) for number in range(torch.cuda.device_count())]
if os.path.isdir("/dev/shm"):
    shared_memory = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize
print(json.dumps(dict(host=platform.node(), python=platform.python_version(), missing=missing, sees=sees, locked=locked,
                      gpu=gpu, gpu_memory=gpu_memory, shared_memory=shared_memory,
                      inputs=[os.path.exists(path) for path in {inputs!r}])))
"""

"""Profiles: what a run may use on a machine or a cluster, one YAML file each in `slurm/`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from workbench.errors import WorkbenchError, shown, with_more
from workbench.failures import CLASSES, FailureClass
from workbench.grids import read_yaml
from workbench.registry import unknown_name
from workbench.validation import Mistake, mistakes

Count = Annotated[int, Field(ge=1)]
RESERVED = frozenset({
    "account", "array", "chdir", "clusters", "constraint", "cpus-per-task", "dependency", "error", "exclude", "export",
    "export-file", "gid", "gpus-per-node", "help", "input", "job-name", "kill-on-invalid-dep", "mem", "no-requeue",
    "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "parsable", "partition", "qos", "quiet", "requeue",
    "signal", "test-only", "time", "uid", "usage", "verbose", "version", "wait", "wrap",
})  # fmt: skip
"""Options of sbatch that have a key of their own in a profile, or that the workbench sets or relies on."""
OPTION = re.compile(r"[a-z][a-z0-9]+([-_][a-z0-9]+)*")
WORDS = frozenset({"partition", "account", "qos", "constraint", "exclude"})


class ProfileError(WorkbenchError):
    """A profile is wrong; the message begins with its name."""


class Profile(BaseModel):
    """The keys of a profile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    backend: Literal["slurm", "local"]
    workers: Count = 1
    """How many trainings run at once, with the backend `local`."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    time_minutes: Count = 60
    """The time limit for one run; a run that needs longer is requeued and resumes."""
    tasks_of: Count = 1
    """How many runs one array task trains one after another; its time limit is that of one run times this number."""
    nodes: Count = 1
    tasks_per_node: Count = 1
    """Processes per node; if nodes × tasks is over one, they share every batch (data-parallel)."""
    gpus_per_node: int = Field(0, ge=0)
    gpu_memory_gib: float | None = Field(None, gt=0)
    """Memory of each GPU; a run that needs more is refused."""
    cpus_per_task: Count = 1
    memory_gb: float | None = Field(None, gt=0)
    """Memory of a node."""
    array_size: Count = 1000
    """Most tasks in one job array; the cluster's own MaxArraySize overrides it."""
    parallel: Count = 64
    """Most tasks of one array at once (Slurm's `%N`)."""
    signal_seconds: int = Field(120, ge=10)
    """How many seconds before the time limit a run is signalled to save."""
    python: str | None = None
    """The interpreter on the compute nodes; null: the one that submits."""
    setup: tuple[str, ...] = ()
    """Shell lines before a run, such as `module load cuda`."""
    environment: dict[str, str] = {}
    retries: dict[FailureClass, Annotated[int, Field(ge=0)]] = {
        "timeout": 100,
        "preempted": 100,
        "node_failure": 5,
        "killed": 1,
    }
    """How often a run that ended so is put back into the queue by itself."""
    sbatch: dict[str, str | int | bool] = {}
    """Any other option of sbatch, such as `reservation`."""

    @field_validator("sbatch", "environment", mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        return values or {}

    @field_validator("environment")
    @classmethod
    def _names(cls, values: dict[str, str]) -> dict[str, str]:
        for name in values:
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise ValueError(f"{name!r} is not the name of an environment variable")
        return values

    @field_validator("name", "partition", "account", "qos", "constraint", "exclude", "python")
    @classmethod
    def _one_word(cls, value: str | None, field: ValidationInfo) -> str | None:
        if value is not None and (not value or not value.isprintable() or (" " in value and field.field_name in WORDS)):
            raise ValueError(f"{shown(value)} holds a space, a line break or a character that is not printed")
        return value

    @field_validator("sbatch")
    @classmethod
    def _not_ours(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name, value in values.items():
            option = name.replace("_", "-")
            if not OPTION.fullmatch(name):
                raise ValueError(f"{shown(name)} is not the long name of an option, such as 'reservation'")
            # sbatch takes the beginning of a name for the whole.
            if any(reserved.startswith(option) for reserved in RESERVED):
                raise ValueError(f"{name!r} is set by the workbench, or by a key of its own")
            if isinstance(value, str) and not value.isprintable():
                raise ValueError(f"{name}: {shown(value)} holds a line break or another character that is not printed")
        return values

    @model_validator(mode="after")
    def _fits_its_backend(self) -> Profile:
        given = self.model_fields_set - {"name", "backend"}
        if self.backend == "local" and (meaningless := given - {"workers", "gpu_memory_gib"}):
            raise ValueError(
                f"{sorted(meaningless)[0]!r} has no effect with the backend local, which takes: workers, gpu_memory_gib"
            )
        if self.backend == "slurm" and "workers" in given:
            raise ValueError("'workers' belongs to the backend local; of slurm it is 'parallel'")
        if self.gpus_per_node and self.gpus_per_node != self.tasks_per_node:
            raise ValueError(
                f"gpus_per_node, {self.gpus_per_node}, and tasks_per_node, {self.tasks_per_node}, must be the same: "
                "each process trains on one GPU"
            )
        if self.signal_seconds >= 60 * self.time_minutes:
            raise ValueError(
                f"signal_seconds, {self.signal_seconds}, leaves nothing of the time limit of {self.time_minutes} min"
            )
        return self

    @property
    def processes(self) -> int:
        """How many share each batch of a run."""
        return self.nodes * self.tasks_per_node


def load_profile(file: Path) -> Profile:
    """Read and check a profile.

    Raises:
        ProfileError: names file, key, value and what would be right, for each mistake.
    """
    try:
        values = read_yaml(file)
    except WorkbenchError as error:
        known = sorted(str(p) for p in Path("slurm").glob("*.yaml")) if not file.exists() else []
        hint = f"; there are {', '.join(known)}" if known else ""
        raise ProfileError(f"{error}{hint}") from None
    try:
        return Profile.model_validate({"name": file.stem, **values})
    except ValidationError as error:
        first, *others = [f"{file}: {_in_words(mistake)}" for mistake in mistakes(error, Profile)]
        raise with_more(ProfileError(first), others) from None


def _in_words(mistake: Mistake) -> str:
    if mistake.kind == "missing":
        return f"{mistake}: slurm or local"
    if mistake.key.startswith("retries") and mistake.kind == "literal_error":
        return f"retries: {unknown_name('failure class', mistake.value, list(CLASSES))}"
    return str(mistake)

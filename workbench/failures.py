"""Why a run ended before it was completed: a small set of classes, each with a way out."""

from __future__ import annotations

import errno
from typing import Literal, get_args

from workbench.errors import DivergedError, InterruptedRun, WorkbenchError

FailureClass = Literal[
    "out_of_memory",
    "timeout",
    "preempted",
    "node_failure",
    "diverged",
    "bad_data",
    "disk_full",
    "code_error",
    "killed",
    "cancelled",
    "damaged",
]
CLASSES: tuple[str, ...] = get_args(FailureClass)

WAY_OUT: dict[str, str] = {
    "out_of_memory": "a smaller batch, or a profile with more memory",
    "timeout": "a profile with more time; it resumes from its last checkpoint",
    "preempted": "it resumes from its last checkpoint",
    "node_failure": "it resumes from its last checkpoint",
    "diverged": "a lower learning rate",
    "bad_data": "the message names the file or the field",
    "disk_full": "room on the disk that holds the results",
    "code_error": "see its log",
    "killed": "something outside ended it; it resumes from its last checkpoint",
    "cancelled": "workbench retry --class cancelled takes it up again",
    "damaged": "workbench retry --class damaged sets run.json aside and takes it up from its checkpoint",
}


def classify(error: BaseException) -> FailureClass:
    """The class of what an exception ended; torch need not be there for it."""
    if isinstance(error, DivergedError):
        return "diverged"
    if isinstance(error, InterruptedRun):
        return "cancelled"
    kinds = {kind.__name__ for kind in type(error).__mro__}
    # CPU torch says it with a RuntimeError of these words.
    if kinds & {"OutOfMemoryError", "MemoryError"} or "not enough memory" in str(error):
        return "out_of_memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full"
    if "No space left on device" in str(error):  # libraries in other languages bring the words alone
        return "disk_full"
    if isinstance(error, WorkbenchError):
        return "bad_data"
    return "code_error"

"""Work shared out to processes of this machine."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0))


def process_pool(processes: int, start: str) -> ProcessPoolExecutor:
    """Processes that leave Ctrl-C to this one, which then ends them.

    Args:
        start: `spawn` begins with nothing, `fork` at once with all that is loaded here.
    """
    return ProcessPoolExecutor(processes, get_context(start), _leave_ctrl_c_to_parent)


def _leave_ctrl_c_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

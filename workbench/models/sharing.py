"""Shares work out among as many threads as torch has, each of which runs torch's operations alone.

torch itself divides every single operation among its threads and waits for the slowest at the end of each. Where
another process is busy on one of the cores, a thread that is not scheduled holds all the others up, once for each
operation. Here a thread takes the next piece when it has finished one, so it holds up nobody until the very end.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def for_each(pieces: Sequence[T], work: Callable[[T], None]) -> None:
    """Do the work for every piece, on torch's number of threads for the CPU; back when all of it is done.

    The work runs in inference mode, without gradients, and every operation of it on one thread, so that it comes to the
    same bits whichever thread does it. The first error of a piece is raised here; pieces not yet begun are left then.
    """
    threads = torch.get_num_threads()
    remaining = deque(pieces)
    if threads == 1:
        _do_all(remaining, work)
        return
    pool = _pool(threads)
    running = [pool.submit(_do_all, remaining, work) for _ in range(min(threads, len(pieces)))]
    try:
        wait(running)
    finally:  # also when the caller is interrupted: nothing may write to its tensors afterwards
        remaining.clear()
        wait(running)
    for thread in running:
        thread.result()


def _do_all(remaining: deque[T], work: Callable[[T], None]) -> None:
    with torch.inference_mode():
        while True:
            try:
                piece = remaining.popleft()
            except IndexError:
                return
            try:
                work(piece)
            except BaseException:
                remaining.clear()
                raise


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    everyone = threading.Barrier(threads + 1)

    def alone() -> None:
        torch.get_num_threads()  # sets this thread's number to the process's, which would otherwise happen later
        torch.set_num_threads(1)
        everyone.wait()

    pool = ThreadPoolExecutor(threads, "attention", initializer=alone)
    for _ in range(threads):
        pool.submit(bool)  # nothing to do, but each starts a thread
    everyone.wait()
    # The number is each thread's own, but the last one set is what threads get that are started afterwards.
    torch.set_num_threads(threads)
    return pool


# A forked process has none of its parent's threads.
os.register_at_fork(after_in_child=_pool.cache_clear)


class InOrder:
    """Adds up what pieces contribute in the order of the pieces, whichever is ready first: to the same bits always.

    Args:
        add: adds the contribution of one piece; called by one thread at a time.
    """

    def __init__(self, add: Callable[..., None]) -> None:
        self._add = add
        self._early: dict[int, tuple[Any, ...]] = {}
        self._next = 0
        self._adding = threading.Lock()

    def put(self, index: int, *contribution: Any) -> None:
        """Add the contribution of the piece with this number, counted from 0, when those before it are added."""
        self._early[index] = contribution
        # Whoever is adding takes this one too, so nobody waits; it looks again after it has let go of the lock.
        while self._next in self._early and self._adding.acquire(blocking=False):
            try:
                while self._next in self._early:
                    self._add(*self._early.pop(self._next))
                    self._next += 1
            finally:
                self._adding.release()

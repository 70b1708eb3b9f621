from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from workbench.models.sharing import InOrder, for_each


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_piece_is_done_once(threads: int) -> None:
    done: list[int] = []
    for pieces in (0, 1, 50):
        done.clear()
        for_each(range(pieces), done.append)
        assert sorted(done) == list(range(pieces))


def test_operations_in_pieces_run_on_one_thread_and_the_caller_keeps_its_number(threads: int) -> None:
    seen: list[tuple[int, bool, bool]] = []
    for_each(
        range(20),
        lambda _: seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled(), torch.is_grad_enabled())),
    )
    assert set(seen) == {(1, True, False)}
    assert torch.get_num_threads() == threads
    of_new_threads: list[int] = []
    other = threading.Thread(target=lambda: of_new_threads.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert of_new_threads == [threads]


def test_an_error_reaches_the_caller_and_stops_the_rest(threads: int) -> None:
    done: list[int] = []

    def work(piece: int) -> None:
        if piece == 3:
            raise ArithmeticError("piece 3")
        done.append(piece)
        time.sleep(0.001)

    with pytest.raises(ArithmeticError, match="piece 3"):
        for_each(range(1000), work)
    assert len(done) < 500
    for_each(range(5), lambda _: None)  # and the threads go on


def test_pieces_may_share_out_pieces(threads: int) -> None:
    done: list[tuple[int, int]] = []
    for_each(range(4), lambda outer: for_each(range(4), lambda inner: done.append((outer, inner))))
    assert sorted(done) == [(outer, inner) for outer in range(4) for inner in range(4)]


def answer(descriptor: int, byte: int) -> None:
    os.write(descriptor, bytes([byte]))


def test_a_forked_process_starts_threads_of_its_own() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for_each(range(4), lambda _: None)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                for_each(b"abcd", lambda piece: answer(writer, piece))
            finally:
                os._exit(0)
        os.close(writer)
        deadline = threading.Timer(30, os.kill, (child, 9))  # instead of waiting for threads that are not there
        deadline.start()
        with os.fdopen(reader, "rb") as answers:
            answered = answers.read()
        deadline.cancel()
        os.waitpid(child, 0)
    finally:
        torch.set_num_threads(before)
    assert sorted(answered) == list(b"abcd")


def test_contributions_are_added_in_order_whichever_comes_first() -> None:
    added: list[str] = []
    sums = InOrder(added.append)
    for index in (2, 0, 3, 1, 4):
        sums.put(index, "abcde"[index])
    assert "".join(added) == "abcde"


def test_contributions_of_many_threads_are_all_added_in_order() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    added: list[int] = []
    sums = InOrder(added.append)
    try:
        for_each(range(2000), lambda piece: sums.put(piece, piece))
    finally:
        torch.set_num_threads(before)
    assert added == list(range(2000))

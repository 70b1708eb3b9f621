from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workbench.errors import WorkbenchError
from workbench.files import Unreadable, check_file, is_locked, lock, open_file, read_file, write_text


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """Whatever waits for a pipe's other end is killed by this alarm."""
    signal.alarm(10)
    yield
    signal.alarm(0)


def socket_at(place: Path) -> None:
    os.mknod(place, stat.S_IFSOCK | 0o600)


@pytest.mark.parametrize(
    ("put", "kind"),
    [
        (os.mkfifo, "pipe"),
        (socket_at, "socket"),
        (Path.mkdir, "folder"),
        (lambda place: place.symlink_to("/dev/zero"), "device"),
    ],
)
def test_what_is_no_file_is_refused_at_once_by_every_way_to_open_one(
    tmp_path: Path, put: Callable[[Path], None], kind: str
) -> None:
    place = tmp_path / "run.json"
    put(place)
    for way in (open_file, read_file, check_file):
        with pytest.raises(Unreadable) as refused:
            way(place)
        assert str(refused.value) == f"{place}: not a file but a {kind}"
        assert isinstance(refused.value, WorkbenchError)
        assert (refused.value.filename, refused.value.strerror) == (str(place), f"not a file but a {kind}")
    for mode in ("ab", "a+b"):
        with pytest.raises(OSError, match=r"not a file but a|Is a directory"):
            open_file(place, mode)
    assert not is_locked(place)


def test_a_file_is_read_whole_or_refused_for_its_size(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_text(file, "é\n")
    assert read_file(file) == "é\n".encode()
    with file.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(Unreadable, match=r"a: larger than 1,024 MiB"):
        read_file(file)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "b")


def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(Unreadable):
            open_file(tmp_path / "pipe")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_takes_the_place_of_a_pipe_and_says_when_it_cannot_that_of_a_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "table.json")
    write_text(tmp_path / "table.json", "{}")
    assert (tmp_path / "table.json").read_text() == "{}"
    (tmp_path / "table.md").mkdir()
    with pytest.raises(IsADirectoryError) as refused:
        write_text(tmp_path / "table.md", "")
    assert refused.value.filename == str(tmp_path / "table.md")
    assert sorted(place.name for place in tmp_path.iterdir()) == ["table.json", "table.md"]


def test_a_link_to_itself_is_not_locked_and_a_held_file_is(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert not is_locked(tmp_path / "loop")
    assert not is_locked(tmp_path / "none" / "there")
    with open_file(tmp_path / "log", "a+b") as stream:
        assert lock(stream, 0)
        assert is_locked(tmp_path / "log")
    assert not is_locked(tmp_path / "log")

"""The command as a process of its own, which ends without freeing what it has loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from tests.conftest import ROOT

GRID = str(ROOT / "ablations" / "demo.yaml")
LATE = """
import atexit, threading, time

def late():
    time.sleep(2)
    atexit.register(print, "and what it left for the end")
    print("a thread of the command")

threading.Thread(target=late).start()
"""


def _ended(*arguments: object, before: str = "", stdout: IO[str] | int = subprocess.PIPE) -> tuple[int, str, str]:
    program = f"from workbench.cli import script\n{before}\nscript()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout or "", done.stderr


def test_all_is_printed_and_the_exit_code_is_kept(tmp_path: Path) -> None:
    code, out, err = _ended("status", GRID, "--results", tmp_path, "--json")
    assert (code, err) == (0, "")
    assert len(json.loads(out)) == 9
    for arguments in (("status", tmp_path / "none.yaml"), ("status", GRID, "--rsults", tmp_path)):
        code, out, err = _ended(*arguments)
        assert (code, out) == (2, "")
        assert "Traceback" not in err


def test_an_error_of_ours_is_no_success(tmp_path: Path) -> None:
    code, _, err = _ended("status", GRID, before="import workbench.cli as c\nc.main = lambda: 1 / 0")
    assert code == 1
    assert err.rstrip().endswith("ZeroDivisionError: division by zero")


def test_threads_and_what_is_left_for_the_end_are_waited_for(tmp_path: Path) -> None:
    code, out, err = _ended("status", GRID, "--results", tmp_path, "--json", before=LATE)
    assert (code, err) == (0, "")
    assert out.endswith("a thread of the command\nand what it left for the end\n")


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_full_disk_is_told(tmp_path: Path, form: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        code, _, err = _ended("status", GRID, "--results", tmp_path, *form, stdout=full)
    assert (code, err) == (2, "error: No space left on device\n")


def test_a_reader_that_left_gets_no_traceback(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        _, _, err = _ended("status", GRID, "--results", tmp_path, "--json", stdout=writing)
    finally:
        os.close(writing)
    assert err == ""


def test_a_closed_output_is_none(tmp_path: Path) -> None:
    close = "import os, sys\nos.close(1); sys.stdout = None"
    assert _ended("status", GRID, "--results", tmp_path, before=close) == (0, "", "")

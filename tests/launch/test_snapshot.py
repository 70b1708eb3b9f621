from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.errors import WorkbenchError
from workbench.grids.reference import REFERENCE_NAME
from workbench.launch.snapshot import snapshot
from workbench.paper.published import reference_numbers


def test_a_snapshot_is_the_package_and_is_shared(tmp_path: Path) -> None:
    first = snapshot(tmp_path)
    assert snapshot(tmp_path) == first
    assert (first / "workbench" / "assets" / "vit_mini.safetensors").is_file()
    assert not list(first.rglob("__pycache__"))


def test_a_job_finds_the_published_numbers_in_the_snapshot(tmp_path: Path) -> None:
    code = snapshot(tmp_path)
    program = "from workbench.paper.published import reference_numbers; print(len(reference_numbers()))"
    environment = {**os.environ, "PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [str(len(reference_numbers()))], done.stderr
    (code / REFERENCE_NAME).write_text("method\n")
    with pytest.raises(WorkbenchError, match="does not hold the code as it is now"):
        snapshot(tmp_path)

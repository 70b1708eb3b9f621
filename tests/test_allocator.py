"""Memory that was freed is used again: what the operating system counts, in processes of their own."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.errors import ConfigError
from workbench.launch.tasks import TrainingJob

FAULTS = """
import json, multiprocessing, os, resource
from workbench.allocator import keep_freed_memory

def of_blocks(number):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(number):
        bytearray(64 * 2**20)[::4096] = bytes(2**14)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def of_child(queue):
    of_blocks(1)
    queue.put(of_blocks(10))

if __name__ == "__main__":
    keep_freed_memory()
    of_blocks(1)
    here = of_blocks(10)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=of_child, args=(queue,))
    child.start()
    print(json.dumps([here, queue.get(timeout=60)]))
    child.join()
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")


def faults(tmp_path: Path, **settings: str) -> list[int]:
    script = tmp_path / "faults.py"
    script.write_text(FAULTS)
    bare = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, script], env=bare | settings, capture_output=True, text=True, check=True)
    here, in_child = json.loads(done.stdout)
    return [here, in_child]


def test_memory_is_used_again_here_and_in_a_process_that_is_started(tmp_path: Path) -> None:
    kept, asked_otherwise = faults(tmp_path), faults(tmp_path, MALLOC_MMAP_MAX_="65536")
    assert all(few < many / 20 for few, many in zip(kept, asked_otherwise, strict=True))
    # The environment's word counts, in either of its forms.
    assert min(faults(tmp_path, GLIBC_TUNABLES="glibc.malloc.mmap_max=65536")) > 20 * max(kept)


def test_a_job_keeps_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", *(n for n in os.environ if n.startswith("MALLOC_"))):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError):
        TrainingJob({"backbone": {"name": "none such"}}, 0, str(tmp_path), {}).train(lambda: None)
    assert os.environ["MALLOC_MMAP_MAX_"] == "0"

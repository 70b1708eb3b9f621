"""`workbench lab` as a person meets it: a real server, and a real browser where there is one."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import CHROMIUM, ROOT

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """Port and token of a running server."""
    with running_lab(tmp_path_factory, {}) as place:
        yield place


@contextmanager
def running_lab(tmp_path_factory: pytest.TempPathFactory, variables: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Port and token of a server whose kernels have these variables too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("lab") / "log"
    home = tmp_path_factory.mktemp("home")
    command = [
        sys.executable,
        "-c",
        "from workbench.cli import main; main()",
        "lab",
        "--no-browser",
        "--port",
        str(port),
    ]
    with log.open("w") as stream:
        environment = {**os.environ, **variables, "JUPYTER_CONFIG_DIR": str(home), "JUPYTER_DATA_DIR": str(home)}
        server = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, env=environment)
    try:
        deadline = time.monotonic() + 300
        while not (found := re.search(r"127\.0\.0\.1:(\d+)/lab/tree/notebooks\?token=(\w+)", log.read_text())):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        # Another than was asked for, if somebody took that in between.
        yield int(found[1]), found[2]
    finally:
        server.terminate()
        server.wait(30)


def test_it_listens_on_loopback_and_asks_for_its_token(lab: tuple[int, str]) -> None:
    port, token = lab
    address = f"http://127.0.0.1:{port}/api/contents/notebooks"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(address)
    assert refused.value.code == 403
    listing = urllib.request.urlopen(f"{address}?token={token}").read().decode()
    assert "01_results.ipynb" in listing
    local = {line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"}
    assert f"0100007F:{port:04X}" in local
    assert f"00000000:{port:04X}" not in local


@pytest.mark.browser
def test_a_browser_opens_the_notebook(lab: tuple[int, str], tmp_path: Path) -> None:
    assert CHROMIUM, "chromium is missing"
    from playwright.sync_api import sync_playwright

    port, token = lab
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            str(tmp_path / "profile"), executable_path=CHROMIUM, headless=True, args=FLAGS
        )
        page = browser.pages[0]
        page.goto(f"http://127.0.0.1:{port}/lab/tree/notebooks/01_results.ipynb?token={token}")
        page.get_by_role("heading", name="Results of a grid").wait_for(timeout=60_000)
        page.screenshot(path=str(tmp_path / "lab.png"))
        browser.close()


def test_outside_the_project_it_says_where_to_go(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from workbench.cli import main; main()", "lab"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no folder ")

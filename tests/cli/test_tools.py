"""`workbench lab` as a person meets it: a real server. What it shows in a browser is tested with the notebooks."""

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
from typing import TYPE_CHECKING

import pytest

from tests.conftest import CHROMIUM, ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from workbench.grids import Grid

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PATIENCE = 600_000
"""Milliseconds to wait for what a page shows: trainings of other tests may keep the machine busy."""
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


@contextmanager
def run_in_lab(
    notebook: str, heading: str, trained: tuple[Grid, Path], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    """A notebook of the project's in JupyterLab in Debian's Chromium, on the given runs, with all cells begun."""
    assert CHROMIUM, "chromium is missing"
    from playwright.sync_api import TimeoutError, sync_playwright

    variables = {"WORKBENCH_GRID": str(trained[0].file), "WORKBENCH_RESULTS": str(trained[1])}
    with running_lab(tmp_path_factory, variables) as (port, token), sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            str(folder / "profile"), executable_path=CHROMIUM, headless=True, args=FLAGS,
            viewport={"width": 1500, "height": 1100},
        )  # fmt: skip
        page = browser.pages[0]
        # JupyterLab saves by itself; the notebook in git must stay stripped.
        page.route(
            "**/api/contents/**",
            lambda route: route.abort() if route.request.method == "PUT" else route.continue_(),
        )
        page.set_default_timeout(PATIENCE)
        page.goto(f"http://127.0.0.1:{port}/lab/tree/notebooks/{notebook}.ipynb?token={token}")
        page.get_by_role("heading", name=heading).wait_for()
        page.get_by_text("Kernel status: Idle").first.wait_for(state="attached")
        begun = page.locator(".jp-InputPrompt").filter(has_text=re.compile(r"\[[*\d]"))
        run_all_cells(page)
        try:
            begun.first.wait_for(state="attached", timeout=60_000)
        except TimeoutError:  # a page that is still loading may lose a choice, a person's too
            run_all_cells(page)
        try:
            yield page
        except Exception as error:
            # What a person would see says more than that something was not there.
            page.screenshot(path=str(folder / "failed.png"))
            error.add_note(f"the page ({folder / 'failed.png'}) shows:\n{page.inner_text('body')[-3000:]}")
            raise
        finally:
            browser.close()


def run_all_cells(page: Page) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


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


def test_outside_the_project_it_says_where_to_go(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from workbench.cli import main; main()", "lab"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no folder ")

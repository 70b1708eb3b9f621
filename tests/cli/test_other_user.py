"""Another person reads a results folder: what is private stays so, the rest is shown, and nothing is written there."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import stored
from tests.conftest import ROOT, Outcome
from workbench.benchmarks.fake_slurm import FakeSlurm
from workbench.grids import load_grid
from workbench.launch.profiles import Profile
from workbench.launch.submissions import Submissions
from workbench.launch.submit import Request, submit
from workbench.paper.report import report

NOBODY = 65534
MAIN = """
import sys
from workbench import cli
for line in sys.stdin.read().splitlines():
    sys.argv = ["workbench", *line.split("\\t")]
    try:
        cli.main()
        code = 0
    except SystemExit as error:
        code = error.code or 0
    for stream in (sys.stdout, sys.stderr):
        print(f"=== {code}", file=stream, flush=True)
"""


@dataclass
class Shared:
    """A results folder of this user's, one run completed and one in the queue, and a folder that another user has."""

    python: str
    grid: Path
    results: Path
    own: Path

    def run(self, *commands: str) -> list[Outcome]:
        """Commands, their words divided by spaces, as another user in a folder of that user's."""
        lines = "\n".join("\t".join([*c.split(), "--results", str(self.results)]) for c in commands)
        done = _as_another(self.python, MAIN, str(self.own), lines)
        assert done.returncode == 0, done.stderr
        said = [out.split("=== ") for out in (done.stdout, done.stderr)]
        codes = [int(part.split("\n", 1)[0]) for part in said[0][1:]]
        texts = [[part.split("\n", 1)[-1] if k else part for k, part in enumerate(parts)] for parts in said]
        return [Outcome(code, texts[0][k], texts[1][k]) for k, code in enumerate(codes)]


def _interpreter() -> str:
    """A Python that another user can start; skips the test where there is none."""
    if os.geteuid() != 0:
        pytest.skip("only root can run a command as another user")
    # The environment's own may lie in a home folder; another of the same version takes over its packages.
    for python in (sys.executable, "/usr/bin/python{}.{}".format(*sys.version_info)):
        with contextlib.suppress(OSError):
            if _as_another(python, "import torch, workbench", "/").returncode == 0:
                return python
    pytest.skip(f"another user can start neither {sys.executable} nor one of the same version in /usr/bin")


def _as_another(python: str, program: str, folder: str, said: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program as another user, whose home the folder is."""
    path = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    environment = {**os.environ, "HOME": folder, "PYTHONPATH": path, "WORKBENCH_CACHE": "/nonexistent",
                   "MPLCONFIGDIR": f"{folder}/matplotlib", "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    return subprocess.run(
        [python, "-c", program], input=said, env=environment, cwd=folder, capture_output=True, text=True, check=False,
        user=NOBODY, group=NOBODY, extra_groups=[],
    )  # fmt: skip


@pytest.fixture
def shared(grid_file: Callable[[str], Path], data_root: Path) -> Iterator[Shared]:
    python = _interpreter()
    # pytest's own folders are closed to others.
    folder = Path(tempfile.mkdtemp(prefix="wb-shared-"))
    try:
        folder.chmod(0o755)
        own, results, grid = folder / "own", folder / "r", folder / "grid.yaml"
        own.mkdir()
        os.chown(own, NOBODY, NOBODY)
        shutil.copytree(data_root, folder / "data")
        (folder / "data").chmod(0o755)
        written = grid_file("settings: {a: {}, b: {fusion.variant: l_dit}}\nbaseline: a\n").read_text()
        grid.write_text(written.replace(str(data_root), str(folder / "data")))
        loaded, slurm = load_grid(grid), FakeSlurm.pretending(folder / "slurm")
        with slurm.on_the_path():
            submit(loaded, Request(results, Profile(name="t", backend="slurm"), lambda grid: None, report))
            stored.complete(results, loaded.settings["a"], 0)
            yield Shared(python, grid, results, own)
    finally:
        shutil.rmtree(folder)


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What would show that something was written in a folder."""
    entries = [folder, *folder.rglob("*")]
    return {str(e): (e.lstat().st_mtime_ns, e.lstat().st_size, e.lstat().st_mode) for e in entries}


@pytest.mark.exhaustive
def test_another_user_sees_what_is_not_private_and_writes_nothing_there(shared: Shared) -> None:
    (submission,) = Submissions(shared.results).all()
    assert submission.folder.stat().st_mode & 0o777 == 0o700
    before = state(shared.results)
    plan, status, everything, logs, waiting, table, figure, submitted = shared.run(
        f"plan {shared.grid}", f"status {shared.grid}", "status", f"logs {shared.grid} a", f"logs {shared.grid} b",
        f"table {shared.grid}", f"figure bars {shared.grid}", f"submit {shared.grid} --workers 1",
    )  # fmt: skip
    note = (
        f"warning: {shared.results}/submissions: 1 folder may be read by root alone, and left out: runs submitted "
        "from there are shown as their run folders record them\n"
    )
    for shown in (plan, status, everything, logs):
        assert (shown.code, shown.err) == (0, note), shown.err
    assert "completed  refshapes-vit_mini-default-" in plan.out
    assert "2 runs: 1 completed, 1 new" in status.out
    assert "1 run: 1 completed" in everything.out
    assert "end step=6 state=completed" in logs.out
    assert waiting.code == 2
    assert waiting.err.startswith(note)
    for drawn, file in ((table, "table.md"), (figure, "bars.pdf")):
        assert drawn.code == 0, drawn.err
        told = f"warning: you may not write {shared.results}; the files are written to the working folder: "
        assert f"{told}{shared.own}/grid\n" in drawn.err
        assert (shared.own / "grid" / file).stat().st_uid == NOBODY
    assert "## tiny" in table.out
    assert submitted.code == 2
    assert submitted.err.splitlines()[-1] == (
        f"error: {shared.results}/submissions: 1 folder may be read by root alone, so it is not known which runs wait "
        "there; name another --results"
    )
    assert state(shared.results) == before
    for shown in (plan, status, everything, logs, waiting, table, figure, submitted):
        assert "Traceback" not in shown.err
        assert submission.name not in shown.out + shown.err


@pytest.mark.exhaustive
def test_a_report_and_a_summary_go_to_the_user(shared: Shared) -> None:
    before = state(shared.results)
    page, summary = shared.run(f"report {shared.grid}", f"summarise {shared.grid}")
    for kept, name in ((page, "report.html"), (summary, "summary")):
        assert kept.code == 0, kept.err
        assert f"you may not write {shared.results}; the files are written to the working folder" in kept.err
        assert (shared.own / "grid" / name).stat().st_uid == NOBODY
    assert state(shared.results) == before


@pytest.mark.exhaustive
def test_the_owner_is_named_before_anything_is_computed(shared: Shared) -> None:
    (done,) = (shared.results / "runs").glob("*/seed0/run.json")
    run, own = f"{done.parents[1].name}/seed0", f"own/runs/{done.parents[1].name}"
    shutil.copy(next((shared.grid.parent / "data").rglob("*.png")), shared.own / "p.png")
    before = state(shared.results)
    attention, interventions, predict, notebooks, reproduce, cancel = several = shared.run(
        f"attention {run}", f"interventions {run}", f"predict p.png circle --run {run} --out {shared.results}/p",
        "notebooks run", f"reproduce {shared.grid} --submit", f"cancel {shared.grid}",
    )  # fmt: skip
    for refused in (attention, interventions):
        assert refused.err == (
            f"error: you may not write in {done.parent}, which belongs to root; measure a copy of the run: "
            f"mkdir -p {own} && cp -r {done.parent} {own}, then --results own\n"
        )
    for refused, option in ((predict, "--out"), (notebooks, "--out"), (reproduce, "--results")):
        whose = f"error: you may not write in {shared.results}, which belongs to root"
        assert refused.err.splitlines()[-1] == f"{whose}; name a folder of your own with {option}"
    assert "belongs to root" in cancel.err or "by root alone" in cancel.err
    for refused in several:
        assert refused.code == 2
        assert refused.err.count("error: ") == 1
        assert "Traceback" not in refused.err
        assert "Permission denied" not in refused.err
    assert state(shared.results) == before


@pytest.mark.exhaustive
def test_a_whole_folder_of_submissions_that_is_private_is_named(shared: Shared) -> None:
    (shared.results / "submissions").chmod(0o700)
    (status,) = shared.run(f"status {shared.grid}")
    assert status.code == 0, status.err
    assert "submissions: 1 folder may be read by root alone, and left out" in status.err
    assert "2 runs: 1 completed, 1 new" in status.out

"""Fixtures: a small refshapes set, a configuration that trains in seconds, and the command line in this process."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from workbench import cli, receipts
from workbench.config import SHIPPED_BERTS, DataConfig, RefshapesRecipe, RunConfig
from workbench.data.datasets import open_data
from workbench.data.refshapes import folder_name
from workbench.results.folders import RunFolder

ROOT = Path(__file__).resolve().parent.parent
RECIPE = {"seed": 3, "train_images": 40, "eval_images": 6}
ALONE = (
    "benchmarks/",
    "cli/test_tools.py",
    "launch/test_crash.py",
    "launch/test_local.py",
    "paper/test_explorer_view.py",
    "paper/test_notebooks.py",
)
"""Tests that measure time, watch ports or keep several processes busy: no two of them at once."""


CHROMIUM = shutil.which("chromium")

EXHAUSTIVE = bool(os.environ.get("WORKBENCH_EXHAUSTIVE"))
"""Whether to run also what takes longest, and samples in full: CI does."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [] if EXHAUSTIVE else [item for item in items if item.get_closest_marker("exhaustive")]
    if CHROMIUM is None and not os.environ.get("WORKBENCH_NO_SKIPS"):
        # A mark, and no call in a test: then nothing is made for a test that is skipped.
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason="no chromium on the PATH"))
    if left_out:
        items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]
        config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what was imported, a million objects, and come by less often."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_sessionfinish() -> None:
    gc.unfreeze()


def pytest_report_header() -> str:
    return "exhaustive tests: run" if EXHAUSTIVE else "exhaustive tests: left out (WORKBENCH_EXHAUSTIVE=1 runs them)"


def group_of(node_id: str) -> str:
    """What one process of several must run: a file, so that its fixtures are made once, or more files than one."""
    file = node_id.partition("::")[0].removeprefix("tests/")
    if file.startswith("cluster/"):
        return "cluster"  # they share one Slurm
    if file.startswith("paper/page/"):
        return "page"  # they share a report
    return "alone" if file.startswith(ALONE) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Groups of tests by their files, for `--dist loadgroup`.

    xdist's own marks for it have no effect with pytest 9.2, silently (pytest-xdist issue 1386).
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture(scope="session", autouse=True)
def _own_receipts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests check is not remembered for the user, nor what the user checked for tests."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # by all processes of this run
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(receipts.VARIABLE, str(shared / "receipts"))
        yield


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    open_data(DataConfig(recipe=RefshapesRecipe(**RECIPE)), root)
    return root


@pytest.fixture(scope="session")
def data_folder(data_root: Path) -> Path:
    """The folder of RECIPE's data set: tests that came before may have made other sets under the same root."""
    return data_root / folder_name(RefshapesRecipe(**RECIPE))


@pytest.fixture(scope="session")
def make_config(data_root: Path) -> Callable[..., RunConfig]:
    """A configuration that trains six steps; overrides are dotted keys."""

    def make(**overrides: Any) -> RunConfig:
        values = OmegaConf.create(
            {
                "data": {"recipe": RECIPE},
                "training": {"steps": 6, "batch_size": 4},
                "evaluation": {"splits": ["val"]},
                "machine": {"data_root": str(data_root), "threads": 1, "trackers": [], "log_steps": 1},
            }
        )
        for key, value in overrides.items():
            OmegaConf.update(values, key.replace("__", "."), value, force_add=True)
        return RunConfig.parse(OmegaConf.to_container(values))

    return make


@pytest.fixture(scope="session")
def still_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped text encoder without its dropout, whose draws differ between one process and two."""
    folder = tmp_path_factory.mktemp("bert") / "bert_still"
    shutil.copytree(SHIPPED_BERTS["bert_mini"], folder)
    shape = json.loads((folder / "config.json").read_text())
    shape |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(shape))
    return folder


@pytest.fixture
def grid_file(tmp_path: Path, data_root: Path) -> Callable[[str], Path]:
    """Writes a grid of tiny runs; the text is appended to its base."""

    def write(text: str, name: str = "grid") -> Path:
        file = tmp_path / f"{name}.yaml"
        recipe = "{seed: 3, train_images: 40, eval_images: 6}"
        # One thread: jobs of two tests at once, of two threads each, would wait for each other at every step.
        file.write_text(
            "title: tiny\nbase:\n"
            f"  data: {{recipe: {recipe}}}\n"
            "  training: {steps: 6, batch_size: 4}\n"
            "  evaluation: {splits: [val, testA]}\n"
            f"  machine: {{data_root: '{data_root}', trackers: [], log_steps: 1, threads: 1}}\n" + text
        )
        return file

    return write


def last_step(folder: RunFolder) -> int:
    """The last step that a run logged; 0 where it logged none."""
    event = folder.log_tail().last("step")
    return 0 if event is None or event.step is None else event.step


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def workbench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """The command line, in this process."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["workbench", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture(autouse=True)
def _fresh_state() -> Any:
    """accelerate keeps a process-wide state; torch a global seed and thread count."""
    from accelerate.state import AcceleratorState, PartialState

    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    AcceleratorState._reset_state()
    PartialState._reset_state()

"""The project's own promises: imports, prints and exits, sizes of files, tests of modules, what its pages name."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ALONE, ROOT, group_of

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_imports_point_one_way() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def commands_of(page: Path) -> list[str]:
    """The command lines of a page: those of its code blocks, and those in a sentence."""
    text = page.read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    sentences = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += [inline.replace("\n", " ") for inline in re.findall(r"`(workbench [^`]+)`", sentences)]
    return [line for line in lines if re.match(r"(\.venv/bin/)?workbench [a-z]", line)]


def unknown_words(line: str, command: Any) -> list[str]:
    """The commands and options of a line that do not exist."""
    words = [word.strip("[]….") for word in shlex.split(line, comments=True)[1:]]
    while hasattr(command, "commands") and words:
        if words[0] not in command.commands:
            return words[:1]
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help", ""}
    options = (word.partition("=")[0] for word in words if word.startswith("-"))
    return [option for option in options if option not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_option_and_grid_of_a_page_exists(page: Path) -> None:
    import typer

    from workbench.cli import app

    program = typer.main.get_command(app)
    unknown = {line: words for line in commands_of(page) if (words := unknown_words(line, program))}
    assert unknown == {}
    for grid in re.findall(r"\b(ablations/[\w/+-]+\.yaml)", page.read_text()):
        assert (ROOT / grid).is_file(), grid


def test_commands_are_found_on_the_pages_and_wrong_ones_are_named() -> None:
    import typer

    from workbench.cli import app

    assert len(commands_of(ROOT / "README.md")) > 30
    program = typer.main.get_command(app)
    assert unknown_words("workbench data chek refcoco", program) == ["chek"]
    assert unknown_words("workbench table GRID --form md [--seeds 0-4]", program) == ["--form"]


def anchors_of(page: Path) -> set[str]:
    """Where links into a page may lead: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file_in_git_and_to_a_heading(page: Path) -> None:
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for link, anchor in re.findall(r"\]\(([\w./+-]*)(?:#([\w-]+))?\)", page.read_text()):
        target = (page.parent / link).resolve() if link else page
        assert str(target.relative_to(ROOT)) in kept, link
        assert not anchor or anchor in anchors_of(target), f"{link}#{anchor}"


PRINTING = {"print", "exit", "quit", "input", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write"}
EXITING = {"sys.exit", "os._exit", "typer.Exit", "typer.Abort", "SystemExit"}
OWN_PROCESS = {
    "__main__.py": "the program itself, where the command line cannot be imported",
    "launch/epilogue.py": "its main guard: Slurm starts it as a program",
    "launch/guarded.py": "its main guard: a batch script starts it as a program",
    "launch/tasks.py": "a job's exit code tells Slurm that the run stopped before its end",
}
"""Below the command line, what ends a process that is its own."""


def dotted(node: ast.expr) -> str:
    """`sys.exit` of such an expression; nothing of others."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def is_main_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def test_only_cli_prints_or_exits() -> None:
    uses = []
    for file in sorted((ROOT / "workbench").rglob("*.py")):
        name = str(file.relative_to(ROOT / "workbench"))
        if name.startswith("cli/"):
            continue
        tree = ast.parse(file.read_text())
        guarded = {id(inner) for node in tree.body if is_main_guard(node) for inner in ast.walk(node)}
        for node in ast.walk(tree):
            called = dotted(node.func) if isinstance(node, ast.Call) else ""
            raised = dotted(node.exc) if isinstance(node, ast.Raise) and node.exc is not None else ""
            word = called or raised
            whole = word in EXITING or name == "__main__.py"
            own = name in OWN_PROCESS and whole and (name == "launch/tasks.py" or id(node) in guarded)
            if word in PRINTING | EXITING and not own:
                uses.append(f"{name}:{node.lineno} {word}")  # type: ignore[attr-defined]
    assert uses == []


LONGEST_FILE = 400


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    files = [file for room in ("workbench", "tests") for file in sorted((ROOT / room).rglob("*.py"))]
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in files}
    assert {file: length for file, length in lengths.items() if length > LONGEST_FILE} == {}


COVERED_BY = {
    "__main__.py": "benchmarks/test_gpu.py",
    "analysis/attribution_frames.py": "paper/test_notebooks.py",
    "analysis/beside.py": "analysis/test_alignment.py",
    "analysis/blocks.py": "analysis/test_trace.py",
    "analysis/games.py": "analysis/test_faithfulness.py",
    "analysis/kept_maps.py": "analysis/test_causal_map.py",
    "analysis/maps.py": "paper/test_artefacts.py",
    "analysis/picture_maps.py": "paper/figures/test_picture_attention.py",
    "analysis/points.py": "analysis/test_trace.py",
    "analysis/question.py": "analysis/test_attribution.py",
    "analysis/relevance.py": "analysis/test_explorer.py",
    "analysis/scalar_targets.py": "analysis/test_attribution.py",
    "benchmarks/": "benchmarks/test_benchmarks.py",
    "benchmarks/fake_slurm.py": "launch/test_states.py",
    "cli/attribution.py": "paper/figures/test_attribution_panel.py",
    "benchmarks/launch_commands.py": "benchmarks/test_launch.py",
    "cli/cluster.py": "launch/test_submit.py",
    "cli/notebooks.py": "paper/test_notebooks.py",
    "cli/tables.py": "paper/test_citations.py",
    "config/base.py": "config/test_run.py",
    "config/data.py": "config/test_run.py",
    "config/sections.py": "config/test_run.py",
    "data/check.py": "data/test_prepare.py",
    "cli/inside.py": "analysis/test_verify.py",
    "cli/submitting.py": "cli/test_runs.py",
    "cli/predict.py": "analysis/test_predictor.py",
    "data/counts.py": "data/test_prepare.py",
    "data/features.py": "training/test_features.py",
    "data/language.py": "data/test_scenes.py",
    "data/pickles.py": "data/test_forms.py",
    "data/readers/": "data/test_forms.py",
    "data/sampling.py": "data/test_loading.py",
    "data/tables.py": "data/test_prepare.py",
    "data/transforms.py": "data/test_augment.py",
    "errors.py": "test_failures.py",
    "evaluation/scoring.py": "evaluation/test_metrics.py",
    "grids/checked.py": "test_receipts.py",
    "grids/document.py": "grids/test_grid.py",
    "grids/file.py": "grids/test_loading.py",
    "grids/merging.py": "grids/test_loading.py",
    "grids/seeds.py": "cli/test_runs.py",
    "launch/arrays.py": "launch/test_submit.py",
    "launch/doctor.py": "cluster/test_cluster.py",
    "launch/housekeeping.py": "launch/test_submit.py",
    "launch/pack_script.py": "launch/test_packing.py",
    "launch/scheduler.py": "launch/test_states.py",
    "launch/slurm.py": "launch/test_profiles.py",
    "launch/status.py": "launch/test_states.py",
    "launch/submissions.py": "launch/test_submit.py",
    "launch/tasks.py": "launch/test_epilogue.py",
    "models/attention_policy.py": "models/test_attention.py",
    "models/backbones/": "models/test_backbones.py",
    "models/build.py": "models/test_checkpoints.py",
    "models/chunked_attention.py": "models/test_attention.py",
    "models/cross_attention.py": "models/test_released.py",
    "models/fusion/": "models/test_released.py",
    "models/mask_decoder.py": "models/test_released.py",
    "models/projectors.py": "models/test_released.py",
    "models/variant_table.py": "models/test_catalog.py",
    "models/watching.py": "analysis/test_trace.py",
    "paper/budget.py": "paper/test_layout.py",
    "paper/explain.py": "paper/test_citations.py",
    "paper/web.py": "paper/test_citations.py",
    "paper/breakdowns.py": "evaluation/test_predictions.py",
    "paper/examples.py": "data/test_prepare.py",
    "paper/figures/": "paper/test_artefacts.py",
    "paper/fonts.py": "paper/figures/test_attribution_panel.py",
    "paper/overlay.py": "analysis/test_predictor.py",
    "paper/page/": "paper/page/test_page.py",
    "paper/report.py": "launch/test_submit.py",
    "paper/verdicts.py": "analysis/test_comparison.py",
    "results/curves.py": "launch/test_local.py",
    "results/scored.py": "evaluation/test_predictions.py",
    "training/divergence.py": "training/test_train.py",
    "training/final_evaluation.py": "training/test_train.py",
    "training/loop.py": "training/test_train.py",
    "training/needs.py": "training/test_memory.py",
    "training/reporting.py": "training/test_train.py",
    "training/schedule.py": "training/test_losses.py",
}
"""Modules (or all those of a room) without a test file of their own, with the file that tests them."""


def test_every_module_has_its_tests() -> None:
    tests, package = ROOT / "tests", ROOT / "workbench"
    modules = [file.relative_to(package) for file in package.rglob("*.py") if file.name != "__init__.py"]
    untested = []
    for module in sorted(modules):
        mirrored = tests / module.parent / f"test_{module.name}"
        if not (mirrored.is_file() or str(module) in COVERED_BY or f"{module.parent}/" in COVERED_BY):
            untested.append(str(module))
        elif mirrored.is_file() and str(module) in COVERED_BY:
            untested.append(f"{module} has a test file now, so it needs no entry")
    assert untested == []
    assert [entry for entry in COVERED_BY if not (package / entry).exists()] == []
    assert [file for file in COVERED_BY.values() if not (tests / file).is_file()] == []


def expects(function: ast.FunctionDef, helpers: dict[str, ast.FunctionDef], seen: frozenset[str] = frozenset()) -> bool:
    """Whether it asserts or waits for an error, itself or in a helper of its file."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if name.rpartition(".")[2] in ("raises", "warns", "fail") or ".assert_" in name:
                return True
            if name in helpers and name not in seen and expects(helpers[name], helpers, seen | {name}):
                return True
    return False


def test_every_test_expects_something() -> None:
    idle = []
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
        helpers = {function.name: function for function in functions}
        tests = [function for function in functions if function.name.startswith("test_")]
        idle += [f"{file.relative_to(ROOT)}: {test.name}" for test in tests if not expects(test, helpers)]
    assert idle == []


def test_tests_that_disturb_each_other_stay_in_one_process() -> None:
    assert group_of("tests/cluster/test_cluster.py::test_a") == group_of("tests/cluster/test_dev_cluster.py::test_b[1]")
    assert group_of("tests/launch/test_local.py::test_a") == group_of("tests/benchmarks/test_launch.py::test_b")
    assert group_of("tests/data/test_masks.py::test_a") == group_of("tests/data/test_masks.py::test_b[x@y::z]")
    assert group_of("tests/data/test_masks.py::test_a") != group_of("tests/data/test_forms.py::test_a")
    assert [entry for entry in ALONE if not (ROOT / "tests" / entry).exists()] == []

"""What the commands share: their help, and what is said of a misspelt name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.conftest import ROOT
from workbench import cli

Write = Callable[..., Path]


@pytest.mark.parametrize("group", [(), ("data",), ("trace",), ("notebooks",)])
def test_summaries_in_help_are_whole(workbench: Any, group: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    listed = " ".join(workbench(*group, "--help").out.partition("Commands:")[2].split())
    commands: Any = typer.main.get_command(cli.app)
    for name in group:
        commands = commands.commands[name]
    assert commands.commands
    for name, command in commands.commands.items():
        summary = " ".join(command.help.split("\n\n")[0].split())
        assert f"{name} {summary}" in listed


def test_every_option_and_argument_has_a_help_text() -> None:
    def without_help(command: Any, name: str) -> list[str]:
        names = [f"{name} {parameter.opts[0]}" for parameter in command.params if not getattr(parameter, "help", None)]
        for key, subcommand in getattr(command, "commands", {}).items():
            names += without_help(subcommand, f"{name} {key}")
        return names

    assert without_help(typer.main.get_command(cli.app), "workbench") == []


@pytest.fixture
def completions(workbench: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What bash offers for the last of the words."""

    def complete(*words: str) -> list[str]:
        monkeypatch.setenv("_WORKBENCH_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(["workbench", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        done = workbench()
        assert (done.code, done.err) == (0, "")
        return str(done.out).split()

    return complete


def test_shells_complete_every_command_and_option(completions: Callable[..., list[str]]) -> None:
    def check(command: Any, *words: str) -> None:
        names = {name for p in command.params for name in (*p.opts, *p.secondary_opts) if name.startswith("--")}
        assert set(completions(*words, "--")) == {*names, "--help"}, words
        below = getattr(command, "commands", {})
        if below:
            assert completions(*words, "") == command.list_commands(typer.Context(command))
        for name, subcommand in below.items():
            check(subcommand, *words, name)

    check(typer.main.get_command(cli.app))


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("sta",), ["status"]),
        (("data", "pre"), ["prepare"]),
        (("plan", "ablations/demo.yaml", "--prof"), ["--profile"]),
        (("figure", "sch"), ["schemes"]),
        (("config", "ablations/demo.yaml", ""), ["default", "e_dit", "l_dit"]),
        (("logs", "ablations/demo.yaml", "l"), ["l_dit"]),
        (("train", "ablations/demo.yaml", "--setting", "e"), ["e_dit"]),
        (("figure", "bars", "ablations/demo.yaml", "--settings", "d"), ["default"]),
        (("status", "ablations/demo.yaml", "--only", "x"), []),
        (("config", "no-such.yaml", "l"), []),
        (("plan", "ablations/d"), []),  # the shell then offers files
        (("statsu", "x"), []),
        (("data", "no-such", "x"), []),
    ],
)
def test_shells_complete_what_was_begun(
    completions: Callable[..., list[str]], words: tuple[str, ...], offered: list[str]
) -> None:
    assert completions(*words) == offered


def test_bash_completes_with_what_show_completion_prints(tmp_path: Path) -> None:
    command = tmp_path / "workbench"
    command.write_text(f"#!{sys.executable}\nfrom workbench.cli import main\nmain()\n")
    command.chmod(0o755)
    script = (
        'eval "$(_WORKBENCH_COMPLETE=source_bash workbench)"\n'
        "COMP_WORDS=(workbench retr); COMP_CWORD=1; _workbench_completion workbench\n"
        'echo "${COMPREPLY[@]}"; complete -p workbench\n'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    offered, how = done.stdout.splitlines()
    assert offered == "retry", done.stderr
    assert " -o default " in how, "where there is nothing to offer, bash offers files"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["PLAN", "GRID"], "plan"),
        (["statsu", "GRID"], "status"),
        (["data", "Prepare", "refcoco"], "prepare"),
        (["trace", "verfy"], "verify"),
        (["plan", "GRID", "--reslts", "x"], "--results"),
        (["plan", "GRID", "--RESULTS", "x"], "--results"),
        (["data", "check", "refcoco", "--splitby", "x"], "--split-by"),
        (["figure", "Bars", "GRID"], "bars"),
        (["table", "GRID", "--format", "LaTeX"], "latex"),
        (["table", "GRID", "--by", "lenght"], "length"),
        (["data", "prepare", "refcoco", "--sentence", "Raw"], "raw"),
        (["pretrain", "vit-mini"], "vit_mini"),
        (["bench", "Data"], "data"),
        (["variants", "--backbone", "ViT_B"], "vit_b"),
        (["logs", "GRID", "A"], "a"),
        (["config", "GRID", "A"], "a"),
        (["submit", "GRID", "--only", "A", "--dry-run"], "a"),
        (["retry", "GRID", "--class", "Out_Of_Memory"], "out_of_memory"),
        (["plan", "GRID", "-o", "fusion.variant=L_DIT"], "l_dit"),
        (["plan", "GRID", "-o", "fusion.Variant=l_dit"], "variant"),
        (["plan", "GRID", "-o", "training.precision=FP32"], "fp32"),
        (["plan", "GRID", "-o", "training.epochs=relased"], "released"),
        (["plan", "GRID", "-o", "fusion.projector.init=zeros"], "zero"),
        (["submit", "GRID", "-o", "data.train_split=Train"], "train"),
        (["plan", "GRID", "--preset", "x"], None),
        (["plan", "GRID2"], "grid.yaml"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_known(
    workbench: Any,
    grid_file: Write,
    tmp_path: Path,
    arguments: list[str],
    meant: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = grid_file("settings: {a: {}}\n")
    names = {"GRID": str(grid), "GRID2": str(grid.with_name("gird.yaml"))}
    refused = workbench(*[names.get(one, one) for one in arguments])
    assert refused.code == 2
    assert "Traceback" not in refused.err
    said = f"(did you mean {meant!r}?)"
    assert refused.err.count("did you mean") == (meant is not None), refused.err
    assert meant is None or said in refused.err, refused.err

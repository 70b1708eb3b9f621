"""Grids and profiles that no loader can take: each one line, in less time than it takes to wonder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome

HEAD = "title: t\nsettings: {a: {}}\n"
LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n" for below, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (HEAD + "base: " + "{a: " * 3000 + "1" + "}" * 3000, "line 3: nested more than 50 deep"),
        (HEAD + "base: {a: " + "[" * 100_000 + "]" * 100_000 + "}", "line 3: nested more than 50 deep"),
        (HEAD + "seeds: [" + "9" * 5000 + "]", "line 3: a number of 5,000 digits; at most 100 are read"),
        (HEAD + "base: &a {x: [*a]}", "line 3: *a is inside the value that it refers to"),
        (LAUGHS, "more than 1,000,000 values"),
        (HEAD + "#" * (5 << 20), "larger than 4 MiB"),
        ("title: \xff", "unreadable YAML"),
    ],
    ids=["mappings", "lists", "digits", "cycle", "aliases", "size", "bytes"],
)
@pytest.mark.parametrize("what", ["grid", "profile", "preset"])
def test_what_cannot_be_loaded_is_one_line(
    workbench: Callable[..., Outcome], tmp_path: Path, text: str, part: str, what: str
) -> None:
    file, grid = tmp_path / "odd.yaml", tmp_path / "grid.yaml"
    file.write_bytes(text.encode("latin-1"))
    grid.write_text(HEAD.replace("{a: {}}", "{a: {preset: odd.yaml}}") if what == "preset" else HEAD)
    given = {"grid": [file], "profile": [grid, "--profile", file], "preset": [grid]}[what]
    done = workbench("plan", *given)
    assert done.code == 2
    where = f"{grid}: setting 'a': {file}: " if what == "preset" else f"{file}: "
    assert done.err.startswith(f"error: {where}")
    assert part in done.err
    assert done.err.count("\n") == 1


def test_a_pipe_in_place_of_a_file_does_not_wait(workbench: Callable[..., Outcome], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "grid.yaml").write_text(HEAD)
    for given in ([tmp_path / "pipe.yaml"], [tmp_path / "grid.yaml", "--profile", tmp_path / "pipe.yaml"]):
        done = workbench("plan", *given)
        assert done.code == 2
        assert done.err == f"error: {tmp_path / 'pipe.yaml'}: not a file but a pipe\n"


def test_nothing_from_outside_enters_a_configuration(
    workbench: Callable[..., Outcome], grid_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "l_dit")
    for value in ("'${oc.env:SECRET}'", "'a${ oc.env:SECRET,x}'", "'${oc.decode:1}'"):
        done = workbench("config", grid_file(f"settings: {{a: {{fusion.variant: {value}}}}}\n"), "a")
        assert done.code == 2
        assert "setting 'a': fusion.variant: " in done.err
        assert "asks for something outside the file" in done.err
        assert "l_dit" not in done.err
    refused = workbench("config", grid_file("settings: {a: {}}\n"), "a", "-o", "fusion.variant=${oc.env:SECRET}")
    assert "asks for something outside the file" in refused.err
    kept = workbench("config", grid_file("settings: {a: {training.batch_size: '${training.steps}'}}\n"), "a")
    assert "batch_size: 6" in kept.out, "another key may be named"


def test_more_settings_than_anybody_means_are_refused(
    workbench: Callable[..., Outcome], grid_file: Callable[[str], Path]
) -> None:
    numbers = ", ".join(map(str, range(1, 301)))
    axes = f"axes: {{training.batch_size: [{numbers}], fusion.cross_attention.mlp_width: [{numbers}]}}\n"
    done = workbench("plan", grid_file(axes))
    assert done.code == 2
    assert "90,000 settings; at most 10,000 are taken" in done.err


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('title: "a\\e[31m"\nsettings: {a: {}}\n', r"title: 'a\x1b[31m' holds a line break or another character"),
        ('title: t\nsettings: {"a\\e[31m": {}}\n', r"the setting's name 'a\x1b[31m' holds a character that is not"),
        ("title: t\nsettings: {a: {}}\nreport: {models: [../../x]}\n", "models: '../../x' is not a model's name"),
        ("title: t\nsettings: {a: {start_from.run: ../../x}}\n", "start_from.run: '../../x' is no id of a setting"),
    ],
)
def test_names_that_lead_elsewhere_or_colour_the_terminal_are_refused(
    workbench: Callable[..., Outcome], tmp_path: Path, text: str, part: str
) -> None:
    (tmp_path / "grid.yaml").write_text(text)
    done = workbench("plan", tmp_path / "grid.yaml")
    assert done.code == 2
    assert part in done.err
    assert "\x1b" not in done.err

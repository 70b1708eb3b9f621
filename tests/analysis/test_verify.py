from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.analysis.test_trace import MakeConfig, built
from tests.conftest import ROOT
from workbench.analysis import blocks
from workbench.analysis.verify import BEGIN, DTYPES, END, EXACT, KINDS, LAYOUTS, put_into, verify
from workbench.errors import WorkbenchError
from workbench.models.fusion import variants


@pytest.mark.parametrize("variant", ["default", "e_dit", "l_dit"])
def test_double_and_single_precision_are_exact_and_half_is_not(make_config: MakeConfig, variant: str) -> None:
    verdicts = verify(built(make_config, variant), 72)
    for verdict in verdicts:
        if variant == "default" and verdict.kind == "write":
            assert str(verdict) == "not available"
            continue
        assert verdict.error is not None
        if verdict.dtype != "bfloat16":
            assert verdict.error <= EXACT, verdict
            assert str(verdict) == "exact"
        else:
            assert EXACT < verdict.error < 0.05, verdict
            assert str(verdict).startswith("degraded by ")


def test_a_wrong_map_is_noticed(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words mistaken for their neighbours."""
    whole: Callable[..., Any] = blocks.Block.whole

    def shifted(self: blocks.Block, values: Tensor) -> Tensor:
        return torch.roll(whole(self, values), 1, dims=2)

    monkeypatch.setattr(blocks.Block, "whole", shifted)
    read = [v for v in verify(built(make_config, "l_dit"), 64) if v.kind == "read"]
    assert read
    assert all(v.error is not None and v.error > 1e-4 for v in read)


def test_it_is_a_command(workbench: Callable[..., Any]) -> None:
    done = workbench("trace", "verify")
    assert done.code == 2
    assert "name either a run or --variant" in done.err


def rows_of(table: str) -> dict[tuple[str, str], list[str]]:
    """The cells of a Markdown table without their numbers, by the first two."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().split("\n")]
    return {(name, layout): [re.sub(r"by \S+", "by", cell) for cell in cells] for name, layout, *cells in lines[2:]}


def test_the_matrix_in_the_docs_is_what_the_command_makes(workbench: Callable[..., Any], tmp_path: Path) -> None:
    text = (ROOT / "docs" / "inside.md").read_text()
    kept = rows_of(text.partition(BEGIN)[2].partition(END)[0])
    assert list(kept) == [(variant, layout) for variant in variants for layout in LAYOUTS]
    assert {len(cells) for cells in kept.values()} == {len(DTYPES) * len(KINDS)}
    file = tmp_path / "page.md"
    file.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    done = workbench("trace", "verify", "--variant", "default", "--variant", "l_dit", "--into", file)
    assert done.code == 0, done.err
    assert file.read_text() == f"above\n{BEGIN}\n\n{done.out}\n{END}\nbelow\n"
    assert rows_of(done.out) == {key: cells for key, cells in kept.items() if key[0] in ("default", "l_dit")}


@pytest.mark.parametrize("text", ["nothing", f"{END} {BEGIN}", f"{BEGIN} {END} {END}", BEGIN])
def test_a_file_without_the_marks_is_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "page.md"
    file.write_text(text)
    with pytest.raises(WorkbenchError, match="a table goes between one line <!-- trace verify: begin -->"):
        put_into(file, "| a |\n")
    assert file.read_text() == text
    with pytest.raises(WorkbenchError, match="cannot be read"):
        put_into(tmp_path / "no.md", "| a |\n")

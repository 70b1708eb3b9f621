"""Cells of a table against plain arithmetic on the stored expressions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests import stored
from workbench.grids import Grid
from workbench.grids.evaluated import evaluated
from workbench.paper.layout import TableData, lay_out
from workbench.results.frames import RunFolders


@pytest.fixture
def table(made_up: tuple[Grid, Path]) -> TableData:
    grid, results = made_up
    return lay_out(evaluated(grid, RunFolders(results)))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def deviation(values: list[float]) -> float:
    return math.sqrt(sum((value - mean(values)) ** 2 for value in values) / (len(values) - 1))


def ious(draws: list[int], split: str) -> list[float]:
    return [stored.mean_iou(stored.expressions(["val", "testA"], draw), split) for draw in draws]


def test_a_cell_knows_its_value_seeds_spread_and_runs(table: TableData, made_up: tuple[Grid, Path]) -> None:
    for split in ("val", "testA"):
        cell = table.block("miou").cell("default", split)
        assert cell is not None
        expected = ious([1000, 1001, 1002, 1003, 1004], split)
        assert cell.value == pytest.approx(mean(expected))
        assert cell.seed_values == pytest.approx(tuple(expected))
        assert cell.spread == pytest.approx(deviation(expected))
        assert cell.seeds == (0, 1, 2, 3, 4)
        setting = made_up[0].settings["default"].setting_id
        assert cell.runs == tuple(f"{setting}/seed{seed}" for seed in range(5))
        assert cell.low < cell.value < cell.high
        assert cell.expressions == 15


def test_a_difference_is_over_the_seeds_that_both_have(table: TableData) -> None:
    cell = table.block("miou").cell("l_dit", "val", "difference")
    assert cell is not None
    pairs = zip(ious([3000, 3001, 3002], "val"), ious([1000, 1001, 1002], "val"), strict=True)
    expected = [ours - baseline for ours, baseline in pairs]
    assert cell.value == pytest.approx(mean(expected))
    assert cell.spread == pytest.approx(deviation(expected))
    assert cell.seeds == (0, 1, 2)


def test_without_a_common_seed_there_is_no_difference(made_up: tuple[Grid, Path]) -> None:
    grid, results = made_up
    stored.complete(results, grid.settings["e_dit"], 9)
    cell = lay_out(evaluated(grid, RunFolders(results))).block("miou").cell("e_dit", "val", "difference")
    assert cell is not None
    assert cell.value is None


def test_a_gap_is_no_number(table: TableData) -> None:
    row = next(row for row in table.block("miou").rows if row.name == "e_dit")
    assert [cell.value for cell in row.cells] == [None, None]
    assert row.n == 0


def test_the_metrics_of_the_report_come_first_and_all_others_follow(table: TableData) -> None:
    assert [block.metric for block in table.blocks[: table.shown]] == ["miou", "p@0.5"]
    assert len({block.metric for block in table.blocks}) == len(table.blocks) == 12
    overall = table.block("oiou").cell("l_dit", "testA")
    assert overall is not None
    expected = [stored.overall_iou(stored.expressions(["val", "testA"], draw), "testA") for draw in (3000, 3001, 3002)]
    assert overall.value == pytest.approx(mean(expected))
    with pytest.raises(KeyError):
        table.block("giou")


def test_rows_bear_their_flags(made_up: tuple[Grid, Path]) -> None:
    grid, results = made_up
    stored.complete(results, grid.settings["default"], 4, codes=["0123456789ab"])
    rows = {row.name: row for row in lay_out(evaluated(grid, RunFolders(results))).block("miou").rows[:3]}
    assert rows["default"].flags == ("other_code", "incomplete")
    assert rows["l_dit"].flags == ("fewer_seeds", "other_budget")
    assert rows["e_dit"].flags == ("incomplete", "other_budget")

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests import stored
from workbench.grids import Grid
from workbench.grids.evaluated import evaluated
from workbench.paper.breakdowns import breakdown_text
from workbench.paper.explain import explain
from workbench.paper.layout import lay_out
from workbench.paper.render import markdown, markdown_rows, per_cent, write_table
from workbench.results.frames import RunFolders


def text_of(made_up: tuple[Grid, Path]) -> str:
    grid, results = made_up
    return markdown(lay_out(evaluated(grid, RunFolders(results))))


def test_the_table_shows_value_spread_n_and_gaps(made_up: tuple[Grid, Path]) -> None:
    lines = text_of(made_up).splitlines()
    assert lines[0] == "## Tiny grid"
    header, rows = lines[2], [line for line in lines if line.startswith("| ")]
    assert [cell.strip() for cell in header.split("|")[1:-1]] == ["mIoU", "n", "val", "testA"]
    default = [cell.strip() for cell in rows[1].split("|")[1:-1]]
    values = [stored.mean_iou(stored.expressions(["val", "testA"], 1000 + seed), "val") for seed in range(5)]
    mean = sum(values) / 5
    spread = (sum((value - mean) ** 2 for value in values) / 4) ** 0.5
    assert default[:2] == ["default !", "5"]
    assert default[2].startswith(f"{100 * mean:.1f} ± {100 * spread:.1f} [")
    assert [cell.strip() for cell in rows[3].split("|")[1:-1]] == ["e_dit !§", "–", "–", "–"]
    assert rows[4].startswith("| l_dit − default | 3 | ")


def test_the_notes_say_what_is_missing_and_who_has_fewer_seeds(made_up: tuple[Grid, Path]) -> None:
    text = text_of(made_up)
    assert "± is the standard deviation over n seeds, and a difference is over the seeds that both have." in text
    assert "* fewer seeds than others: l_dit (3 of 5)." in text
    assert "– not completed: default seed 5 (failed), e_dit seed 0 (not begun)." in text
    assert "| l_dit *§ " in text
    assert "†" not in text


def test_one_seed_is_said_to_be_one(made_up: tuple[Grid, Path]) -> None:
    grid, results = made_up
    text = markdown(lay_out(evaluated(grid, RunFolders(results), seeds=[1])))
    assert "One seed." in text
    assert "±" not in text


def test_other_code_is_marked(made_up: tuple[Grid, Path]) -> None:
    grid, results = made_up
    stored.complete(results, grid.settings["default"], 2, codes=["0123456789ab"])
    text = text_of(made_up)
    assert "| default †! " in text
    assert "† computed by other code than this version's: default." in text


def test_what_refers_to_nothing_is_said_to_be_left_out(made_up: tuple[Grid, Path]) -> None:
    grid, results = made_up
    shown = evaluated(grid, RunFolders(results))
    for frame in shown.expressions.values():
        frame.loc[frame["sent_id"].isin((0, 1)), "no_target"] = True  # of 15 on val
    table = lay_out(shown)
    assert (
        "\n\nWithout the expressions that refer to nothing (2 of 15 on val): mIoU, P@0.5 (IoU > 0.5). gIoU, cIoU, "
        "N-acc, T-acc are in table.csv; the grid's `report: {metrics: [giou, ciou, n_acc, t_acc]}` shows them.\n\n"
    ) in markdown(table)
    assert "15 expressions, 2 of which refer to nothing, code" in explain(table, shown, "default", "val", "miou")
    assert "15 expressions, code" in explain(table, shown, "default", "testA", "miou")
    broken_down = breakdown_text(shown.expressions, "kind", "miou").splitlines()
    assert broken_down[0].endswith("in per cent; expressions that refer to nothing are counted, and not in it")
    named = replace(grid, report=grid.report.model_copy(update={"metrics": ("giou", "n_acc")}))
    assert "refer to nothing" not in markdown(lay_out(replace(shown, grid=named)))


def test_the_files_hold_every_metric_and_their_runs(made_up: tuple[Grid, Path], tmp_path: Path) -> None:
    grid, results = made_up
    markdown_file, table, source = write_table(lay_out(evaluated(grid, RunFolders(results))), tmp_path / "out")
    assert markdown_file.read_text().startswith("## Tiny grid\n")
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["setting"], row["split"], row["metric"]) for row in rows} == {
        (s, split, m) for s in ("default", "l_dit") for split in ("val", "testA")
        for m in ("oiou", "miou", *(f"p{sign}0.{k}" for sign in ("@", ">=") for k in range(5, 10)))
    }  # fmt: skip
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in rows)
    assert {(row["setting"], row["seeds"], row["difference_seeds"]) for row in rows} == {
        ("default", "5", "0"), ("l_dit", "3", "3"),
    }  # fmt: skip
    document = json.loads(source.read_text())
    assert document["seeds"] == {"default": [0, 1, 2, 3, 4], "l_dit": [0, 1, 2], "e_dit": []}
    assert document["runs"]["l_dit"] == [f"{grid.settings['l_dit'].setting_id}/seed{seed}" for seed in range(3)]
    assert [(run["state"], run["message"]) for run in document["incomplete"]] == [("failed", "it broke"), ("new", None)]


def test_rows_are_as_wide_as_their_widest_text() -> None:
    assert markdown_rows([["a", "bbb"], ["cc", "d"]]) == "| a  | bbb |\n|----|-----|\n| cc | d   |"


@pytest.mark.parametrize(("value", "text"), [(0.12345, "12.3"), (None, "–"), (float("nan"), "–")])
def test_a_number_that_is_not_there_is_a_dash(value: float | None, text: str) -> None:
    assert per_cent(value) == text
    assert per_cent(0.05, "+") == "+5.0"

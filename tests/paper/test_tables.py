from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from workbench.grids import Grid
from workbench.paper.tables import make_table
from workbench.results.folders import RunFolder


def test_cells_are_the_runs_metrics_and_a_gap_is_a_dash(trained: tuple[Grid, Path]) -> None:
    grid, results = trained
    table = make_table(grid, results)
    text = table.text()
    records = {
        (run.setting, run.seed): RunFolder.of(results, run.config, run.seed).record().get("metrics")
        for run in grid.runs()
    }
    for setting in ("default", "l_dit"):
        values = [records[setting, seed]["val"]["miou"] for seed in (0, 1)]
        mean = sum(values) / 2
        spread = (sum((v - mean) ** 2 for v in values)) ** 0.5
        line = next(line for line in text.splitlines() if line.startswith(f"| {setting} "))
        assert f"| {100 * mean:.1f} ± {100 * spread:.1f} [" in line
    assert next(line for line in text.splitlines() if line.startswith("| e_dit ")).count("–") == 2
    assert "l_dit − default" in text
    assert "± is the standard deviation over seeds" in text
    assert table.missing == [run.id for run in grid.runs() if run.setting == "e_dit"]
    assert all(name in text for name in table.missing)


def test_the_files_hold_every_metric_and_their_runs(trained: tuple[Grid, Path], tmp_path: Path) -> None:
    grid, results = trained
    markdown, table, source = make_table(grid, results).write(tmp_path)
    assert markdown.read_text().startswith("## Tiny grid\n")
    rows = list(csv.DictReader(table.open()))
    assert {(r["setting"], r["split"], r["metric"]) for r in rows} == {
        (s, split, m) for s in ("default", "l_dit") for split in ("val", "testA")
        for m in ("oiou", "miou", *(f"p{sign}0.{k}" for sign in ("@", ">=") for k in range(5, 10)))
    }  # fmt: skip
    assert all(float(r["low"]) <= float(r["value"]) <= float(r["high"]) for r in rows)
    runs = json.loads(source.read_text())["runs"]
    assert runs["default"] == sorted(run.id for run in grid.runs() if run.setting == "default")


def test_runs_of_other_code_are_flagged(trained: tuple[Grid, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    grid, results = trained
    assert "†" not in make_table(grid, results).text()
    monkeypatch.setattr("workbench.paper.tables.code_digest", lambda: "other")
    text = make_table(grid, results).text()
    assert "| default † " in text
    assert "† trained by other code than this version's: default, l_dit." in text

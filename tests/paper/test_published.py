from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import ROOT
from workbench.grids import load_grid
from workbench.paper.latex import latex
from workbench.paper.layout import Block, TableData
from workbench.paper.page.tables import published_view
from workbench.paper.published import REFERENCE, published
from workbench.paper.render import csv_frame, markdown
from workbench.paper.web import page

GRID = """\
title: t
base: {{data: {{dataset: {dataset}, split_by: {by}}}, training: {{steps: 1}}, evaluation: {{splits: {splits}}}}}
settings: {{a: {{}}}}
report: {{published: {names}, figure_split: val}}
"""


def rows_of(folder: Path, dataset: str, by: str, splits: str, names: str) -> list[object]:
    file = folder / "grid.yaml"
    file.write_text(GRID.format(dataset=dataset, by=by, splits=splits, names=names))
    return list(published(load_grid(file)))


def test_rows_are_those_of_the_grids_data_set_with_the_metric_as_named(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "refcoco", "unc", "[val, testA, testB]", "[LAVT, VLT, 'DIT, released weights']")
    by_metric = {(row.method, row.metric): row for row in rows}  # type: ignore[attr-defined]
    assert ("LAVT", "oIoU") in by_metric
    assert ("LAVT", "mIoU") in by_metric
    assert any(metric == "metric not named" for method, metric in by_metric if method == "VLT")
    released = by_metric["DIT, released weights", "mIoU (inferred: metric not named)"]
    assert set(released.values) == {"val", "testA", "testB"}
    assert all(row.source and row.dataset == "refcoco" for row in rows)  # type: ignore[attr-defined]


def test_refcocog_has_a_name_for_each_of_its_splits(tmp_path: Path) -> None:
    umd, google = (rows_of(tmp_path, "refcocog", by, "[val]", "[LAVT]") for by in ("umd", "google"))
    assert {row.dataset for row in umd} == {"refcocog-umd"}  # type: ignore[attr-defined]
    assert {row.dataset for row in google} == {"refcocog-google"}  # type: ignore[attr-defined]


def test_a_year_is_the_sources_own(tmp_path: Path) -> None:
    names = "[LAVT, MaskRIS, 'DIT, three sets combined', 'DIT, released weights']"
    rows = rows_of(tmp_path, "refcoco", "unc", "[val]", names)
    years = {row.method: row.year for row in rows if "survey" not in row.source.lower()}  # type: ignore[attr-defined]
    assert years == {
        "LAVT": "2022", "MaskRIS": "2024", "DIT, three sets combined": "2024", "DIT, released weights": "2024",
    }  # fmt: skip


def test_every_format_of_a_table_has_them_with_metric_year_and_source(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(GRID.format(dataset="refcoco", by="unc", splits="[val, testA]", names="['DIT, released weights']"))
    block = Block("miou", ("val", "testA"), ())
    table = TableData("t", "grid.yaml", None, (block,), 1, {}, {}, published=published(load_grid(file)))
    expected = [
        "DIT, released weights",
        "not stated",
        "refcoco",
        "mIoU (inferred: metric not named)",
        "76.2",
        "77.85",
        "2024",
    ]
    view = published_view(table)
    assert view is not None
    assert view.rows[0][:-1] == expected
    assert [view.columns[number] for number in view.numbers] == ["val", "testA", "Year"]
    for text in (markdown(table), latex(table, str(file)), page(table, str(file))):
        (line,) = [line for line in text.splitlines() if expected[0] in line]
        assert all(part in line for part in (*expected, "wysnzzzz/DIT"))
    frame = csv_frame(table)
    assert list(frame["split"]) == ["val", "testA"]
    assert list(frame["value"]) == pytest.approx([0.762, 0.7785])
    assert list(frame["year"]) == ["2024", "2024"]


def test_years_agree_with_what_their_sources_say() -> None:
    table = pd.read_csv(REFERENCE, dtype=str, keep_default_na=False)
    assert (table.groupby("source")["year"].nunique() == 1).all()
    assert table["year"].str.fullmatch(r"(20[12]\d)?").all()
    dated = table["source"].str.extract(
        r"\b(20\d\d)-\d\d-\d\d\b|arxiv\W(?:\S*/)?(\d\d)(?:0[1-9]|1[0-2])\.\d{4,5}", re.I
    )
    said = dated[0].fillna("20" + dated[1])
    assert said.notna().any()
    assert (table["year"][said.notna()] == said[said.notna()]).all()


def test_a_number_whose_split_is_not_named_stands_in_no_column(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "refcoco", "unc", "[val, testA]", "[default SAM]")
    assert (row.metric, row.values) == ("metric not named, 55.7 on a split not named", {})  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["fusion_schemes", "comparison", "gres", "combined"])
def test_what_the_grids_ask_for_is_there(name: str) -> None:
    grid = load_grid(ROOT / "ablations" / f"{name}.yaml")
    found = published(grid)
    assert {row.method for row in found} == set(grid.report.published)
    assert all(row.year and row.source for row in found)


def test_of_several_data_sets_each_split_has_its_own_numbers(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    listed = "[refcoco, {dataset: refcocog, split_by: umd}]"
    splits = "[refcoco/val, refcocog/val, refcocog/test]"
    file.write_text(
        f"title: t\nbase: {{data.dataset: {listed}, evaluation.splits: {splits}, training.steps: 1}}\n"
        "settings: {a: {}}\n"
        "report: {published: ['DIT, three sets combined'], figure_split: refcoco/val}\n"
    )
    rows = published(load_grid(file))
    assert [row.dataset for row in rows] == ["refcoco", "refcocog-umd"]
    assert [list(row.values) for row in rows] == [["refcoco/val"], ["refcocog/val", "refcocog/test"]]


def test_every_published_number_has_a_source_and_none_is_in_the_code() -> None:
    table = pd.read_csv(REFERENCE, dtype=str, keep_default_na=False)
    assert (table["source"].str.len() > 5).all()
    assert table["value"].astype(float).between(0, 100).all()
    methods = {name for name in table["method"] if len(name) > 4}
    code = "\n".join(file.read_text() for file in (ROOT / "workbench" / "paper").rglob("*.py"))
    assert [name for name in methods if name in code] == []

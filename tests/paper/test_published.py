from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from tests.conftest import ROOT
from workbench.grids import load_grid
from workbench.paper.published import REFERENCE, published

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
        "LAVT": "2022", "MaskRIS": "2024", "DIT, three sets combined": "2024", "DIT, released weights": None,
    }  # fmt: skip


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

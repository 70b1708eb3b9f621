from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.stored import expressions
from workbench.results.expressions import read_expressions, write_expressions
from workbench.validation import DamagedFile


def test_what_is_written_is_read(tmp_path: Path) -> None:
    frame = expressions(["val", "testA"], 0)
    write_expressions(tmp_path / "e.parquet", frame)
    pd.testing.assert_frame_equal(read_expressions(tmp_path / "e.parquet", ""), frame, check_dtype=False)
    assert [file.name for file in tmp_path.iterdir()] == ["e.parquet"]


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("ref_id", None, "ref_id: is required"),
        ("split", None, "split: is required"),
        ("split", 7, "split: a column of texts is expected, not int64"),
        ("intersection", "many", "intersection: a column of whole numbers is expected, not"),
        ("sentence", float("nan"), "sentence: a column of texts is expected"),
        ("union", 2.5, "union: a column of whole numbers is expected, not float64"),
        ("intersection", -1, "intersection: an area from 0 to the union's is expected"),
        ("intersection", 10**6, "intersection: an area from 0 to the union's is expected"),
        ("sent_id", 3, "sent_id: an expression stands twice"),
        ("no_target", 0.5, "no_target: a column of booleans is expected, not float64"),
        ("predicted_area", "big", "predicted_area: a column of whole numbers is expected"),
        ("image_id", None, "image_id: is required"),
    ],
)
def test_a_wrong_column_is_named(tmp_path: Path, column: str, values: object, words: str) -> None:
    frame, file = expressions(["val"], 0), tmp_path / "e.parquet"
    frame = frame.drop(columns=column) if values is None else frame.assign(**{column: values})
    frame.to_parquet(file)
    with pytest.raises(DamagedFile) as raised:
        read_expressions(file, "evaluate the run again")
    assert str(raised.value).startswith(f"{file}: damaged ({words}")
    assert raised.value.field == column


def test_each_flipped_byte_is_found_or_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "e.parquet"
    frame = expressions(["val"], 0)[["split", "image_id", "ref_id", "sent_id", "sentence", "height", "width",
                                      "intersection", "union"]]  # fmt: skip
    write_expressions(file, frame)
    content = file.read_bytes()
    found = 0
    for place in range(4, len(content), 41):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            read = read_expressions(file, "")
        except DamagedFile:
            found += 1
        else:
            kept = [name for name in frame if name in read]
            assert kept == list(frame)
            pd.testing.assert_frame_equal(read[kept], frame, check_dtype=False)
    assert found > 20


def test_a_file_that_ends_early_is_named(tmp_path: Path) -> None:
    file = tmp_path / "e.parquet"
    write_expressions(file, expressions(["val"], 0))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DamagedFile, match=r"e\.parquet: damaged \(.*; again"):
        read_expressions(file, "again")

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from workbench.results.folders import RunFolder
from workbench.results.index import INDEX, indexed_rows


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for number in range(3):
        RunFolder(tmp_path, f"a-b/seed{number}").update(state="running")
    return tmp_path


class Reader:
    """Rows of a run, and which runs were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, run: str) -> list[dict[str, Any]]:
        self.asked.append(run)
        return [{"run": run, "value": int(run[-1])}]


def values(frame: pd.DataFrame) -> dict[str, int]:
    return dict(zip(frame["run"], frame["value"], strict=True))


def test_a_record_is_read_again_only_when_it_changed(results: Path) -> None:
    reader = Reader()
    assert values(indexed_rows(results, reader, ["run"])) == {"a-b/seed0": 0, "a-b/seed1": 1, "a-b/seed2": 2}
    reader.asked.clear()
    indexed_rows(results, reader, ["run"])
    assert reader.asked == []
    RunFolder(results, "a-b/seed2").update(state="failed")
    (results / "runs" / "a-b" / "seed0" / "run.json").unlink()
    assert set(values(indexed_rows(results, reader, ["run"]))) == {"a-b/seed1", "a-b/seed2"}
    assert reader.asked == ["a-b/seed2"]


@pytest.mark.parametrize("damage", ["text", "truncated", "flipped", "other columns", "a folder"])
def test_a_damaged_index_is_made_again(results: Path, damage: str) -> None:
    expected = values(indexed_rows(results, Reader(), ["run"]))
    file = results / INDEX
    content = file.read_bytes()
    if damage == "text":
        file.write_bytes(b"not a parquet file")
    elif damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        file.write_bytes(bytes([*content[:60], content[60] ^ 0xFF, *content[61:]]))
    elif damage == "other columns":
        pd.DataFrame({"run": [1]}).to_parquet(file)
    else:
        file.unlink()
        file.mkdir()
    assert values(indexed_rows(results, Reader(), ["run"])) == expected


def test_no_results_have_no_rows_and_other_folders_are_passed_over(tmp_path: Path) -> None:
    assert indexed_rows(tmp_path / "nothing", Reader(), ["run"]).empty
    RunFolder(tmp_path, "a-b/seed0").update(state="running")
    (tmp_path / "runs" / "notes.txt").write_text("x")
    (tmp_path / "runs" / "a-b" / "seedX").mkdir()
    assert list(indexed_rows(tmp_path, Reader(), ["run"])["run"]) == ["a-b/seed0"]

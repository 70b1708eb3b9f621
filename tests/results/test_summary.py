from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests import stored
from workbench.config import RunConfig
from workbench.results.expressions import write_expressions
from workbench.results.folders import StoreError
from workbench.results.frames import RunFolders, runs_frame
from workbench.results.summary import Summary, source_of, write_summary
from workbench.validation import DamagedFile


@pytest.fixture
def kept(tmp_path: Path, make_config: Callable[..., RunConfig]) -> Path:
    folder = stored.complete(tmp_path, make_config(), 0)
    source = RunFolders(tmp_path)
    write_summary(tmp_path / "kept", runs_frame(source), {folder.name: source.expressions(folder.name)})
    return tmp_path / "kept"


def test_what_was_there_before_is_replaced_as_a_whole(kept: Path) -> None:
    (kept / "expressions" / "old.parquet").write_text("x")
    write_summary(kept, Summary(kept).runs(), {})
    assert sorted(path.name for path in kept.rglob("*")) == ["expressions", "runs.parquet"]
    assert [path.name for path in kept.parent.iterdir() if path.name.startswith(".")] == []


def test_a_folder_that_is_no_summary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is no summary: it has no runs\.parquet; make one with: workbench summarise"):
        source_of(tmp_path, tmp_path / "nothing")
    assert isinstance(source_of(tmp_path, None), RunFolders)


def test_nothing_but_a_summary_is_replaced(kept: Path) -> None:
    runs = Summary(kept).runs()
    for folder in (kept.parent, kept.parent / "runs"):
        before = sorted(kept.parent.rglob("*"))
        with pytest.raises(StoreError, match=r"is no summary, and would be replaced; name another folder"):
            write_summary(folder, runs, {})
        assert sorted(kept.parent.rglob("*")) == before
    (kept.parent / "empty").mkdir()
    write_summary(kept.parent / "empty", runs, {})
    assert len(Summary(kept.parent / "empty").runs()) == len(runs)


def test_rows_that_are_lost_are_missed(kept: Path) -> None:
    (file,) = (kept / "expressions").iterdir()
    run = str(Summary(kept).runs()["run"][0])
    write_expressions(file, pd.read_parquet(file).iloc[:-1])
    with pytest.raises(DamagedFile, match=r"split: 14 expressions of val, but .*runs\.parquet counts 15"):
        Summary(kept).expressions(run)


def test_damage_names_the_file(kept: Path) -> None:
    runs = kept / "runs.parquet"
    frame = pd.read_parquet(runs)
    frame.drop(columns="state").to_parquet(runs)
    with pytest.raises(DamagedFile, match=r"runs\.parquet: damaged \(state: is required\); make the summary again"):
        Summary(kept).runs()
    frame.assign(run="no run").to_parquet(runs)
    with pytest.raises(DamagedFile, match=r"runs\.parquet: damaged \('no run' is no run id"):
        Summary(kept).runs()
    frame.assign(seed="x").to_parquet(runs)
    with pytest.raises(DamagedFile, match=r"runs\.parquet: damaged"):
        Summary(kept).runs()
    frame.to_parquet(runs)
    (run,) = frame["run"].unique()
    next((kept / "expressions").iterdir()).unlink()
    with pytest.raises(DamagedFile, match="it is missing"):
        Summary(kept).expressions(run)

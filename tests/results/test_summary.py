from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests import stored
from workbench.config import RunConfig
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

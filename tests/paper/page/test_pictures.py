"""The figures in the report: how many pages they have, and which have no room."""

from pathlib import Path

import pytest
from PIL import Image

from workbench.grids import Grid
from workbench.grids.evaluated import evaluated
from workbench.paper.page import pictures as module
from workbench.results.frames import RunFolders


def test_a_figure_says_how_many_pages_it_has_and_one_without_room_is_named(
    study: tuple[Grid, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, results = study
    files = [tmp_path / "bars.png", tmp_path / "bars-2.png", tmp_path / "bars.pdf"]
    for file in files[:2]:
        Image.new("RGB", (20, 10)).save(file)
    monkeypatch.setattr(module, "figures", {"bars": module.figures["bars"]})
    monkeypatch.setattr(module, "current_files", lambda *arguments, **options: files)
    stored = evaluated(grid, RunFolders(results))
    [drawn], missing = module.pictures(stored, results, from_summary=False, parts=1)
    assert drawn.caption.endswith(" Page 1 of 2; all are in bars.pdf.")
    assert missing == []
    monkeypatch.setattr(module, "FIGURE_BYTES", 10)
    drawn_without_room, missing = module.pictures(stored, results, from_summary=False, parts=1)
    assert drawn_without_room == []
    assert missing == [f"Figure bars: too large for this page; it is {tmp_path.name}/bars.png."]

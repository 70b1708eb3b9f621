"""From a class to a table row, with a variant that the package does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.conftest import ROOT
from workbench.errors import WorkbenchError
from workbench.grids import load_grid
from workbench.models.fusion.base import BlockInput, Fusion, variants
from workbench.paper.trial import Trial, register
from workbench.results.folders import RunFolder


class Silent(Fusion):
    """Words of zeros."""

    rule = "t = 0"

    def __init__(self, config: Any, layers: tuple[int, ...], sizes: Any) -> None:
        super().__init__(config, layers, sizes)
        self.one_width("all blocks have one width here")

    def tokens(self, block: BlockInput) -> Tensor:
        width = self.widths[block.layer]
        return block.text.new_zeros(*block.text.shape[:2], width)


class Broken(Silent):
    def tokens(self, block: BlockInput) -> Tensor:
        raise WorkbenchError("no tokens today")


@pytest.fixture(autouse=True)
def _forget() -> Any:
    yield
    variants._things.pop("silent", None)  # type: ignore[attr-defined]


@pytest.mark.exhaustive
def test_a_class_becomes_a_row_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    trial = Trial(Silent, "silent", against=("default",))
    sizes = trial.sizes().data.set_index("variant")
    assert sizes.loc["silent", ["rule", "weights"]].tolist() == ["t = 0", 0]
    assert trial.results.grid.settings["silent"].machine.data_root.is_relative_to(trial.file.parent)
    runs = trial.train()
    assert runs["state"].tolist() == ["completed"] * 2
    text = trial.results.table().data
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows == ["mIoU", "default", "silent §", "silent − default"], "§: it costs more"
    config = trial.results.grid.settings["silent"]
    assert RunFolder.of(trial.results.results, config, 1).record().state == "completed"
    assert config.training.steps == 6
    folder = trial.file.parent
    trial.close()
    assert not folder.exists()


def test_full_is_the_miniature_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    trial = Trial(Silent, "silent", against=("l_dit",), full=True, seeds=(1, 2))
    ids = {config.setting_id for config in load_grid(ROOT / "ablations" / "demo.yaml").settings.values()}
    assert trial.results.grid.settings["l_dit"].setting_id in ids
    assert trial.results.grid.seeds == (1, 2)


def test_a_cell_that_is_run_again_replaces_its_class_but_not_the_packages() -> None:
    register("silent", Silent)
    register("silent", Broken)
    assert variants["silent"] is Broken
    with pytest.raises(WorkbenchError, match="l_dit is one of the package's own variants"):
        register("l_dit", Silent)


def test_a_variant_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    trial = Trial(Broken, "silent", against=("default",))
    assert trial.train().data == "**Not available:** silent seed 1: no tokens today"
    assert Path(trial.file).is_file()

from __future__ import annotations

import csv
import json
from pathlib import Path

from tests import stored
from workbench.grids import Grid, load_grid
from workbench.grids.evaluated import evaluated
from workbench.grids.tuning import Choice, Trial
from workbench.paper.layout import lay_out
from workbench.paper.render import notes, write_table
from workbench.paper.tuned import NOT_TUNED, of_tuning, tuned
from workbench.results.frames import RunFolders

TUNE = "tune: {field: training.optimizer.learning_rate, values: [1.0e-3, 2.0e-3], seeds: 7}\n"


def test_a_grid_without_tuning_says_so(made_up: tuple[Grid, Path], tmp_path: Path) -> None:
    grid, results = made_up
    table = lay_out(evaluated(grid, RunFolders(results)))
    assert "Not tuned: every setting has the values that the grid states." in notes(table)
    _, csv_file, json_file = write_table(table, tmp_path / "out")
    with csv_file.open() as stream:
        assert {row["tuned"] for row in csv.DictReader(stream)} == {"not tuned"}
    assert json.loads(json_file.read_text())["tuning"] is None


def test_a_setting_that_waits_for_its_trials_has_no_numbers_whatever_ran_before(made_up: tuple[Grid, Path]) -> None:
    grid, results = made_up
    grid.file.write_text(grid.file.read_text() + TUNE)
    waiting = load_grid(grid.file)
    assert waiting.tuning is not None
    choices = {}
    for name in ("default", "e_dit"):
        trials = [
            {"values": values, "runs": (f"{config.setting_id}/seed7",), "score": 0.4 + place / 10}
            for place, (values, config) in enumerate(
                zip(waiting.tuning.config.points, waiting.tuning.trials(name).values(), strict=True)
            )
        ]
        choices[name] = Choice(
            untuned=grid.settings[name].setting_id,
            values=waiting.tuning.config.points[1],
            trials=tuple(Trial(**trial) for trial in trials),
        )
    half = waiting.with_choices(choices)
    stored.complete(results, half.settings["default"], 0)
    table = lay_out(evaluated(half, RunFolders(results)))
    assert table.seeds == {"default": (0,), "l_dit": (), "e_dit": ()}
    assert "– not completed: l_dit (waits for its trials), e_dit seed 0 (not begun)." in "\n".join(notes(table))
    assert tuned(half.tuning, "default") == "learning_rate=0.002, of 2 trials"
    assert tuned(half.tuning, "l_dit") == NOT_TUNED
    how, chosen = of_tuning(half.tuning, {"default": "SAM"})
    assert how == "Tuned by mIoU on val alone, 2 trials for each setting (learning_rate 0.001, 0.002; seed 7)."
    assert chosen.endswith(
        "in their order: SAM learning_rate=0.002 (40.0, 50.0); e_dit learning_rate=0.002 (40.0, 50.0)."
    )

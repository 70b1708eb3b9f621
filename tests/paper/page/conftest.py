"""A small study with real images and masks, whose predictions are the referents' masks moved aside: no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests import stored
from workbench.data import masks
from workbench.data.datasets import open_dataset
from workbench.data.language import expression_kind
from workbench.data.loading import ReferringDataset
from workbench.grids import Grid, load_grid
from workbench.grids.evaluated import evaluated
from workbench.paper.page import page_html, part_of
from workbench.results.frames import RunFolders
from workbench.results.provenance import code_digest

SENTENCES = (
    "<script>document.title = 'changed'</script>",
    '"><img src=x onerror="document.title=\'changed\'">',
    "the 'red' \"circle\" & </li></script><!-- {{ 7 * 7 }}",
    "الدائرة الحمراء على اليمين",
    "\u202ereversed\u0007",
)
SHIFT = {"default": 3, "e_dit": 2, "l_dit": 1}
"""By how many pixels a setting's predictions are wrong; a seed adds as many."""
GRID = (
    "title: 'Words & <masks>'\nbase:\n"
    "  data: {{recipe: {{seed: 3, train_images: 40, eval_images: 6}}}}\n"
    "  training: {{steps: 6, batch_size: 4}}\n"
    "  evaluation: {{splits: [val, testA]}}\n"
    "  machine: {{data_root: '{root}', trackers: [], threads: 1}}\n"
    "settings: {{default: {{}}, e_dit: {{fusion.variant: e_dit}}, l_dit: {{fusion.variant: l_dit}}}}\n"
    "seeds: [0, 1, 2]\nbaseline: default\nreport: {{metrics: [miou, p@0.5], examples: 2}}\n"
)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> tuple[Grid, Path]:
    """Three settings of three seeds; but of l_dit seed 1 failed, and seed 2 has not begun."""
    results = tmp_path_factory.mktemp("report")
    file = results / "study.yaml"
    file.write_text(GRID.format(root=data_root))
    grid = load_grid(file)
    for setting, shift in SHIFT.items():
        for seed in grid.seeds if setting != "l_dit" else (0,):
            complete(results, grid, setting, seed, shift + seed)
    stored.fail(results, grid.settings["l_dit"], 1, "CUDA out of memory <at step 3>")
    return grid, results


@pytest.fixture(scope="session")
def page(study: tuple[Grid, Path]) -> bytes:
    """The report on it."""
    return made(*study)


def made(grid: Grid, results: Path) -> bytes:
    """The report on a grid's run folders."""
    return page_html([part_of(0, 1, evaluated(grid, RunFolders(results)), results)])


def complete(results: Path, grid: Grid, setting: str, seed: int, shift: int) -> None:
    """A completed run of a setting; its predictions are `shift` pixels too far to the right."""
    config = grid.settings[setting]
    folder = stored.complete(results, config, seed, seconds=1800.0, gpu_hours=0.0)
    data = open_dataset(config)
    frame = pd.concat([moved(ReferringDataset(data, split, 64, config.data), shift) for split in grid.splits])
    counts = {split: {"expressions": int(count)} for split, count in frame["split"].value_counts().items()}
    origin = {
        "code": code_digest(),
        "commit": "0123456789abcdef",
        "packages": {"torch": "2.11.0"},
        "device": "cpu (x86_64)",
    }
    folder.update(metrics=counts, provenance=origin)
    folder.write_expressions(frame.reset_index(drop=True))
    with folder.claim() as log:
        for step in (8, 10, 12):
            log.write("step", step=step, loss=4 / step)
            log.write("validate", step=step, metric="miou", value=step / 20)


def moved(dataset: ReferringDataset, shift: int) -> pd.DataFrame:
    """Evaluated expressions of a split, as a run stores them, with hostile sentences."""
    rows: list[dict[str, Any]] = []
    for number, expression in enumerate(dataset.expressions):
        truth = dataset.mask(expression)
        predicted = np.roll(truth, shift, axis=1)
        both, either = int((truth & predicted).sum()), int((truth | predicted).sum())
        rows.append(
            {
                "split": expression.split, "image_id": expression.image_id, "ref_id": expression.ref_id,
                "ann_id": expression.ann_ids[0], "sent_id": expression.sent_id,
                "sentence": SENTENCES[number % len(SENTENCES)], "category": expression.category,
                "kind": expression_kind(expression.sentence), "targets": 1, "no_target": False, "distractors": 0,
                "height": expression.height, "width": expression.width, "target_area": int(truth.sum()),
                "intersection": both, "union": either, "predicted_area": int(predicted.sum()), "iou": both / either,
                "prediction": masks.encode(predicted).decode(),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.data import fixtures
from workbench.data import masks
from workbench.data.datasets import find
from workbench.data.loading import Expressions
from workbench.data.readers import read
from workbench.data.tables import ReferData
from workbench.errors import DataError
from workbench.evaluation.metrics import summarise
from workbench.evaluation.predictions import score_predictions, store_scores
from workbench.results.folders import RunFolder, StoreError
from workbench.results.scored import ScoredFolder
from workbench.validation import DamagedFile


@pytest.fixture
def data(tmp_path: Path) -> ReferData:
    return read(find(fixtures.write_grefcoco(tmp_path), "grefcoco", "unc"))


def perfect(data: ReferData, split: str) -> list[dict[str, Any]]:
    return [
        {"sent_id": e.sent_id, "segmentation": {"size": [e.height, e.width], "counts": e.rle.decode()}}
        for e in Expressions(data, split)
    ]


def written(tmp_path: Path, predictions: Any) -> Path:
    file = tmp_path / "predictions.json"
    file.write_text(json.dumps(predictions))
    return file


def test_the_truth_scores_one_in_every_metric(tmp_path: Path, data: ReferData) -> None:
    frame = score_predictions(data, written(tmp_path, perfect(data, "val") + perfect(data, "testA")))
    assert list(dict.fromkeys(frame["split"])) == ["val", "testA"], "the splits that the file speaks of"
    for _, part in frame.groupby("split"):
        assert set(summarise(part).values()) == {1.0}
        assert "n_acc" in summarise(part)


def test_every_way_to_write_a_mask_counts_the_same(tmp_path: Path, data: ReferData) -> None:
    expression = Expressions(data, "val")[0]
    mask = fixtures.mask_of(6, 6, 10)
    forms: list[Any] = [
        fixtures.compressed(mask),
        fixtures.plain_rle(mask),
        [fixtures.square(6, 6, 10)],
    ]
    truth = masks.decode(expression.rle, *fixtures.SIZE)
    for form in forms:
        predictions = perfect(data, "val")
        predictions[0]["segmentation"] = form
        row = score_predictions(data, written(tmp_path, predictions)).set_index("sent_id").loc[expression.sent_id]
        assert (row["intersection"], row["union"]) == ((mask & truth).sum(), (mask | truth).sum())


def test_null_answers_that_nothing_is_meant_and_so_does_a_small_mask(tmp_path: Path, data: ReferData) -> None:
    predictions = perfect(data, "val")
    small = fixtures.compressed(fixtures.mask_of(0, 0, 7))
    nothing = {e.sent_id for e in Expressions(data, "val") if not e.ann_ids}
    for item in predictions:
        if item["sent_id"] in nothing:
            item["segmentation"] = small
    file = written(tmp_path, predictions)
    assert [summarise(score_predictions(data, file, ["val"], area))["n_acc"] for area in (0, 49, 50)] == [0.0, 0.0, 1.0]
    for item in predictions:
        item["segmentation"] = None
    found = summarise(score_predictions(data, written(tmp_path, predictions)))
    assert (found["n_acc"], found["t_acc"], found["miou"], found["oiou"]) == (1.0, 0.0, 0.0, 0.0)
    assert found["giou"] == pytest.approx(2 / 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop(3), r"no prediction of 1 of 16 expressions of val: val sent_id \d+; a segmentation of null"),
        (lambda p: p.append(p[2]), r"\[16\]: sent_id \d+ has a prediction already, at \[2\]"),
        (
            lambda p: p.append({"sent_id": 99999, "segmentation": None}),
            r"1 prediction of no expression of grefcoco, the first at \[16\]",
        ),
        (lambda p: p[1].update(segmentation={"size": [64, 48], "counts": "abc"}), r"\[1\] \(sent_id .*its size is"),
        (lambda p: p[1].update(sent_id="7"), r"\[1\]: an object with sent_id \(a whole number\)"),
        (lambda p: p[1].pop("segmentation"), r"\[1\]: an object with sent_id"),
        (lambda p: p.clear(), "none of its sent_ids occurs in grefcoco"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, data: ReferData, change: Any, message: str) -> None:
    predictions = perfect(data, "val")
    change(predictions)
    with pytest.raises(DataError, match=message):
        score_predictions(data, written(tmp_path, predictions))


def test_a_sent_id_that_stands_twice_needs_its_referent(tmp_path: Path) -> None:
    folder = fixtures.write_grefcoco(tmp_path)
    grefs = json.loads((folder / "grefs(unc).json").read_text())
    of_val = [ref for ref in grefs if ref["split"] == "val"]
    of_val[0]["sentences"][0]["sent_id"] = of_val[1]["sentences"][0]["sent_id"]
    (folder / "grefs(unc).json").write_text(json.dumps(grefs))
    data = read(find(folder, "grefcoco", "unc"))
    with pytest.raises(DataError, match="has a prediction already"):
        score_predictions(data, written(tmp_path, perfect(data, "val")))
    named = [
        item | {"ref_id": e.ref_id} for item, e in zip(perfect(data, "val"), Expressions(data, "val"), strict=True)
    ]
    assert set(summarise(score_predictions(data, written(tmp_path, named))).values()) == {1.0}


def test_scores_are_kept_under_a_name_and_not_written_over_by_others(tmp_path: Path, data: ReferData) -> None:
    file = written(tmp_path, perfect(data, "val"))
    folder = ScoredFolder(tmp_path / "results", "LAVT")
    assert not folder.exists()
    frame = score_predictions(data, file)
    metrics = store_scores(folder, data, "unc", file, frame, 0)
    assert folder.record().metrics == metrics == {"val": {"expressions": 16, **summarise(frame)}}
    assert folder.record().dataset == {"name": "grefcoco", "split_by": "unc", "sha256": data.digest}
    store_scores(folder, data, "unc", file, frame, 0)
    file.write_text(json.dumps(perfect(data, "testA")))
    with pytest.raises(StoreError, match=r"holds scores of another predictions, .* choose another --name"):
        store_scores(folder, data, "unc", file, score_predictions(data, file), 0)
    file.write_text(json.dumps(perfect(data, "val")))
    with pytest.raises(StoreError, match=r"holds scores of another no_target_area, 0; choose"):
        store_scores(folder, data, "unc", file, frame, 50)
    with pytest.raises(StoreError, match=r"holds scores of other splits; choose"):
        store_scores(folder, data, "unc", file, frame.assign(split="testA"), 0)
    assert folder.record().metrics == metrics
    (folder.path / "score.json").write_text("{")
    with pytest.raises(DamagedFile, match=r"score\.json: damaged .* remove its folder"):
        store_scores(folder, data, "unc", file, frame, 0)


def test_a_run_s_own_masks_score_as_the_run_did_and_enter_its_table(
    tmp_path: Path, grid_file: Callable[..., Path], data_root: Path, data_folder: Path, workbench: Callable[..., Any]
) -> None:
    grid = grid_file("settings: {default: {}}\nbaseline: default\nreport: {metrics: [miou, oiou]}\n")
    results = tmp_path / "results"
    assert workbench("train", grid, "--setting", "default", "--results", results).code == 0
    run = next((results / "runs").glob("*/seed0"))
    frame = RunFolder(results, f"{run.parent.name}/seed0").expressions()
    predictions = [
        {"sent_id": int(r.sent_id), "segmentation": {"size": [int(r.height), int(r.width)], "counts": r.prediction}}
        for r in frame.itertuples()
    ]
    name = data_folder.name
    # Another file name is another set of predictions, only worse: every mask of val emptied.
    file = written(tmp_path, predictions)
    arguments = ("evaluate", "--predictions", file, "--dataset", name, "--root", data_root, "--results", results)
    scored = workbench(*arguments, "--name", "same", "--json")
    assert scored.code == 0, scored.err
    metrics = json.loads((run / "run.json").read_text())["metrics"]
    assert json.loads(scored.out) == metrics
    shown = workbench(*arguments, "--split", "val", "--by", "kind", "--by", "size")
    assert shown.code == 0, shown.err
    assert shown.out.splitlines()[0].split()[-1] == "val", "what the file says of other splits is left aside"
    for text in ("mIoU by kind of words", "attribute", "mIoU by size of the referent", "2–10 %", "P@0.5 (IoU ≥ 0.5)"):
        assert text in shown.out

    grid.write_text(grid.read_text().replace("[miou, oiou]", "[miou, oiou], models: [same]"))
    table = workbench("table", grid, "--by", "length", "--results", results)
    assert table.code == 0, table.err
    by_length = (results / "grid" / "table-by-length.md").read_text().splitlines()
    assert by_length[2].replace(" ", "") == "|split|lengthoftheexpression|expressions|default|same|"
    cells = [[cell.strip() for cell in line.split("|")[4:6]] for line in by_length[4:]]
    assert all(own == same for own, same in cells)
    lines = [line.replace(" ", "") for line in table.out.splitlines()]
    own = [line.split("|", 2)[2] for line in lines if line.startswith("|default|")]
    same = [line.split("|", 2)[2] for line in lines if line.startswith("|same‡|")]
    assert own == same
    assert len(own) == 2, "a row a metric"
    assert any(line.startswith("|same−default|1|+0.0") for line in lines)
    assert "predictions made elsewhere, scored by this code: same (predictions.json, SHA-256" in table.out
    assert (results / "grid" / "table-by-length.md").is_file()
    assert json.loads((results / "grid" / "table.json").read_text())["scored"].keys() == {"same"}

    other = grid.read_text().replace("seed: 3", "seed: 4")
    grid.write_text(other)
    assert workbench("train", grid, "--setting", "default", "--results", results).code == 0
    refused = workbench("table", grid, "--results", results)
    assert refused.code == 2
    assert "'same' was scored on another val than the runs of 'default'" in refused.err


def test_coco_s_own_masks_agree(data: ReferData) -> None:
    """Areas from RLE against areas from arrays."""
    rng = np.random.default_rng(0)
    for expression in Expressions(data, "train"):
        predicted = (rng.random(fixtures.SIZE) < 0.3).astype(np.uint8)
        counts = coco_mask.encode(np.asfortranarray(predicted))["counts"]
        truth = masks.decode(expression.rle, *fixtures.SIZE)
        assert masks.areas_of(counts, expression.rle, *fixtures.SIZE) == (
            (predicted & truth).sum(),
            (predicted | truth).sum(),
        )

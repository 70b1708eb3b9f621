"""Scoring anybody's masks: predictions in COCO's RLE, keyed by expression, measured as our own are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.data import masks
from workbench.data.loading import Expressions
from workbench.data.readers.items import read_json
from workbench.data.tables import ReferData
from workbench.errors import DataError, shown
from workbench.evaluation.metrics import summarise
from workbench.evaluation.scoring import ORDER, score
from workbench.files import digest_of
from workbench.results.folders import ScoredFolder, StoreError
from workbench.results.provenance import code_digest

SHOWN = 3
Progress = Callable[[int, int], None]


def score_predictions(
    data: ReferData,
    file: Path,
    splits: Sequence[str] = (),
    no_target_area: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Score a file of predictions.

    Args:
        file: JSON, a list of {"sent_id": …, "segmentation": …}, the latter COCO's RLE (compressed or not) or polygons
            at the image's original size, or null for "nothing is meant". Where a sent_id stands twice in the data
            set, "ref_id" tells which is meant.
        splits: to be scored, whatever else the file holds; empty: all that it speaks of.
        no_target_area: masks of fewer pixels count as "nothing is meant".
        progress: called with (expressions scored, expressions in all).

    Returns:
        One row an expression, see `workbench.evaluation.scoring.score`.

    Raises:
        DataError: an expression without a prediction or with two, a prediction of none, or a broken mask.
    """
    given = _read(file)
    every = {split: Expressions(data, split) for split in dict.fromkeys([*splits, *data.splits])}
    chosen = list(splits) or _spoken_of(every, given)
    if not chosen:
        raise DataError(f"{file}: none of its sent_ids is one of {data.name}'s")
    keys = {split: list(zip(*(every[split].column(c).tolist() for c in ("ref_id", "sent_id")), strict=True))
            for split in chosen}  # fmt: skip
    total, used = sum(map(len, keys.values())), set()
    ambiguous = _twice([sent_id for split in chosen for _, sent_id in keys[split]])
    missing: list[str] = []
    rows: list[dict[str, Any]] = []
    for split in chosen:
        for index, (ref_id, sent_id) in enumerate(keys[split]):
            key = (ref_id, sent_id) if (ref_id, sent_id) in given else (None, sent_id)
            if key not in given or (key[0] is None and sent_id in ambiguous):
                missing.append(f"{split} sent_id {sent_id}" + (f", ref_id {ref_id}" if sent_id in ambiguous else ""))
                continue
            used.add(key)
            expression = every[split][index]
            where, segmentation = given[key]
            try:
                parts = [] if segmentation in (None, []) else [segmentation]
                rles = [masks.to_rle(part, expression.height, expression.width) for part in parts]
            except DataError as error:
                raise DataError(f"{file}: {where} (sent_id {sent_id}, {expression.file_name}): {error}") from None
            rows.append(score(expression, masks.union(rles, expression.height, expression.width), no_target_area))
            if progress and (len(rows) % 200 == 0 or len(rows) == total):
                progress(len(rows), total)
    if missing:
        first = "; ".join(missing[:SHOWN])
        raise DataError(
            f"{file}: {len(missing)} of {total} expressions of {', '.join(chosen)} have no prediction: {first}"
            f"{'; …' if len(missing) > SHOWN else ''}. null as the segmentation answers that nothing is meant"
        )
    elsewhere = {int(i) for split, part in every.items() if split not in chosen for i in part.column("sent_id")}
    if left := [where for key, (where, _) in given.items() if key not in used and key[1] not in elsewhere]:
        raise DataError(f"{file}: {len(left)} predictions are of no expression of {data.name}, the first at {left[0]}")
    frame = pd.DataFrame(rows)
    parts = [part.sort_values(ORDER) for _, part in frame.groupby("split", sort=False)]
    ordered: pd.DataFrame = pd.concat(parts, ignore_index=True)
    return ordered


def metrics_of(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """By split: how many expressions, and the metrics."""
    return {
        str(split): {"expressions": len(part), **summarise(part)} for split, part in frame.groupby("split", sort=False)
    }


def store_scores(
    folder: ScoredFolder, data: ReferData, split_by: str, file: Path, frame: pd.DataFrame, no_target_area: int
) -> dict[str, dict[str, float]]:
    """Keep scores under a model's name, where a grid's `report.models` finds them.

    Returns:
        The metrics by split.

    Raises:
        StoreError: the name holds other scores already, of another file, data set, split or no-target area; or what it
            holds is damaged.
    """
    metrics = metrics_of(frame)
    record: dict[str, Any] = {
        "name": folder.name,
        "dataset": {"name": data.name, "split_by": split_by, "sha256": data.digest},
        "predictions": {"file": file.name, "sha256": digest_of(file)},
        "no_target_area": no_target_area,
        "metrics": metrics,
        "code": code_digest(),
        "made": time.time(),
    }
    before = folder.record() if folder.exists() else record
    for what in ("dataset", "predictions", "no_target_area"):
        if before.get(what) != record[what]:
            raise StoreError(
                f"{folder.path} holds scores of another {what}, {before.get(what)}; choose another --name, or remove it"
            )
    if {*before["metrics"]} != {*metrics}:
        raise StoreError(f"{folder.path} holds scores of other splits; choose another --name, or remove it")
    folder.write(record, frame)
    return metrics


def _read(file: Path) -> dict[tuple[int | None, int], tuple[str, Any]]:
    """Where each prediction stands and its segmentation, by (ref_id or None, sent_id)."""
    if not file.is_file():
        raise DataError(f"missing file {file}")
    document = read_json(file)
    if not isinstance(document, list):
        raise DataError(f"{file}: a list of predictions is expected, not {type(document).__name__}")
    found: dict[tuple[int | None, int], tuple[str, Any]] = {}
    for i, item in enumerate(document):
        if not isinstance(item, dict) or type(item.get("sent_id")) is not int or "segmentation" not in item:
            raise DataError(f"{file}: [{i}]: an object with sent_id (a whole number) and segmentation is expected")
        ref_id = item.get("ref_id")
        if ref_id is not None and type(ref_id) is not int:
            raise DataError(f"{file}: [{i}]: ref_id: a whole number is expected, not {shown(ref_id)}")
        key = (ref_id, item["sent_id"])
        if key in found:
            raise DataError(f"{file}: [{i}]: sent_id {key[1]} has a prediction already, at {found[key][0]}")
        found[key] = (f"[{i}]", item["segmentation"])
    return found


def _spoken_of(every: dict[str, Expressions], given: dict[tuple[int | None, int], tuple[str, Any]]) -> list[str]:
    ids = {sent_id for _, sent_id in given}
    return [split for split, part in every.items() if not ids.isdisjoint(part.column("sent_id").tolist())]


def _twice(ids: list[int]) -> set[int]:
    seen: set[int] = set()
    return {i for i in ids if i in seen or seen.add(i)}  # type: ignore[func-returns-value]

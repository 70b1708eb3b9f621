"""Scoring masks made elsewhere: predictions in COCO's RLE, keyed by expression, measured as our own are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from workbench.data import masks
from workbench.data.loading import Expressions, without_mask
from workbench.data.readers.items import read_json
from workbench.data.tables import ReferData
from workbench.errors import DataError, counted, shown
from workbench.evaluation.mask_folder import digest_of_masks, read_mask_folder
from workbench.evaluation.metrics import summarise
from workbench.evaluation.scoring import ORDER, score
from workbench.files import digest_of
from workbench.results.folders import StoreError
from workbench.results.provenance import code_digest
from workbench.results.record import KEY, ExpressionKey
from workbench.results.scored import PredictionFile, ScoredFolder, ScoreRecord

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
            at the image's original size, or null for no-target; or a folder of pictures, see `mask_folder`. Where a
            sent_id occurs twice in the data set, "ref_id" says which of them it is.
        splits: the splits to score, whatever else the file holds; empty: every split that it has a prediction of.
        no_target_area: masks of fewer pixels count as an answer of no-target.
        progress: called with (expressions scored, expressions in all).

    Returns:
        One row per expression, see `workbench.evaluation.scoring.score`.

    Raises:
        DataError: an expression without a prediction or with two, a prediction of no expression, or a broken mask.
    """
    predictions = _read(file)
    by_split = {split: Expressions(data, split) for split in dict.fromkeys([*splits, *data.splits])}
    chosen = list(splits) or _splits_of(by_split, predictions)
    if not chosen:
        raise DataError(f"{file}: none of its sent_ids occurs in {data.name}")
    keys = [(key, index) for split in chosen for index, key in enumerate(_keys(by_split[split], split))]
    ambiguous = _ambiguous(key for key, _ in keys)
    missing: list[ExpressionKey] = []
    used: set[_PredictionKey] = set()
    rows: list[dict[str, Any]] = []
    for key, index in keys:
        answer = _answer_to(key, predictions, ambiguous)
        if answer is None:
            missing.append(key)
            continue
        used.add(answer)
        expression = by_split[key.split][index]
        where, segmentation = predictions[answer]
        try:
            parts = [] if segmentation in (None, []) else [segmentation]
            rles = [masks.to_rle(part, expression.height, expression.width) for part in parts]
        except DataError as error:
            raise DataError(f"{file}: {where} (sent_id {key.sent_id}, {expression.file_name}): {error}") from None
        rows.append(score(expression, masks.union(rles, expression.height, expression.width), no_target_area))
        if progress and (len(rows) % 200 == 0 or len(rows) == len(keys)):
            progress(len(rows), len(keys))
    if missing:
        first = "; ".join(
            f"{key.split} sent_id {key.sent_id}" + (f", ref_id {key.ref_id}" if key.sent_id in ambiguous else "")
            for key in missing[:SHOWN]
        )
        raise DataError(
            f"{file}: no prediction of {len(missing)} of {counted(len(keys), 'expression')} of {', '.join(chosen)}: "
            f"{first}{'; …' if len(missing) > SHOWN else ''}; a segmentation of null answers no-target"
        )
    elsewhere = {int(i) for split, part in by_split.items() if split not in chosen for i in part.column("sent_id")}
    elsewhere |= set(data.expressions.filter(pa.array(without_mask(data.expressions)))["sent_id"].to_pylist())
    unused = [
        where for answer, (where, _) in predictions.items() if answer not in used and answer.sent_id not in elsewhere
    ]
    if unused:
        raise DataError(
            f"{file}: {counted(len(unused), 'prediction')} of no expression of {data.name}, the first at {unused[0]}"
        )
    frame = pd.DataFrame(rows)
    parts = [part.sort_values(ORDER) for _, part in frame.groupby("split", sort=False)]
    ordered: pd.DataFrame = pd.concat(parts, ignore_index=True)
    return ordered


class _PredictionKey(NamedTuple):
    """The ids by which a prediction names its expression."""

    ref_id: int | None
    sent_id: int


def _keys(expressions: Expressions, split: str) -> list[ExpressionKey]:
    ids = zip(*(expressions.column(name).tolist() for name in KEY[1:]), strict=True)
    return [ExpressionKey(split, ref_id, sent_id) for ref_id, sent_id in ids]


def _answer_to(
    key: ExpressionKey, predictions: Mapping[_PredictionKey, Any], ambiguous: Collection[int]
) -> _PredictionKey | None:
    """The prediction of an expression: one that names both ids, or the sent_id where that is unambiguous."""
    exact, by_sentence = _PredictionKey(key.ref_id, key.sent_id), _PredictionKey(None, key.sent_id)
    if exact in predictions:
        return exact
    return by_sentence if by_sentence in predictions and key.sent_id not in ambiguous else None


def metrics_of(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The number of expressions and the metrics, by split."""
    return {
        str(split): {"expressions": len(part), **summarise(part)} for split, part in frame.groupby("split", sort=False)
    }


def store_scores(
    folder: ScoredFolder, data: ReferData, split_by: str, file: Path, frame: pd.DataFrame, no_target_area: int
) -> dict[str, dict[str, float]]:
    """Store scores under a model's name, where a grid's `report.models` finds them.

    Returns:
        The metrics by split.

    Raises:
        StoreError: the name holds other scores already, of another file, data set, split or no-target area; or what it
            holds is damaged.
    """
    metrics = metrics_of(frame)
    record = ScoreRecord(
        name=folder.name,
        dataset={"name": data.name, "split_by": split_by, "sha256": data.digest},
        predictions=PredictionFile(file=file.name, sha256=digest_of_masks(file) if file.is_dir() else digest_of(file)),
        no_target_area=no_target_area,
        metrics={split: {name: float(value) for name, value in values.items()} for split, values in metrics.items()},
        code=code_digest(),
        made=time.time(),
    )
    stored_record = folder.record() if folder.exists() else record
    for field in ("dataset", "predictions", "no_target_area"):
        if getattr(stored_record, field) != getattr(record, field):
            stored_value = stored_record.model_dump()[field]
            raise StoreError(
                f"{folder.path} holds scores of another {field}, {stored_value}; choose another --name, or remove it"
            )
    if {*stored_record.metrics} != {*metrics}:
        raise StoreError(f"{folder.path} holds scores of other splits; choose another --name, or remove it")
    folder.write(record, frame)
    return metrics


def _read(file: Path) -> dict[_PredictionKey, tuple[str, Any]]:
    """The position of each prediction in the file, and its segmentation."""
    if not file.is_file() and not file.is_dir():
        raise DataError(f"missing file {file}")
    document = read_mask_folder(file) if file.is_dir() else read_json(file)
    if not isinstance(document, list):
        raise DataError(f"{file}: a list of predictions is expected, not {type(document).__name__}")
    predictions: dict[_PredictionKey, tuple[str, Any]] = {}
    for i, item in enumerate(document):
        if not isinstance(item, dict) or type(item.get("sent_id")) is not int or "segmentation" not in item:
            raise DataError(f"{file}: [{i}]: an object with sent_id (a whole number) and segmentation is expected")
        ref_id = item.get("ref_id")
        if ref_id is not None and type(ref_id) is not int:
            raise DataError(f"{file}: [{i}]: ref_id: a whole number is expected, not {shown(ref_id)}")
        key = _PredictionKey(ref_id, item["sent_id"])
        if key in predictions:
            raise DataError(f"{file}: [{i}]: sent_id {key.sent_id} has a prediction already, at {predictions[key][0]}")
        predictions[key] = (f"[{i}]", item["segmentation"])
    return predictions


def _splits_of(by_split: Mapping[str, Expressions], predictions: Collection[_PredictionKey]) -> list[str]:
    ids = {key.sent_id for key in predictions}
    return [split for split, part in by_split.items() if not ids.isdisjoint(part.column("sent_id").tolist())]


def _ambiguous(keys: Iterable[ExpressionKey]) -> set[int]:
    """The sent_ids that occur more than once."""
    return {sent_id for sent_id, count in Counter(key.sent_id for key in keys).items() if count > 1}

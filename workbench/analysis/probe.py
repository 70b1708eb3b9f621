"""What shortcuts score on a data set, and what trained runs lose when a part of each sentence is replaced at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from workbench.config import RefshapesRecipe, RunConfig
from workbench.data import refshapes, shortcuts
from workbench.data.loading import Expression, Expressions
from workbench.data.queries import Query, Scene, parse
from workbench.data.tables import ReferData
from workbench.results.folders import RunFolder

if TYPE_CHECKING:
    from workbench.data.loading import ReferringDataset

SHUFFLED = "words"
"""A sentence of another expression, drawn at random from the split."""


@dataclass(frozen=True)
class Asked:
    """One expression of refshapes with the scene it was made from."""

    scene: Scene
    query: Query
    target: int


def baseline_table(data: ReferData, recipe: RefshapesRecipe | None, splits: Sequence[str]) -> pd.DataFrame:
    """mIoU of solvers that read nothing, or only a part of each sentence: a row per solver, a column per split.

    Args:
        recipe: of refshapes, whose scenes are known; of other data, only solvers that read nothing are there.

    Returns:
        Fractions from 0 to 1.
    """
    columns = {}
    for split in splits:
        scores = _object_baselines(data, split)
        if recipe is not None and recipe.targets == "one":
            asked, size = list(asked_of(data, recipe, split)), (recipe.width, recipe.height)
            for name, solver in {**shortcuts.SHORTCUTS, **shortcuts.READERS}.items():
                if name not in scores:
                    scores[name] = float(
                        np.mean([shortcuts.probability(solver, a.scene, a.query, a.target, size) for a in asked])
                    )
        columns[split] = scores
    return pd.DataFrame(columns)


def asked_of(data: ReferData, recipe: RefshapesRecipe, split: str) -> Iterator[Asked]:
    """The expressions of a split of refshapes in their order, each with its scene."""
    scenes = {image: Scene(scene, recipe.version == 1) for image, scene in refshapes.scenes_of(recipe, split)}
    first = _first_annotation(data)
    for expression in Expressions(data, split):
        target = expression.ann_ids[0] - first[expression.image_id]
        yield Asked(scenes[expression.image_id], parse(expression.sentence), target)


def _first_annotation(data: ReferData) -> dict[int, int]:
    images, ids = data.objects["image_id"].to_numpy(), data.objects["ann_id"].to_numpy()
    # The objects of an image follow each other, in the order of its scene.
    distinct, first = np.unique(images, return_index=True)
    return dict(zip(distinct.tolist(), ids[first].tolist(), strict=True))


def _object_baselines(data: ReferData, split: str) -> dict[str, float]:
    """Solvers that answer with objects of the image, whatever is asked: random, largest, most central, all."""
    by_image: dict[int, list[int]] = {}
    for row, image in enumerate(data.objects["image_id"].to_pylist()):
        by_image.setdefault(image, []).append(row)
    scores: dict[str, list[float]] = {
        name: [] for name in ("random object", "largest object", "most central object", "all objects")
    }
    for expression in Expressions(data, split):
        size = [expression.height, expression.width]
        rles: list[dict[str, object]] = [
            {"size": size, "counts": data.counts(row, expression.height, expression.width)}
            for row in by_image[expression.image_id]
        ]
        for name, iou in zip(scores, _ious_of_objects(rles, expression), strict=True):
            scores[name].append(iou)
    return {name: float(np.mean(values)) for name, values in scores.items()}


def _ious_of_objects(rles: list[dict[str, object]], expression: Expression) -> Iterator[float]:
    target = {"size": [expression.height, expression.width], "counts": expression.rle}
    ious = coco_mask.iou(rles, [target], [0])[:, 0]
    boxes = coco_mask.toBbox(rles)
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    centre = np.array([expression.width, expression.height]) / 2
    yield float(ious.mean())
    yield float(ious[np.argmax(coco_mask.area(rles))])
    yield float(ious[np.argmin(np.hypot(*(middles - centre).T))])
    yield float(coco_mask.iou([coco_mask.merge(rles)], [target], [0])[0, 0])


def run_table(
    config: RunConfig, folder: RunFolder, data: ReferData, splits: Sequence[str], seed: int = 0
) -> pd.DataFrame:
    """What a run scores on sentences of which one part was replaced at random, and what honest readers would.

    Args:
        seed: of the replacements, so that all runs are asked the same.

    Returns:
        One row per split and part with the mean IoUs `as_written` and `replaced` of the expressions that have such a
        part, and `honest`: of a reader who answers the replaced sentence, always right. NaN where that is not known.
    """
    import torch

    from workbench.evaluation.evaluate import evaluate
    from workbench.models.text_encoder import load_tokenizer
    from workbench.training.checkpointing import load_trained
    from workbench.training.setup import split_of

    model, tokenizer = load_trained(config, folder), load_tokenizer(config.text_encoder, config.machine.checkpoint_root)
    device = torch.device("cuda" if torch.cuda.is_available() and config.machine.device != "cpu" else "cpu")
    model.to(device)

    def ious(dataset: ReferringDataset) -> NDArray[np.float64]:
        frame = evaluate(model, tokenizer, dataset, config, device)
        keys = pd.MultiIndex.from_arrays([dataset.expressions.column("ref_id"), dataset.expressions.column("sent_id")])
        by_key: NDArray[np.float64] = frame.set_index(["ref_id", "sent_id"])["iou"].reindex(keys).to_numpy()
        return by_key

    rows = []
    for split in splits:
        dataset = split_of(data, split, config)
        as_written = ious(dataset)
        for part, sentences, honest in _questions(data, config, split, seed):
            asked = np.array([sentence is not None for sentence in sentences])
            if not asked.any():
                continue
            written = [e.sentence for e in dataset.expressions]
            dataset.expressions = Expressions(data, split).with_sentences(
                [new or old for new, old in zip(sentences, written, strict=True)]
            )
            rows.append(
                {
                    "split": split,
                    "part": part,
                    "expressions": int(asked.sum()),
                    "as_written": float(as_written[asked].mean()),
                    "replaced": float(ious(dataset)[asked].mean()),
                    "honest": float(np.mean(honest)) if honest else float("nan"),
                }
            )
            dataset.expressions = Expressions(data, split)
    return pd.DataFrame(rows)


def over_seeds(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Means and standard deviations over the seeds of each setting.

    Args:
        rows: those of `run_table`, with `setting` and `seed`.

    Returns:
        One row per setting, part and split, in their order: `seeds`, `expressions`, and `as_written`, `replaced` and
        `fall` (their difference) each with its `_sd`; and `reader_fall`, that of a reader who is always right.
    """
    frame = pd.DataFrame(rows)
    frame["fall"] = frame["as_written"] - frame["replaced"]
    measured = ["as_written", "replaced", "fall"]
    groups = frame.groupby(["setting", "part", "split"], sort=False)
    means, spreads = groups[measured].mean(), groups[measured].std().add_suffix("_sd")
    rest = groups.agg(seeds=("seed", "nunique"), expressions=("expressions", "first"), honest=("honest", "first"))
    rest["reader_fall"] = 1.0 - rest.pop("honest")
    return pd.concat([rest, means, spreads], axis=1).reset_index()


def _questions(
    data: ReferData, config: RunConfig, split: str, seed: int
) -> Iterator[tuple[str, list[str | None], list[float]]]:
    """By part: the new sentence of each expression, None where it stays, and honest readers' scores on those."""
    written = [e.sentence for e in Expressions(data, split)]
    rng = np.random.default_rng(seed)
    yield SHUFFLED, list(np.array(written)[rng.permutation(len(written))]), []
    if (recipe := config.data.recipe) is None or recipe.targets != "one":
        return
    asked, size = list(asked_of(data, recipe, split)), (recipe.width, recipe.height)
    for part in shortcuts.PARTS:
        sentences: list[str | None] = []
        honest = []
        for number, one in enumerate(asked):
            new = shortcuts.replaced(np.random.default_rng([seed, number]), one.scene, one.query, part)
            sentences.append(None if new is None else new[1])
            if new is not None:
                full = shortcuts.READERS[shortcuts.FULL]
                honest.append(shortcuts.probability(full, one.scene, new[0], one.target, size))
        yield part, sentences, honest

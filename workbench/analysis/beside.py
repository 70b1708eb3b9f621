"""Statistics of attention and some maps of a run, written beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from workbench.analysis.alignment import collect, table, word_points
from workbench.analysis.trace import trace
from workbench.config import RunConfig
from workbench.data.datasets import open_dataset
from workbench.data.loading import ReferringDataset
from workbench.errors import CheckpointError
from workbench.files import replacing
from workbench.models.referring_sam import ReferringSam
from workbench.models.text_encoder import Tokenizer, load_tokenizer
from workbench.results.folders import RunFolder
from workbench.results.record import RunId
from workbench.training.checkpointing import load_trained


@dataclass(frozen=True)
class Written:
    """The files, and each point's head that points best: (point, head, statistic, mean, interval, verdict)."""

    expressions: int
    statistics: Path
    maps: Path
    best: list[tuple[str, ...]]


def write_attention(
    run: str,
    results: Path,
    data_root: Path | None,
    split: str,
    images: int | None,
    points: Sequence[str] | None,
    expressions: int,
) -> Written:
    """Write `attention_<split>.csv` and `attention_<split>.safetensors` among a run's artefacts.

    Args:
        images: only so many, a fixed sample; None: all.
        points: patterns of word→image points; None: all.
        expressions: so many of them have their maps kept, heads and words apart.

    Raises:
        CheckpointError: no such run, or it has no weights.
        TraceError: the model lacks a point.
    """
    folder, config = _run(run, results, data_root)
    model = load_trained(config, folder)
    tokenizer = load_tokenizer(config.text_encoder, config.machine.checkpoint_root)
    dataset = ReferringDataset(open_dataset(config), split, config.backbone.image_size, config.data, images=images)
    found = table(collect(model, tokenizer, dataset, config, points))
    stem = f"attention_{split.replace('/', '%2F')}"
    statistics, maps = (folder.artefacts / f"{stem}.{ending}" for ending in ("csv", "safetensors"))
    statistics.parent.mkdir(parents=True, exist_ok=True)
    with replacing(statistics) as partial:
        found.to_csv(partial, index=False)
    with replacing(maps) as partial:
        _write_maps(partial, model, tokenizer, dataset, points, expressions)
    return Written(len(dataset), statistics, maps, _best(found))


def _run(run: str, results: Path, data_root: Path | None) -> tuple[RunFolder, RunConfig]:
    try:
        folder = RunFolder(results, str(RunId.parse(run)))
    except ValueError:
        raise CheckpointError(f"{run}: a run is <setting id>/seed<N>, as `workbench plan` names it") from None
    if not folder.record_file.is_file():
        raise CheckpointError(f"{run}: no such run in {results}")
    config = RunConfig.parse(folder.record().config)
    if data_root is not None:
        machine = config.machine.model_copy(update={"data_root": data_root})
        config = config.model_copy(update={"machine": machine})
    return folder, config


@torch.inference_mode()
def _write_maps(
    file: Path,
    model: ReferringSam,
    tokenizer: Tokenizer,
    dataset: ReferringDataset,
    points: Sequence[str] | None,
    count: int,
) -> None:
    """By `<number>.<point>`, h×L×H×W in fp16; the metadata says which expression and which word pieces."""
    tensors: dict[str, Tensor] = {}
    about = []
    for number, expression in enumerate(dataset.expressions.one_of_each_image()[:count]):
        ids, mask = tokenizer([expression.sentence])
        placement = dataset.placement(expression)
        content = torch.tensor([[placement.top, placement.left, placement.height, placement.width]])
        with trace(model, list(points) if points else word_points(model)) as seen:
            model(model.normalise(dataset.square(expression)[None], content), ids, mask)
        tensors |= {f"{number}.{r.point.name}": r.weights[0].half().contiguous() for r in seen}
        about.append(
            {"ref_id": expression.ref_id, "sent_id": expression.sent_id, "sentence": expression.sentence,
             "pieces": tokenizer.pieces(ids[0].tolist()), "content": content[0].tolist()}
        )  # fmt: skip
    save_file(tensors, file, metadata={"expressions": json.dumps(about)})


def _best(found: pd.DataFrame) -> list[tuple[str, ...]]:
    pointing = found[found["statistic"] == "pointing"]
    rows: list[tuple[str, ...]] = []
    for point, group in pointing.groupby("point", sort=False):
        best = group.sort_values("value", ascending=False).iloc[0]
        interval = f"{best['low']:.2f} to {best['high']:.2f}"
        verdict = str(best["shuffled: verdict"])
        rows.append((str(point), str(best["head"]), "pointing", f"{best['value']:.2f}", interval, verdict))
    return rows

"""Statistics of attention and some maps of a run, written beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from workbench.analysis.alignment import collect, measured_points, table
from workbench.analysis.points import select
from workbench.analysis.text_store import TextStore, record_split
from workbench.analysis.word_maps import check_methods, word_maps
from workbench.config import RunConfig
from workbench.data.datasets import open_dataset
from workbench.data.loading import ReferringDataset
from workbench.errors import CheckpointError
from workbench.files import check_writable, replacing
from workbench.models.referring_sam import ReferringSam
from workbench.models.text_encoder import Tokenizer, load_tokenizer
from workbench.results.folders import RunFolder
from workbench.results.provenance import code_digest
from workbench.results.record import RunId
from workbench.training.checkpointing import load_trained


@dataclass(frozen=True)
class Written:
    """The files, and each point's head that points best: (point, head, statistic, mean, interval, verdict, ρ with the
    IoU)."""

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
    methods: Sequence[str] = ("heads",),
) -> Written:
    """Write `attention_<split>.csv` and `attention_<split>.safetensors` among a run's artefacts.

    Args:
        images: only so many, a fixed sample; None: all.
        points: names or patterns, see `measured_points`.
        expressions: so many of them have their maps kept, words apart.
        methods: of these maps, keys of `word_maps.METHODS`.

    Raises:
        CheckpointError: no such run, or it has no weights.
        TraceError: the model lacks a point, or there is no such method.
    """
    check_methods(methods)
    folder, config = run_of(run, results, data_root)
    model = load_trained(config, folder)
    tokenizer = load_tokenizer(config.text_encoder, config.machine.checkpoint_root)
    dataset = ReferringDataset(open_dataset(config), split, config.backbone.image_size, config.data, images=images)
    found = table(collect(model, tokenizer, dataset, config, points))
    statistics, maps = (folder.artefact("attention", split, ending) for ending in (".csv", ".safetensors"))
    statistics.parent.mkdir(parents=True, exist_ok=True)
    with replacing(statistics) as partial:
        found.to_csv(partial, index=False)
    with replacing(maps) as partial:
        _write_maps(partial, model, tokenizer, dataset, measured_points(model, points), expressions, methods)
    return Written(len(dataset), statistics, maps, _best(found))


def keep_attention(
    run: str,
    results: Path,
    data_root: Path | None,
    split: str,
    images: int | None,
    points: Sequence[str] | None,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[int, Path]:
    """Keep the words' rows and columns of every expression in `attention_<split>/` among a run's artefacts.

    What is there already is not computed again. Arguments and errors as for `write_attention`.

    Returns:
        How many expressions were added, and the folder.
    """
    folder, config = run_of(run, results, data_root)
    model = load_trained(config, folder)
    tokenizer = load_tokenizer(config.text_encoder, config.machine.checkpoint_root)
    dataset = ReferringDataset(open_dataset(config), split, config.backbone.image_size, config.data, images=images)
    names = [point.name for point in select(model, points or ["*.word_to_image", "*.image_to_word"])]
    source = {"run": run, "finished": folder.record().finished, "code": code_digest(), "split": split, "points": names}
    store = TextStore(folder.artefact("attention", split), source)
    return record_split(model, tokenizer, dataset, config, names, store, step), store.folder


def check_beside(runs: Sequence[str], results: Path) -> None:
    """Before anything is computed: that this user may keep something beside each run.

    Raises:
        CheckpointError: no such run.
        WorkbenchError: a run is another user's; says how to measure a copy of it.
    """
    for run in runs:
        folder, _ = run_of(run, results, None)
        own = f"own/runs/{folder.id.setting_id}"
        remedy = (
            f"measure a copy of the run: mkdir -p {own} && cp -r {folder.path.absolute()} {own}, then --results own"
        )
        check_writable(folder.artefacts, remedy)


def run_of(run: str, results: Path, data_root: Path | None) -> tuple[RunFolder, RunConfig]:
    """A run's folder and its configuration, with the folder of data sets that is to be read in place of its own.

    Raises:
        CheckpointError: no such run.
    """
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


def _write_maps(
    file: Path,
    model: ReferringSam,
    tokenizer: Tokenizer,
    dataset: ReferringDataset,
    points: Sequence[str],
    count: int,
    methods: Sequence[str],
) -> None:
    """By `<number>.<point>`, h×L×H×W in fp16; other methods than `heads` have their name after it, and L×H×W.

    The metadata says which expression it is and which word pieces.
    """
    tensors: dict[str, Tensor] = {}
    about = []
    of_words = [name for name in points if name.endswith(("image_to_word", "word_to_image"))]
    for number, expression in enumerate(dataset.expressions.one_of_each_image()[:count]):
        ids, mask = tokenizer([expression.sentence])
        placement = dataset.placement(expression)
        content = torch.tensor([[placement.top, placement.left, placement.height, placement.width]])
        image = model.normalise(dataset.square(expression)[None], content)
        for name, maps in word_maps(model, image, ids, mask, of_words, methods).items():
            tensors[f"{number}.{name.removesuffix('.heads')}"] = maps[0].detach().half().contiguous()
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
        relation = str(best["iou: verdict"])
        if np.isfinite(best["iou: correlation"]):
            relation = f"{best['iou: correlation']:+.2f}, {relation}"
        rows.append((str(point), str(best["head"]), "pointing", f"{best['value']:.2f}", interval, verdict, relation))
    return rows

"""Attention maps of a run on some expressions: computed from its weights once, and kept beside the run as arrays."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from workbench.config import RunConfig
from workbench.files import check_file, replacing
from workbench.results.folders import RunFolder
from workbench.results.provenance import code_digest

if TYPE_CHECKING:
    from workbench.data.loading import Expression, ReferringDataset

PARTS = ("mask decoder", "image encoder")
UNIT = "multiples of uniform attention over the layer's keys"
MEAN_OVER = "word pieces but [CLS], [SEP] and padding; heads; all fused layers, or all decoder layers"
_FILE = "attention.safetensors"


@dataclass(frozen=True)
class AttentionMaps:
    """Word→image attention of one run, a map per expression.

    Attributes:
        maps: by part of the model that sees text, E×h×w, in multiples of uniform attention.
    """

    maps: dict[str, NDArray[np.float32]]


def attention_maps(
    config: RunConfig, folder: RunFolder, dataset: ReferringDataset, expressions: Sequence[Expression]
) -> AttentionMaps:
    """A run's maps, from the artefact beside the run where it holds just these; else computed, and kept there.

    Raises:
        CheckpointError: the run has no weights any more.
    """
    wanted = json.dumps(
        {
            "expressions": [[e.split, e.ref_id, e.sent_id] for e in expressions],
            "finished": folder.record().finished,
            "code": code_digest(),
            "unit": UNIT,
            "mean_over": MEAN_OVER,
        },
        sort_keys=True,
    )
    file = folder.artefacts / _FILE
    try:
        check_file(file)
        with safe_open(file, "numpy") as stored:
            if (stored.metadata() or {}).get("document") == wanted:
                names = set(stored.keys())
                return AttentionMaps({part: stored.get_tensor(part) for part in PARTS if part in names})
    except (OSError, SafetensorError, ValueError):
        pass  # not there yet, or damaged: it is made again
    maps = _compute(config, folder, dataset, expressions)
    with contextlib.suppress(PermissionError):  # in another user's run, they are not kept
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as partial:
            save_file(maps, partial, metadata={"document": wanted})
    return AttentionMaps(maps)


def _compute(
    config: RunConfig, folder: RunFolder, dataset: ReferringDataset, expressions: Sequence[Expression]
) -> dict[str, Any]:
    import torch

    from workbench.analysis.text_blocks import LayerAttention, text_blocks
    from workbench.models.text_encoder import load_tokenizer
    from workbench.training.checkpointing import load_trained

    model = load_trained(config, folder)
    tokenizer = load_tokenizer(config.text_encoder, config.machine.checkpoint_root)

    def mean(layers: list[LayerAttention], words: slice) -> NDArray[np.float32]:
        maps = [(layer.word_to_image[words].mean(dim=0) * layer.keys).numpy() for layer in layers]
        return np.asarray(np.mean(maps, axis=0), dtype=np.float32)

    by_part: dict[str, list[NDArray[np.float32]]] = {part: [] for part in PARTS}
    for expression in expressions:
        ids, mask = tokenizer([expression.sentence])
        placement = dataset.placement(expression)
        content = torch.tensor([[placement.top, placement.left, placement.height, placement.width]])
        traced = text_blocks(model, model.normalise(dataset.square(expression)[None], content), ids, mask)
        words = slice(1, int(mask.sum()) - 1)
        by_part["mask decoder"].append(mean(traced.decoder, words))
        if traced.encoder:
            by_part["image encoder"].append(mean(traced.encoder, words))
    return {part: np.stack(maps) for part, maps in by_part.items() if maps}

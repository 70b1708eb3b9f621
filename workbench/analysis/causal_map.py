"""Where language acts: what each intervention at each block does to the IoU of a split's expressions.

Every expression is segmented once undisturbed, exactly as in evaluation, and once for each intervention. What is kept
of it, and its table with intervals, is in `kept_maps`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from workbench.analysis.beside import run_of
from workbench.analysis.interventions import (
    OF_HEADS,
    OF_WORDS,
    Effects,
    Intervention,
    InterventionError,
    Kind,
    Words,
    check,
    intervene,
    mean_of_words,
    words_of,
)
from workbench.analysis.kept_maps import ALL, DECODER, UNDISTURBED, Kept, write_map
from workbench.analysis.points import TraceError, in_words, points_of, select
from workbench.analysis.predictor import Predictor
from workbench.data import masks
from workbench.data.controls import asked_words, words_of_other_images
from workbench.data.datasets import open_dataset
from workbench.data.loading import EvaluationBatch, Expressions, ReferringDataset, evaluation_batches
from workbench.errors import DataError, counted
from workbench.evaluation.evaluate import mask_of
from workbench.evaluation.scoring import score
from workbench.models.build import check_config
from workbench.models.referring_sam import ReferringSam
from workbench.models.text_encoder import load_tokenizer
from workbench.results.provenance import code_digest
from workbench.training.checkpointing import load_trained

SAMPLED = "those whose split:ref_id:sent_id has the smallest SHA-256"
DECODER_POINT = "decoder"
POINTS = ("encoder.blocks[*].attn", DECODER_POINT)
"""What is changed where nothing else is asked for: every block of the image encoder, and the mask decoder."""
ENOUGH = 8
"""Expressions after which an intervention must have changed something."""
SCORES = ("split", "image_id", "ref_id", "sent_id", "no_target", "target_area", "intersection", "union",
          "predicted_area", "iou")  # fmt: skip

Key = tuple[int, int]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Place:
    """Where a row of the map acts.

    Attributes:
        point: its name, or that of several.
        layer, head: numbers, or ALL; of the mask decoder, DECODER and ALL.
    """

    intervention: Intervention
    point: str
    layer: int
    head: int


@dataclass(frozen=True)
class Request:
    """What is to be measured, of every run the same; see `places`.

    Attributes:
        limit: so many expressions of the split; None: all.
    """

    split: str
    kinds: tuple[Kind, ...]
    points: tuple[str, ...]
    by_head: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class CausalMap:
    """All that was measured.

    Attributes:
        rows: of every expression and intervention its SCORES, the difference of its IoU from the undisturbed one
            (`delta`), and `intervention` (a kind, or UNDISTURBED), `point`, `layer`, `head`.
        changes: by (kind, layer, head), the largest change at the point, as a fraction of the largest number there.
    """

    rows: pd.DataFrame
    changes: Mapping[tuple[str, int, int], float]


def places(model: ReferringSam, kinds: Sequence[Kind], patterns: Sequence[str], by_head: bool = False) -> list[Place]:
    """What is to be done: each kind at each block, with `by_head` at each head alone too, and at all blocks together;
    those of words in the mask decoder too.

    Args:
        patterns: of whole attentions, `encoder.blocks[*].attn`, and `decoder`.

    Raises:
        TraceError: the model lacks a point.
        InterventionError: a pattern names something else, or no block that reads words; lists those that do.
    """
    in_decoder = DECODER_POINT in patterns
    patterns = [pattern for pattern in patterns if pattern != DECODER_POINT]
    chosen = select(model, patterns)
    for point in chosen:
        if point.part != "all" or point.place != "encoder":
            raise InterventionError(
                f"{point.name}: interventions act on whole blocks of the image encoder, such as "
                f"encoder.blocks[0].attn, or on the mask decoder as a whole, {DECODER_POINT}"
            )
    by_layer = {int(point.name.split("[")[1].split("]")[0]): point.name for point in chosen}
    found: list[Place] = []
    for kind in kinds:
        layers = [layer for layer in by_layer if kind not in OF_WORDS or layer in model.fusion.layers]
        decoded = in_decoder and kind in OF_WORDS
        if not layers and not decoded:
            if not patterns:
                raise InterventionError(
                    f"{kind}: of the mask decoder, only words can be changed: {', '.join(OF_WORDS)}"
                )
            raise InterventionError(f"{kind}: {_nowhere(model, patterns)}")
        for layer in layers:
            found += _at(model, kind, layer, by_layer[layer], by_head)
        if len(layers) > 1:
            name = in_words(by_layer[layer] for layer in layers)
            found.append(Place(Intervention(kind, tuple(layers)), name, ALL, ALL))
        if decoded:
            found.append(Place(Intervention(kind, (DECODER,)), DECODER_POINT, DECODER, ALL))
    for place in found:
        if place.layer != DECODER:
            check(model, place.intervention)
    return found


def _nowhere(model: ReferringSam, patterns: Sequence[str]) -> str:
    variant = type(model.fusion).__name__
    if not model.fusion.layers:
        return (
            f"this model ({variant}) reads no words in its image encoder; it has the points "
            f"{in_words(points_of(model))}, of which kinds of heads take encoder.blocks[*].attn"
        )
    read = in_words(f"encoder.blocks[{layer}].attn" for layer in model.fusion.layers)
    return f"no block of {', '.join(patterns)} reads words; in this model ({variant}) these do: {read}"


def _at(model: ReferringSam, kind: Kind, layer: int, point: str, by_head: bool) -> list[Place]:
    whole = [Place(Intervention(kind, (layer,)), point, layer, ALL)]
    if not by_head or kind not in OF_HEADS:
        return whole
    count = getattr(model.image_encoder.vit.attention_of(layer), "num_heads", None)
    if count is None:
        raise InterventionError(f"{point}: this backbone does not say how many heads it has")
    return whole + [Place(Intervention(kind, (layer,), (head,)), point, layer, head) for head in range(count)]


def other_sentences(expressions: Expressions) -> dict[Key, str]:
    """By ref_id and sent_id, the words of an expression about another image, which are not its own; always the same.

    Raises:
        DataError: there are none.
    """
    images, sentences = expressions.column("image_id"), expressions.column("sentence")
    source = words_of_other_images(images, seed=0)
    keys = list(zip(expressions.column("ref_id").tolist(), expressions.column("sent_id").tolist(), strict=True))
    others = {}
    for number, key in enumerate(keys):
        other = int(source[number])
        if sentences[other] == sentences[number]:
            different = np.flatnonzero((images != images[number]) & (sentences != sentences[number]))
            if not len(different):
                raise DataError(f"all expressions about other images are {sentences[number]!r} too: nothing to swap")
            other = int(different[other % len(different)])
        others[key] = str(sentences[other])
    return others


def chosen_of(dataset: ReferringDataset, limit: int | None) -> ReferringDataset:
    """The data set with so many of its expressions, chosen by `Expressions.sample`; None: all.

    Raises:
        DataError: they are about fewer than two images, over which there is no interval.
    """
    if limit is not None:
        dataset.expressions = dataset.expressions.sample(limit)
    images = len(np.unique(dataset.expressions.column("image_id")))
    if images < 2:
        raise DataError(
            f"{counted(len(dataset), 'expression')} about {counted(images, 'image')}: intervals are over images, and "
            "need two or more"
        )
    return dataset


def measure(
    predictor: Predictor,
    dataset: ReferringDataset,
    wanted: Sequence[Place],
    others: Mapping[Key, str],
    progress: Progress | None = None,
) -> CausalMap:
    """Segment a split undisturbed and with every intervention.

    Args:
        others: see `other_sentences`; only swap_words needs them.
        progress: called with the masks that are made, and all of them.

    Raises:
        InterventionError: one changed nothing where it acts.
    """
    effects = [Effects(place.intervention) for place in wanted]
    frames: list[pd.DataFrame] = []
    done, total = 0, len(dataset) * (1 + len(wanted))
    for batch in evaluation_batches(dataset, predictor.config.machine.evaluation_batch_size):
        size = len(batch.expressions)
        run = _Batch(predictor, dataset, batch, others if _swaps(wanted) else None)
        undisturbed = run.scores(None, None)
        frames.append(_labelled(undisturbed, undisturbed, UNDISTURBED, "", ALL, ALL))
        for place, effect in zip(wanted, effects, strict=True):
            done += size
            if progress is not None:
                progress(done, total)
            frame, kind = run.scores(place.intervention, effect), place.intervention.kind
            frames.append(_labelled(frame, undisturbed, kind, place.point, place.layer, place.head))
        done += size
        for effect in effects if done >= ENOUGH * (1 + len(wanted)) else ():
            effect.check()
    for effect in effects:
        effect.check()
    if progress is not None:
        progress(total, total)
    changes: dict[tuple[str, int, int], float] = {
        (place.intervention.kind, place.layer, place.head): max(change or 0.0 for change in effect.by_layer.values())
        for place, effect in zip(wanted, effects, strict=True)
    }
    return CausalMap(pd.concat(frames, ignore_index=True), changes)


def _swaps(wanted: Sequence[Place]) -> bool:
    return any(place.intervention.kind == "swap_words" for place in wanted)


def _labelled(
    frame: pd.DataFrame, undisturbed: pd.DataFrame, kind: str, point: str, layer: int, head: int
) -> pd.DataFrame:
    delta = frame["iou"].to_numpy() - undisturbed["iou"].to_numpy()
    return frame.assign(delta=delta, intervention=kind, point=point, layer=layer, head=head)


class _Batch:
    """Expressions whose images and words are encoded once for all interventions, as far as these leave them alone."""

    def __init__(
        self, predictor: Predictor, dataset: ReferringDataset, batch: EvaluationBatch, others: Mapping[Key, str] | None
    ) -> None:
        self._predictor, self._dataset, self._batch = predictor, dataset, batch
        model, device = predictor.model, predictor.device
        self._image_of = batch.image_of.to(device)
        with torch.inference_mode(), self._precision():
            self._image = model.normalise(batch.pixels.to(device), batch.content)
            self._features = model.before_text(self._image)
            self._text = self._encoded([dataset.words_of(e) for e in batch.expressions])
            self._words: dict[int, Words] | None = None
            self._swapped = self._text
            if others is not None:
                self._swapped = self._encoded([others[e.ref_id, e.sent_id] for e in batch.expressions])
                with words_of(model) as words:
                    model.after_text(self._features[self._image_of], *self._swapped)
                self._words = words
            self._embedding = model.after_text(self._features[self._image_of], *self._text)
            self._undisturbed = self._decoded(self._embedding, *self._text)

    def scores(self, intervention: Intervention | None, effects: Effects | None) -> pd.DataFrame:
        """One row of SCORES per expression."""
        if intervention is None:
            logits = self._undisturbed
        elif intervention.layers == (DECODER,):
            logits = self._decoded(self._embedding, *self._words_for_decoder(intervention.kind))
            if effects is not None:
                effects.note(DECODER, self._undisturbed, logits)
        else:
            given = None if self._predictor.model.fusion.learned else self._text[1]
            with intervene(self._predictor.model, intervention, self._words, given, effects):
                logits = self._logits(None if self._acts_before_text(intervention) else self._features)
        config = self._predictor.config
        rows: list[dict[str, Any]] = []
        for expression, one in zip(self._batch.expressions, logits, strict=True):
            placement, height, width = self._dataset.placement(expression), expression.height, expression.width
            mask = masks.encode(mask_of(one, placement, height, width, config).cpu().numpy())
            row = score(expression, mask, config.evaluation.no_target_area)
            rows.append({name: row[name] for name in SCORES})
        return pd.DataFrame(rows)

    def _acts_before_text(self, intervention: Intervention) -> bool:
        return min(intervention.layers) < self._predictor.model.image_encoder.first_fused

    @torch.inference_mode()
    def _logits(self, features: Tensor | None) -> Tensor:
        """As `evaluate.mask_logits` computes them, E×h×w in fp32, with whatever watches the model."""
        model, (text, text_mask) = self._predictor.model, self._text
        with self._precision():
            features = model.before_text(self._image) if features is None else features
            return self._decoded(model.after_text(features[self._image_of], text, text_mask), text, text_mask)

    @torch.inference_mode()
    def _decoded(self, embedding: Tensor, text: Tensor, text_mask: Tensor | None) -> Tensor:
        with self._precision():
            return self._predictor.model.decode(embedding, text, text_mask)[:, 0].float()

    def _words_for_decoder(self, kind: Kind) -> tuple[Tensor, Tensor | None]:
        """What the mask decoder reads of the words, changed."""
        text, text_mask = self._text
        if kind == "hide_words":
            return text, torch.zeros(text.shape[:2], dtype=torch.bool, device=text.device)
        return self._swapped if kind == "swap_words" else (mean_of_words(text, text_mask), text_mask)

    def _encoded(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        ids, mask = (one.to(self._predictor.device) for one in self._predictor.tokenizer(sentences))
        return self._predictor.model.encode_text(ids, mask)

    def _precision(self) -> torch.autocast:
        wanted = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self._predictor.config.training.precision)
        return torch.autocast(self._predictor.device.type, dtype=wanted, enabled=wanted is not None)


def check_runs(runs: Sequence[str], request: Request, results: Path) -> None:
    """Before anything is computed: that every run is there and has the points.

    Raises:
        CheckpointError: no such run.
        InterventionError: a run has no such place; names the run.
    """
    for run in runs:
        _, config = run_of(run, results, None)
        try:
            places(check_config(config), request.kinds, request.points, request.by_head)
        except (InterventionError, TraceError) as error:
            raise InterventionError(f"{run}: {error}") from None


def map_run(
    run: str, request: Request, results: Path, data_root: Path | None = None, progress: Progress | None = None
) -> tuple[Kept, list[Path]]:
    """Measure a run's causal map and keep it beside the run; returns it and the files.

    Raises:
        CheckpointError: no such run, or it has no weights.
        DataError: no such split, or fewer than two images of it.
        InterventionError: no such place, or an intervention that changed nothing where it acts.
    """
    folder, config = run_of(run, results, data_root)
    tokenizer = load_tokenizer(config.text_encoder, config.machine.checkpoint_root)
    predictor = Predictor(load_trained(config, folder), tokenizer, config, run)
    whole = ReferringDataset(open_dataset(config), request.split, config.backbone.image_size, config.data)
    others = other_sentences(whole.expressions) if "swap_words" in request.kinds else {}
    whole.asked = asked_words(whole.expressions, config.evaluation.words)
    of_split, dataset = len(whole), chosen_of(whole, request.limit)
    wanted = places(predictor.model, request.kinds, request.points, request.by_head)
    measured = measure(predictor, dataset, wanted, others, progress)
    about = {
        "run": run,
        "split": request.split,
        "expressions": len(dataset),
        "of": of_split,
        "chosen": "all" if len(dataset) == of_split else SAMPLED,
        "changes": [[*key, change] for key, change in measured.changes.items()],
        "finished": folder.record().finished,
        "code": code_digest(),
    }
    kept = Kept(measured.rows, about)
    return kept, write_map(folder, kept)

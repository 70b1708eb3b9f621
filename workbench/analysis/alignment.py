"""Whether words look at what they refer to: numbers of every layer and head over a split, each beside its nulls.

Of each map over the image, the mean over the sentence's own words ([CLS], [SEP] and padding left out):
    inside: the share of the map's mass on the referent, less the referent's share of the image. 0 is no preference.
    auc: the chance that a token of the referent has more weight than one outside. 0.5 is no preference.
    pointing: whether the map's largest value is on the referent.
    entropy: of the map over the image tokens, as a fraction of the largest possible.

Where the image looks at words (`image_to_word`), also what share of its attention goes there, a mean over image tokens:
    mass_text, and its parts mass_words (the sentence's own), mass_cls, mass_sep, mass_padding.

Of a block's whole attention (`encoder.blocks[i].attn`), means over the rows of image tokens:
    entropy: as a fraction of the largest possible. distance: to the image tokens attended to, in tokens.

The nulls are the same numbers of other maps over the same referent: `shuffled`, another sentence, of another image;
`same image`, another sentence of the image, about another referent, where it has one; `smooth`, the map moved across
the image at random, round its edges, so just as smooth.

Each number is also related to the IoU of the run's mask for the same expression, by Spearman's ρ over the split; and
that beside the ρ of the shuffled words' number with the same IoU. If the two do not differ, it is not these words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from workbench.analysis.points import TraceError, points_of, select
from workbench.analysis.statistics import Estimate, mean_of, rank_correlation
from workbench.analysis.trace import Recording, trace
from workbench.analysis.words import groups_of
from workbench.config import RunConfig
from workbench.data import masks
from workbench.data.loading import EvaluationBatch, Expression, ReferringDataset, evaluation_batches
from workbench.errors import DataError
from workbench.evaluation.evaluate import mask_logits, mask_of
from workbench.evaluation.scoring import score
from workbench.models.referring_sam import ReferringSam
from workbench.models.text_encoder import Tokenizer

NULLS = ("shuffled", "same image", "smooth")
ALIGNED = ("inside", "auc", "pointing")
STATISTICS = (*ALIGNED, "entropy")
MASSES = ("mass_text", "mass_words", "mass_cls", "mass_sep", "mass_padding")
WHOLE = ("entropy", "distance")
_MEASURED = ("all", "image_to_word", "word_to_image", "cross")
"""Parts of an attention that are measured: whole, or with a map over the image for each word."""
DRAWS = 1000
"""Sentences that are drawn, at most, in search of one in other words."""
Others = dict[tuple[int, int], tuple[str, str | None]]
Looked = tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], Tensor]
"""By point: maps E×h×H×W, means over the sentence's own words, where there are words; and other numbers E×h. Then the
mask's low-resolution logits E×h×w."""


def default_points(model: ReferringSam) -> list[str]:
    """Where the image looks at words, in the encoder's fused blocks and the mask decoder, and each block as a whole.

    Not the words' rows: in L-DIT, and in the last fused block of E-DIT, no output depends on them.
    """
    return [name for name, point in points_of(model).items() if point.part in ("all", "image_to_word")]


def measured_points(model: ReferringSam, patterns: Sequence[str] | None) -> list[str]:
    """The points that patterns name (None: the default ones), those left out of which there is nothing to measure.

    Raises:
        TraceError: a pattern fits no point of this model, or none that can be measured.
    """
    if not patterns:
        return default_points(model)
    names = []
    for pattern in patterns:
        found = [point.name for point in select(model, [pattern]) if point.part in _MEASURED]
        if not found:
            raise TraceError(f"{pattern}: it has no maps of words; measured are image_to_word and word_to_image, whole "
                             "attentions (encoder.blocks[i].attn) and cross-attention over the image")  # fmt: skip
        names += found
    return list(dict.fromkeys(names))


def statistics_of(point: str) -> tuple[str, ...]:
    """The numbers that a point has."""
    if point.endswith(".attn"):
        return WHOLE
    return (*STATISTICS, *MASSES) if point.endswith(".image_to_word") else STATISTICS


def scores(maps: Tensor, inside: Tensor) -> dict[str, Tensor]:
    """The numbers of maps E×h×H×W over referents E×H×W (from 0 to 1), each E×h; NaN where there is no referent."""
    flat, area = maps.double().flatten(2), inside.to(maps.device).double().flatten(1)
    share = flat / flat.sum(dim=-1, keepdim=True)
    # Of a referent smaller than a token, the tokens that hold most of it.
    there, size = area > area.amax(dim=-1, keepdim=True) / 2, flat.shape[-1]
    ranks = _ranks(flat)
    count = there.sum(dim=-1)[:, None].double()
    # Mann and Whitney's U: the sum of the ranks of the referent's tokens, less the least that it can be.
    auc = ((ranks * there[:, None]).sum(-1) - count * (count + 1) / 2) / (count * (size - count))
    at_most = there.gather(1, flat.argmax(dim=-1)).double()
    empty = (count == 0) | (count == size)
    found = {
        "inside": (share * area[:, None]).sum(-1) - area.mean(dim=-1)[:, None],
        "auc": auc,
        "pointing": at_most,
    }
    found = {name: torch.where(empty, torch.nan, value) for name, value in found.items()}
    return found | {"entropy": torch.special.entr(share).sum(-1) / float(np.log(size))}


def masses(weights: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What share of the image tokens' attention goes to the text and its groups, each E×h.

    Args:
        weights: of an `image_to_word` point, E×h×L×H×W.
        mask: E×L, not 0 at the sentences' tokens.
    """
    by_token = weights.double().mean(dim=(3, 4))
    groups = {name: group.to(by_token) for name, group in groups_of(mask).items()}
    parts = {f"mass_{name}": torch.einsum("ehl,el->eh", by_token, group) for name, group in groups.items()}
    return {"mass_text": by_token.sum(dim=2), **parts}


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 1 along the last dimension, equal values sharing the mean of theirs."""
    ordered = values.sort(dim=-1).values.contiguous()
    below = torch.searchsorted(ordered, values.contiguous())
    up_to = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (below + up_to + 1).double() / 2


def collect(
    model: ReferringSam,
    tokenizer: Tokenizer,
    dataset: ReferringDataset,
    config: RunConfig,
    points: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per expression, point, head, and source of the map (`own` or one of NULLS), with the numbers, and the
    `iou` of the mask for the expression's own sentence.

    Only these are kept: maps of one batch are there at a time.

    Args:
        points: names or patterns, see `measured_points`; None: `default_points`.

    Raises:
        DataError: the split has fewer than two images, so that there is no other sentence.
        TraceError: the model lacks a point.
    """
    rng = np.random.default_rng(seed)
    others, wanted = _others(dataset, rng), measured_points(model, points)

    def look(batch: EvaluationBatch, sentences: Sequence[str]) -> Looked:
        return _look(model, tokenizer, batch, sentences, config, wanted)

    frames: list[pd.DataFrame] = []
    for batch in evaluation_batches(dataset, config.machine.evaluation_batch_size):
        inside = _referents(dataset, batch, model.image_encoder.patch_size)
        frames += _of_batch(batch, inside, others, rng, look, lambda e, one: _iou(dataset, e, one, config))
    return pd.concat(frames, ignore_index=True)


def _of_batch(
    batch: EvaluationBatch,
    inside: Tensor,
    others: Others,
    rng: np.random.Generator,
    look: Callable[[EvaluationBatch, Sequence[str]], Looked],
    iou: Callable[[Expression, Tensor], float],
) -> list[pd.DataFrame]:
    frames: list[pd.DataFrame] = []
    ious = np.empty(0)
    for source in ("own", "shuffled", "same image"):
        sentences = [_sentence(e, source, others) for e in batch.expressions]
        asked_about = [s or e.sentence for s, e in zip(sentences, batch.expressions, strict=True)]
        maps, numbers, logits = look(batch, asked_about)
        if source == "own":
            ious = np.array([iou(e, one) for e, one in zip(batch.expressions, logits, strict=True)])
        asked = np.array([sentence is not None for sentence in sentences])
        for name, found in numbers.items():
            aligned = scores(maps[name], inside) if name in maps else {}
            frames.append(_rows(batch, name, source, aligned | found, asked, ious))
        if source == "own":
            for name, one in maps.items():
                frames.append(_rows(batch, name, "smooth", scores(_moved(one, rng), inside), asked, ious))
    return frames


def table(collected: pd.DataFrame) -> pd.DataFrame:
    """For every point, head and number: its mean with interval, spread, for each null its difference from that, and its
    rank correlation with the IoU, beside that of shuffled words.

    Each `verdict` says whether the interval of a difference, or of the correlation, leaves zero out.
    """
    rows = []
    for (point, head), group in collected.groupby(["point", "head"], sort=False):
        own = group[group["source"] == "own"].set_index("expression")
        for statistic in statistics_of(str(point)):
            found = mean_of(own[statistic].to_numpy(float), own["image_id"].to_numpy())
            row = {"point": point, "head": head, "statistic": statistic, "value": found.value, "low": found.low,
                   "high": found.high, "sd": float(own[statistic].std())}  # fmt: skip
            for null in NULLS if statistic in ALIGNED else NULLS[:2]:
                row |= _against(own, group[group["source"] == null].set_index("expression"), statistic, null)
            row |= _with_iou(own, group[group["source"] == "shuffled"].set_index("expression"), statistic)
            rows.append(row)
    return pd.DataFrame(rows)


def _against(own: pd.DataFrame, null: pd.DataFrame, statistic: str, name: str) -> dict[str, object]:
    both = own.join(null[[statistic]], rsuffix="_null", how="inner")
    apart = mean_of((both[statistic] - both[f"{statistic}_null"]).to_numpy(float), both["image_id"].to_numpy())
    return {f"{name}: difference": apart.value, f"{name}: low": apart.low, f"{name}: high": apart.high,
            f"{name}: verdict": _separation(apart)}  # fmt: skip


def _separation(apart: Estimate) -> str:
    if not np.isfinite(apart.value):
        return "no such null here"
    if apart.low <= 0 <= apart.high:
        return "does not separate"
    return f"separates: {'above' if apart.value > 0 else 'below'} by {abs(apart.value):.3g}"


def _with_iou(own: pd.DataFrame, shuffled: pd.DataFrame, statistic: str) -> dict[str, object]:
    both = own.join(shuffled[[statistic]], rsuffix="_null", how="left")
    number, null, iou = (both[name].to_numpy(float) for name in (statistic, f"{statistic}_null", "iou"))
    images = both["image_id"].to_numpy()
    found, apart = rank_correlation(number, iou, images), rank_correlation(number, iou, images, null)
    if not np.isfinite(found.value):
        words = "one of the two is constant"
    elif found.low <= 0 <= found.high:
        words = "no relation shown"
    else:
        words = "rises with the IoU" if found.value > 0 else "falls as the IoU rises"
    return {"iou: correlation": found.value, "iou: low": found.low, "iou: high": found.high, "iou: verdict": words,
            "iou, shuffled: difference": apart.value, "iou, shuffled: low": apart.low,
            "iou, shuffled: high": apart.high, "iou, shuffled: verdict": _separation(apart)}  # fmt: skip


def _rows(
    batch: EvaluationBatch, point: str, source: str, found: dict[str, Tensor], asked: NDArray[np.bool_],
    ious: NDArray[np.float64],
) -> pd.DataFrame:  # fmt: skip
    heads = next(iter(found.values())).shape[1]
    keys = [f"{e.ref_id}/{e.sent_id}" for e in batch.expressions]
    images = np.array([e.image_id for e in batch.expressions])
    frame = pd.DataFrame({name: value.cpu().numpy().ravel() for name, value in found.items()})
    frame = frame.assign(
        expression=np.repeat(keys, heads), image_id=np.repeat(images, heads), head=np.tile(range(heads), len(keys)),
        point=point, source=source, iou=np.repeat(ious, heads),
    )  # fmt: skip
    return frame[np.repeat(asked, heads)]


def _look(
    model: ReferringSam,
    tokenizer: Tokenizer,
    batch: EvaluationBatch,
    sentences: Sequence[str],
    config: RunConfig,
    points: Sequence[str],
) -> Looked:
    device = next(model.parameters()).device
    _, mask = tokenizer(list(sentences))
    with trace(model, points, reductions=WHOLE) as seen:
        logits = mask_logits(model, tokenizer, batch.pixels, batch.content, batch.image_of, sentences, config, device)
    own = groups_of(mask)["words"]
    share = (own / own.sum(dim=1, keepdim=True).clamp(min=1)).to(device)
    maps: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Tensor]] = {}
    for recording in seen:
        name = recording.point.name
        if recording.point.part == "all":
            found = _of_rows(recording)
            # Blocks before the first that reads words ran once per image.
            alone = not model.fusion.layers or _layer(name) < min(model.fusion.layers)
            numbers[name] = {key: value[batch.image_of.to(device)] if alone else value for key, value in found.items()}
            continue
        if recording.weights.dim() < 5:  # cross-attention whose keys are words
            continue
        maps[name] = torch.einsum("ehlyx,el->ehyx", recording.weights, share.to(recording.weights))
        numbers[name] = masses(recording.weights, mask.to(device)) if name.endswith(".image_to_word") else {}
    if not numbers:
        raise TraceError(f"{', '.join(points)}: the keys are words, so there is no map over the image")
    return maps, numbers, logits


def _iou(dataset: ReferringDataset, expression: Expression, logits: Tensor, config: RunConfig) -> float:
    """Of the predicted mask with the referent, as an evaluation scores it."""
    mask = mask_of(logits, dataset.placement(expression), expression.height, expression.width, config)
    scored = score(expression, masks.encode(mask.cpu().numpy()), config.evaluation.no_target_area)
    return float(scored["iou"])


def _of_rows(recording: Recording) -> dict[str, Tensor]:
    """The numbers of a whole attention, B×h."""
    means = {name: recording.reduced[name].double().mean(dim=(2, 3)) for name in WHOLE}
    largest = recording.keys.double().log()[:, None].to(means["entropy"])
    return {**means, "entropy": means["entropy"] / largest}


def _layer(point: str) -> int:
    return int(point.partition("[")[2].partition("]")[0])


def _referents(dataset: ReferringDataset, batch: EvaluationBatch, patch: int) -> Tensor:
    """E×H×W, see `_on_tokens`."""
    return torch.stack([_on_tokens(dataset, expression, patch) for expression in batch.expressions])


def _on_tokens(dataset: ReferringDataset, expression: Expression, patch: int) -> Tensor:
    """The referent's share of each image token, H×W."""
    placement = dataset.placement(expression)
    mask = torch.from_numpy(dataset.mask(expression)).float()[None, None]
    content = F.interpolate(mask, size=(placement.height, placement.width), mode="area")[0, 0]
    square = torch.zeros(dataset.side, dataset.side)
    square[placement.top : placement.top + placement.height, placement.left : placement.left + placement.width] = (
        content
    )
    return F.avg_pool2d(square[None], patch)[0]


def _moved(maps: Tensor, rng: np.random.Generator) -> Tensor:
    """Each expression's maps, moved by a random distance, round the edges."""
    return torch.stack(
        [one.roll((int(rng.integers(one.shape[1])), int(rng.integers(one.shape[2]))), dims=(1, 2)) for one in maps]
    )


def _others(dataset: ReferringDataset, rng: np.random.Generator) -> Others:
    """For each expression a sentence of another image, and one of another referent of its image or None."""
    everything = list(dataset.expressions)
    if len({e.image_id for e in everything}) < 2:
        raise DataError("a split of one image has no sentences of other images to compare with")
    by_image: dict[int, list[Expression]] = {}
    for expression in everything:
        by_image.setdefault(expression.image_id, []).append(expression)
    return {
        (e.ref_id, e.sent_id): (_drawn(everything, e, rng), _neighbour(by_image[e.image_id], e, rng))
        for e in everything
    }


def _drawn(everything: list[Expression], of: Expression, rng: np.random.Generator) -> str:
    """Of another image; in other words, unless all are alike."""
    drawn = ""
    for _ in range(DRAWS):
        one = everything[int(rng.integers(len(everything)))]
        if one.image_id != of.image_id:
            drawn = one.sentence
            if drawn != of.sentence:
                return drawn
    return drawn or next(one.sentence for one in everything if one.image_id != of.image_id)


def _neighbour(of_image: list[Expression], of: Expression, rng: np.random.Generator) -> str | None:
    near = [e.sentence for e in of_image if e.ref_id != of.ref_id and e.sentence != of.sentence]
    return near[int(rng.integers(len(near)))] if near else None


def _sentence(expression: Expression, source: str, others: Others) -> str | None:
    if source == "own":
        return expression.sentence
    return others[expression.ref_id, expression.sent_id][0 if source == "shuffled" else 1]

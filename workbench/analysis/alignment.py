"""Whether words look at what they refer to: numbers of every layer and head over a split, each beside its nulls.

Of each word→image map, the mean over the sentence's own words ([CLS], [SEP] and padding left out):
    inside: the share of the map's mass on the referent, less the referent's share of the image. 0 is no preference.
    auc: the chance that a token of the referent has more weight than one outside. 0.5 is no preference.
    pointing: whether the map's largest value is on the referent.
    entropy: of the map over the image tokens, as a fraction of the largest possible.

The nulls are the same numbers of other maps over the same referent: `shuffled`, the words of another image's sentence;
`same image`, the words of another referent's sentence of the image, where it has one; `smooth`, the map moved across
the image at random, round its edges, so just as smooth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from workbench.analysis.points import points_of
from workbench.analysis.statistics import mean_of
from workbench.analysis.trace import trace
from workbench.config import RunConfig
from workbench.data.loading import EvaluationBatch, Expression, ReferringDataset, evaluation_batches
from workbench.errors import DataError
from workbench.evaluation.evaluate import mask_logits
from workbench.models.referring_sam import ReferringSam
from workbench.models.text_encoder import Tokenizer

NULLS = ("shuffled", "same image", "smooth")
ALIGNED = ("inside", "auc", "pointing")
STATISTICS = (*ALIGNED, "entropy")


def word_points(model: ReferringSam) -> list[str]:
    """Where words look at the image: in the encoder's fused blocks and in the mask decoder's layers."""
    return [name for name in points_of(model) if name.endswith(".word_to_image")]


def scores(maps: Tensor, inside: Tensor) -> dict[str, Tensor]:
    """The numbers of maps E×h×H×W over referents E×H×W (from 0 to 1), each E×h; NaN where there is no referent."""
    flat, area = maps.double().flatten(2), inside.double().flatten(1)
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
    """One row per expression, point, head, and source of the map (`own` or one of NULLS), with the numbers.

    Args:
        points: names or patterns of word→image points; None: all.

    Raises:
        DataError: the split has fewer than two images, so that there is no other sentence.
        TraceError: the model lacks a point.
    """
    device = next(model.parameters()).device
    rng, frames = np.random.default_rng(seed), []
    others = _others(dataset, rng)
    wanted = list(points) if points else word_points(model)
    for batch in evaluation_batches(dataset, config.machine.evaluation_batch_size):
        inside = torch.stack([_on_tokens(dataset, e, model.image_encoder.patch_size) for e in batch.expressions])
        for source in ("own", "shuffled", "same image"):
            sentences = [_sentence(e, source, others) for e in batch.expressions]
            asked_about = [s or e.sentence for s, e in zip(sentences, batch.expressions, strict=True)]
            maps = _maps(model, tokenizer, batch, asked_about, config, wanted, device)
            asked = np.array([sentence is not None for sentence in sentences])
            for name, one in maps.items():
                frames.append(_rows(batch, name, source, scores(one, inside), asked))
                if source == "own":
                    frames.append(_rows(batch, name, "smooth", scores(_moved(one, rng), inside), asked))
    return pd.concat(frames, ignore_index=True)


def table(collected: pd.DataFrame) -> pd.DataFrame:
    """For every point, head and number: its mean with interval, spread, and for each null its difference from that.

    `verdict` says whether the interval of the paired difference leaves zero out.
    """
    rows = []
    for (point, head), group in collected.groupby(["point", "head"], sort=False):
        own = group[group["source"] == "own"].set_index("expression")
        for statistic in STATISTICS:
            found = mean_of(own[statistic].to_numpy(float), own["image_id"].to_numpy())
            row = {"point": point, "head": head, "statistic": statistic, "value": found.value, "low": found.low,
                   "high": found.high, "sd": float(own[statistic].std())}  # fmt: skip
            for null in NULLS if statistic in ALIGNED else NULLS[:2]:
                row |= _against(own, group[group["source"] == null].set_index("expression"), statistic, null)
            rows.append(row)
    return pd.DataFrame(rows)


def _against(own: pd.DataFrame, null: pd.DataFrame, statistic: str, name: str) -> dict[str, object]:
    both = own.join(null[[statistic]], rsuffix="_null", how="inner")
    apart = mean_of((both[statistic] - both[f"{statistic}_null"]).to_numpy(float), both["image_id"].to_numpy())
    if not np.isfinite(apart.value):
        words = "no such null here"
    elif apart.low <= 0 <= apart.high:
        words = "does not separate"
    else:
        words = f"separates: {'above' if apart.value > 0 else 'below'} by {abs(apart.value):.3g}"
    return {f"{name}: difference": apart.value, f"{name}: low": apart.low, f"{name}: high": apart.high,
            f"{name}: verdict": words}  # fmt: skip


def _rows(
    batch: EvaluationBatch, point: str, source: str, found: dict[str, Tensor], asked: NDArray[np.bool_]
) -> pd.DataFrame:
    heads = next(iter(found.values())).shape[1]
    keys = [f"{e.ref_id}/{e.sent_id}" for e in batch.expressions]
    images = np.array([e.image_id for e in batch.expressions])
    frame = pd.DataFrame({name: value.cpu().numpy().ravel() for name, value in found.items()})
    frame = frame.assign(
        expression=np.repeat(keys, heads), image_id=np.repeat(images, heads), head=np.tile(range(heads), len(keys)),
        point=point, source=source,
    )  # fmt: skip
    return frame[np.repeat(asked, heads)]


def _maps(
    model: ReferringSam,
    tokenizer: Tokenizer,
    batch: EvaluationBatch,
    sentences: Sequence[str],
    config: RunConfig,
    points: Sequence[str],
    device: torch.device,
) -> dict[str, Tensor]:
    """By point, E×h×H×W: the mean over the sentence's own words."""
    _, mask = tokenizer(list(sentences))
    inner = mask.clone()
    inner[:, 0] = 0
    inner[torch.arange(len(mask)), mask.sum(dim=1) - 1] = 0
    with trace(model, points) as seen:
        mask_logits(model, tokenizer, batch.pixels, batch.content, batch.image_of, sentences, config, device)
    share = (inner / inner.sum(dim=1, keepdim=True).clamp(min=1)).to(device)
    return {r.point.name: torch.einsum("ehlyx,el->ehyx", r.weights, share.to(r.weights)) for r in seen}


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


Others = dict[tuple[int, int], tuple[str, str | None]]


def _others(dataset: ReferringDataset, rng: np.random.Generator) -> Others:
    """For each expression a sentence of another image, and one of another referent of its image or None."""
    everything = list(dataset.expressions)
    if len({e.image_id for e in everything}) < 2:
        raise DataError("a split of one image has no sentences of other images to compare with")
    return {(e.ref_id, e.sent_id): (_drawn(everything, e, rng), _neighbour(everything, e, rng)) for e in everything}


def _drawn(everything: list[Expression], of: Expression, rng: np.random.Generator) -> str:
    while True:
        one = everything[int(rng.integers(len(everything)))]
        if one.image_id != of.image_id:
            return one.sentence


def _neighbour(everything: list[Expression], of: Expression, rng: np.random.Generator) -> str | None:
    near = [e.sentence for e in everything if e.image_id == of.image_id and e.ref_id != of.ref_id]
    return near[int(rng.integers(len(near)))] if near else None


def _sentence(expression: Expression, source: str, others: Others) -> str | None:
    if source == "own":
        return expression.sentence
    return others[expression.ref_id, expression.sent_id][0 if source == "shuffled" else 1]

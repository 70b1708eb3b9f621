"""Maps of where words look, by one method or another, and any map on the picture's own pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.analysis.points import TraceError, select
from workbench.analysis.rollout import rollout
from workbench.analysis.trace import Recording, trace
from workbench.data.transforms import Placement
from workbench.models.referring_sam import ReferringSam
from workbench.registry import unknown_name

METHODS = {
    "heads": "the weights, head by head",
    "mean": "their mean over heads",
    "gradient_weighted": "mean over heads of the positive part of gradient × weight (Chefer et al. 2021, of one layer)",
    "gradient_input": "mean over heads of gradient × weight, signed: what a weight adds to the target, to first order",
    "rollout": "the words' rows carried back through the image encoder (Abnar & Zuidema 2020)",
    "gradient_rollout": "the same, each layer weighted by gradients (Chefer et al. 2021)",
}
"""What a map shows, by the name of the method. The last two are of no single point."""
THROUGH_ALL = ("rollout", "gradient_rollout")
Target = Callable[[Tensor], Tensor]


def mean_inside(logits: Tensor) -> Tensor:
    """The mean logit inside of each predicted mask, B, of logits B×h×w; of an empty mask, over everything."""
    inside = logits.detach() > 0
    inside = inside | ~inside.flatten(1).any(dim=1)[:, None, None]
    return (logits * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2))


def word_maps(
    model: ReferringSam,
    images: Tensor,
    ids: Tensor,
    mask: Tensor,
    points: Sequence[str],
    methods: Sequence[str] = ("heads",),
    target: Target = mean_inside,
) -> dict[str, Tensor]:
    """A map over the image tokens for each word, by `<point>.<method>`, all from one pass; windows are undone.

    Args:
        images: normalised, B×3×S×S.
        ids, mask: B×L.
        points: names or patterns of points of words by image, such as `encoder.blocks[5].attn.image_to_word`.
        methods: keys of METHODS.
        target: of logits B×h×w, the numbers B whose gradient is taken.

    Returns:
        B×L×H×W, of `heads` B×h×L×H×W; of the methods through all layers by `<method>` alone.

    Raises:
        TraceError: no such method or point, or nothing depends on the weights there.
    """
    check_methods(methods)
    by_point = [method for method in methods if method not in THROUGH_ALL]
    through_all = [method for method in methods if method in THROUGH_ALL]
    names = [point.name for point in select(model, points)] if by_point else []
    by_gradient = any(method.startswith("gradient") for method in methods)
    traced = [*names, *(["encoder.blocks[*].attn"] if through_all else [])]
    with torch.set_grad_enabled(by_gradient), trace(model, traced, gradient=by_gradient) as seen:
        # A gradient by the pixels passes every point, whichever parameters are frozen, and leaves none in them.
        pixels = images.detach().clone().requires_grad_(by_gradient)
        logits = model(pixels, ids, mask)
        if by_gradient:
            torch.autograd.grad(target(logits).sum(), pixels)
    maps = {f"{name}.{method}": of_point(seen[name], method) for name in names for method in by_point}
    return maps | {name: rollout(model, seen, weighted=name == "gradient_rollout").image for name in through_all}


def check_methods(methods: Sequence[str]) -> None:
    """TraceError where one is not in METHODS."""
    if unknown := [method for method in methods if method not in METHODS]:
        raise TraceError(unknown_name("method", unknown[0], list(METHODS)))


def of_point(recording: Recording, method: str) -> Tensor:
    """The map of one recording by a method that is not through all layers; see `word_maps`."""
    weights = recording.weights
    if weights.dim() < 5 or recording.point.part == "image_to_image":
        raise TraceError(f"{recording.point.name}: its weights are not of words by the image")
    if method == "heads":
        return weights
    if method == "mean":
        return weights.mean(dim=1)
    product = weights * recording.gradient.to(weights)
    return (product.clamp(min=0) if method == "gradient_weighted" else product).mean(dim=1)


def on_picture(maps: Tensor, placement: Placement, side: int, height: int, width: int, smooth: bool = False) -> Tensor:
    """Maps …×H×W over the image tokens as …×height×width over the picture's own pixels; the square's padding is gone.

    Each pixel has the value of the token that its centre lies in or, `smooth`, is interpolated between tokens.

    Args:
        placement: of the whole picture in the model's square.
        side: of the square, in pixels.
    """
    down = (torch.arange(height, dtype=torch.float64) + 0.5) * placement.height / height + placement.top
    across = (torch.arange(width, dtype=torch.float64) + 0.5) * placement.width / width + placement.left
    rows, columns = (down / side).to(maps.device), (across / side).to(maps.device)
    if not smooth:
        row = (rows * maps.shape[-2]).long().clamp(max=maps.shape[-2] - 1)
        column = (columns * maps.shape[-1]).long().clamp(max=maps.shape[-1] - 1)
        return maps[..., row[:, None], column]
    places = torch.stack(torch.meshgrid(2 * columns - 1, 2 * rows - 1, indexing="xy"), dim=-1)
    flat = maps.reshape(1, -1, *maps.shape[-2:]).to(torch.promote_types(maps.dtype, torch.float32))
    sampled = F.grid_sample(flat, places[None].to(flat), padding_mode="border", align_corners=False)
    return sampled.reshape(*maps.shape[:-2], height, width)

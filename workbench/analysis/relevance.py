"""Maps of one picture and sentence that take more than one layer's weights: rollout, and attention times its gradient.

What is differentiated is the mean logit of the predicted mask, or of the whole picture where the mask is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.analysis.points import points_of, reads_words
from workbench.analysis.rollout import rollout
from workbench.analysis.trace import trace
from workbench.models.referring_sam import ReferringSam


@dataclass(frozen=True)
class Relevance:
    """Maps of the L words over the image's tokens H×W.

    Attributes:
        rollout, weighted: through all blocks of the image encoder, plain and weighted by gradients, L×H×W; None where
            none of them reads words. See `rollout.rollout`.
        gradient: by a layer's name (`encoder.blocks[2].attn`), the positive part of image→word attention times the
            gradient of the logit by it, h×L×H×W.
    """

    rollout: Tensor | None
    weighted: Tensor | None
    gradient: Mapping[str, Tensor]


def relevance(model: ReferringSam, image: Tensor, ids: Tensor, mask: Tensor) -> Relevance:
    """All of them, from one forward and one backward pass; the gradients that parameters hold stay as they are.

    Args:
        image: normalised, 1×3×S×S.
        ids, mask: of one sentence, 1×L.
    """
    read = [name for name in points_of(model) if name.endswith(".image_to_word")]
    blocks = ["encoder.blocks[*].attn"] if reads_words(model) else []
    with torch.inference_mode(False), torch.enable_grad(), trace(model, [*read, *blocks], gradient=True) as seen:
        pixels = image.clone().requires_grad_()
        logits = model(pixels, ids.clone(), mask.clone())[0]
        inside = logits.detach() > 0
        target = logits[inside].mean() if bool(inside.any()) else logits.mean()
        torch.autograd.grad(target, pixels)
        plain, weighted = (rollout(model, seen, way).image[0] for way in (False, True)) if blocks else (None, None)
    gradient = {
        name.removesuffix(".image_to_word"): (seen[name].weights * seen[name].gradient).clamp(min=0)[0].detach()
        for name in read
    }
    return Relevance(plain, weighted, gradient)

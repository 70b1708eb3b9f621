"""The FLOPs of a training step, forward and backward, counted in a step that computes nothing."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from workbench.config import RunConfig
from workbench.models.build import check_config
from workbench.models.referring_sam import upsample
from workbench.training.losses import mask_loss


def step_flops(config: RunConfig) -> int:
    """Of one step with the whole batch, text encoder included; a multiplication and an addition are two.

    Only matrix products and convolutions are counted, each once, whatever memory is saved by computing blocks again;
    gradients that nothing asks for, as of frozen parts before the first that learns, cost nothing. With cached features
    the frozen encoder costs nothing either.

    Raises:
        ConfigError: the parts of the model do not fit together.
    """
    model = check_config(config)
    side, words, batch = config.backbone.image_size, config.text_encoder.max_tokens, config.training.batch_size
    model.image_encoder.implementation = "eager"
    model.image_encoder.checkpointed = False
    with FakeTensorMode():
        model._apply(lambda t: torch.empty(t.shape, dtype=t.dtype))  # type: ignore[no-untyped-call]
        model.train()
        image = torch.empty(batch, 3, side, side)
        features = None
        if config.training.cache_features:
            with torch.no_grad():
                features = model.before_text(image)
        tokens = torch.zeros(batch, words, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            logits = model(None if features is not None else image, tokens, torch.ones_like(tokens), features)
            loss = mask_loss(upsample(logits, (side, side)), torch.empty(batch, side, side), 1.0, 1.0)
            if loss.requires_grad:
                loss.backward()
    return int(counter.get_total_flops())

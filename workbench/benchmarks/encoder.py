"""`workbench bench encoder`: the whole image encoder on random weights.

Figures:
    hf_vit_b_1024: ViT-B with SAM's windows, one 1024-px image, forward; against the vision encoder of Hugging Face's
        SamModel with SDPA and the same weights.
    released_vit_b_512, released_vit_b_512_train: L-DIT on ViT-B, one 512-px image and 20 words, every block global;
        against the released formulation, forward and with gradients.
On a GPU also, for a training step of the same in bf16 with batch 64 (the released formulation in fp32, batch 8):
    l_dit_images_per_second, released_images_per_second, l_dit_against_released;
    l_dit_share_of_ceiling, of 1180 images/s (0.67 TFLOP per image at 790 TFLOP/s, an H200's in bf16);
    l_dit_peak_gib, released_peak_gib.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from workbench.benchmarks.formulation import released_encoder
from workbench.benchmarks.race import Report, in_words, race
from workbench.config import FusionConfig
from workbench.errors import WorkbenchError
from workbench.models.backbones import backbones
from workbench.models.fusion import Sizes, build_fusion
from workbench.models.image_encoder import FusedImageEncoder

WORDS, TEXT_WIDTH = 20, 768
CEILING = 1180.0


def run(device: torch.device, report: Report) -> dict[str, float]:
    """All figures; see the module."""
    results = _against_hugging_face(device, report) | _against_released(device, report)
    return results if device.type == "cpu" else results | _training_throughput(device, report)


def l_dit(device: torch.device, windowed: bool) -> FusedImageEncoder:
    """L-DIT on a ViT-B with random weights, positions included."""
    torch.manual_seed(0)
    vit = backbones["vit_b"].build().image_encoder
    for name, parameter in vit.named_parameters():
        if "pos" in name:
            nn.init.normal_(parameter, std=0.02)
    config = FusionConfig.model_validate({"variant": "l_dit", "projector": {"init": "normal"}})
    fusion = build_fusion(config, Sizes(TEXT_WIDTH, vit.widths, WORDS))
    return FusedImageEncoder(vit, fusion, windowed).eval().to(device)


def _against_hugging_face(device: torch.device, report: Report) -> dict[str, float]:
    ours = l_dit(device, windowed=True)
    theirs = hugging_face_encoder(ours)
    image = torch.randn(1, 3, 1024, 1024, device=device)
    with torch.inference_mode():
        _must_agree("Hugging Face's encoder", theirs(image), ours(image))
        seconds = race({"ours": lambda: ours(image), "hf": lambda: theirs(image)}, 3, device)
    report(in_words("ViT-B at 1024 px", seconds))
    return {"hf_vit_b_1024": seconds["hf"] / seconds["ours"]}


def hugging_face_encoder(ours: FusedImageEncoder) -> Callable[[Tensor], Tensor]:
    """SamModel's vision encoder, with SDPA, holding the weights of ours."""
    from transformers import SamVisionConfig
    from transformers.models.sam.modeling_sam import SamVisionEncoder

    config = SamVisionConfig(attn_implementation="sdpa")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SamVisionEncoder(config).eval()
    names = {
        r"^patch_embed\.proj\.": "patch_embed.projection.",
        r"^blocks\.(\d+)\.norm": r"layers.\1.layer_norm",
        r"^blocks\.": "layers.",
        r"^neck\.0\.": "neck.conv1.",
        r"^neck\.1\.": "neck.layer_norm1.",
        r"^neck\.2\.": "neck.conv2.",
        r"^neck\.3\.": "neck.layer_norm2.",
    }
    state = {}
    for key, value in ours.vit.state_dict().items():
        for pattern, name in names.items():
            key = re.sub(pattern, name, key)
        state[key] = value
    model.load_state_dict(state)
    device = next(ours.parameters()).device
    model.to(device)
    return lambda image: model(image).last_hidden_state


def _against_released(device: torch.device, report: Report) -> dict[str, float]:
    encoder = l_dit(device, windowed=False)
    image, text = torch.randn(1, 3, 512, 512, device=device), torch.randn(1, WORDS, TEXT_WIDTH, device=device)
    with torch.inference_mode():
        _must_agree("the released formulation", released_encoder(encoder, image, text), encoder(image, text))
        forward = race(
            {"ours": lambda: encoder(image, text), "released": lambda: released_encoder(encoder, image, text)},
            7,
            device,
        )
    report(in_words("L-DIT on ViT-B at 512 px", forward))

    def backward(embedding: Tensor) -> None:
        encoder.zero_grad(set_to_none=True)
        embedding.square().mean().backward()

    train = race(
        {
            "ours": lambda: backward(encoder(image, text)),
            "released": lambda: backward(released_encoder(encoder, image, text)),
        },
        3,
        device,
    )
    report(in_words("L-DIT on ViT-B at 512 px, with gradients", train))
    return {
        "released_vit_b_512": forward["released"] / forward["ours"],
        "released_vit_b_512_train": train["released"] / train["ours"],
    }


def _must_agree(other: str, theirs: Tensor, ours: Tensor) -> None:
    error = ((theirs - ours).abs().max() / theirs.abs().max()).item()
    if error > 1e-3:
        raise WorkbenchError(f"bench encoder: ours and {other} differ by {error:.1e}; their speeds cannot be compared")


def _training_throughput(device: torch.device, report: Report) -> dict[str, float]:
    def steps(batch: int, step: Callable[[Tensor, Tensor], None], name: str) -> tuple[float, float]:
        image = torch.randn(batch, 3, 512, 512, device=device)
        text = torch.randn(batch, WORDS, TEXT_WIDTH, device=device)
        torch.cuda.reset_peak_memory_stats(device)
        seconds = race({name: lambda: step(image, text)}, 5, device)
        report(in_words("a training step", seconds))
        return batch / seconds[name], torch.cuda.max_memory_allocated(device) / 2**30

    encoder = l_dit(device, windowed=False).train()
    optimizer = torch.optim.AdamW(encoder.parameters(), fused=True)

    def finish(embedding: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        embedding.float().square().mean().backward()
        optimizer.step()

    def ours(image: Tensor, text: Tensor) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            embedding = encoder(image, text)
        finish(embedding)

    speed, memory = steps(64, ours, "L-DIT training step, bf16, batch 64")
    released_speed, released_memory = steps(
        8, lambda image, text: finish(released_encoder(encoder, image, text)), "released training step, fp32, batch 8"
    )
    return {
        "l_dit_images_per_second": speed,
        "released_images_per_second": released_speed,
        "l_dit_against_released": speed / released_speed,
        "l_dit_share_of_ceiling": speed / CEILING,
        "l_dit_peak_gib": memory,
        "released_peak_gib": released_memory,
    }

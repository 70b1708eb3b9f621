"""SAM in its sizes, built from `segment_anything`'s own classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from workbench.registry import Registry

SAM_DECODER_DEPTH = 2


@dataclass(frozen=True)
class BackboneShape:
    """Every number of a SAM. Sizes in pixels are `image_size` and `patch_size`, in tokens `window_size`."""

    width: int
    depth: int
    heads: int
    global_layers: tuple[int, ...]
    image_size: int = 1024
    patch_size: int = 16
    window_size: int = 14
    mlp_ratio: float = 4.0
    decoder_width: int = 256
    decoder_heads: int = 8
    decoder_mlp_width: int = 2048
    iou_head_width: int = 256
    mask_channels: int = 16


backbones: Registry[BackboneShape] = Registry("backbone", "backbone.name")
backbones.register("vit_mini")(
    BackboneShape(
        64, 4, 2, (1, 3), image_size=64, patch_size=8, window_size=4, decoder_width=64, decoder_heads=4,
        decoder_mlp_width=128, iou_head_width=32, mask_channels=8,
    )
)  # fmt: skip
backbones.register("vit_b")(BackboneShape(768, 12, 12, (2, 5, 8, 11)))
backbones.register("vit_l")(BackboneShape(1024, 24, 16, (5, 11, 17, 23)))
backbones.register("vit_h")(BackboneShape(1280, 32, 16, (7, 15, 23, 31)))


def build_sam(shape: BackboneShape, decoder_depth: int = SAM_DECODER_DEPTH) -> Sam:
    """A SAM with random weights; its state dict has the official key names."""
    grid = shape.image_size // shape.patch_size
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=shape.image_size,
            patch_size=shape.patch_size,
            embed_dim=shape.width,
            depth=shape.depth,
            num_heads=shape.heads,
            mlp_ratio=shape.mlp_ratio,
            out_chans=shape.decoder_width,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=shape.window_size,
            global_attn_indexes=shape.global_layers,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=shape.decoder_width,
            image_embedding_size=(grid, grid),
            input_image_size=(shape.image_size, shape.image_size),
            mask_in_chans=shape.mask_channels,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=decoder_depth,
                embedding_dim=shape.decoder_width,
                num_heads=shape.decoder_heads,
                mlp_dim=shape.decoder_mlp_width,
            ),
            transformer_dim=shape.decoder_width,
            iou_head_depth=3,
            iou_head_hidden_dim=shape.iou_head_width,
        ),
    )

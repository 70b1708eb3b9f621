"""The assembled model: SAM's three parts, a text encoder and one fusion variant; an image and a sentence to a mask."""

from __future__ import annotations

from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from workbench.config import FreezeConfig
from workbench.models.determinism import resize
from workbench.models.fusion import Fusion
from workbench.models.image_encoder import FusedImageEncoder
from workbench.models.mask_decoder import decode
from workbench.models.text_encoder import TextEncoder

UNUSED = (
    "prompt_encoder.point_embeddings",
    "prompt_encoder.not_a_point_embed",
    "prompt_encoder.mask_downscaling",
    "mask_decoder.output_hypernetworks_mlps.1",
    "mask_decoder.output_hypernetworks_mlps.2",
    "mask_decoder.output_hypernetworks_mlps.3",
    "mask_decoder.iou_prediction_head",
)
"""Parts of SAM that a referring expression never reaches; they get no gradient."""

REST = "rest"


class ReferringSam(nn.Module):
    """F(I, T) = F_d(F_v(I, φ(F_t(T))), F_t(T)); images are normalised by `normalise` first.

    Args:
        image_encoder: SAM's, with its fusion variant.
        sam: whose prompt encoder, mask decoder and pixel statistics are used.
        text_encoder: None for callers that pass text features themselves.
        text_width: width of the text features.
        mask_padding: whether padding words are hidden from the image encoder and the mask decoder.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        image_encoder: FusedImageEncoder,
        sam: Sam,
        text_encoder: TextEncoder | None,
        text_width: int,
        mask_padding: bool = True,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder
        self.text_encoder = text_encoder
        self.text_proj = nn.Linear(text_width, sam.mask_decoder.transformer_dim)
        self.mask_padding = mask_padding
        # As in Sam: they move with the model and are in no checkpoint.
        self.register_buffer("pixel_mean", sam.pixel_mean, persistent=False)
        self.register_buffer("pixel_std", sam.pixel_std, persistent=False)

    @property
    def fusion(self) -> Fusion:
        """The fusion variant."""
        return self.image_encoder.fusion

    @property
    def caches_embedding(self) -> bool:
        """Whether `before_text` reaches through the neck: no block is fused, and the neck is frozen."""
        return not self.fusion.layers and not any(p.requires_grad for p in self.image_encoder.vit.neck.parameters())

    def normalise(self, pixels: Tensor, content: Tensor | None = None) -> Tensor:
        """SAM's normalisation of B×3×H×W pixels from 0 to 255, by the `pixel_mean` and `pixel_std` of its channels.

        Args:
            content: B×4 (top, left, height, width); what lies outside is padding and becomes zero, as SAM pads.
        """
        normalised: Tensor = (pixels.float() - self.pixel_mean) / self.pixel_std
        if content is None:
            return normalised
        top, left, height, width = content.to(pixels.device)[:, :, None, None].unbind(1)
        row = torch.arange(pixels.shape[2], device=pixels.device)[None, :, None]
        column = torch.arange(pixels.shape[3], device=pixels.device)[None, None, :]
        inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
        return normalised * inside[:, None]

    def forward(
        self, image: Tensor | None, input_ids: Tensor, attention_mask: Tensor, features: Tensor | None = None
    ) -> Tensor:
        """Mask logits at a quarter of the patch size, B×h×w.

        Args:
            image: normalised pixels, B×3×H×W; None where `features` are given.
            input_ids, attention_mask: B×L.
            features: the output of `before_text` for the image.
        """
        text, text_mask = self.encode_text(input_ids, attention_mask)
        if features is None:
            assert image is not None
            embedding = self.encode_image(image, text, text_mask)
        else:
            embedding = self.after_text(features, text, text_mask)
        return self.decode(embedding, text, text_mask)[:, 0]

    def before_text(self, image: Tensor) -> Tensor:
        """The part that text cannot change, of images B×3×H×W: tokens before the first fused block, B×h×w×C.

        With no fused block and a frozen neck it is the image embedding, B×C×h×w.
        """
        if self.caches_embedding:
            return self.image_encoder.forward(image)
        return self.image_encoder.before_text(image)

    def after_text(self, features: Tensor, text_features: Tensor, text_mask: Tensor | None = None) -> Tensor:
        """Image embedding B×C×h×w from `before_text`'s features, one row per expression."""
        if self.caches_embedding:
            return features
        return self.image_encoder.with_text(features, text_features, text_mask)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Text features B×L×C, and the mask that the other parts are to use (None where padding is visible)."""
        assert self.text_encoder is not None, "this model was built without a text encoder"
        features = self.text_encoder(input_ids, attention_mask)
        return features, attention_mask.bool() if self.mask_padding else None

    def encode_image(self, image: Tensor, text_features: Tensor | None, text_mask: Tensor | None = None) -> Tensor:
        """Image embedding B×C×h×w of images B×3×H×W and text features B×L×C."""
        embedding: Tensor = self.image_encoder(image, text_features, text_mask)
        return embedding

    def encode_shared(
        self, image: Tensor, image_of: Tensor, text_features: Tensor, text_mask: Tensor | None = None
    ) -> Tensor:
        """Image embeddings E×C×h×w of E expressions about I images; the part without text is computed once per image.

        Args:
            image: I×3×H×W.
            image_of: for each expression the index of its image, E.
            text_features, text_mask: one row per expression.
        """
        if not self.fusion.layers:
            return self.image_encoder.forward(image)[image_of]  # not the compiled one: the number of images varies
        tokens = self.image_encoder.before_text(image)[image_of]
        return self.image_encoder.with_text(tokens, text_features, text_mask)

    def decode(self, image_embedding: Tensor, text_features: Tensor, text_mask: Tensor | None = None) -> Tensor:
        """Low-resolution mask logits B×1×4h×4w of an image embedding B×C×h×w and text features B×L×C."""
        image_pe = image_positions(self.prompt_encoder.pe_layer, image_embedding.shape[-2], image_embedding.shape[-1])
        dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        words = self.text_proj(text_features)
        logits, _ = decode(self.mask_decoder, image_embedding, image_pe, words, dense, text_mask)
        return logits

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the names of `FreezeConfig`'s fields; what is in none of them is always trained."""
        vit = self.image_encoder.vit
        neck = list(vit.neck.parameters())
        in_neck = {id(p) for p in neck}
        return {
            "image_encoder": [p for p in vit.parameters() if id(p) not in in_neck],
            "neck": neck,
            "text_encoder": [] if self.text_encoder is None else list(self.text_encoder.parameters()),
            "mask_decoder": list(self.mask_decoder.parameters()),
            "fusion": list(self.fusion.parameters()),
        }

    def all_parts(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by part. `REST` is what is in none of `FreezeConfig`'s, such as the words' projection for the
        mask decoder."""
        parts = self.parts()
        named = {id(p) for parameters in parts.values() for p in parameters}
        return {**parts, REST: [p for p in self.parameters() if id(p) not in named]}

    def freeze(self, config: FreezeConfig) -> None:
        """Turn off the gradients of the named parts, and of the parts of SAM that text never reaches."""
        parts = self.parts()
        for name, frozen in config.model_dump().items():
            for parameter in parts[name]:
                parameter.requires_grad_(not frozen)
        for name, parameter in self.named_parameters():
            if name.startswith(UNUSED):
                parameter.requires_grad_(False)


def image_positions(encoding: Any, height: int, width: int) -> Tensor:
    """SAM's positional encoding of a grid, 1×C×height×width; the same as calling its `PositionEmbeddingRandom`.

    That counts the rows with `cumsum`, which has no deterministic form on a GPU before torch 2.12.
    """
    matrix = encoding.positional_encoding_gaussian_matrix
    dtype, device = torch.promote_types(matrix.dtype, torch.float32), matrix.device
    rows = (torch.arange(height, dtype=dtype, device=device) + 0.5) / height
    columns = (torch.arange(width, dtype=dtype, device=device) + 0.5) / width
    places = torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width)], dim=-1)
    encoded: Tensor = encoding._pe_encoding(places)
    return encoded.permute(2, 0, 1)[None]


def upsample(logits: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Logits N×h×w at another size, bilinear: as SAM enlarges them, or (`align_corners`) as the released DIT code."""
    return resize(logits[:, None], size, "linear", align_corners)[:, 0]

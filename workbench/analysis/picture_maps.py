"""Where the words of sentences look in one picture of one's own: every recorded map, and means that can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from workbench.analysis.maps import PARTS
from workbench.analysis.predictor import Predictor
from workbench.analysis.text_blocks import BLOCKS, LayerAttention, TextBlocks, text_blocks
from workbench.analysis.words import Word, words_of
from workbench.data.transforms import Placement, place, place_image, resize_image
from workbench.files import replacing


@dataclass(frozen=True)
class SentenceMaps:
    """Of one sentence.

    Attributes:
        words: all of its words; those without tokens have maps of NaN.
        maps: by part of the model that reads words, (1 + words)×H×W over the model's square: the mean over the
            sentence's tokens but [CLS] and [SEP], then each word; means over heads and layers, in multiples of uniform
            attention.
        weights: by point, h×L×H×W.
        pieces: the L tokens.
    """

    sentence: str
    words: tuple[Word, ...]
    maps: Mapping[str, NDArray[np.float32]]
    weights: Mapping[str, Tensor]
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class PictureMaps:
    """Of all sentences about one picture.

    Attributes:
        placement: of the whole picture in the model's square of `side` pixels.
        unread: parts of the model whose maps nothing reads: they are shown for what they would be.
    """

    sentences: tuple[SentenceMaps, ...]
    placement: Placement
    side: int
    unread: tuple[str, ...]

    def save(self, file: Path) -> None:
        """Write all weights in fp16, `<number of the sentence, from 1>.<point>`, and what they are of as metadata."""
        tensors = {
            f"{number}.{name}": weights.half().contiguous().cpu()
            for number, one in enumerate(self.sentences, start=1)
            for name, weights in one.weights.items()
        }
        place = self.placement
        about = {
            "sentences": json.dumps([{"sentence": one.sentence, "pieces": one.pieces} for one in self.sentences]),
            "content": json.dumps([place.top, place.left, place.height, place.width]),
        }
        with replacing(file) as partial:
            save_file(tensors, partial, about)


def picture_maps(predictor: Predictor, pixels: NDArray[np.uint8], sentences: Sequence[str]) -> PictureMaps:
    """Record where the words look, in fp32.

    Args:
        pixels: height×width×3.

    Raises:
        DataError: a sentence says nothing.
    """
    config, side = predictor.config, predictor.config.backbone.image_size
    height, width = pixels.shape[:2]
    placement = place(height, width, side, config.data.padding)
    content = resize_image(torch.from_numpy(pixels).permute(2, 0, 1), placement)
    where = torch.tensor([[placement.top, placement.left, placement.height, placement.width]])
    square = place_image(content, placement, side)[None].to(predictor.device)
    image = predictor.model.normalise(square, where)
    found = tuple(_of_sentence(predictor, image, sentence) for sentence in sentences)
    # Where words do not go on from block to block, no block computes their rows for itself.
    fusion = predictor.model.fusion
    unread = PARTS[1:] if not fusion.evolves and PARTS[1] in found[0].maps else ()
    return PictureMaps(found, placement, side, unread)


def _of_sentence(predictor: Predictor, image: Tensor, sentence: str) -> SentenceMaps:
    words = words_of(sentence, predictor.tokenizer)
    ids, mask = (tensor.to(predictor.device) for tensor in predictor.tokenizer([sentence]))
    recorded = text_blocks(predictor.model, image, ids, mask, keep_heads=True)
    own = list(range(1, int(mask.sum()) - 1))
    groups = [own, *(list(word.tokens) for word in words)]
    layers = {
        part: of_part for part, of_part in zip(PARTS, (recorded.decoder, recorded.encoder), strict=True) if of_part
    }
    maps = {part: np.stack([_mean(of_part, tokens) for tokens in groups]) for part, of_part in layers.items()}
    return SentenceMaps(sentence, words, maps, _weights(recorded), tuple(predictor.tokenizer.pieces(ids[0].tolist())))


def _mean(layers: Sequence[LayerAttention], tokens: Sequence[int]) -> NDArray[np.float32]:
    """H×W, of some tokens; NaN of none."""
    if not tokens:
        return np.full(layers[0].word_to_image.shape[-2:], np.nan, dtype=np.float32)
    each = [layer.word_to_image[:, list(tokens)].mean(dim=(0, 1)) * layer.keys for layer in layers]
    mean: NDArray[np.float32] = torch.stack(each).mean(dim=0).float().cpu().numpy()
    return mean


def _weights(recorded: TextBlocks) -> dict[str, Tensor]:
    names = {"encoder.blocks[{}].attn": recorded.encoder, "decoder.layers[{}]": recorded.decoder}
    return {
        f"{name.format(layer.layer)}.{block}": getattr(layer, block)
        for name, layers in names.items()
        for layer in layers
        for block in BLOCKS
    }

"""A model built by hand, one of whose heads looks at what a word means, and pictures that it segments without mistakes.

Pictures hold squares of a few colours, sentences are one colour each. The patch embedding passes a patch's mean colour
to three channels, the projectors turn the text encoder's features of a colour's word into the same code in three more,
and one head's queries and keys meet there: of words over patches, and of patches over words. What a patch reads of its
word opens a channel that the neck and the mask decoder pass through to the mask. All other blocks and heads compute
something, which depends on places, and none of it is passed on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from workbench.config import RunConfig
from workbench.data.datasets import open_dataset
from workbench.data.loading import ReferringDataset
from workbench.models.build import build_model
from workbench.models.referring_sam import ReferringSam
from workbench.models.text_encoder import Tokenizer

COLOURS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "yellow": (1, 1, -1), "purple": (1, -1, 1)}
"""The code of each word: 1 where its colour has all of red, green or blue, -1 where it has nothing of it."""
LAYER, HEAD = 3, 1
"""In the last block, so that no other can look at what it wrote."""
SIDE, SQUARE, CELLS = 64, 16, 4
IMAGE, WORD, PLACE = range(3), range(8, 11), range(32, 48)
PLUS, MINUS, SPECIAL, IS_COLOUR, MATCH = 3, 4, 11, 12, 16
LEVEL = 8.0
"""Of the channels PLUS and MINUS: so large that a layer norm hardly depends on the others."""


def pictures(root: Path, images: int) -> None:
    """A data set `planted` in gRefCOCO's form: three squares an image, and the word of each one's colour."""
    rng, folder = np.random.default_rng(0), root / "planted"
    (folder / "images").mkdir(parents=True)
    annotations: list[dict[str, Any]] = []
    references: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        pixels = np.full((SIDE, SIDE, 3), 128, np.uint8)
        names = rng.permutation(list(COLOURS))[:3]
        for name, cell in zip(names, rng.permutation(CELLS**2)[:3], strict=True):
            top, left = SQUARE * (int(cell) // CELLS), SQUARE * (int(cell) % CELLS)
            pixels[top : top + SQUARE, left : left + SQUARE] = [255 * (value > 0) for value in COLOURS[str(name)]]
            box, number = [left, top, SQUARE, SQUARE], len(annotations) + 1
            corners = [left, top, left + SQUARE, top, left + SQUARE, top + SQUARE, left, top + SQUARE]
            annotations.append(
                {"id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0, "area": SQUARE**2, "bbox": box,
                 "segmentation": [corners]}
            )  # fmt: skip
            references.append(
                {"ref_id": number, "image_id": image_id, "split": "train" if image_id == 1 else "val",
                 "ann_id": [number], "sentences": [{"sent_id": number, "sent": str(name)}]}
            )  # fmt: skip
        Image.fromarray(pixels).save(folder / "images" / f"{image_id}.png")
    files = [{"id": i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE} for i in range(1, images + 1)]
    categories = [{"id": 1, "name": "square", "supercategory": "shape"}]
    instances = {"images": files, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "grefs(mine).json").write_text(json.dumps(references))


def planted_config(make_config: Callable[..., RunConfig], root: Path) -> RunConfig:
    """L-DIT over them, with weights that are about to be replaced."""
    return make_config(
        data__dataset="planted", data__split_by="mine", data__recipe=None, machine__data_root=str(root),
        backbone__checkpoint=None, fusion__variant="l_dit", fusion__projector__init="default",
    )  # fmt: skip


def planted_dataset(config: RunConfig) -> ReferringDataset:
    """The pictures of val."""
    return ReferringDataset(open_dataset(config), "val", SIDE, config.data)


@torch.no_grad()
def planted_model(config: RunConfig, tokenizer: Tokenizer) -> ReferringSam:
    """The model."""
    torch.manual_seed(0)
    model = build_model(config).eval()
    _embed_colours(model)
    for block in model.image_encoder.vit.blocks:
        _look_at_places(block.attn)
        for linear in (block.attn.proj, block.mlp.lin2):
            _zero(linear)
    _look_at_the_referent(model.image_encoder.vit.blocks[LAYER].attn)
    _code_words(model, tokenizer)
    _pass_to_the_mask(model)
    return model


def _zero(module: Any) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def _embed_colours(model: ReferringSam) -> None:
    """IMAGE: the patch's mean colour, from -1 to 1. PLACE: random, the same for all images."""
    vit: Any = model.image_encoder.vit
    projection = vit.patch_embed.proj
    _zero(projection)
    mean, std = model.pixel_mean.flatten(), model.pixel_std.flatten()
    for channel in IMAGE:
        projection.weight[channel, channel] = std[channel] / 127.5 / projection.weight[0, 0].numel()
        projection.bias[channel] = mean[channel] / 127.5 - 1
    projection.bias[PLUS], projection.bias[MINUS] = LEVEL, -LEVEL
    vit.pos_embed.zero_()
    vit.pos_embed[..., PLACE] = torch.randn(*vit.pos_embed.shape[:3], len(PLACE)) / 2


def _look_at_places(attention: Any) -> None:
    """Every head: one query for all tokens, keys that depend on the place alone."""
    query, key, value = attention.qkv.weight.unflatten(0, (3, -1))
    attention.qkv.bias.zero_()
    query.zero_()
    key.zero_()
    query[:, PLUS] = torch.randn(len(query)) / LEVEL
    key[:, PLACE] = torch.randn(len(key), len(PLACE))
    value[:] = torch.randn(value.shape)
    nn.init.zeros_(attention.rel_pos_h)
    nn.init.zeros_(attention.rel_pos_w)


def _look_at_the_referent(attention: Any) -> None:
    """The planted head. A patch that fits no word attends to [CLS] and [SEP]."""
    width = attention.qkv.weight.shape[1] // attention.num_heads
    query, key, value = attention.qkv.weight.unflatten(0, (3, attention.num_heads, width))[:, HEAD]
    for weight in (query, key, value):
        weight.zero_()
    for number, (image, word) in enumerate(zip(IMAGE, WORD, strict=True)):
        query[number, word] = key[number, image] = 8.3  # of words over patches
        query[3 + number, image] = key[3 + number, word] = 8.3  # of patches over words
    query[6, PLUS], key[6, SPECIAL] = 4.2, 4.2
    value[0, IS_COLOUR] = 1.0
    attention.proj.weight[MATCH, HEAD * width] = 8.6


def _code_words(model: ReferringSam, tokenizer: Tokenizer) -> None:
    """The projectors of all blocks alike: exactly the wanted tokens of every sentence, by least squares."""
    ids, mask = tokenizer(list(COLOURS))
    assert mask.sum(dim=1).tolist() == [3] * len(COLOURS), "a colour is one token"
    text, _ = model.encode_text(ids, mask)
    features = torch.cat([text[:, :3].flatten(0, 1), torch.ones(3 * len(COLOURS), 1)], dim=1).double()
    wanted = torch.zeros(len(COLOURS), 3, model.image_encoder.vit.widths[0], dtype=torch.float64)
    wanted[..., PLUS], wanted[..., MINUS] = LEVEL, -LEVEL
    wanted[:, (0, 2), SPECIAL] = 1.0
    wanted[:, 1, IS_COLOUR] = 1.0
    wanted[:, 1, WORD.start : WORD.stop] = torch.tensor(list(COLOURS.values()), dtype=torch.float64)
    solved = torch.linalg.lstsq(features, wanted.flatten(0, 1), driver="gelsd").solution
    torch.testing.assert_close(features @ solved, wanted.flatten(0, 1), rtol=0, atol=1e-3)
    for layer in model.fusion.layers:
        projector: Any = model.fusion.projectors.of(layer)  # type: ignore[operator, union-attr]
        projector.weight[:], projector.bias[:] = solved[:-1].t(), solved[-1]


def _pass_to_the_mask(model: ReferringSam) -> None:
    """MATCH against PLUS, through neck and decoder, whose words and tokens change nothing."""
    neck: Any = model.image_encoder.vit.neck
    width = neck[0].weight.shape[0]
    neck[0].weight[:] = torch.eye(width)[..., None, None]
    neck[2].weight.zero_()
    neck[2].weight[..., 1, 1] = torch.eye(width)
    nn.init.zeros_(model.prompt_encoder.no_mask_embed.weight)
    decoder: Any = model.mask_decoder
    for layer in decoder.transformer.layers:
        _zero(layer.cross_attn_image_to_token.out_proj)
    first, second = decoder.output_upscaling[0], decoder.output_upscaling[3]
    _zero(first)
    _zero(second)
    for number, channel in enumerate((MATCH, PLUS, MINUS)):
        first.weight[channel, number] = 1.0
    for number in range(2):
        second.weight[number, number] = 1.0
    last = decoder.output_hypernetworks_mlps[0].layers[-1]
    _zero(last)
    last.bias[0], last.bias[1] = 10.0, -3.0

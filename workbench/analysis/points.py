"""The named points of a model at which `trace` records: the same names for all variants, each model has its own set.

`encoder.blocks[i].attn`            a block's attention as a whole: its factors q and k, or reductions of its rows
`….attn.word_to_image`              rows of the words over the image (and `image_to_word`, `word_to_word`)
`….attn.image_to_image[rows]`       rows of image tokens, e.g. `[0:32]` or `[5,9]`, counted row by row of the grid
`encoder.blocks[i].fusion.cross_attention`  the words' attention that makes a block's text tokens
`decoder.layers[i].word_to_image`   the mask decoder's (and `image_to_word`, `word_to_word`, `mask_to_image`: the row of
                                    the token that becomes the mask); `decoder.final.…` its last attention
`text_encoder.layers[i].word_to_word`       BERT's own
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from workbench.errors import WorkbenchError
from workbench.models.referring_sam import ReferringSam

Part = Literal["all", "word_to_image", "image_to_word", "word_to_word", "image_to_image", "mask_to_image", "cross"]
Place = Literal["encoder", "fusion", "decoder", "text"]
MASK_TOKEN = 1
"""Of the decoder's tokens, the one that becomes the mask: after the one of quality."""


class TraceError(WorkbenchError):
    """A point that a model lacks, or a recording that is not there."""


@dataclass(frozen=True)
class Point:
    """A place where attention is computed, and the part of it that is recorded.

    Attributes:
        module: passes its calls through `watching.watched` (or is BERT's self-attention).
        own_tokens: of the mask decoder, before the words.
        rows: chosen image tokens; only of `image_to_image`, where None means all.
        read: False where the model computes no such rows because nothing reads them; they are shown all the same.
    """

    name: str
    place: Place
    part: Part
    module: nn.Module
    own_tokens: int = 0
    rows: tuple[int, ...] | slice | None = None
    read: bool = True


def points_of(model: ReferringSam) -> dict[str, Point]:
    """All points that a model has, by name."""
    points = [*_of_encoder(model), *_of_decoder(model), *_of_text_encoder(model)]
    return {point.name: point for point in points}


def reads_words(model: ReferringSam) -> bool:
    """Whether blocks of the image encoder read the sentence: some are fused, and not with learned tokens instead."""
    return bool(model.fusion.layers) and not model.fusion.learned


def select(model: ReferringSam, patterns: Sequence[str]) -> list[Point]:
    """The points that patterns name; `*` and `?` are wildcards, brackets are not.

    A wildcard does not stand for `image_to_image`, which is of size N×N unless rows are named.

    Raises:
        TraceError: a pattern fits no point of this model; the message lists those that it has.
    """
    points = points_of(model)
    chosen: dict[str, Point] = {}
    for pattern in patterns:
        base, rows = _rows_of(pattern)
        fits = re.compile("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in base))
        names = [
            name
            for name, point in points.items()
            if fits.fullmatch(name) and (point.part != "image_to_image" or base.endswith("image_to_image"))
        ]
        if not names:
            kind = type(model.fusion).__name__ + (", learned tokens in place of words" if model.fusion.learned else "")
            raise TraceError(f"this model ({kind}) has no point {pattern!r}; it has {in_words(points)}")
        for name in names:
            full = name if rows is None else name + pattern[len(base) :]
            chosen[full] = replace(points[name], name=full, rows=rows)
    return list(chosen.values())


def in_words(names: Iterable[str]) -> str:
    """Names in one line, those that differ in a number alone together: `decoder.layers[0-1].word_to_image`."""
    numbers: dict[str, list[int]] = {}
    for name in names:
        number = re.search(r"\[(\d+)\]", name)
        numbers.setdefault(re.sub(r"\[\d+\]", "[#]", name), []).extend([int(number[1])] if number else [])
    return ", ".join(name.replace("#", _ranges(found)) for name, found in numbers.items())


def _ranges(numbers: list[int]) -> str:
    if not numbers:
        return ""
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}-{numbers[-1]}" if whole and len(numbers) > 1 else ",".join(map(str, numbers))


def _rows_of(pattern: str) -> tuple[str, tuple[int, ...] | slice | None]:
    given = re.fullmatch(r"(.*\.image_to_image)\[(.*)\]", pattern)
    if given is None:
        return pattern, None
    base, rows = given[1], given[2]
    if span := re.fullmatch(r"(\d+):(\d+)", rows):
        if int(span[1]) < int(span[2]):
            return base, slice(int(span[1]), int(span[2]))
    elif re.fullmatch(r"\d+(,\d+)*", rows):
        return base, tuple(sorted({int(row) for row in rows.split(",")}))
    raise TraceError(f"{pattern}: rows are [first:after the last] or a list of numbers, e.g. [0:32] or [5,9]")


def _of_encoder(model: ReferringSam) -> list[Point]:
    encoder, fusion, points = model.image_encoder, model.fusion, list[Point]()
    # Learned tokens are no words: a map that is named after a word must not be theirs.
    reading = fusion.layers if reads_words(model) else ()
    for layer in range(encoder.depth):
        name, module = f"encoder.blocks[{layer}]", encoder.vit.attention_of(layer)
        if module is not None:
            points += _of_block(f"{name}.attn", module, layer in reading, fusion.reads_output(layer))
        cross = fusion.cross_attention_of(layer) if layer in reading else None
        if cross is not None:
            points.append(Point(f"{name}.fusion.cross_attention", "fusion", "cross", cross))
    return points


def _of_block(name: str, module: nn.Module, fused: bool, read: bool) -> list[Point]:
    points = [
        Point(name, "encoder", "all", module),
        Point(f"{name}.image_to_image", "encoder", "image_to_image", module),
    ]
    if fused:
        points += [
            Point(f"{name}.word_to_image", "encoder", "word_to_image", module, read=read),
            Point(f"{name}.image_to_word", "encoder", "image_to_word", module),
            Point(f"{name}.word_to_word", "encoder", "word_to_word", module, read=read),
        ]
    return points


def _of_decoder(model: ReferringSam) -> list[Point]:
    decoder: Any = model.mask_decoder
    own, points = 1 + decoder.num_mask_tokens, []
    for number, layer in enumerate(decoder.transformer.layers):
        name = f"decoder.layers[{number}]"
        to_image, to_token = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        points.append(Point(f"{name}.word_to_word", "decoder", "word_to_word", layer.self_attn, own))
        points.append(Point(f"{name}.word_to_image", "decoder", "word_to_image", to_image, own))
        points.append(Point(f"{name}.mask_to_image", "decoder", "mask_to_image", to_image, own))
        points.append(Point(f"{name}.image_to_word", "decoder", "image_to_word", to_token, own))
    final = decoder.transformer.final_attn_token_to_image
    # The words' output of the last attention is not read; its rows are computed all the same.
    points.append(Point("decoder.final.word_to_image", "decoder", "word_to_image", final, own))
    points.append(Point("decoder.final.mask_to_image", "decoder", "mask_to_image", final, own))
    return points


def _of_text_encoder(model: ReferringSam) -> list[Point]:
    if model.text_encoder is None:
        return []
    bert: Any = model.text_encoder.bert
    attentions: list[Any] = [getattr(getattr(layer, "attention", None), "self", None) for layer in bert.encoder.layer]
    return [
        Point(f"text_encoder.layers[{number}].word_to_word", "text", "word_to_word", module)
        for number, module in enumerate(attentions)
        if all(hasattr(module, name) for name in ("query", "key", "value"))
    ]

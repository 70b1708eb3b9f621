"""What a model is made of, read from the built model: stages with shapes and weights, and how words reach each block.

Nothing is drawn here; the figures `schemes` and `pipeline` show it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from workbench.config import RunConfig
from workbench.models.backbones import BlockOptions
from workbench.models.backbones.base import SAM_DECODER_DEPTH
from workbench.models.build import check_config
from workbench.models.fusion import BlockInput
from workbench.models.referring_sam import UNUSED, ReferringSam

PARTS = {
    "projector": "projection",
    "projectors": "projection",
    "attentions": "cross-attention",
    "norms": "norm",
    "table": "learned tokens",
}
"""What the attributes of the package's variants are called; those of others keep their names."""
PROJECTION = "text_projection"
CONTROLS = {
    ("data", "shuffled"): "trained on other images' words",
    ("evaluation", "shuffled"): "asked with other images' words",
    ("evaluation", "dropped"): "asked without words",
}
"""By section and its field `words`: what no weight shows."""


@dataclass(frozen=True)
class Stage:
    """A part of the model.

    Attributes:
        shape: of what it makes for one image and one expression.
        weights: that such an image and expression reach.
        trained: those of them that learn.
    """

    shape: tuple[int, ...]
    weights: int
    trained: int

    @property
    def is_frozen(self) -> bool:
        """Whether it has weights and none of them learns."""
        return self.weights > 0 and self.trained == 0


@dataclass(frozen=True)
class Entry:
    """How one fused block gets its text tokens.

    Attributes:
        layer: the block's index.
        reads: what the tokens are made from: `words` (the text features), `last` (what the last fused block made of its
            own), `image` (the image tokens that enter the block).
        own: weights, by part, that make the tokens of this block alone.
        shared: weights, by part, that make those of other blocks too.
    """

    layer: int
    reads: tuple[str, ...]
    own: Mapping[str, int]
    shared: Mapping[str, int]


@dataclass(frozen=True)
class Anatomy:
    """A model as its figure shows it.

    Attributes:
        rule: the variant in one line.
        side: of the image, in pixels.
        blocks: of the image encoder.
        stages: in the order in which they work: patches, blocks, neck, text_encoder, text_projection, fusion,
            decoder_words (what brings the words to the mask decoder), mask_decoder.
        entries: a fused block each.
        parts: the kinds of weights that make words into tokens, in the order in which words pass them.
        learned: whether the blocks are fed learned tokens instead of words.
        text_layers: of the text encoder.
        decoder_layers: of the mask decoder's transformer.
        controls: what is done to the words outside of the model.
    """

    variant: str
    rule: str
    side: int
    blocks: int
    stages: Mapping[str, Stage]
    entries: tuple[Entry, ...]
    parts: tuple[str, ...]
    learned: bool
    text_layers: int
    decoder_layers: int
    controls: tuple[str, ...]

    @property
    def added_decoder_layers(self) -> int:
        """Past SAM's own."""
        return max(0, self.decoder_layers - SAM_DECODER_DEPTH)

    def own(self, entry: Entry) -> list[str]:
        """The parts that make this block's tokens alone, in their order; an entry's own mapping has none, as JSON."""
        return [part for part in self.parts if part in entry.own]

    def shared(self, entry: Entry) -> list[str]:
        """The parts that make other blocks' tokens too."""
        return [part for part in self.parts if part in entry.shared]


def anatomy_of(config: RunConfig) -> Anatomy:
    """What a configuration's model is made of; it is built on the meta device, so no weights are loaded.

    Raises:
        ConfigError: it cannot be built.
    """
    model = check_config(config)
    counts = _counts(model)
    shapes = _shapes(model, config)
    sections = (("data", config.data.words), ("evaluation", config.evaluation.words))
    return Anatomy(
        variant=config.fusion.variant,
        rule=model.fusion.rule,
        side=config.backbone.image_size,
        blocks=model.image_encoder.depth,
        stages={name: Stage(shapes[name], *counts[name]) for name in shapes},
        entries=(entries := _entries(model, config.text_encoder.max_tokens, shapes["blocks"][:2])),
        parts=tuple(dict.fromkeys(part for entry in entries for part in (*entry.own, *entry.shared))),
        learned=model.fusion.learned,
        text_layers=_text_layers(model),
        decoder_layers=len(model.mask_decoder.transformer.layers),
        controls=tuple(CONTROLS[section] for section in sections if section in CONTROLS),
    )


def from_document(document: Mapping[str, Any]) -> Anatomy:
    """An anatomy that was written as JSON."""
    return TypeAdapter(Anatomy).validate_python(document)


def as_document(anatomy: Anatomy) -> dict[str, Any]:
    """For JSON."""
    document: dict[str, Any] = TypeAdapter(Anatomy).dump_python(anatomy, mode="json")
    return document


def _text_layers(model: ReferringSam) -> int:
    bert: Any = model.text_encoder.bert if model.text_encoder is not None else None
    return 0 if bert is None else len(bert.encoder.layer)


def _counts(model: ReferringSam) -> dict[str, tuple[int, int]]:
    """Weights and trained weights of each stage; each weight that is reached belongs to one of them."""
    parts = model.parts()
    in_blocks = {id(p) for p in _parameters(getattr(model.image_encoder.vit, "blocks", None))}
    projection = list(model.fusion.text_projection.parameters())
    projecting = {id(p) for p in projection}
    reached = {id(p) for name, p in model.named_parameters() if not name.startswith(UNUSED)}
    rest = model.all_parts()["rest"]
    to_decoder = list(model.text_proj.parameters())
    of_words = {id(p) for p in to_decoder}
    stages: dict[str, list[nn.Parameter]] = {
        "patches": [p for p in parts["image_encoder"] if id(p) not in in_blocks],
        "blocks": [p for p in parts["image_encoder"] if id(p) in in_blocks],
        "neck": parts["neck"],
        "text_encoder": parts["text_encoder"],
        PROJECTION: projection,
        "fusion": [p for p in parts["fusion"] if id(p) not in projecting],
        "decoder_words": to_decoder,
        "mask_decoder": [*parts["mask_decoder"], *(p for p in rest if id(p) not in of_words)],
    }
    return {name: _count(p for p in own if id(p) in reached) for name, own in stages.items()}


def _parameters(module: Any) -> Iterable[nn.Parameter]:
    return module.parameters() if isinstance(module, nn.Module) else ()


def _count(parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
    own = list(parameters)
    return sum(p.numel() for p in own), sum(p.numel() for p in own if p.requires_grad)


def _shapes(model: ReferringSam, config: RunConfig) -> dict[str, tuple[int, ...]]:
    """What each stage makes, found by running it on the meta device."""
    model.eval()
    encoder, options = model.image_encoder, BlockOptions(windowed=False, implementation="eager")
    side, words = config.backbone.image_size, config.text_encoder.max_tokens
    text = torch.empty(1, words, model.text_proj.in_features, device="meta")
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        patches = tokens = encoder.vit.embed(torch.empty(1, 3, side, side, device="meta"))
        for layer in range(encoder.depth):
            tokens, _ = encoder.vit.run_block(layer, tokens, None, None, False, options)
        embedding = encoder.vit.embedding(tokens)
        logits = model.decode(embedding, text)
    fusion, fused = model.fusion, model.fusion.layers
    return {
        "patches": tuple(patches.shape[1:]),
        "blocks": tuple(tokens.shape[1:]),
        "neck": tuple(embedding.shape[1:]),
        "text_encoder": (words, int(text.shape[-1])),
        PROJECTION: (words, fusion.text_width),
        "fusion": (words, fusion.widths[fused[0]]) if fused else (),
        "decoder_words": (words, int(model.text_proj.out_features)),
        "mask_decoder": tuple(logits.shape[2:]),
    }


def _entries(model: ReferringSam, words: int, grid: tuple[int, ...]) -> tuple[Entry, ...]:
    """Each fused block's tokens are made once, and the graph of that tells what they depend on."""
    fusion, widths = model.fusion, model.image_encoder.vit.widths
    fusion.eval()
    for parameter in fusion.parameters():
        parameter.requires_grad_()  # the graph leaves frozen ones out; the model is used for nothing else afterwards
    part_of = {id(p): PARTS.get(first := name.split(".")[0], first.replace("_", " "))
               for name, p in fusion.named_parameters() if not name.startswith(f"{PROJECTION}.")}  # fmt: skip
    reads: dict[int, tuple[str, ...]] = {}
    used: dict[int, dict[tuple[int, int | None], int]] = {}
    before: int | None = None
    for layer in fusion.layers:
        text = _leaf(1, words, fusion.text_width)
        image = _leaf(1, *grid, widths[layer])
        last = _leaf(1, words, widths[before + 1]) if fusion.evolves and before is not None else None
        with sdpa_kernel(SDPBackend.MATH):
            leaves = _leaves(fusion.tokens(BlockInput(layer, text, None, last, image)))
        sources = {"words": id(text), "last": id(last), "image": id(image)}
        reads[layer] = tuple(name for name, source in sources.items() if (source, None) in leaves)
        used[layer] = {leaf: size for leaf, size in leaves.items() if leaf[0] in part_of}
        before = layer
    users = Counter(leaf for leaves in used.values() for leaf in leaves)
    return tuple(
        Entry(
            layer,
            reads[layer],
            _by_part({leaf: n for leaf, n in used[layer].items() if users[leaf] == 1}, part_of),
            _by_part({leaf: n for leaf, n in used[layer].items() if users[leaf] > 1}, part_of),
        )
        for layer in fusion.layers
    )


def _by_part(leaves: Mapping[tuple[int, int | None], int], part_of: Mapping[int, str]) -> dict[str, int]:
    """Weights by part, in the order in which the variant holds its parts."""
    sizes: Counter[str] = Counter()
    for (leaf, _), size in leaves.items():
        sizes[part_of[leaf]] += size
    return {part: sizes[part] for part in dict.fromkeys(part_of.values()) if part in sizes}


def _leaf(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta", requires_grad=True)


def _leaves(tensor: Tensor) -> dict[tuple[int, int | None], int]:
    """What a tensor was computed from: each leaf's id and, of a table that one row was taken of, the row; with the
    number of its values."""
    if tensor.grad_fn is None:
        return {(id(tensor), None): tensor.numel()}
    leaves: dict[tuple[int, int | None], int] = {}
    waiting: list[tuple[Any, Any]] = [(tensor.grad_fn, None)]
    seen = set()
    while waiting:
        node, reader = waiting.pop()
        if (node, reader) in seen:
            continue
        seen.add((node, reader))
        leaf = getattr(node, "variable", None)
        if leaf is None:
            waiting += [(following, node) for following, _ in node.next_functions if following is not None]
        elif reader is not None and reader.name() == "SelectBackward0" and reader._saved_dim == 0:
            leaves[id(leaf), int(reader._saved_index)] = leaf.numel() // len(leaf)
        else:
            leaves[id(leaf), None] = leaf.numel()
    return leaves

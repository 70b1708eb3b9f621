"""Makes weights of a default SAM that reads the anchors of relations, from the shipped ones that know the words.

From masks of the referent alone the miniature has not learnt that "circle nearest to the square" is about a square,
perhaps because looking for it changes no mask before it is found. So the second of SAM's four masks, which referring
expressions leave unused, is taught the anchors while the first is taught the referent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.config import RefshapesRecipe, RunConfig
from workbench.data import refshapes
from workbench.data.datasets import read_refer
from workbench.data.images import read_image
from workbench.data.language import swap_left_right
from workbench.data.queries import Scene, fitting, parse
from workbench.data.scenes import Shape, mask_of
from workbench.files import digest_of
from workbench.models.build import build_model
from workbench.models.mask_decoder import decode
from workbench.models.referring_sam import ReferringSam, image_positions
from workbench.models.text_encoder import load_tokenizer
from workbench.results.folders import RunFolder
from workbench.training.losses import mask_loss
from workbench.training.pretrain import Progress
from workbench.training.train import train

NAME = "relating_mini"
EARLY = "relating_mini_early"
"""The same weights on the way: they read relations in part, and a short training improves them."""
REFERENT, ANCHORS = 0, 1
"""Which of SAM's masks is taught what."""
SIDE = 64


@dataclass(frozen=True)
class RelationsRecipe:
    """What the weights are made with.

    Attributes:
        early: after how many steps the weights on the way are kept.
        easy: the fraction of the steps that begins with "nearest to" between two candidates, and nothing else.
        images: per step, with two pairs of expressions each; twice as many in easy steps.
        anchors: weight of the loss on the anchors' masks, beside the referent's of 1.
        data_seed: of other images than those that the miniature trains on and is scored on, which have seed 0.
    """

    steps: int = 6000
    early: int = 1750
    easy: float = 0.25
    images: int = 16
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.01
    anchors: float = 1.0
    seed: int = 0
    data_seed: int = 1
    train_images: int = 12000


RECIPE = RelationsRecipe()


def scored_config(data_root: Path, recipe: RelationsRecipe, start: dict[str, str]) -> RunConfig:
    """Of the model that is trained, and of a run of no steps that scores weights on other images than the miniature's.

    Args:
        start: the section `start_from`.
    """
    images = {"seed": recipe.data_seed, "train_images": recipe.train_images}
    return RunConfig.parse(
        {
            "backbone": {"name": "vit_mini", "checkpoint": "builtin", "image_size": SIDE},
            "text_encoder": {"name": "bert_mini2", "max_tokens": 18},
            "start_from": start,
            "data": {"recipe": {**images, "eval_images": 50, "version": 2}},
            "training": {"steps": 0},
            "evaluation": {"splits": ["val", "testA", "testB", "testC"]},
            "machine": {"data_root": str(data_root), "threads": 1, "trackers": []},
        }
    )


def pretrain_relations(out: Path, data_root: Path, recipe: RelationsRecipe, progress: Progress) -> dict[str, Any]:
    """Train it and write `relating_mini.safetensors`, `relating_mini_early.safetensors` and their report into `out`.

    Every part learns, the image encoder too. Half of the images are mirrored, left and right exchanged in their words.

    Returns:
        The report: recipe, and mIoU by weights and split.
    """
    config = scored_config(data_root, recipe, {"file": "builtin"})
    torch.manual_seed(recipe.seed)
    model = build_model(config)
    for parameter in model.mask_decoder.output_hypernetworks_mlps[ANCHORS].parameters():
        parameter.requires_grad_(True)
    tokenizer = load_tokenizer(config.text_encoder, config.machine.checkpoint_root)
    assert config.data.recipe is not None
    examples = PairedExamples(data_root, config.data.recipe)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    rng = np.random.default_rng(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    model.train()
    for step in range(recipe.steps):
        easy = step < recipe.easy * recipe.steps
        # Most images have one pair of easy expressions, and two in all.
        batch = examples.batch(rng, recipe.images * (2 if easy else 1), easy)
        loss = _loss(model, tokenizer(batch.sentences), batch, recipe.anchors)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            progress(step + 1, recipe.steps, {"loss": loss.item()})
        if step + 1 in (recipe.early, recipe.steps):
            file = out / f"{NAME if step + 1 == recipe.steps else EARLY}.safetensors"
            save_file({key: value.contiguous() for key, value in model.state_dict().items()}, file)
    made = [name for name in (NAME, EARLY) if name == NAME or recipe.early < recipe.steps]
    miou = {name: _score(out / f"{name}.safetensors", data_root, recipe) for name in made}
    report = {"command": f"workbench pretrain {NAME}", "recipe": asdict(recipe), "miou": miou}
    (out / f"{NAME}.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _score(file: Path, data_root: Path, recipe: RelationsRecipe) -> dict[str, float]:
    config = scored_config(data_root, recipe, {"file": str(file.resolve()), "sha256": digest_of(file)})
    folder = RunFolder.of(file.with_name(f"{file.stem}-run"), config, 0)
    train(config, 0, folder)
    return {split: metrics["miou"] for split, metrics in folder.record().metrics.items()}


def _rate(step: int, recipe: RelationsRecipe) -> float:
    """As a fraction of the peak: a linear rise, then along a cosine to zero."""
    rise = min(1.0, (step + 1) / recipe.warmup)
    return rise * (1 + float(np.cos(np.pi * step / recipe.steps))) / 2


@dataclass(frozen=True)
class Batch:
    """Expressions E about images I.

    Attributes:
        pixels: I×3×H×W from 0 to 255.
        image_of: for each expression the index of its image, E.
        referents, anchors: masks E×H×W; an expression without anchors has an empty one.
    """

    pixels: Tensor
    image_of: Tensor
    sentences: list[str]
    referents: Tensor
    anchors: Tensor


@dataclass(frozen=True)
class _Example:
    sentence: str
    referent: int
    anchors: tuple[int, ...]
    easy: bool

    @classmethod
    def of(cls, scene: Scene, sentence: str) -> _Example:
        query = parse(sentence)
        (referent,) = fitting(scene, query)
        anchors = tuple(scene.matches(names)[0] for names in query.anchors)
        return cls(sentence, referent, anchors, query.relation == "nearest" and len(scene.matches(query.head)) == 2)


class PairedExamples:
    """The images of refshapes' train split that have a relation, with all their expressions, read back into parts.

    Args:
        data_root: the folder of data sets, where the recipe's is made if it is missing.
        recipe: of version 2.
    """

    def __init__(self, data_root: Path, recipe: RefshapesRecipe) -> None:
        data = read_refer(refshapes.ensure(data_root, recipe), "refshapes", "unc")
        files = dict(zip(*(data.images[name].to_pylist() for name in ("image_id", "file_name")), strict=True))
        rows = data.split("train")
        sentences: dict[int, list[str]] = {}
        for image, sentence in zip(rows["image_id"].to_pylist(), rows["sentence"].to_pylist(), strict=True):
            sentences.setdefault(image, []).append(sentence)
        self._scenes: list[tuple[Shape, ...]] = []
        self._all: list[list[_Example]] = []
        pixels = []
        for image, shapes in refshapes.scenes_of(recipe, "train"):
            scene = Scene(shapes)
            examples = [_Example.of(scene, sentence) for sentence in sentences[image]]
            if any(example.anchors for example in examples):
                self._scenes.append(scene.shapes)
                self._all.append(examples)
                pixels.append(read_image(data.image_folder / files[image]))
        self._pixels = np.stack(pixels)
        self._easy = [i for i, examples in enumerate(self._all) if any(example.easy for example in examples)]

    def __len__(self) -> int:
        return len(self._all)

    def batch(self, rng: np.random.Generator, images: int, easy: bool) -> Batch:
        """All expressions of so many images drawn at random, or the easy ones of images that have any."""
        among: Sequence[int] = self._easy if easy and self._easy else range(len(self._all))
        chosen = [among[i] for i in rng.integers(len(among), size=images)]
        mirrored = rng.random(images) < 0.5
        pixels = self._pixels[chosen]
        pixels[mirrored] = pixels[mirrored][:, :, ::-1]
        image_of, sentences, referents, anchors = [], [], [], []
        for place, (image, mirror) in enumerate(zip(chosen, mirrored, strict=True)):
            height, width = pixels.shape[1:3]
            shapes = [replace(s, x=width - s.x) if mirror else s for s in self._scenes[image]]
            masks = np.stack([mask_of(shape, width, height) for shape in shapes])
            for example in self._all[image]:
                if easy and self._easy and not example.easy:
                    continue
                image_of.append(place)
                sentences.append(swap_left_right(example.sentence) if mirror else example.sentence)
                referents.append(masks[example.referent])
                anchors.append(masks[list(example.anchors)].any(axis=0))
        return Batch(
            torch.from_numpy(pixels).permute(0, 3, 1, 2).float(),
            torch.tensor(image_of),
            sentences,
            torch.from_numpy(np.stack(referents)).float(),
            torch.from_numpy(np.stack(anchors)).float(),
        )


def _loss(model: ReferringSam, words: tuple[Tensor, Tensor], batch: Batch, anchors_weight: float) -> Tensor:
    text, text_mask = model.encode_text(*words)
    embedding = model.encode_shared(model.normalise(batch.pixels), batch.image_of, text, text_mask)
    logits, _ = decode(
        model.mask_decoder,
        embedding,
        image_positions(model.prompt_encoder.pe_layer, embedding.shape[-2], embedding.shape[-1]),
        model.text_proj(text),
        model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1),
        text_mask,
        masks=(REFERENT, ANCHORS),
    )
    logits = F.interpolate(logits, size=batch.referents.shape[1:], mode="bilinear", align_corners=False)
    referent = mask_loss(logits[:, 0], batch.referents, bce=5.0, dice=1.0)
    return referent + anchors_weight * mask_loss(logits[:, 1], batch.anchors, bce=5.0, dice=1.0)

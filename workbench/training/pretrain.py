"""Remakes the shipped weights: a small SAM from clicks and boxes, a small BERT from masked words, both on refshapes."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from workbench.config import FusionConfig, RefshapesRecipe
from workbench.data import masks as rle_masks
from workbench.data import refshapes
from workbench.data.datasets import read_refer
from workbench.data.images import read_image
from workbench.data.paired_scenes import PAIRED_WORDS
from workbench.data.scenes import WORDS
from workbench.data.tables import ReferData
from workbench.models.backbones import backbones
from workbench.models.fusion import Sizes, build_fusion
from workbench.models.image_encoder import FusedImageEncoder
from workbench.models.mask_decoder import decode
from workbench.training.losses import dice_loss, focal_loss

Progress = Callable[[int, int, dict[str, float]], None]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BERT_MINI_SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 64,
}


@dataclass(frozen=True)
class PretrainRecipe:
    """What the shipped weights were made with."""

    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    seed: int = 0
    data_seed: int = 1
    train_images: int = 16000
    data_version: int = 1


VIT_MINI = PretrainRecipe(steps=6000)
BERT_MINI = PretrainRecipe(steps=3000, batch_size=128)
BERT_MINI2 = replace(BERT_MINI, data_version=2)


def pretrain_sam(out: Path, data_root: Path, recipe: PretrainRecipe, progress: Progress) -> dict[str, Any]:
    """Train `vit_mini` and write `vit_mini.safetensors` and its report into `out`.

    As SAM: focal ×20 + Dice on masks, squared error on the predicted IoU; half the prompts are one click inside
    the object, half a box with jittered corners; of the three ambiguity masks the best one learns.

    Returns:
        The report: recipe and mIoU from one click and from a box on the val images.
    """
    data = _data(data_root, recipe)
    torch.manual_seed(recipe.seed)
    sam = backbones["vit_mini"].build()
    encoder = FusedImageEncoder(sam.image_encoder, build_fusion(FusionConfig(), Sizes(1, (), 1)), windowed=True)
    objects, val_objects = _Objects(data, "train"), _Objects(data, "val")
    rng = np.random.default_rng(recipe.seed)
    optimizer, schedule = _optimizer(sam.parameters(), recipe)
    sam.train()
    for step in range(recipe.steps):
        chosen = rng.integers(len(objects), size=recipe.batch_size)
        pixels, masks = objects[chosen]
        clicks = step % 2 == 0
        logits, quality = _prompted(sam, encoder, pixels, masks, rng, clicks)
        loss = _sam_loss(logits, quality, masks)
        _step(loss, optimizer, schedule, sam.parameters())
        if (step + 1) % 50 == 0:
            progress(step + 1, recipe.steps, {"loss": loss.item()})
    sam.eval()
    scores = {
        name: _prompt_miou(sam, encoder, val_objects, clicks) for name, clicks in (("click", True), ("box", False))
    }
    out.mkdir(parents=True, exist_ok=True)
    weights = {k: v.contiguous() for k, v in sam.state_dict().items() if k not in ("pixel_mean", "pixel_std")}
    save_file(weights, out / "vit_mini.safetensors")
    report = {"command": "workbench pretrain vit_mini", "recipe": asdict(recipe), "val_miou": scores}
    (out / "vit_mini.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def pretrain_bert(out: Path, data_root: Path, recipe: PretrainRecipe, progress: Progress) -> dict[str, Any]:
    """Train `bert_mini` or `bert_mini2` on sentences of the train split with masked words, and write its folder.

    As BERT: 15 % of the word pieces are predicted; of these 80 % are masked, 10 % replaced, 10 % left.

    Returns:
        The report: recipe and the fraction of masked pieces of the val sentences predicted right.
    """
    from transformers import BertConfig, BertForMaskedLM

    data = _data(data_root, recipe)
    tokenizer = build_tokenizer(WORDS if recipe.data_version == 1 else PAIRED_WORDS)
    torch.manual_seed(recipe.seed)
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), pad_token_id=0, **BERT_MINI_SHAPE))
    ids, val_ids = (_ids(tokenizer, data.split(split)["sentence"].to_pylist()) for split in ("train", "val"))
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer, schedule = _optimizer(model.parameters(), recipe)
    model.train()
    for step in range(recipe.steps):
        rows = torch.randint(len(ids), (recipe.batch_size,), generator=generator)
        masked, labels = _mask_words(ids[rows], tokenizer, generator)
        loss = model(input_ids=masked, attention_mask=(masked != 0).long(), labels=labels).loss
        _step(loss, optimizer, schedule, model.parameters())
        if (step + 1) % 50 == 0:
            progress(step + 1, recipe.steps, {"loss": loss.item()})
    model.eval()
    masked, labels = _mask_words(val_ids, tokenizer, generator)
    with torch.inference_mode():
        predicted = model(input_ids=masked, attention_mask=(masked != 0).long()).logits.argmax(-1)
    right = (predicted == labels)[labels != -100].float().mean().item()
    name = "bert_mini" if recipe.data_version == 1 else "bert_mini2"
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    model.bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    report = {
        "command": f"workbench pretrain {name}",
        "recipe": asdict(recipe),
        "val_masked_accuracy": right,
    }
    (folder / "recipe.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def build_tokenizer(words: Sequence[str]) -> Any:
    """A WordPiece tokenizer of these words; letters stand in for words it does not know."""
    from transformers import BertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = [*SPECIAL, *words, "##most", *letters, *(f"##{letter}" for letter in letters)]
    # "leftmost" is "left" + "##most": the language has word pieces, as BERT's has.
    pieces = [word for word in dict.fromkeys(vocabulary) if not (word.endswith("most") and word != "##most")]
    return BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)}, do_lower_case=True)


def _data(data_root: Path, recipe: PretrainRecipe) -> ReferData:
    version = recipe.data_version
    shapes = RefshapesRecipe(seed=recipe.data_seed, train_images=recipe.train_images, version=version)
    return read_refer(refshapes.ensure(data_root, shapes), "refshapes", "unc")


def _optimizer(parameters: Any, recipe: PretrainRecipe) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    return optimizer, schedule


def _step(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: Any, parameters: Any) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()


class _Objects:
    """Every object of a split's images, decoded once: pixels and masks of those asked for."""

    def __init__(self, data: ReferData, split: str) -> None:
        wanted = set(data.split(split)["image_id"].to_pylist())
        images = [row for row in data.images.to_pylist() if row["image_id"] in wanted]
        place = {row["image_id"]: i for i, row in enumerate(images)}
        self._pixels = np.stack([read_image(data.image_folder / row["file_name"]) for row in images])
        objects = [row for row in data.objects.to_pylist() if row["image_id"] in wanted]
        self._image = np.array([place[row["image_id"]] for row in objects])
        size = self._pixels.shape[1:3]
        self._masks = np.stack([rle_masks.decode(row["rle"], *size) for row in objects])

    def __len__(self) -> int:
        return len(self._image)

    def __getitem__(self, index: NDArray[Any]) -> tuple[Tensor, Tensor]:
        """Pixels B×3×H×W from 0 to 255 and masks B×H×W."""
        pixels = torch.from_numpy(self._pixels[self._image[index]]).permute(0, 3, 1, 2).float()
        return pixels, torch.from_numpy(self._masks[index]).float()


def _prompted(
    sam: Sam,
    encoder: FusedImageEncoder,
    pixels: Tensor,
    masks: Tensor,
    rng: np.random.Generator,
    clicks: bool,
) -> tuple[Tensor, Tensor]:
    if clicks:
        points = np.stack([ys_xs[rng.integers(len(ys_xs))][::-1] for ys_xs in map(np.argwhere, masks.numpy() > 0)])
        prompt = (torch.from_numpy(points.copy()).float()[:, None], torch.ones(len(points), 1))
        sparse, dense = sam.prompt_encoder(prompt, None, None)
    else:
        sparse, dense = sam.prompt_encoder(None, torch.from_numpy(_boxes(masks.numpy(), rng)).float(), None)
    return decode(
        sam.mask_decoder,
        encoder(sam.preprocess(pixels)),
        sam.prompt_encoder.get_dense_pe(),
        sparse,
        dense,
        masks=(0, 1, 2, 3),
    )


def _boxes(masks: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    rows, columns = np.any(masks, axis=2), np.any(masks, axis=1)
    corners = [
        (c.argmax(), r.argmax(), len(c) - 1 - c[::-1].argmax(), len(r) - 1 - r[::-1].argmax())
        for r, c in zip(rows, columns, strict=True)
    ]
    return np.asarray(corners) + rng.integers(-1, 2, (len(corners), 4))


def _sam_loss(logits: Tensor, quality: Tensor, masks: Tensor) -> Tensor:
    logits = F.interpolate(logits, size=masks.shape[1:], mode="bilinear", align_corners=False)
    target = masks[:, None].expand_as(logits).flatten(0, 1)
    each = 20 * focal_loss(logits.flatten(0, 1), target) + dice_loss(logits.flatten(0, 1), target)
    by_mask: Tensor = each.unflatten(0, logits.shape[:2])
    iou = _iou(logits.detach(), masks[:, None])
    return by_mask[:, 0].mean() + by_mask[:, 1:].amin(dim=1).mean() + F.mse_loss(quality, iou)


def _iou(logits: Tensor, masks: Tensor) -> Tensor:
    predicted, ground_truth = logits > 0, masks > 0
    union = (predicted | ground_truth).flatten(2).sum(-1)
    ious: Tensor = (predicted & ground_truth).flatten(2).sum(-1) / union.clamp(min=1)
    return ious


def _prompt_miou(sam: Sam, encoder: FusedImageEncoder, objects: _Objects, clicks: bool) -> float:
    rng, ious = np.random.default_rng(0), []
    with torch.inference_mode():
        for chunk in np.array_split(np.arange(len(objects)), math.ceil(len(objects) / 64)):
            pixels, masks = objects[chunk]
            logits, _ = _prompted(sam, encoder, pixels, masks, rng, clicks)
            logits = F.interpolate(logits[:, :1], size=masks.shape[1:], mode="bilinear", align_corners=False)
            ious.append(_iou(logits, masks[:, None])[:, 0])
    return torch.cat(ious).mean().item()


def _ids(tokenizer: Any, sentences: list[str]) -> Tensor:
    ids: Tensor = tokenizer(sentences, padding=True, return_tensors="pt")["input_ids"]
    return ids


def _mask_words(ids: Tensor, tokenizer: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    draw = torch.rand(ids.shape, generator=generator)
    chosen = (draw < 0.15) & (ids >= len(SPECIAL))
    labels = ids.masked_fill(~chosen, -100)
    replaced = ids.masked_fill(chosen & (draw < 0.12), tokenizer.mask_token_id)
    random = torch.randint(len(SPECIAL), len(tokenizer), ids.shape, generator=generator)
    return torch.where(chosen & (draw >= 0.12) & (draw < 0.135), random, replaced), labels

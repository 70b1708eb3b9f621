"""All that is there to be damaged beside the results folder: weights, a text encoder, data, predictions, grids."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.conftest import RECIPE, ROOT
from tests.damage.ground import Ground, build
from workbench.config import DataConfig, RefshapesRecipe, RunConfig
from workbench.data.datasets import open_data
from workbench.data.loading import Expressions
from workbench.data.refshapes import folder_name
from workbench.data.scenes import WORDS
from workbench.models.backbones import backbones
from workbench.models.build import build_model
from workbench.training.checkpointing import CONFIG, tensors
from workbench.training.pretrain import build_tokenizer

WEIGHTS = """title: weights
base:
  backbone: {{checkpoint: {backbone}}}
  text_encoder: {{name: bert}}
  fusion: {{variant: l_dit}}
  data: {{recipe: {{seed: 3, train_images: 40, eval_images: 6}}}}
  training: {{steps: 6, batch_size: 4}}
  machine: {{data_root: '{data}', checkpoint_root: '{weights}', trackers: [], threads: 1}}
settings: {{w: {{}}}}
"""
PRESET = """# A preset.
backbone: {{name: vit_mini, image_size: 64}}
fusion: {{variant: l_dit, layers: {{last: 2}}, projector: {{type: mlp}}}}
text_encoder: {{name: bert_mini, max_tokens: 12}}
data: {{dataset: refshapes, recipe: {{seed: 3, train_images: 40, eval_images: 6}}}}
training: {{steps: 6, batch_size: 4, optimizer: {{learning_rate: 0.001}}}}
evaluation: {{splits: [val, testA], threshold: 0.5}}
machine: {{data_root: '{data}', trackers: [], threads: 1}}
"""
PROFILE = """backend: slurm
partition: debug
time_minutes: 30
nodes: 1
cpus_per_task: 2
memory_gb: 4
array_size: 10
parallel: 2
setup: [module load cuda, 'true']
environment: {OMP_NUM_THREADS: '1'}
retries: {timeout: 3, killed: 1}
sbatch: {reservation: ours}
"""
Commands = dict[Path, tuple[str, ...]]


@dataclass(frozen=True)
class Supplies:
    """What can be damaged, by file, each with a command that reads it.

    Attributes:
        stored: results and data sets.
        typed: what people write in YAML.
        written: what commands write.
        pipe: one that nobody writes to.
    """

    ground: Ground
    folder: Path
    stored: Commands
    weights: Commands
    typed: Commands
    written: Commands
    pipe: Path

    @property
    def expressions(self) -> Sequence[Path]:
        """The runs' files of expressions."""
        return sorted((self.ground.results / "runs").rglob("expressions.parquet"))

    def all_files(self) -> list[Path]:
        """Every file that no command may change."""
        return sorted({*self.stored, *self.weights, *self.typed} - {*self.written})


def supply(folder: Path) -> Supplies:
    """Make all of it; a scheduler's stand-in must be on the path."""
    data, weights = folder / "data", folder / "weights"
    data_set = open_data(DataConfig(recipe=RefshapesRecipe(**RECIPE)), data)
    ground = build(folder, data)
    _write_weights(weights)
    predictions = folder / "predictions.json"
    answers = [{"sent_id": int(i), "segmentation": None} for i in Expressions(data_set, "val").column("sent_id")]
    predictions.write_text(json.dumps(answers))
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    (folder / "preset.yaml").write_text(PRESET.format(data=data))
    (folder / "profile.yaml").write_text(PROFILE)
    for backbone in ("sam.pth", "sam.safetensors"):
        grid = folder / f"{backbone[4:]}.yaml"
        grid.write_text(WEIGHTS.format(backbone=backbone, data=data, weights=weights))
    image = next((data / folder_name(RefshapesRecipe(**RECIPE)) / "images").glob("*.png"))
    _write_model(weights / "model.safetensors", weights, data)
    return Supplies(
        ground,
        folder,
        _stored(ground, data, predictions),
        _read_weights(folder, weights, image),
        {
            ground.file: ("config", str(ground.file), "a"),
            folder / "preset.yaml": ("config", str(folder / "preset.yaml")),
            folder / "profile.yaml": ("plan", str(ground.file), "--profile", str(folder / "profile.yaml")),
        },
        _written(ground),
        pipe,
    )


def _write_weights(weights: Path) -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    weights.mkdir()
    sam = backbones["vit_mini"].build().state_dict()
    torch.save(sam, weights / "sam.pth")
    save_file(sam, weights / "sam.safetensors")
    tokenizer = build_tokenizer(WORDS)
    shape = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                       intermediate_size=64, max_position_embeddings=64)  # fmt: skip
    BertModel(shape, add_pooling_layer=False).save_pretrained(weights / "bert")
    tokenizer.save_pretrained(weights / "bert")
    vocabulary = tokenizer.get_vocab()
    (weights / "bert" / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=lambda word: vocabulary[word])) + "\n")
    shutil.copy(ROOT / "tests" / "golden" / "layer_wise.weights.safetensors", weights / "released.safetensors")


def _write_model(file: Path, weights: Path, data: Path) -> None:
    """A model of ours that says of which configuration it is."""
    config = RunConfig.parse(
        {
            "backbone": {"checkpoint": None},
            "text_encoder": {"name": "bert_mini"},
            "data": {"recipe": RECIPE},
            "training": {"steps": 6},
            "machine": {"data_root": str(data), "checkpoint_root": str(weights), "trackers": []},
        }
    )
    metadata = {CONFIG: json.dumps(config.identity_document()["config"])}
    save_file(tensors(build_model(config)), file, metadata)


def _stored(ground: Ground, data: Path, predictions: Path) -> Commands:
    grid, results = str(ground.file), ground.results
    commands: Commands = {}
    for file in ground.records():
        where = file.relative_to(results).parts
        if where[0] == "ground" and "summary" not in where:
            continue  # what commands write
        if where[0] == "submissions":
            commands[file] = ("status", grid)
        elif "summary" in where:
            commands[file] = ("table", grid, "--from", str(ground.summary))
        elif file.name in ("log.jsonl", "runs.index.parquet"):
            commands[file] = ("status",)
        else:
            commands[file] = ("table", grid)
    commands[predictions] = (
        "evaluate", "--predictions", str(predictions), "--dataset", "refshapes", "--split", "val", "--root", str(data),
    )  # fmt: skip
    place = next(data.glob("refshapes-*"))
    for file in sorted((data / "prepared").rglob("*")):
        if file.is_file():
            commands[file] = ("data", "check", place.name, "--root", str(data))
    for file in (*sorted(place.glob("*.*")), next((place / "images").iterdir())):
        if file.is_file():
            commands[file] = ("data", "check", place.name, "--root", str(data))
    return commands


def _read_weights(folder: Path, weights: Path, image: Path) -> Commands:
    commands: Commands = {
        weights / f"sam.{ending}": ("submit", str(folder / f"{ending}.yaml"), "--dry-run")
        for ending in ("pth", "safetensors")
    }
    for file in sorted((weights / "bert").iterdir()):
        commands[file] = ("submit", str(folder / "safetensors.yaml"), "--dry-run")
    out = str(folder / "out")
    released = weights / "released.safetensors"
    commands[released] = ("import-released", str(released), "--variant", "l_dit", "--out", out)
    model = weights / "model.safetensors"
    commands[model] = ("predict", str(image), "the red circle", "--run", str(model), "--out", out)
    return commands


def _written(ground: Ground) -> Commands:
    """Outputs; a pipe in their place would make a writer wait."""
    folder, grid = ground.results / "ground", str(ground.file)
    commands = {folder / f"table.{ending}": ("table", grid) for ending in ("md", "csv", "json")}
    commands[folder / "table.tex"] = ("table", grid, "--format", "latex")
    commands[folder / "table-by-length.md"] = ("table", grid, "--by", "length")
    commands[ground.results / "runs.index.parquet"] = ("status",)
    commands[ground.results / "submissions" / ".lock"] = ("cancel", grid)
    commands |= {folder / f"bars.{ending}": ("figure", "bars", grid) for ending in ("png", "pdf", "json")}
    return commands

"""The parts of a training, from its configuration and seed: data, model, moving average, optimiser and schedule."""

from __future__ import annotations

import math
import os
import shutil
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from workbench.config import RunConfig
from workbench.data.controls import with_words_of_other_images
from workbench.data.datasets import open_dataset
from workbench.data.loading import ReferringDataset, steps_per_epoch
from workbench.data.tables import ReferData
from workbench.errors import CheckpointError, ConfigError
from workbench.files import digest_of
from workbench.models import checkpoints
from workbench.models.build import build_model, check_digests
from workbench.models.fusion import variants
from workbench.models.referring_sam import ReferringSam
from workbench.models.text_encoder import Tokenizer, load_tokenizer
from workbench.results.folders import RunFolder
from workbench.training.averaging import averaged
from workbench.training.optimizer import build_optimizer
from workbench.training.schedule import rate_factor


@dataclass(frozen=True)
class Parts:
    """The parts of one training.

    Attributes:
        data: the whole data set; `dataset` is its training split.
        steps: how many the run trains.
        ema: the moving average of the weights, None where it is off.
        start_from_run_sha256: of the weights of the run that this one begins from, if it is a later stage.
    """

    config: RunConfig
    seed: int
    data: ReferData
    dataset: ReferringDataset
    steps: int
    model: ReferringSam
    tokenizer: Tokenizer
    ema: AveragedModel | None
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    start_from_run_sha256: str | None

    @property
    def evaluated(self) -> Any:
        """The model that is evaluated."""
        return self.model if self.ema is None else self.ema.module


def build_parts(config: RunConfig, seed: int, folder: RunFolder, device: torch.device) -> Parts:
    """Build everything; random weights follow from the seed.

    Raises:
        ConfigError, DataError, CheckpointError: the parts do not fit together, or a file is missing.
    """
    machine, training = config.machine, config.training
    record = folder.record()
    # The number of threads changes how sums are rounded, so a run keeps the number it was started with.
    if threads := record.threads or machine.threads:
        torch.set_num_threads(threads)
    set_determinism(training.deterministic)
    use_tf32(training.tf32)
    check_digests(config, record.provenance.digests() if record.provenance else {}, folder.name)
    data = open_dataset(config)
    dataset = split_of(data, config.data.train_split, config)
    if config.data.words == "shuffled":
        dataset.expressions = with_words_of_other_images(dataset.expressions, seed)
    epoch_steps = steps_per_epoch(dataset, config.data, training.batch_size)
    steps = training_steps(config, epoch_steps)
    torch.manual_seed(seed)
    model = build_model(config)
    start_from_run_sha256 = _begin_from_run(model, config, seed, folder)
    tokenizer = load_tokenizer(config.text_encoder, machine.checkpoint_root)
    model.to(device)
    ema = averaged(model, training.ema)
    if machine.compile and not training.cache_features:  # cached features leave little to compile
        _compile(model, device)
    optimizer = build_optimizer(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor(training.schedule, steps, epoch_steps))
    return Parts(
        config, seed, data, dataset, steps, model, tokenizer, ema, optimizer, schedule, start_from_run_sha256
    )  # fmt: skip


def set_determinism(wanted: bool) -> None:
    """For the rest of this process: whether an operation that sums in no fixed order is an error (RuntimeError)."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    # Nothing here reads memory before it is written, and filling it takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def split_of(data: ReferData, name: str, config: RunConfig, images: int | None = None) -> ReferringDataset:
    """A split of the run's data set, or a fixed sample of its images, as the model sees it."""
    return ReferringDataset(data, name, config.backbone.image_size, config.data, config.machine.cache_images, images)


def training_steps(config: RunConfig, epoch_steps: float) -> int:
    """How many steps a run trains.

    Args:
        epoch_steps: how many steps a pass over the training split has.
    """
    training = config.training
    if training.steps is not None:
        return training.steps
    epochs = released_epochs(config) if training.epochs == "released" else training.epochs
    assert epochs is not None
    return math.ceil(epochs * epoch_steps)


def released_epochs(config: RunConfig) -> int:
    """How many epochs the released code trains a configuration: 25 with a frozen image encoder or ViT-H, else by
    variant."""
    shortened = config.training.freeze.image_encoder or config.backbone.name == "vit_h"
    return 25 if shortened else variants[config.fusion.variant].released_epochs


def use_tf32(allowed: bool) -> None:
    """Say whether a GPU may compute products and convolutions of fp32 numbers in TF32; torch's own defaults differ."""
    with warnings.catch_warnings():
        # Some versions of torch call these flags old; torch.compile reads them, and fails where only the new are set.
        warnings.simplefilter("ignore")
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed


def _begin_from_run(model: ReferringSam, config: RunConfig, seed: int, folder: RunFolder) -> str | None:
    """Load the weights of the run that `start_from` names, if it names one; returns their SHA-256."""
    name = config.start_from.run_for(seed)
    if name is None:
        return None
    earlier = RunFolder(folder.results, name)
    if earlier.state() != "completed":
        raise CheckpointError(f"start_from.run: {name} is not completed (state: {earlier.state()}); train it first")
    file = earlier.evaluated_weights()
    state = checkpoints.read_state_dict(file)
    checkpoints.check_keys(model.state_dict(), state, str(file), f"run {name}")
    model.load_state_dict(state)
    return digest_of(file)


def _compile(model: ReferringSam, device: torch.device) -> None:
    """In place, so that the weights keep their names; evaluation, whose shapes vary, runs as it is."""
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise ConfigError(
            "machine.compile", "true needs a C++ compiler on the CPU, and neither g++ nor clang++ is found"
        )
    model.image_encoder.compile(dynamic=False)

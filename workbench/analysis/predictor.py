"""Segmenting pictures by sentences, with any trained run or imported checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench.analysis.words import check_sentence
from workbench.config import BUILTIN, RELATING_MINI, RunConfig
from workbench.data.images import read_upright
from workbench.data.transforms import place, place_image, resize_image, restore_logits
from workbench.errors import CheckpointError, ConfigError, DataError
from workbench.evaluation.evaluate import mask_logits, mask_of
from workbench.models import checkpoints
from workbench.models.importing import released_configuration
from workbench.models.referring_sam import ReferringSam
from workbench.models.text_encoder import Tokenizer, load_text_encoder, load_tokenizer
from workbench.registry import unknown_name
from workbench.results.folders import RUNS, RunFolder, all_runs
from workbench.results.record import RunId
from workbench.training.checkpointing import CONFIG, load_trained, load_weights
from workbench.training.pretrain_referring import STEPS, referring_config
from workbench.training.pretrain_relations import NAME

BATCH = 16
"""Sentences that are computed at once."""


@dataclass(frozen=True)
class Prediction:
    """What one sentence refers to in one picture.

    Attributes:
        mask: height×width of the picture, bool.
        score: mean probability of the mask's pixels, from 0 to 1; 0 for an empty mask.
    """

    sentence: str
    mask: NDArray[np.bool_]
    score: float

    @property
    def area(self) -> float:
        """The mask's fraction of the picture."""
        return float(self.mask.mean())


class Predictor:
    """A model with what is needed to ask it about pictures: its tokenizer, and how masks come out of its logits.

    Args:
        config: of the run; its sections `backbone`, `data`, `evaluation` and `training.precision` are used.
        name: for people.
    """

    def __init__(self, model: ReferringSam, tokenizer: Tokenizer, config: RunConfig, name: str) -> None:
        wanted = config.machine.device
        cuda = torch.cuda.is_available() and wanted != "cpu"
        self.device = torch.device("cuda" if cuda else "cpu")
        self.model, self.tokenizer, self.config, self.name = model.eval().to(self.device), tokenizer, config, name

    @classmethod
    def load(
        cls, source: str | Path, results: Path = Path("results"), checkpoint_root: Path = Path("checkpoints")
    ) -> Predictor:
        """The predictor of a trained run or of a file of weights.

        Args:
            source: a run's id, `<setting id>/seed<N>`, or the setting's id alone where it has one seed; a run's
                folder; a run's checkpoint; a file that `import-released` wrote; or `builtin`, the shipped default SAM
                in miniature.
            results: where run ids are looked for.
            checkpoint_root: where text encoders are that are not shipped.

        Raises:
            CheckpointError: there is no such run or file, it has no weights yet, or they do not fit.
        """
        place = Path(source)
        if place.is_file():
            config, model, name = _from_file(place)
        elif (place / "run.json").is_file():
            config, model, name = _from_run(_run_at(place.absolute()))
        elif str(source) == BUILTIN:
            config, model, name = _shipped()
        else:
            config, model, name = _from_run(_named_run(str(source), results))
        config = config.model_copy(
            update={"machine": config.machine.model_copy(update={"checkpoint_root": checkpoint_root})}
        )
        if model.text_encoder is None:  # an imported model may come without
            model.text_encoder = load_text_encoder(config.text_encoder, checkpoint_root)
        return cls(model, load_tokenizer(config.text_encoder, checkpoint_root), config, name)

    def __call__(self, image: str | Path | NDArray[np.uint8], sentences: Sequence[str]) -> list[Prediction]:
        """What each sentence refers to.

        Args:
            image: a file, which is turned as the camera says in it, or pixels height×width×3.

        Raises:
            DataError: the file is no image, there is no sentence, or one of them says nothing.
        """
        if not sentences or not all(sentence.strip() for sentence in sentences):
            raise DataError("at least one sentence is needed, and none may be empty")
        for sentence in sentences:
            check_sentence(sentence, self.tokenizer)
        pixels = torch.from_numpy(image if isinstance(image, np.ndarray) else read_upright(Path(image))).permute(
            2, 0, 1
        )
        return [
            prediction
            for first in range(0, len(sentences), BATCH)
            for prediction in self._predict(pixels, sentences[first : first + BATCH])
        ]

    def _predict(self, pixels: Tensor, sentences: Sequence[str]) -> list[Prediction]:
        config, side = self.config, self.config.backbone.image_size
        height, width = pixels.shape[1:]
        placement = place(height, width, side, config.data.padding)
        square = place_image(resize_image(pixels, placement), placement, side)
        content = torch.tensor([[placement.top, placement.left, placement.height, placement.width]])
        image_of = torch.zeros(len(sentences), dtype=torch.long)
        logits = mask_logits(
            self.model, self.tokenizer, square[None], content, image_of, sentences, config, self.device
        )
        predictions = []
        for sentence, one in zip(sentences, logits, strict=True):
            mask = mask_of(one, placement, height, width, config).cpu()
            align_corners = config.backbone.mask_upsampling == "align_corners"
            probability = restore_logits(one, placement, side, height, width, align_corners).sigmoid().cpu()
            score = float(probability[mask].mean()) if mask.any() else 0.0
            predictions.append(Prediction(sentence, mask.numpy(), score))
        return predictions


def _from_file(file: Path) -> tuple[RunConfig, ReferringSam, str]:
    if file.suffix != ".safetensors":
        raise CheckpointError(f"{file}: not a file of weights of ours; those end in .safetensors")
    metadata = checkpoints.read_metadata(file)
    if checkpoints.SIZES in metadata:
        model, sizes = checkpoints.load_model(file), checkpoints.sizes_of(file)
        # Any backbone will do here: the model has the sizes that the file says.
        values = released_configuration(sizes, "vit_b", has_text=model.text_encoder is not None)
        return RunConfig.parse(values), model, file.stem
    if CONFIG in metadata:
        try:
            config = RunConfig.parse(json.loads(metadata[CONFIG]))
        except (ValueError, TypeError, RecursionError, ConfigError) as error:
            raise CheckpointError(f"{file}: the configuration that it holds is damaged: {error}") from None
        return config, load_weights(config, file, f"variant {config.fusion.variant}"), file.stem
    for folder in file.absolute().parents[:3]:
        if (folder / "run.json").is_file():
            run = _run_at(folder)
            config = _config_of(run)
            return config, load_weights(config, file, f"run {run.name}"), run.name
    raise CheckpointError(
        f"{file}: it does not say of which model it is; name the run instead, or a file in the run's folder"
    )


def _shipped() -> tuple[RunConfig, ReferringSam, str]:
    config = referring_config(Path("data"), STEPS)
    return config, load_weights(config, RELATING_MINI, "the shipped weights"), NAME


def _run_at(folder: Path) -> RunFolder:
    """The run of a folder `<results>/runs/<setting id>/seed<N>`."""
    return RunFolder(folder.parents[2], "/".join(folder.parts[-2:]))


def _from_run(run: RunFolder) -> tuple[RunConfig, ReferringSam, str]:
    config = _config_of(run)
    return config, load_trained(config, run), run.name


def _config_of(run: RunFolder) -> RunConfig:
    config = run.record().config
    if not config:
        raise CheckpointError(f"{run.record_file}: the run has not begun, so its configuration is not known")
    return RunConfig.parse(config)


def _named_run(name: str, results: Path) -> RunFolder:
    try:
        run = RunFolder(results, str(RunId.parse(name)))
        if run.record_file.is_file():
            return run
    except ValueError:
        pass
    runs = all_runs(results)
    seeds = [run for run in runs if run.id.setting_id == name]
    if len(seeds) == 1:
        return seeds[0]
    if seeds:
        raise CheckpointError(
            f"{name} has {len(seeds)} seeds; name one of them: {', '.join(run.name for run in seeds)}"
        )
    if not runs:
        raise CheckpointError(
            f"{name}: no such file, and no run of that name: {results / RUNS} has none; name a run's file, or builtin, "
            "which is shipped"
        )
    raise CheckpointError(f"{unknown_name('run', name, [run.name for run in runs])} (nor is there such a file)")

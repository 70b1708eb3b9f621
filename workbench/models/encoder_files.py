"""What stands in the folder of a text encoder, checked before `transformers` reads it.

That library builds whatever `config.json` says, of any size, and fails in its own ways where a field is wrong.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from workbench.errors import CheckpointError, shown
from workbench.files import check_file
from workbench.registry import unknown_name
from workbench.validation import DamagedFile, Record, read_record

SHAPE = "config.json"
Width = Annotated[int, Field(ge=1, le=1 << 16)]
Rows = Annotated[int, Field(ge=1, le=1 << 23)]
"""Of an embedding."""
Probability = Annotated[float, Field(ge=0, lt=1)]


class EncoderShape(Record):
    """The fields of `config.json` that a BERT-like encoder is built from, where it has them."""

    model_type: str | None = None
    hidden_size: Width = 768
    num_hidden_layers: Annotated[int, Field(ge=1, le=1000)] = 12
    num_attention_heads: Width = 12
    intermediate_size: Annotated[int, Field(ge=1, le=1 << 18)] = 3072
    vocab_size: Rows = 30522
    max_position_embeddings: Rows = 512
    type_vocab_size: Width = 2
    hidden_act: str = "gelu"
    hidden_dropout_prob: Probability = 0.1
    attention_probs_dropout_prob: Probability = 0.1
    classifier_dropout: Probability | None = None
    initializer_range: Annotated[float, Field(ge=0, le=1000)] = 0.02
    layer_norm_eps: Annotated[float, Field(gt=0, le=1)] = 1e-12
    pad_token_id: Annotated[int, Field(ge=0)] | None = 0


def check_folder(folder: Path) -> None:
    """Check that all in a text encoder's folder are files, and the fields of its `config.json`, if it has one.

    Raises:
        CheckpointError: names the file, and the first wrong field.
    """
    try:
        for file in sorted(folder.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # a link into a hub's cache that was emptied
                if not file.is_dir() or file.name == SHAPE:
                    check_file(file)
        shape = read_record(folder / SHAPE, EncoderShape)
    except FileNotFoundError:
        return
    except DamagedFile as damage:
        raise CheckpointError(str(damage)) from None
    except OSError as error:
        raise CheckpointError(f"{error.filename or folder}: {error.strerror or error}") from None
    _check_together(folder / SHAPE, shape)


def _check_together(file: Path, shape: EncoderShape) -> None:
    from transformers.activations import ACT2FN

    if shape.hidden_size % shape.num_attention_heads:
        raise CheckpointError(
            f"{file}: hidden_size: {shape.hidden_size} is not a multiple of num_attention_heads, "
            f"{shape.num_attention_heads}"
        )
    if shape.hidden_act not in ACT2FN:
        raise CheckpointError(f"{file}: hidden_act: {unknown_name('activation', shape.hidden_act, list(ACT2FN))}")
    if shape.pad_token_id is not None and shape.pad_token_id >= shape.vocab_size:
        raise CheckpointError(
            f"{file}: pad_token_id: {shown(shape.pad_token_id)} is past the vocabulary of {shape.vocab_size}"
        )

"""BERT-like text encoders from `transformers`: features of each token, and the tokenizer that belongs to them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from workbench.config import SHIPPED_BERTS, TextEncoderConfig
from workbench.errors import CheckpointError, ConfigError, MissingCheckpoint, counted
from workbench.files import digest_of
from workbench.models.determinism import plain_attention
from workbench.models.encoder_files import SHAPE, check_folder

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class TextEncoder(nn.Module):
    """The first `layer` layers of a BERT-like encoder; layers past it are dropped, not run.

    Args:
        bert: a `transformers` encoder with `encoder.layer`.
        layer: whose output to take, from 1; None means the last.
    """

    def __init__(self, bert: nn.Module, layer: int | None) -> None:
        super().__init__()
        layers: Any = getattr(getattr(bert, "encoder", None), "layer", None)
        if layers is None:
            kind = type(bert).__name__
            raise ConfigError(
                "text_encoder.name", f"{kind} is not built like BERT (no encoder.layer); BERT or RoBERTa are"
            )
        if layer is not None and layer > len(layers):
            raise ConfigError(
                "text_encoder.layer", f"{layer} is past the text encoder's {counted(len(layers), 'layer')}"
            )
        bert.encoder.layer = layers[:layer]  # type: ignore[union-attr]
        self.bert = bert

    @property
    def width(self) -> int:
        """Width of the features."""
        return int(self.bert.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Features B×L×width of token ids B×L; `attention_mask` is 0 at padding, B×L."""
        with plain_attention(input_ids.device):
            features: Tensor = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return features


class Tokenizer:
    """Sentences to token ids of a fixed length, [CLS] and [SEP] included, padding at the end."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens

    def __call__(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and attention mask, both B×max_tokens int64; longer sentences are cut."""
        encoded = self._tokenizer(
            list(sentences),
            padding="max_length",
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        return encoded["input_ids"], encoded["attention_mask"]

    def lengths(self, sentences: Sequence[str]) -> list[int]:
        """Tokens that each sentence takes, [CLS] and [SEP] included, before anything is cut."""
        encoded = self._tokenizer(list(sentences), truncation=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def spans(self, sentence: str) -> list[tuple[int, int]]:
        """Where in the sentence each token's characters begin and end; a pair alike for special tokens and padding.

        Raises:
            CheckpointError: the tokenizer does not keep track of them.
        """
        if not self._tokenizer.is_fast:
            kind = type(self._tokenizer).__name__
            raise CheckpointError(f"{kind} cannot say which characters a token is of; a fast tokenizer is needed")
        encoded = self._tokenizer(
            sentence, padding="max_length", truncation=True, max_length=self.max_tokens, return_offsets_mapping=True
        )
        return [(int(start), int(end)) for start, end in encoded["offset_mapping"]]

    def special_id(self, name: Literal["mask", "pad", "unk"]) -> int:
        """The id of a special token; CheckpointError where the tokenizer has none of that name."""
        token = getattr(self._tokenizer, f"{name}_token_id")
        if token is None:
            raise CheckpointError(f"{type(self._tokenizer).__name__} has no {name} token")
        return int(token)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The word pieces of token ids."""
        return [str(piece) for piece in self._tokenizer.convert_ids_to_tokens(list(ids))]


def locate(config: TextEncoderConfig, root: Path) -> str:
    """The argument of `from_pretrained`: the shipped folder, a directory, or a hub name."""
    if config.name in SHIPPED_BERTS:
        return str(SHIPPED_BERTS[config.name])
    path = Path(config.name).expanduser()
    for candidate in (path, root / path):
        if candidate.is_dir():
            return str(candidate)
    if path.is_absolute() or config.name.startswith("."):
        raise MissingCheckpoint(f"missing text encoder: no directory {config.name}")
    return config.name


def place_of(config: TextEncoderConfig, root: Path) -> Path | str:
    """The directory that holds a text encoder, which may be the hub's cache; its hub name where only a hub has it."""
    from huggingface_hub import try_to_load_from_cache

    try:
        name = locate(config, root)
    except MissingCheckpoint:
        return Path(config.name).expanduser()
    if Path(name).is_dir():
        return Path(name)
    cached = try_to_load_from_cache(name, "config.json")
    return Path(cached).parent if isinstance(cached, str) else name


def load_tokenizer(config: TextEncoderConfig, root: Path) -> Tokenizer:
    """The tokenizer of a text encoder; CheckpointError if it is missing or has no words."""
    from transformers import AutoTokenizer

    place = locate(config, root)
    tokenizer = _from_pretrained(AutoTokenizer, place, root)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise CheckpointError(f"{place}: its tokenizer knows no words; vocab.txt or tokenizer.json is missing")
    return Tokenizer(tokenizer, config.max_tokens)


def load_text_encoder(config: TextEncoderConfig, root: Path) -> TextEncoder:
    """The text encoder of a run, its weights loaded unless `pretrained` is off.

    Raises:
        CheckpointError: neither a directory nor a reachable hub name, or weights that do not fit it.
    """
    from transformers import AutoConfig, AutoModel

    place = locate(config, root)
    if config.pretrained:
        model, report = _from_pretrained(
            AutoModel, place, root, add_pooling_layer=False, output_loading_info=True, dtype=torch.float32
        )
        if missing := sorted(report["missing_keys"]):
            raise CheckpointError(
                f"{place}: weights of another model: {counted(len(missing), 'key')} missing, the first {missing[0]}"
            )
    else:
        model = AutoModel.from_config(_from_pretrained(AutoConfig, place, root), add_pooling_layer=False)
    return TextEncoder(model, config.layer)


def check_text_encoder(config: TextEncoderConfig, root: Path) -> None:
    """Check as `load_text_encoder` would, without loading the weights; CheckpointError says what is missing."""
    from transformers import AutoConfig

    place = locate(config, root)
    if not Path(place).is_dir():
        check_hub(place, root)
        return
    _from_pretrained(AutoConfig, place, root)
    load_tokenizer(config, root)
    if not config.pretrained:
        return
    weights = weights_file(place)
    if weights is None:
        raise CheckpointError(f"missing text encoder: {place} holds neither model.safetensors nor pytorch_model.bin")
    if config.sha256 and (digest := digest_of(weights)) != config.sha256:
        raise CheckpointError(f"{weights}: its SHA-256 is {digest}, the configuration pins {config.sha256}")
    if weights.suffix == ".safetensors":
        try:
            with safe_open(weights, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{weights}: truncated or damaged weights file: {error}") from None


def weights_file(place: str) -> Path | None:
    """The weights of a text encoder's directory; None where it has none, or is a hub name."""
    return next((f for name in WEIGHTS for f in [Path(place) / name] if f.is_file()), None)


def check_hub(name: str, root: Path) -> None:
    """Check that a name is in the hub's cache here, or a hub that answers has it; one request, without retries.

    Raises:
        CheckpointError: it is not to be had.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    try:
        HfApi().model_info(name, timeout=5)
    except Exception as error:  # the hub client raises some twenty types
        raise _no_encoder(name, root, error) from None


def build_from_shape(config: TextEncoderConfig, root: Path) -> TextEncoder:
    """The same modules with random weights, for checks before any weights are available.

    A directory or hub name that is not available yet is assumed to have BERT-base's shape.
    """
    from transformers import AutoConfig, AutoModel, BertConfig

    try:
        place = Path(locate(config, root))
    except MissingCheckpoint:
        place = Path(config.name)
    if place.is_dir():
        check_folder(place)
    try:
        shape = AutoConfig.from_pretrained(locate(config, root), local_files_only=True)
    except Exception as error:  # not there, or the library's own types
        if (place / SHAPE).exists():
            raise CheckpointError(f"{place}: not a readable text encoder: {_reason(error)}") from None
        shape = BertConfig()
    positions = getattr(shape, "max_position_embeddings", None)
    if positions is not None and config.max_tokens > positions:
        raise ConfigError(
            "text_encoder.max_tokens", f"{config.max_tokens} is more than the encoder's {positions} positions"
        )
    try:
        model = AutoModel.from_config(shape, add_pooling_layer=False)
    except TypeError:
        raise ConfigError(
            "text_encoder.name", f"{shape.model_type} is not built like BERT; BERT or RoBERTa are"
        ) from None
    except Exception as error:  # whatever else the file says
        raise CheckpointError(f"{place}: not a readable text encoder: {_reason(error)}") from None
    return TextEncoder(model, config.layer)


def text_encoder_of(tensors: Mapping[str, Tensor], heads: int, source: str = "released checkpoint") -> TextEncoder:
    """A BERT built only from its tensors, under transformers' key names; as many layers as they hold.

    Args:
        heads: the one size that the tensors do not show.

    Raises:
        CheckpointError: a tensor is missing, left over, or of the wrong size.
    """
    from transformers import BertConfig, BertModel

    layers = {match[1] for key in tensors if (match := re.match(r"encoder\.layer\.(\d+)\.", key))}
    try:
        words, positions, types = (
            tensors[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        width, inner = words.shape[1], len(tensors["encoder.layer.0.intermediate.dense.weight"])
    except KeyError as error:
        raise CheckpointError(f"{source}: no key lang_encoder.bert.{error.args[0]}") from None
    if width % heads:
        raise CheckpointError(f"{source}: the text encoder's width, {width}, is not a multiple of {heads} heads")
    shape = BertConfig(
        vocab_size=len(words), hidden_size=width, num_hidden_layers=len(layers), num_attention_heads=heads,
        intermediate_size=inner, max_position_embeddings=len(positions), type_vocab_size=len(types),
    )  # fmt: skip
    bert = BertModel(shape, add_pooling_layer=False)
    wanted = bert.state_dict()
    if wrong := sorted(wanted.keys() ^ tensors.keys()) or sorted(
        k for k in wanted if wanted[k].shape != tensors[k].shape
    ):
        what = f"{counted(len(wrong), 'key')} missing, unknown or of another shape"
        raise CheckpointError(f"{source}: not a BERT: {what}, the first lang_encoder.bert.{wrong[0]}")
    bert.load_state_dict(dict(tensors))
    return TextEncoder(bert, None)


def _from_pretrained(kind: Any, place: str, root: Path, **options: Any) -> Any:
    from transformers.utils import logging

    logging.disable_progress_bar()
    local = Path(place).is_dir()
    if local:
        check_folder(Path(place))
    try:
        return kind.from_pretrained(place, local_files_only=local, **options)
    except Exception as error:  # the hub client and the loaders raise some twenty types
        if local:
            raise CheckpointError(f"{place}: not a readable text encoder: {_reason(error)}") from None
        raise _no_encoder(place, root, error) from None


def _no_encoder(name: str, root: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"missing text encoder {name!r}: no directory {name} or {root / name}, and no hub answers with it: "
        f"{_reason(error)}"
    )


def _reason(error: Exception) -> str:
    """What a library says, in one line; of a wrong field, transformers tells what is wrong in the second."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])[:300] or type(error).__name__

"""Layers of a configuration, presets below settings below overrides, merged into plain values by OmegaConf."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from workbench.grids.bounds import resolvers_in
from workbench.grids.file import GridError

REPLACED = frozenset({"fusion.layers", "validation.every", "exclude"})
"""Keys whose mapping is one value: a later one takes the place of an earlier one instead of joining it."""


def merged(where: str, *layers: Mapping[str, Any], below: DictConfig | None = None) -> DictConfig:
    """Later layers over earlier ones, and all over what is `below`, dotted keys spelled out; interpolations stay."""
    result = OmegaConf.create({}) if below is None else copy.deepcopy(below)
    try:
        for layer in layers:
            for path, value in leaves(layer):
                if path in REPLACED:
                    result.merge_with(_nested(path, None))
                result.merge_with(_nested(path, value))
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise GridError(f"{where}: {str(error).splitlines()[0]}") from None
    return result


def leaves(layer: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted path and value of all that is no mapping; one of `REPLACED` counts as one value, and so does {}."""
    for key, value in layer.items():
        path = f"{above}{key}"
        whole = next((name for name in REPLACED if path.startswith(f"{name}.")), None)
        if whole is not None:
            yield whole, _nested(path.removeprefix(f"{whole}."), value)
        elif isinstance(value, Mapping) and value and path not in REPLACED:
            yield from leaves(value, f"{path}.")
        else:
            yield path, value


def _nested(path: str, value: Any) -> dict[str, Any]:
    for part in reversed(path.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def resolved(where: str, values: DictConfig) -> dict[str, Any]:
    """References to other keys filled in; nothing from outside may enter a configuration, and so an id."""
    for key, text in resolvers_in(OmegaConf.to_container(values, resolve=False)):
        raise GridError(
            f"{where}: {key}: {text!r} asks for something outside the file; write the value itself, or name another "
            "key, as in ${training.steps}"
        )
    try:
        filled = OmegaConf.to_container(values, resolve=True)
    except OmegaConfBaseException as error:
        raise GridError(f"{where}: {str(error).splitlines()[0]}") from None
    return plain(filled)


def plain(container: object) -> dict[str, Any]:
    """A mapping of OmegaConf's as a dictionary with text as keys."""
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}

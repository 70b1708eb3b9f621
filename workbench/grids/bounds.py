"""Bounds on a YAML file that hold before it is loaded, since what loads it fails in its own ways beyond them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

MOST_BYTES = 4 << 20
MOST_DEPTH = 50
MOST_VALUES = 1_000_000
"""With what aliases repeat."""
MOST_DIGITS = 100
RESOLVER = re.compile(r"\$\{[^{}]*:")


def check_bounds(text: str) -> None:
    """ValueError says which bound a YAML text goes beyond; what is no YAML at all is left to the loader.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    sizes: dict[str, int] = {}
    inside: list[tuple[str | None, int]] = [(None, 0)]
    """Anchor and size so far of each open list or mapping."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        size = 1
        if isinstance(event, yaml.CollectionStartEvent):
            inside.append((event.anchor, 1))
            if len(inside) > MOST_DEPTH:
                raise ValueError(f"line {line}: nested more than {MOST_DEPTH} deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = inside.pop()
            if anchor is not None:
                sizes[anchor] = size
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in inside):
                raise ValueError(f"line {line}: *{event.anchor} is inside the value that it refers to")
            size = sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor is not None:
                sizes[event.anchor] = 1
            digits = event.value.replace("_", "").lstrip("+-")
            if event.implicit[0] and digits.isdigit() and len(digits) > MOST_DIGITS:
                raise ValueError(f"line {line}: a number of {len(digits):,} digits; at most {MOST_DIGITS} are read")
        else:
            continue
        anchor, so_far = inside[-1]
        inside[-1] = (anchor, so_far + size)
        if so_far + size > MOST_VALUES:
            raise ValueError(f"line {line}: more than {MOST_VALUES:,} values")


def resolvers_in(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Key and text of every value that calls one of OmegaConf's resolvers, such as `${oc.env:HOME}`."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from resolvers_in(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list):
        for value in values:
            yield from resolvers_in(value, key)
    elif isinstance(values, str) and RESOLVER.search(values):
        yield key, values

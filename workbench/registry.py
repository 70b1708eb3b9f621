"""One small registry: names to things, with an error that lists the known names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from workbench.errors import ConfigError

T = TypeVar("T")


def unknown_name(kind: str, name: object, known: list[str]) -> str:
    """The message for a name that is not registered, with the nearest known one first."""
    return f"unknown {kind} {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The part of a message that names the nearest known name; empty where none is near."""
    near = nearest(name, known)
    return "" if near is None else f" (did you mean {near!r}?)"


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that is most like one, whatever its case, of several the first; None where none is near."""
    by_lower_case = {one.lower(): one for one in known}
    asked = str(name)[:200].lower()
    near = set(difflib.get_close_matches(asked, by_lower_case, n=10))
    matcher = difflib.SequenceMatcher(b=asked)

    def likeness(one: str) -> float:
        matcher.set_seq1(one)
        return matcher.ratio()

    best = max((one for one in by_lower_case if one in near), key=likeness, default=None)
    return None if best is None else by_lower_case[best]


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to things of one kind.

    Args:
        kind: what the things are, in words, for messages ("fusion variant").
        key: the configuration field that holds such a name, for messages ("fusion.variant").
    """

    def __init__(self, kind: str, key: str) -> None:
        self.kind = kind
        self.key = key
        self._things: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters a thing under a name; a name can be taken only once."""
        if name in self._things:
            raise ValueError(f"{self.kind} {name!r} is registered twice")

        def enter(thing: T) -> T:
            self._things[name] = thing
            return thing

        return enter

    def replace(self, name: str, thing: T) -> None:
        """Enter a thing in place of what has that name, as in a notebook whose cell is run again."""
        self._things[name] = thing

    def __getitem__(self, name: str) -> T:
        """The thing of that name; ConfigError lists the known names when there is none."""
        if name not in self._things:
            raise ConfigError(self.key, unknown_name(self.kind, name, list(self._things)))
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)
